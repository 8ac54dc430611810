"""What requests do to logits before a token is drawn: bias, penalties, and what a grammar forbids.

Knows logits and single tokens; knows nothing of temperatures, requests or text. Rows that ask for nothing are not
touched. Log-probabilities are told of the logits as they were before all this: they are the model's own, as vLLM's are.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tunewise.serve.grammars import Walk, allowed


class Offsets:
    """What one answer adds to its logits: the request's bias, less penalties for the tokens written so far.

    A token written c times loses c · frequency + presence (OpenAI's formula); the prompt's tokens do not count.
    """

    def __init__(self, bias: Iterable[tuple[int, float]], frequency: float, presence: float) -> None:
        self.values: dict[int, float] = dict(bias)
        self._frequency = frequency
        self._presence = presence
        self._written: Counter[int] = Counter()

    def take(self, token: int) -> None:
        """Note that a token was written."""
        if self._frequency or self._presence:
            lost = self._frequency + (0.0 if self._written[token] else self._presence)
            self._written[token] += 1
            self.values[token] = self.values.get(token, 0.0) - lost


class Shape(NamedTuple):
    """What shapes one row; None where nothing does."""

    offsets: Offsets | None
    walk: Walk | None


@torch.inference_mode()
def shape(logits: Tensor, shapes: Sequence[Shape]) -> None:
    """Apply each row's shape to `logits` (rows, vocabulary), in place."""
    offset = [(row, one.offsets.values) for row, one in enumerate(shapes) if one.offsets and one.offsets.values]
    if offset:
        _add(logits, offset)
    walking = [(row, one.walk) for row, one in enumerate(shapes) if one.walk]
    if walking:
        forbidden = ~allowed([walk for _, walk in walking], logits.shape[1])
        for (row, _), mask in zip(walking, forbidden, strict=True):
            logits[row].masked_fill_(mask, -torch.inf)


def _add(logits: Tensor, offset: Sequence[tuple[int, dict[int, float]]]) -> None:
    """One addition for the whole batch, of as many numbers as there are tokens with an offset."""
    sizes = [len(values) for _, values in offset]
    rows = np.repeat([row for row, _ in offset], sizes)
    tokens = np.concatenate([np.fromiter(values, np.int64, len(values)) for _, values in offset])
    added = np.concatenate([np.fromiter(values.values(), np.float32, len(values)) for _, values in offset])
    places = (torch.from_numpy(rows), torch.from_numpy(tokens))
    logits.index_put_(places, torch.from_numpy(added), accumulate=True)
