"""What happens between matrix products, as loops that Numba compiles for this machine.

Knows arrays and positions; knows nothing of modules, adapters or requests. torch has each of these only as several
operations, or for many queries at once; one row's worth of each is shorter than the calls. bfloat16 arrays come as
uint16, which NumPy has a name for; all arithmetic is in float32 and rounds once, when it is stored (docs/adr/0026).
Exactness: tests/modeling/test_loops.py; speed: benchmarks/generate_vs_vllm.py, benchmarks/train_roofline.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numba import config, njit, prange, set_num_threads, types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

# All that "fast" means but for the promise that no number is infinite or not a number.
FAST_MATH = {"nsz", "arcp", "contract", "afn", "reassoc"}
Array: TypeAlias = NDArray[Any]
"""float32 numbers, or bfloat16's as uint16."""
Number: TypeAlias = Any
"""One of them. mypy does not see what Numba infers."""

LOG2_E = np.float32(1.4426950408889634)
RANKS_AT_ONCE = 4  # a sum that is in memory is read and written once for so many terms
EXPONENT_MIN = np.float32(-126.0)
Function = TypeVar("Function", bound=Callable[..., Any])
Loop = TypeVar("Loop", bound=Callable[..., None])


class BankArrays(NamedTuple):
    """The adapters of one packed layer in use: `down` (slots, sum of room, in); `up` (slots, largest room, out); `gain`
    and `shift` (slots, out); `ranks` (slots, layers), multiples of `RANKS_AT_ONCE`; `room`, for ranks, and `sizes`, for
    columns, of each of the joined layers (layers,).
    """

    down: Array
    up: Array
    gain: Array
    shift: Array
    ranks: NDArray[np.int64]
    room: NDArray[np.int64]
    sizes: NDArray[np.int64]


def _inner(function: Function) -> Function:
    """Copied into its callers' innermost loops before they are compiled; called there, it would keep them scalar."""
    return cast("Function", njit(inline="always", fastmath=FAST_MATH)(function))


def _part(function: Function) -> Function:
    """Compiled into the loops that call it."""
    return cast("Function", njit(fastmath=FAST_MATH)(function))


def _compiled(loop: Loop) -> Loop:
    """Over rows on all cores; kept on disk for the next process where there is a place for that."""
    options: dict[str, Any] = {"parallel": True, "nogil": True, "fastmath": FAST_MATH}
    try:
        return cast("Loop", njit(cache=True, **options)(loop))
    except RuntimeError:  # neither the package's directory nor the user's can be written to
        return cast("Loop", njit(**options)(loop))


def use_threads(count: int) -> None:
    """Compute loops that this thread calls on so many cores, as far as the machine has them."""
    most: int = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # set when numba is imported
    set_num_threads(min(count, most))


def array(tensor: Tensor) -> Array:
    """The same memory as NumPy has it: uint16 for bfloat16."""
    plain: Array = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return plain


def _widen(number: Number) -> Number:
    """A stored number as float32."""
    raise NotImplementedError


@overload(_widen, inline="always", strict=False)
def _widen_compiled(number: Number) -> Callable[..., Number]:
    if isinstance(number, types.Integer):
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: number


def _put(target: Array, place: int, number: Number) -> None:
    """Store a float32, rounded to the nearest that `target` holds."""
    raise NotImplementedError


@overload(_put, inline="always", strict=False)
def _put_compiled(target: Array, place: int, number: Number) -> Callable[..., Number]:
    if isinstance(target.dtype, types.Integer):

        def rounded(target: Array, place: int, number: Number) -> None:
            bits = np.float32(number).view(np.uint32)
            even = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
            target[place] = np.uint16(np.uint32(bits + np.uint32(np.uint32(0x7FFF) + even)) >> np.uint32(16))

        return rounded

    def plain(target: Array, place: int, number: Number) -> None:
        target[place] = number

    return plain


