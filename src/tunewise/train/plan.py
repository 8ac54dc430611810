"""Which rows make up which step: a pure function of seed, epoch and row lengths, so that resuming needs no iterator.

An optimizer step's rows are those of a plain seeded shuffle. Only how a step's rows are split into parts that fit in
memory depends on their lengths, and the split changes no sum. Knows nothing of torch.
"""

from collections.abc import Mapping, Sequence

import numpy as np

# Tokens computed at once: enough rows to fill a CPU's matrix products, and 1.7 MB each on SmolLM2-135M in float32.
PART_TOKENS = 1024


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


def parts(chosen: Sequence[int], lengths: Mapping[int, int], part_tokens: int = PART_TOKENS) -> list[list[int]]:
    """Split rows into parts of at most `part_tokens` tokens, longest first; a longer row is a part of its own.

    First-fit decreasing: few parts, evenly filled. The order depends on lengths and row numbers only.
    """
    filled: list[tuple[int, list[int]]] = []
    for row in sorted(chosen, key=lambda row: (-lengths[row], row)):
        place = next((i for i, (used, _) in enumerate(filled) if used + lengths[row] <= part_tokens), None)
        if place is None:
            filled.append((lengths[row], [row]))
        else:
            used, members = filled[place]
            filled[place] = (used + lengths[row], [*members, row])
    return [members for _, members in filled]


def validation_sample(rows: int, size: int, *, seed: int) -> list[int]:
    """The rows on which the loss is measured between epochs: the same ones in the whole run."""
    return sorted(epoch_order(rows, seed=seed, epoch=2**32)[:size])
