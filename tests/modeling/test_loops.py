"""The compiled loops compute what torch's operations do, in both number formats and at every size."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from tunewise.modeling import loops
from tunewise.modeling.loops import BankArrays, array

ROWS = [1, 2, 5, 33]
WIDTHS = [1, 7, 16, 66]
EPSILON = np.float32(1e-5)


class Format(NamedTuple):
    """A number format and how close results must be: relative, and absolute for what is near 0."""

    dtype: torch.dtype
    relative: float
    absolute: float


FORMATS = [Format(torch.float32, 3e-6, 3e-6), Format(torch.bfloat16, 2.0**-7, 1e-5)]
pytestmark = pytest.mark.parametrize("kind", FORMATS, ids=["float32", "bfloat16"])


def drawn(kind: Format, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(kind.dtype)


def near(found: Tensor, expected: Tensor, kind: Format) -> None:
    assert found.dtype == kind.dtype
    torch.testing.assert_close(found.float(), expected.float(), rtol=kind.relative, atol=kind.absolute)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", WIDTHS)
def test_adding_and_norming(kind: Format, rows: int, width: int) -> None:
    hidden, added = drawn(kind, rows, width), drawn(kind, rows, width, seed=1)
    weight, normed = drawn(kind, width, seed=2), torch.empty(rows, width, dtype=kind.dtype)
    total = hidden + added
    loops.add_and_norm(array(hidden), array(added), array(weight), EPSILON, array(normed))
    assert torch.equal(hidden, total)
    near(normed, rms_norm(total.float(), (width,), eps=float(EPSILON)).to(kind.dtype) * weight, kind)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", WIDTHS)
def test_gates(kind: Format, rows: int, width: int) -> None:
    both, out = 20 * drawn(kind, rows, 2 * width), torch.empty(rows, width, dtype=kind.dtype)
    both[0, 0], both[-1, width - 1] = 300.0, -300.0  # where an exponential would be infinite, or nothing
    loops.gate_joined(array(both), array(out))
    gates, ups = both.chunk(2, dim=1)
    near(out, silu(gates.float()) * ups.float(), kind)
    apart = torch.empty_like(out)
    loops.gate(array(gates.contiguous()), array(ups.contiguous()), array(apart))
    assert torch.equal(apart, out)


@pytest.mark.parametrize("has_norms", [False, True])
def test_rotation_with_and_without_norms_of_heads(kind: Format, has_norms: bool) -> None:
    heads, weights = drawn(kind, 9, 6, 16), drawn(kind, 2, 16, seed=1)
    angles = torch.rand(9, 8).repeat(1, 2) * 6
    wide = heads.float().clone()
    if has_norms:
        wide[:, :3] = rms_norm(wide[:, :3], (16,), weights[0].float(), eps=float(EPSILON))
        wide[:, 3:5] = rms_norm(wide[:, 3:5], (16,), weights[1].float(), eps=float(EPSILON))
    half = torch.cat([-wide[..., 8:], wide[..., :8]], dim=-1)
    expected = wide * angles.cos()[:, None] + half * angles.sin()[:, None]
    expected[:, 5:] = heads[:, 5:].float()
    norms = array(weights if has_norms else weights[:0])
    loops.rotate(array(heads), angles.cos().numpy(), angles.sin().numpy(), 3, 5, norms, EPSILON)
    near(heads, expected, kind)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("window", [1, 5, 64])
def test_attention_keeps_what_is_new_and_sees_only_its_own_sequence(kind: Format, group: int, window: int) -> None:
    count, kv_heads, capacity, width = 7, 2, 64, 16
    query = drawn(kind, count, kv_heads * group, width)
    key, value = drawn(kind, count, kv_heads, width, seed=1), drawn(kind, count, kv_heads, width, seed=2)
    cache = drawn(kind, 2, count + 1, kv_heads, capacity, width, seed=3)
    positions = torch.tensor([0, 1, 4, 5, 31, 62, 63])
    expected = cache.clone()
    expected[0, torch.arange(count), :, positions] = key
    expected[1, torch.arange(count), :, positions] = value
    out = torch.empty_like(query)
    new = (array(query), array(key), array(value))
    loops.store_and_attend(*new, array(cache), positions.numpy(), np.float32(0.3), window, array(out))
    assert torch.equal(cache, expected)
    places = torch.arange(capacity)
    seen = (places <= positions[:, None]) & (places > positions[:, None] - window)
    keys, values = (each[:count].float().repeat_interleave(group, dim=1) for each in expected)
    mask = seen[:, None, None]
    found = scaled_dot_product_attention(query.float()[:, :, None], keys, values, mask, scale=0.3)
    near(out, found[:, :, 0], kind._replace(absolute=max(kind.absolute, kind.relative / 4)))


def test_attention_over_scores_far_apart_is_the_highest_ones_value(kind: Format) -> None:
    cache = torch.zeros(2, 1, 1, 8, 16, dtype=kind.dtype)
    cache[0, 0, 0, 2], cache[1, 0, 0, 2] = 100.0, 7.0
    query = torch.full((1, 1, 16), 50.0).to(kind.dtype)
    new, out = torch.zeros(1, 1, 16, dtype=kind.dtype), torch.empty(1, 1, 16, dtype=kind.dtype)
    heads = (array(query), array(new), array(new))
    loops.store_and_attend(*heads, array(cache), np.array([7]), np.float32(1), 8, array(out))
    assert torch.equal(out, torch.full_like(out, 7.0))


def test_each_row_gets_its_own_adapter_and_others_are_left_alone(kind: Format) -> None:
    hidden, out = drawn(kind, 6, 24), drawn(kind, 6, 20, seed=1)
    down, up = drawn(kind, 3, 12, 24, seed=2), drawn(kind, 3, 8, 20, seed=3)
    gain, shift = drawn(kind, 3, 20, seed=4), drawn(kind, 3, 20, seed=5)
    rows, slots = np.array([2, 3, 0, 5]), np.array([0, 0, 2, 1])
    expected = out.float().clone()
    for row, slot in zip(rows.tolist(), slots.tolist(), strict=True):
        low = down[slot].float() @ hidden[row].float()
        low[8:] *= slot != 2  # whose rank is smaller than its room
        expected[row] = expected[row] * gain[slot].float() + shift[slot].float()
        expected[row, :12] += low[:4] @ up[slot, :4, :12].float()  # the first layer's rank is 4, the second's 8
        expected[row, 12:] += low[4:] @ up[slot, :, 12:].float()
    ranks = np.array([[4, 8], [4, 8], [4, 4]])
    bank = BankArrays(array(down), array(up), array(gain), array(shift), ranks, np.array([4, 8]), np.array([12, 8]))
    loops.add_adapters(array(hidden), rows, slots, bank, array(out))
    near(out, expected, kind._replace(absolute=1e-4))


@pytest.mark.parametrize("number", [0.0, 1.0, -3.5, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1e30, 1e-40])
def test_numbers_are_rounded_to_the_nearest_and_ties_to_even(kind: Format, number: float) -> None:
    hidden = torch.tensor([[number]]).to(kind.dtype)
    gain: dict[str, Any] = {"dtype": kind.dtype}
    bank = BankArrays(
        array(torch.full((1, 4, 1), 0.25, **gain)),
        array(torch.full((1, 4, 1), 0.5, **gain)),
        array(torch.ones(1, 1, **gain)),
        array(torch.zeros(1, 1, **gain)),
        np.array([[4]]),
        np.array([4]),
        np.array([1]),
    )
    out = hidden.clone()
    loops.add_adapters(array(hidden), np.array([0]), np.array([0]), bank, array(out))
    torch.testing.assert_close(out, (hidden.float() * 1.5).to(kind.dtype), rtol=0.0, atol=1e-44)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_norm_rounds_once_and_its_gradient_is_autograds(kind: Format, rows: int, width: int) -> None:
    x, upstream, gain = drawn(kind, rows, width), drawn(kind, rows, width, seed=1), torch.rand(width) + 0.5
    out, to_x, factors = torch.empty_like(x), torch.empty_like(x), torch.empty(rows)
    loops.norm(array(x), array(gain), EPSILON, array(factors), array(out))
    loops.norm_backward(array(x), array(gain), array(factors), array(upstream), array(to_x))
    own = x.float().requires_grad_()
    expected = rms_norm(own, (width,), gain, eps=float(EPSILON))
    near(out, expected.detach(), kind)
    (gradient,) = torch.autograd.grad(expected, own, upstream.float())
    near(to_x, gradient, kind._replace(absolute=1e-5 * float(gradient.abs().max() + 1)))