@_inner
def _exponential(x: Number) -> Number:
    """e^x for x ≤ 0, to 1e-7 · (1 + |x| / 2) of it: 2 to an integer, by its bits, times 2 to the rest.

    The polynomial is 2^x on [0, 1), fitted by least squares of the relative error, and 1 at 0.
    """
    power = max(x * LOG2_E, EXPONENT_MIN)
    whole = np.floor(power)
    rest = power - whole
    value = np.float32(1.867196592e-3)
    value = value * rest + np.float32(9.016658568e-3)
    value = value * rest + np.float32(5.580046783e-2)
    value = value * rest + np.float32(2.401641478e-1)
    value = value * rest + np.float32(6.931513633e-1)
    value = value * rest + np.float32(1.0)
    return value * np.int32(np.int32(np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@_compiled
def add_and_norm(hidden: Array, added: Array, weight: Array, epsilon: np.float32, normed: Array) -> None:
    """`hidden` += `added`, both (rows, width); `normed` = RMSNorm(hidden) · weight (Zhang & Sennrich 2019)."""
    rows, width = hidden.shape
    for row in prange(rows):
        kept, more, out = hidden[row], added[row], normed[row]
        square = np.float32(0)
        for at in range(width):
            _put(kept, at, _widen(kept[at]) + _widen(more[at]))
        for at in range(width):
            number = _widen(kept[at])
            square += number * number
        scale = np.float32(1) / np.sqrt(square / np.float32(width) + epsilon)
        for at in range(width):
            _put(out, at, _widen(kept[at]) * scale)
        for at in range(width):  # rounded before the weight as well, as the families' own code does it
            _put(out, at, _widen(out[at]) * _widen(weight[at]))


@_inner
def _sigmoid(number: Number) -> Number:
    small = _exponential(-abs(number))
    return (np.float32(1) if number >= 0 else small) / (np.float32(1) + small)


@_inner
def _gate_row(gates: Array, ups: Array, out: Array) -> None:
    for at in range(len(out)):
        number = _widen(gates[at])
        _put(out, at, number * _sigmoid(number) * _widen(ups[at]))


@_compiled
def gate_joined(both: Array, out: Array) -> None:
    """SwiGLU: `out` (rows, width) = silu(gate) · up, where `both` (rows, 2 · width) has gates, then ups."""
    rows, width = out.shape
    for row in prange(rows):
        _gate_row(both[row, :width], both[row, width:], out[row])


@_compiled
def gate(gates: Array, ups: Array, out: Array) -> None:
    """SwiGLU (Shazeer 2020, arXiv:2002.05202): `out` = silu(`gates`) · `ups`; all (rows, width)."""
    for row in prange(len(out)):
        _gate_row(gates[row], ups[row], out[row])


@_compiled
def gate_backward(gates: Array, ups: Array, upstream: Array, to_gates: Array, to_ups: Array) -> None:
    """The gradients of `gate`'s two inputs; all (rows, width)."""
    for row in prange(len(gates)):
        from_above, to_gate, to_up = upstream[row], to_gates[row], to_ups[row]
        for at in range(len(from_above)):
            number, above = _widen(gates[row, at]), _widen(from_above[at])
            share = _sigmoid(number)
            _put(to_up, at, above * number * share)
            slope = share * (np.float32(1) + number * (np.float32(1) - share))
            _put(to_gate, at, above * _widen(ups[row, at]) * slope)


@_compiled
def norm(x: Array, gain: Array, epsilon: np.float32, factors: Array, out: Array) -> None:
    """RMSNorm, rounded once: `out` = `x` · factor · `gain`. `x`, `out`: (rows, width); `gain`: (width,) and `factors`,
    which are kept for the way back: (rows,), both float32.
    """
    for row in prange(len(x)):
        given, normed = x[row], out[row]
        square = np.float32(0)
        for at in range(len(given)):
            number = _widen(given[at])
            square += number * number
        factor = np.float32(1) / np.sqrt(square / np.float32(len(given)) + epsilon)
        factors[row] = factor
        for at in range(len(given)):
            _put(normed, at, _widen(given[at]) * factor * gain[at])


@_compiled
def norm_backward(x: Array, gain: Array, factors: Array, upstream: Array, to_x: Array) -> None:
    """The gradient of `norm`'s input; shapes as there."""
    for row in prange(len(x)):
        given, from_above, out = x[row], upstream[row], to_x[row]
        along, factor = np.float32(0), factors[row]
        for at in range(len(given)):
            along += _widen(from_above[at]) * gain[at] * _widen(given[at])
        along *= -factor * factor / np.float32(len(given))
        for at in range(len(given)):
            _put(out, at, (_widen(from_above[at]) * gain[at] + _widen(given[at]) * along) * factor)


@_compiled
def rotate(
    heads: Array,
    cosines: Array,
    sines: Array,
    query_heads: int,
    rotated_heads: int,
    norms: Array,
    epsilon: np.float32,
) -> None:
    """Rotary positions (Su et al. 2021), in place, of the first `rotated_heads` of `heads` (rows, heads, width).

    `cosines`, `sines`: (rows, width), float32. `norms` (2, width) are the weights of a norm before it, of the first
    `query_heads` and of the others; (0, width) where there is none.
    """
    rows, _, width = heads.shape
    half = width // 2
    for row in prange(rows):
        turned = np.empty(width, np.float32)
        cosine, sine = cosines[row], sines[row]
        for index in range(rotated_heads):
            head = heads[row, index]
            for at in range(width):
                turned[at] = _widen(head[at])
            if norms.shape[0]:
                weight = norms[0 if index < query_heads else 1]
                square = np.float32(0)
                for at in range(width):
                    square += turned[at] * turned[at]
                scale = np.float32(1) / np.sqrt(square / np.float32(width) + epsilon)
                for at in range(width):
                    turned[at] = turned[at] * scale * _widen(weight[at])
            for at in range(half):
                _put(head, at, turned[at] * cosine[at] - turned[half + at] * sine[at])
                _put(head, half + at, turned[half + at] * cosine[half + at] + turned[at] * sine[half + at])


@_part
def _soften(scores: Array) -> None:
    """Softmax of each row, in place."""
    for row in range(len(scores)):
        weights = scores[row]
        highest = weights.max()
        total = np.float32(0)
        for place in range(len(weights)):
            weight = _exponential(weights[place] - highest)
            weights[place] = weight
            total += weight
        share = np.float32(1) / total
        for place in range(len(weights)):
            weights[place] *= share


@_part
def _score(asked: Array, keys: Array, scores: Array) -> None:
    """`scores` (queries, keys) = `asked` (queries, width) · `keys` (keys, width)."""
    for place in range(len(keys)):
        key = keys[place]
        for query in range(len(asked)):
            score = np.float32(0)
            for at in range(len(key)):
                score += asked[query, at] * _widen(key[at])
            scores[query, place] = score


@_part
def _mix(scores: Array, values: Array, found: Array) -> None:
    """`found` (queries, width) += `scores` (queries, keys) · `values` (keys, width)."""
    for place in range(len(values)):
        value = values[place]
        for query in range(len(found)):
            weight = scores[query, place]
            for at in range(len(value)):
                found[query, at] += weight * _widen(value[at])


@_compiled
def store_and_attend(
    query: Array,
    key: Array,
    value: Array,
    cache: Array,
    positions: NDArray[np.int64],
    scale: np.float32,
    window: int,
    out: Array,
) -> None:
    """One new token of each sequence: keep its key and value, and attend to those of its sequence.

    `query`, `out`: (n, heads, width); `key`, `value`: (n, kv_heads, width); `cache`: keys, then values, as
    (2, slots, kv_heads, capacity, width), slot by row; `positions`: (n,); `window`: how many keys are seen, the own one
    among them. A group of query heads reads its keys once.
    """
    count, heads, width = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    for item in prange(count * kv_heads):
        row, head = item // kv_heads, item % kv_heads
        end = positions[row] + 1
        start = max(end - window, 0)
        keys, values = cache[0, row, head], cache[1, row, head]
        keys[end - 1] = key[row, head]
        values[end - 1] = value[row, head]
        asked = np.empty((group, width), np.float32)
        for one in range(group):
            for at in range(width):
                asked[one, at] = _widen(query[row, head * group + one, at]) * scale
        scores = np.empty((group, end - start), np.float32)
        _score(asked, keys[start:end], scores)
        _soften(scores)
        found = np.zeros((group, width), np.float32)
        _mix(scores, values[start:end], found)
        for one in range(group):
            for at in range(width):
                _put(out[row, head * group + one], at, found[one, at])


@_part
def _lower(given: Array, down: Array, low: Array) -> None:
    """`low` (ranks,) = `down` (ranks, width) · `given` (width,)."""
    for rank in range(len(low)):
        weights = down[rank]
        total = np.float32(0)
        for at in range(len(given)):
            total += given[at] * _widen(weights[at])
        low[rank] = total


@_part
def _raise(columns: Array, low: Array, up: Array, start: int) -> None:
    """`columns` (width,) += `low` (ranks,) · `up` (ranks or more, out), of which the columns from `start` on."""
    end = start + len(columns)
    for rank in range(0, len(low), RANKS_AT_ONCE):
        one, two, three, four = low[rank], low[rank + 1], low[rank + 2], low[rank + 3]
        first, second = up[rank, start:end], up[rank + 1, start:end]
        third, fourth = up[rank + 2, start:end], up[rank + 3, start:end]
        for at in range(len(columns)):
            pair = one * _widen(first[at]) + two * _widen(second[at])
            columns[at] += pair + (three * _widen(third[at]) + four * _widen(fourth[at]))


@_compiled
def add_adapters(
    hidden: Array, rows: NDArray[np.int64], slots: NDArray[np.int64], bank: BankArrays, out: Array
) -> None:
    """Each row's adapter beside the frozen layer's output: `out` = `out` · gain + shift + hidden · down · up.

    `hidden`: (tokens, in); `rows`: (n,), of `hidden` and `out`, best in the order of their `slots` (n,), which are
    places in the bank; `out`: (tokens, out).
    """
    down, up, gain, shift, ranks, room, sizes = bank
    for place in prange(len(rows)):
        row, slot = rows[place], slots[place]
        given, target = np.empty(hidden.shape[1], np.float32), out[row]
        for at in range(len(given)):
            given[at] = _widen(hidden[row, at])
        low = np.empty(up.shape[1], np.float32)
        added = np.empty(out.shape[1], np.float32)
        for at in range(len(added)):
            added[at] = _widen(target[at]) * _widen(gain[slot, at]) + _widen(shift[slot, at])
        start, first = 0, 0
        for part in range(len(sizes)):
            used, last = low[: ranks[slot, part]], first + sizes[part]
            _lower(given, down[slot, start : start + len(used)], used)
            _raise(added[first:last], used, up[slot], first)
            start += room[part]
            first = last
        for at in range(len(added)):
            _put(target, at, added[at])
