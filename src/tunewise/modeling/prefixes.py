"""Shared prefixes: rows that begin with the same tokens compute them once. Exact, as attention is causal.

What a token's hidden state is depends on the tokens before it and on nothing else, so a system prompt, or the question
that two answers are compared on, is the same in every row that begins with it; gradients add up where rows meet. Rows
become a tree of segments, each a stretch of tokens that continues another. Whatever makes equal tokens different
(dropout, noise) must not share. Knows ids only. Exactness: tests/modeling/test_prefixes.py; the yield:
benchmarks/train_prefix.py.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from tunewise.modeling.attention import Range, Segment

# A shared stretch costs attention a copy of its keys for each row; below this it saves nothing that can be measured.
LEAST_SHARED = 16


class Layout(NamedTuple):
    """Rows laid out as a tree: `ids` and `positions` (tokens computed,), and the place of each token of each row."""

    ids: list[int]
    positions: list[int]
    segments: list[Segment]
    places: list[list[int]]


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def shared_with(row: Sequence[int], others: Sequence[Sequence[int]]) -> int:
    """Tokens of a row that need not be computed beside `others`."""
    longest = max((common_prefix(row, other) for other in others), default=0)
    return longest if longest >= LEAST_SHARED else 0


def lay_out(rows: Sequence[list[int]], *, share: bool) -> Layout:
    """Rows end to end, or, to `share`, as the tree of their prefixes."""
    layout = Layout([], [], [], [[] for _ in rows])
    if share:
        _grow(layout, rows, range(len(rows)), 0, ())
    else:
        for row in range(len(rows)):
            _append(layout, rows, [row], 0, len(rows[row]), ())
    return layout


def _grow(
    layout: Layout, rows: Sequence[list[int]], members: Sequence[int], depth: int, before: tuple[Range, ...]
) -> None:
    """Lay out what follows the first `depth` tokens, which the members have in common."""
    branches: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row in members:
        branches[tuple(rows[row][depth : depth + LEAST_SHARED])].append(row)
    for opening, branch in branches.items():
        if len(branch) == 1 or len(opening) < LEAST_SHARED:
            for row in branch:
                _append(layout, rows, [row], depth, len(rows[row]), before)
            continue
        first = rows[branch[0]]
        end = min(common_prefix(first, rows[row]) for row in branch)
        grown = _append(layout, rows, branch, depth, end, before)
        _grow(layout, rows, branch, end, grown)


def _append(
    layout: Layout, rows: Sequence[list[int]], members: Sequence[int], depth: int, end: int, before: tuple[Range, ...]
) -> tuple[Range, ...]:
    """Put one segment at the end, for all members; the stretches that what follows it continues."""
    if depth == end:
        return before
    start = len(layout.ids)
    stop = start + end - depth
    layout.ids.extend(rows[members[0]][depth:end])
    layout.positions.extend(range(depth, end))
    layout.segments.append(Segment(start, stop, before))
    for row in members:
        layout.places[row].extend(range(start, stop))
    return (*before, (start, stop))
