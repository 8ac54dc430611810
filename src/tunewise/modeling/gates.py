"""The gated product of a feed-forward block, silu(gate) · up, in one autograd function.

autograd keeps the gates, their SiLU and the ups, and walks four operations back; here gates and ups are kept, and each
way is one loop. Both compute in float32; where numbers are bfloat16, this one rounds once. A block is replaced only
where it answers as this does. Exactness: tests/modeling/test_gates.py.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from tunewise.modeling import loops
from tunewise.modeling.autograd import Context, call
from tunewise.modeling.loops import array

PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
PROBE_TOKENS = 4


class _Gate(torch.autograd.Function):
    """gates, ups: (..., width)."""

    @staticmethod
    def forward(ctx: Context, gates: Tensor, ups: Tensor) -> Tensor:
        rows = [each.contiguous().view(-1, each.shape[-1]) for each in (gates, ups)]
        out = torch.empty_like(rows[0])
        loops.gate(array(rows[0]), array(rows[1]), array(out))
        ctx.save_for_backward(*rows)
        return out.view(gates.shape)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor, ...]:
        gates, ups = ctx.saved_tensors
        upstream, to_gates, to_ups = (
            grads[0].contiguous().view(gates.shape),
            torch.empty_like(gates),
            torch.empty_like(ups),
        )
        loops.gate_backward(array(gates), array(ups), array(upstream), array(to_gates), array(to_ups))
        return to_gates.view(grads[0].shape), to_ups.view(grads[0].shape)


def gated(gates: Tensor, ups: Tensor) -> Tensor:
    """`silu(gates) * ups`, both (..., width)."""
    (out,) = call(_Gate, gates, ups)
    return out


def use_fast_gates(model: nn.Module) -> None:
    """Replace the forward of each feed-forward block that is gated by a SiLU; any other stays as it is."""
    for module in model.modules():
        if dict(module.named_children()).keys() == PARTS and _is_gated(module):
            module.forward = partial(_forward, module)


def _forward(block: Any, hidden: Tensor) -> Tensor:  # noqa: ANN401  # parts by name
    down: Tensor = block.down_proj(gated(block.gate_proj(hidden), block.up_proj(hidden)))
    return down


@torch.no_grad()
def _is_gated(block: Any) -> bool:  # noqa: ANN401  # parts by name
    probe = torch.linspace(-2, 2, 64)
    if not torch.equal(block.act_fn(probe), silu(probe)):
        return False
    weight: Tensor = next(block.parameters())
    if not weight.is_floating_point():  # packed into fewer bits
        return False
    was_training = block.training
    block.train(False)  # no dropout
    hidden = torch.linspace(-1, 1, PROBE_TOKENS * weight.shape[1]).view(1, PROBE_TOKENS, -1).to(weight)
    expected, found = block(hidden).float(), _forward(block, hidden).float()
    block.train(was_training)
    return bool((found - expected).norm() <= 8 * torch.finfo(weight.dtype).eps * expected.norm())
