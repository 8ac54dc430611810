"""Rows of added tokens: loss and gradient equal PEFT's own computation, with tied and untied heads."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tunewise.contracts.run import BaseModelRef, LoraSpec
from tunewise.data.template import Rendered
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.modeling.packing import pack, packed_loss
from tunewise.modeling.token_rows import peft_option

TOKENS = (7, 12)
ROWS = [Rendered([3, 7, 20, 21, 12, 30, 12], [0, 0, 1, 1, 1, 0, 1]), Rendered([7, 9, 12], [0, 1, 1])]
SPEC = LoraSpec(rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained weights by name: LoRA's random ones drawn again, alike for every model, the rows moved."""
    numbers = torch.Generator().manual_seed(4)
    found = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for name, weight in found.items():
        noise = 0.1 * torch.randn(weight.shape, generator=numbers)
        weight.data = weight.data + noise if "trainable_tokens" in name else noise
    return found


def plain_loss(model: nn.Module, row: Rendered) -> torch.Tensor:
    labels = torch.tensor([i if on else -100 for i, on in zip(row.ids, row.mask, strict=True)])
    logits = model(input_ids=torch.tensor([row.ids])).logits[0]
    return cross_entropy(logits[:-1], labels[1:], reduction="sum")


@pytest.mark.parametrize("name", ["llama3", "gemma3", "mistral"])
def test_loss_and_gradient_equal_pefts(name: str, family_model: Callable[[str], BaseModelRef]) -> None:
    """Tied; tied, scaled and capped; with a head of its own."""
    reference = family_model(name)
    base = load_frozen(reference, "float32")
    ours = trained(add_adapter(base, SPEC, tokens=TOKENS))
    loss = packed_loss(base, pack(ROWS, share_prefixes=True)).losses.sum()
    gradients = torch.autograd.grad(loss, list(ours.values()))

    plain = AutoModelForCausalLM.from_pretrained(reference.path, dtype=torch.float32, attn_implementation="eager")
    shape = LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        lora_alpha=4,
        target_modules="all-linear",
        trainable_token_indices=peft_option(plain, TOKENS),
    )
    model = get_peft_model(plain, shape)
    theirs = trained(model)
    expected = torch.stack([plain_loss(model, row) for row in ROWS]).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    assert list(ours) == list(theirs)
    assert sum("trainable_tokens" in name for name in ours) == (2 if name == "mistral" else 1)
    for mine, other in zip(gradients, torch.autograd.grad(expected, list(theirs.values())), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_a_saved_adapter_holds_the_rows_for_peft(family_model: Callable[[str], BaseModelRef], tmp_path: Path) -> None:
    reference = family_model("gemma3")
    model = add_adapter(load_frozen(reference, "float32", attention="eager"), SPEC, tokens=TOKENS)
    trained(model)
    model.save_pretrained(str(tmp_path))
    assert [t.shape for n, t in get_peft_model_state_dict(model).items() if "tokens" in n] == [(2, 32)]
    loaded = PeftModel.from_pretrained(load_frozen(reference, "float32", attention="eager"), str(tmp_path))
    ids = torch.tensor([ROWS[0].ids])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_half_precision_models_train_rows_in_float32(family_model: Callable[[str], BaseModelRef]) -> None:
    base = load_frozen(family_model("gemma3"), "bfloat16")
    weights = trained(add_adapter(base, SPEC, tokens=TOKENS))
    packed_loss(base, pack(ROWS, share_prefixes=True)).losses.sum().backward()  # type: ignore[no-untyped-call]
    (rows,) = (weight for name, weight in weights.items() if "trainable_tokens" in name)
    assert rows.dtype is torch.float32
    assert rows.grad is not None
    assert rows.grad.abs().min(1).values.gt(0).all()
