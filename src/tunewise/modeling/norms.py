"""RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) with a frozen gain, in one autograd function.

transformers' own keeps five float32 tensors of the input's size for autograd, and walks as many operations back. Here
the input and one number a token are kept. Both compute in float32; where the input is bfloat16, this one rounds once,
at the end. A module is replaced only where it answers as this does. Exactness: tests/modeling/test_norms.py.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.modeling import loops
from tunewise.modeling.autograd import Context, call
from tunewise.modeling.loops import array

PROBE_TOKENS = 4
EPSILONS = ("variance_epsilon", "eps")  # what the families call it


class _RmsNorm(torch.autograd.Function):
    """x: (..., width); gain: (width,), float32."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        rows = x.contiguous().view(-1, x.shape[-1])
        out, factors = torch.empty_like(rows), torch.empty(len(rows))
        loops.norm(array(rows), array(gain), np.float32(epsilon), array(factors), array(out))
        ctx.save_for_backward(rows, factors, gain)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, factors, gain = ctx.saved_tensors
        upstream, to_x = grads[0].contiguous().view(rows.shape), torch.empty_like(rows)
        loops.norm_backward(array(rows), array(gain), array(factors), array(upstream), array(to_x))
        return to_x.view(grads[0].shape), None, None


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """`gain * x / sqrt(mean(x**2) + epsilon)` over the last axis; x: (..., width), gain: (width,), float32."""
    (out,) = call(_RmsNorm, x, gain, epsilon)
    return out


def epsilon_of(module: nn.Module) -> object:
    """A norm's epsilon, by any of its names; None where it has none."""
    return next((getattr(module, name) for name in EPSILONS if hasattr(module, name)), None)


def use_fast_norms(model: nn.Module) -> None:
    """Replace the forward of each frozen RMSNorm; whatever else normalises stays as it is."""
    for module in model.modules():
        found = _rms_norm_of(module)
        if found is not None:
            module.forward = partial(_forward, *found)


def _forward(gain: Tensor, epsilon: float, x: Tensor) -> Tensor:
    return rms_norm(x, gain, epsilon)


@torch.no_grad()
def _rms_norm_of(module: nn.Module) -> tuple[Tensor, float] | None:
    """Gain and epsilon of a module that is an RMSNorm and not trained; Gemma's gain is one more than its weight."""
    if not type(module).__name__.endswith("RMSNorm"):
        return None
    weight = getattr(module, "weight", None)
    epsilon = epsilon_of(module)
    if not isinstance(weight, Tensor) or weight.requires_grad or not isinstance(epsilon, float):
        return None
    x = torch.linspace(-2, 3, PROBE_TOKENS * weight.numel()).view(PROBE_TOKENS, -1).to(weight)
    expected, rounding = module(x).float(), 8 * torch.finfo(weight.dtype).eps
    for gain in (weight.float(), 1 + weight.float()):
        if torch.allclose(rms_norm(x, gain, epsilon).float(), expected, rtol=rounding, atol=rounding):
            return gain, epsilon
    return None
