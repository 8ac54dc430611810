"""Which rows make up which step: a pure function of seed, epoch and row lengths, so that resuming needs no iterator.

An optimizer step's rows are those of a plain seeded shuffle. Only how a step's rows are split into parts that fit in
memory depends on their lengths, and the split changes no sum. Knows nothing of torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

# Tokens computed at once: enough rows to fill a CPU's matrix products, and 1.7 MB each on SmolLM2-135M in float32.
PART_TOKENS = 1024

Cost: TypeAlias = Callable[[int, Sequence[int]], int]
"""Tokens that a unit adds to a part with other units: fewer than its own where it begins as one of them does."""


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Steps that one pass over the rows takes; the last may be smaller."""
    return -(-rows // batch_size)


def epoch_order(rows: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of `range(rows)`; another one in each epoch (counted from 0)."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order: list[int] = generator.permutation(rows).tolist()
    return order


def step_rows(rows: int, batch_size: int, *, seed: int, step: int) -> list[int]:
    """The rows of a step (counted from 0 over all epochs)."""
    epoch, within = divmod(step, steps_per_epoch(rows, batch_size))
    return epoch_order(rows, seed=seed, epoch=epoch)[within * batch_size : (within + 1) * batch_size]


def draw_seed(*, seed: int, step: int, rank: int) -> int:
    """What dropout and other noise of a step is drawn from: other numbers in each process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


class _Part(NamedTuple):
    """Tokens computed, the most that one of its units shares with others, and its units."""

    tokens: int
    shared: int
    members: tuple[int, ...]


def parts(chosen: Sequence[int], cost: Cost, part_tokens: int = PART_TOKENS) -> list[list[int]]:
    """Split units into parts of at most `part_tokens` tokens beside what they share; a longer one is its own part.

    First-fit decreasing: few parts, evenly filled. The order depends on the rows' tokens and numbers only.
    """
    own = {unit: cost(unit, ()) for unit in chosen}
    filled: list[_Part] = []
    for unit in sorted(chosen, key=lambda unit: (-own[unit], unit)):
        for at, part in enumerate(filled):
            added = cost(unit, part.members)
            shared = max(part.shared, own[unit] - added)
            if part.tokens + added <= part_tokens + shared:
                filled[at] = _Part(part.tokens + added, shared, (*part.members, unit))
                break
        else:
            filled.append(_Part(own[unit], 0, (unit,)))
    return [list(part.members) for part in filled]


def share(chosen: Sequence[int], lengths: Mapping[int, int], *, rank: int, size: int) -> list[int]:
    """The rows of a step that one of `size` processes computes, in the step's order: about as many tokens for each.

    The longest row goes to whoever has least so far. All processes come to the same division, without a word.
    """
    if size == 1:
        return list(chosen)
    held = [0] * size
    taken: set[int] = set()
    for row in sorted(chosen, key=lambda row: (-lengths[row], row)):
        least = held.index(min(held))
        held[least] += lengths[row]
        if least == rank:
            taken.add(row)
    return [row for row in chosen if row in taken]


def validation_sample(rows: int, size: int, *, seed: int) -> list[int]:
    """The rows on which the loss is measured between epochs: the same ones in the whole run."""
    return sorted(epoch_order(rows, seed=seed, epoch=2**32)[:size])
