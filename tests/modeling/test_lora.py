"""Our LoRA linear equals PEFT's, and what we save is what PEFT loads."""

from pathlib import Path
from typing import cast

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as PeftLinear
from torch import nn

from tunewise.contracts.run import BaseModelRef, LoraSpec
from tunewise.errors import ModelError
from tunewise.modeling.attention import Segment
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter, lora_linear

SPEC = LoraSpec(rank=4, alpha=6.0, dropout=0.0, targets="all-linear")


@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_gradients_equal_pefts(bias: bool) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False)
    frozen = nn.Linear(12, 7, bias=bias)
    layer = PeftLinear(frozen, adapter_name="default", config=config, r=3, lora_alpha=5)
    down, up = (cast(nn.Linear, half["default"]).weight for half in (layer.lora_A, layer.lora_B))
    x = torch.randn(2, 9, 12, requires_grad=True)
    theirs = layer(x)
    ours = lora_linear(x, frozen.weight, frozen.bias, down, up, 5 / 3)
    upstream = torch.randn_like(ours)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (x, down, up), upstream), torch.autograd.grad(theirs, (x, down, up), upstream)
    )


def test_bfloat16_weights_give_float32_gradients_to_the_adapter() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(9, 12).bfloat16().requires_grad_(), torch.randn(7, 12).bfloat16()
    down, up = torch.randn(3, 12, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    out = lora_linear(x, weight, None, down, up, 2.0)
    exact = lora_linear(x.float(), weight.float(), None, down, up, 2.0)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert down.grad is not None
    assert (out.dtype, down.grad.dtype, x.grad.dtype if x.grad is not None else None) == (
        torch.bfloat16,
        torch.float32,
        torch.bfloat16,
    )
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.3)


def test_only_the_adapter_is_trained_and_the_head_has_none(tiny_model: BaseModelRef) -> None:
    model = add_adapter(load_frozen(tiny_model, "bfloat16"), SPEC)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name.split(".")[-4] for name in trained} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    }
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {torch.bfloat16}


def test_one_seed_gives_one_adapter(tiny_model: BaseModelRef) -> None:
    def adapter() -> list[torch.Tensor]:
        base = load_frozen(tiny_model, "float32")
        torch.manual_seed(5)
        return [weight for weight in add_adapter(base, SPEC).parameters() if weight.requires_grad]

    assert all(torch.equal(mine, other) for mine, other in zip(adapter(), adapter(), strict=True))


def test_unknown_targets_are_named(tiny_model: BaseModelRef) -> None:
    spec = SPEC.model_copy(update={"targets": ("no_such_layer",)})
    with pytest.raises(ModelError, match="no_such_layer") as caught:
        add_adapter(load_frozen(tiny_model, "float32"), spec)
    assert caught.value.code == "unknown_lora_targets"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_saved_adapter_gives_the_same_logits_in_peft(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    model = add_adapter(load_frozen(tiny_model, "float32"), SPEC)
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.1)
    model.save_pretrained(str(tmp_path))
    ids = torch.arange(30)[None]
    loaded = PeftModel.from_pretrained(load_frozen(tiny_model, "float32", attention="eager"), str(tmp_path))
    with torch.no_grad():
        ours = model(input_ids=ids, segments=(Segment(0, 30),), use_cache=False).logits
        theirs = loaded(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, load_frozen(tiny_model, "float32", attention="eager")(input_ids=ids).logits)
