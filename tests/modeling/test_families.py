"""Each family's packed loss, and the gradient of an adapter, equal those of plain `transformers` and PEFT."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from modeling.families import FAMILIES, WINDOW
from tunewise.contracts.run import BaseModelRef, LoraSpec
from tunewise.data.template import Rendered
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.modeling.packing import pack, packed_loss

NAMES = [family.name for family in FAMILIES]
SPEC = LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def ragged_rows(vocabulary: int) -> list[Rendered]:
    """Rows shorter and longer than the windows, two of which begin alike; no control tokens."""
    numbers = torch.Generator().manual_seed(2)
    rows = [
        torch.randint(10, vocabulary, (length,), generator=numbers).tolist()
        for length in (3, WINDOW, 5 * WINDOW + 1, 17)
    ]
    rows.append(rows[2][: 3 * WINDOW] + rows[3])
    return [Rendered(ids, [int(place % 5 != 1) for place in range(len(ids))]) for ids in rows]


def filled(adapted: nn.Module) -> list[nn.Parameter]:
    """The adapter's weights, none of them zero."""
    numbers = torch.Generator().manual_seed(3)
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    for weight in weights:
        weight.data.normal_(0.0, 0.1, generator=numbers)
    return weights


def plain_loss(model: nn.Module, row: Rendered) -> torch.Tensor:
    labels = torch.tensor([i if on else -100 for i, on in zip(row.ids, row.mask, strict=True)])
    logits = model(input_ids=torch.tensor([row.ids])).logits[0]
    return cross_entropy(logits[:-1], labels[1:], reduction="sum")


def packed_run(
    reference: BaseModelRef, rows: list[Rendered], *, share: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    base = load_frozen(reference, "float32")
    weights = filled(add_adapter(base, SPEC))
    loss = packed_loss(base, pack(rows, share_prefixes=share)).losses.sum()
    return loss.detach(), list(torch.autograd.grad(loss, weights))


def plain_run(reference: BaseModelRef, rows: list[Rendered]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    base = AutoModelForCausalLM.from_pretrained(reference.path, dtype=torch.float32, attn_implementation="eager")
    shape = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(base, shape)
    weights = filled(model)
    loss = torch.stack([plain_loss(model, row) for row in rows]).sum()
    return loss.detach(), list(torch.autograd.grad(loss, weights))


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_equal_plain_transformers(name: str, family_model: Callable[[str], BaseModelRef]) -> None:
    reference = family_model(name)
    rows = ragged_rows(AutoModelForCausalLM.from_pretrained(reference.path).config.vocab_size)
    theirs, their_gradients = plain_run(reference, rows)
    for share in (False, True):
        ours, our_gradients = packed_run(reference, rows, share=share)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0.0)
        for mine, other in zip(our_gradients, their_gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
        norms = [torch.cat([each.flatten() for each in found]).norm() for found in (our_gradients, their_gradients)]
        torch.testing.assert_close(*norms, rtol=1e-5, atol=0.0)
