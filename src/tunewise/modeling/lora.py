"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685): made and named by PEFT, computed here.

PEFT's own forward casts the input to the adapter's float32 and walks five modules for each linear layer. Here one
autograd function does a layer's forward and backward, in the frozen weight's number format, and never computes a
gradient for the frozen weight. Exactness is proved in tests/modeling/test_lora.py. Knows nothing of files or batches.
"""

import warnings
from functools import partial
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from tunewise.contracts.run import LoraSpec
from tunewise.errors import ModelError
from tunewise.modeling.autograd import Context, call

ADAPTER_NAME = "default"


class _LoraLinear(torch.autograd.Function):
    """x: (tokens, inputs); weight: (outputs, inputs), frozen; down: (rank, inputs); up: (outputs, rank)."""

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        down, up = down.to(x.dtype), up.to(x.dtype)
        inner = x @ down.t()
        out = linear(x, weight, bias)
        out.addmm_(inner, up.t(), alpha=scale)
        ctx.save_for_backward(x, weight, down, up, inner)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, inner = ctx.saved_tensors
        grad = grads[0]
        grad_inner = (grad @ up).mul_(ctx.scale)
        grad_up = (grad.t() @ inner).mul_(ctx.scale)
        grad_down = grad_inner.t() @ x
        grad_x = (grad @ weight).addmm_(grad_inner, down) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_down.float(), grad_up.float(), None


def lora_linear(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """`x @ weight.T + bias + scale * (x @ down.T) @ up.T` over the last axis of x; gradients for x, down and up."""
    flat = x.reshape(-1, x.shape[-1])
    (out,) = call(_LoraLinear, flat, weight, bias, down, up, scale)
    return out.view(*x.shape[:-1], out.shape[-1])


def add_adapter(model: PreTrainedModel, spec: LoraSpec) -> PeftModel:
    """Put a fresh adapter on a frozen model, with float32 weights; torch's random state decides its values.

    Raises:
        ModelError: unknown_lora_targets.
    """
    targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # annotated int, used as a number
        lora_dropout=spec.dropout,
        target_modules=targets,
        base_model_name_or_path=model.config.name_or_path,
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for a name that transformers 5 has deprecated.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
    except ValueError as error:
        raise ModelError(
            "unknown_lora_targets",
            f"LoRA targets {targets} do not fit {model.config.name_or_path}: {error}; "
            'use "all-linear" or names of its linear layers such as q_proj',
            param="lora.targets",
        ) from error
    _use_fast_forward(adapted)
    return adapted


def _use_fast_forward(adapted: nn.Module) -> None:
    """Replace PEFT's forward where a layer is a plain linear one without dropout; elsewhere PEFT's stays."""
    for layer in adapted.modules():
        if not isinstance(layer, PeftLinear) or type(layer.get_base_layer()) is not nn.Linear:
            continue
        if isinstance(layer.lora_dropout[ADAPTER_NAME], nn.Identity) and not layer.lora_variant:
            layer.forward = partial(_fast_forward, layer)  # type: ignore[method-assign]


def _fast_forward(layer: PeftLinear, x: Tensor) -> Tensor:
    frozen = cast(nn.Linear, layer.get_base_layer())
    down = cast(nn.Linear, layer.lora_A[ADAPTER_NAME])
    up = cast(nn.Linear, layer.lora_B[ADAPTER_NAME])
    return lora_linear(x, frozen.weight, frozen.bias, down.weight, up.weight, layer.scaling[ADAPTER_NAME])
