"""Whether a trunk computes what a family's own code does: asked of each layer by itself, at every start.

Both see the same inputs, those that the family's code has between its layers for one prompt; what they make of them may
differ by rounding. The prompt stands at the first positions and at the last that the model has, since some families
change attention far from the beginning. Knows a model and its trunk; nothing of requests.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tunewise.serve.attention import PromptSpan, StepLayout
from tunewise.serve.kv import KvShape, Strip
from tunewise.serve.trunk import Trunk

Compute: TypeAlias = Callable[[Tensor, Tensor, StepLayout], Tensor]
"""Ids and positions (tokens,) → logits (tokens, vocabulary), by the family's own code."""

TOKENS = 48
STRIDE = 7  # from one token id to the next
GAPS = {torch.float32: 1e-3, torch.bfloat16: 0.03}
"""Of what a layer adds to its input, relative, for the median token: several times what rounding makes of it, and far
below what one layer without rotation, or with another activation or factor, comes to."""


def agrees(trunk: Trunk, layers: nn.ModuleList, compute: Compute, shape: KvShape, limits: tuple[int, int]) -> bool:
    """Whether every layer of `trunk` adds what the family's layer adds. `limits`: vocabulary, and positions."""
    vocabulary, positions = limits
    ids = torch.arange(TOKENS) * STRIDE % vocabulary
    starts = {0, max(positions - TOKENS, 0)}
    return all(_agrees_at(torch.arange(TOKENS) + start, ids, trunk, layers, compute, shape) for start in starts)


def _agrees_at(
    positions: Tensor, ids: Tensor, trunk: Trunk, layers: nn.ModuleList, compute: Compute, shape: KvShape
) -> bool:
    steps: dict[int, tuple[Tensor, Tensor]] = {}
    hooks = [layer.register_forward_hook(partial(_keep, steps, index)) for index, layer in enumerate(layers)]
    try:
        compute(ids, positions, _layout(shape))
    finally:
        for hook in hooks:
            hook.remove()
    return len(steps) == len(layers) and all(
        _gap(before, after, trunk.layer(index, before, positions, _layout(shape))) <= GAPS[before.dtype]
        for index, (before, after) in steps.items()
    )


def _layout(shape: KvShape) -> StepLayout:
    return StepLayout(spans=[PromptSpan(0, TOKENS, Strip(shape, TOKENS), 0)])


def _keep(
    steps: dict[int, tuple[Tensor, Tensor]], index: int, _: nn.Module, inputs: tuple[Any, ...], output: Tensor
) -> None:
    steps[index] = (inputs[0][0].clone(), output[0].clone())


def _gap(before: Tensor, expected: Tensor, found: Tensor) -> float:
    """How far apart two outputs are, over what was added to the input: that of the median token."""
    added = (expected.float() - before.float()).norm(dim=1)
    return float(((found.float() - expected.float()).norm(dim=1) / added).median())
