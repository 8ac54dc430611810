"""From logits to tokens, for a whole batch at once.

Knows temperatures, nuclei and random numbers; knows nothing of sequences. Each sequence brings one uniform number per
token, from its own generator, and the token is found by inverting the cumulative distribution: the same seed gives the
same text whatever else is in the batch.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NUCLEUS_CANDIDATES = 512  # tokens looked at before a full sort, which takes milliseconds a row


class Draw(NamedTuple):
    """One row's choice: `uniform` in [0, 1)."""

    temperature: float
    top_p: float
    uniform: float


def generator(seed: int, choice: int) -> random.Random:
    """The random numbers of one choice of a request."""
    return random.Random(f"{seed}/{choice}")


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Choose a token for each row of `logits` (rows, vocabulary)."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    plain = [row for row, draw in enumerate(draws) if draw.temperature > 0 and draw.top_p >= 1]
    nucleus = [row for row, draw in enumerate(draws) if draw.temperature > 0 and draw.top_p < 1]
    for rows, choose in ((plain, _by_probability), (nucleus, _from_nucleus)):
        if rows:
            chosen = choose(_probabilities(logits[rows], [draws[row] for row in rows]), [draws[row] for row in rows])
            for row, token in zip(rows, chosen.tolist(), strict=True):
                tokens[row] = token
    return tokens


def logprobs(logits: Tensor, tokens: Sequence[int], most: int) -> list[tuple[float, list[tuple[int, float]]]]:
    """For each row the log-probability of its token, and the `most` most probable tokens with theirs.

    Natural logarithms of the model's own distribution, before temperature and nucleus.
    """
    normal = logits.log_softmax(dim=-1)
    own = normal[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
    values, indices = normal.topk(most, dim=-1)
    tops = [list(zip(ids, row, strict=True)) for ids, row in zip(indices.tolist(), values.tolist(), strict=True)]
    return list(zip(own, tops, strict=True))


def _probabilities(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    temperatures = torch.tensor([draw.temperature for draw in draws])[:, None]
    # The maximum goes first, so that a tiny temperature gives 0 and -inf, not inf - inf.
    return ((logits - logits.amax(dim=-1, keepdim=True)) / temperatures).softmax(dim=-1)


def _by_probability(probabilities: Tensor, draws: Sequence[Draw]) -> Tensor:
    return _invert(probabilities.cumsum(dim=-1, dtype=torch.float64), draws)


def _from_nucleus(probabilities: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The fewest most probable tokens that hold `top_p` (Holtzman et al. 2020, arXiv:1904.09751)."""
    limits = torch.tensor([draw.top_p for draw in draws], dtype=torch.float64)[:, None]
    count = min(NUCLEUS_CANDIDATES, probabilities.shape[-1])
    values, indices = probabilities.topk(count, dim=-1)
    if (values.sum(dim=-1, dtype=torch.float64, keepdim=True) < limits).any():
        values, indices = probabilities.sort(dim=-1, descending=True)
    before = values.cumsum(dim=-1, dtype=torch.float64) - values
    kept = values.masked_fill(before >= limits, 0.0)
    kept[:, 0] = values[:, 0]
    places = _invert(kept.cumsum(dim=-1, dtype=torch.float64), draws)
    return indices.gather(-1, places[:, None])[:, 0]


def _invert(cumulative: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The first token at which the cumulative mass passes the uniform number."""
    uniforms = torch.tensor([draw.uniform for draw in draws], dtype=torch.float64)[:, None]
    target = uniforms * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_max(cumulative.shape[-1] - 1)
