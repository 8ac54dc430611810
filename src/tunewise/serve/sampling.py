"""From logits to tokens, for a whole batch at once.

Knows temperatures, nuclei and random numbers; knows nothing of sequences. A token is drawn as argmax(p / noise) with
exponential noise per token of the vocabulary, from the sequence's own generator (the Gumbel-max trick: Maddison et al.
2014, arXiv:1411.0030). Inverting the cumulative distribution would take one random number instead, but there the
rounding of a logit, which differs with the batch, moves every later token's interval: on a flat distribution that
changed one token in some hundreds. Here a token changes only if the two best were equal to the last bits: the same seed
gives the same text whatever else is in the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NUCLEUS_CANDIDATES = 512  # tokens looked at before a full sort, which takes milliseconds a row
NOISE_MIN = 1e-20  # an exponential number may round to 0, and 0 / 0 would win


class Draw(NamedTuple):
    """One row's choice; `noise` may be None where the temperature is 0."""

    temperature: float
    top_p: float
    noise: np.random.Generator | None


def generator(seed: int, choice: int) -> np.random.Generator:
    """The random numbers of one choice of a request."""
    return np.random.Generator(np.random.SFC64([seed % 2**64, choice]))


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Choose a token for each row of `logits` (rows, vocabulary)."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    drawn = [(row, draw) for row, draw in enumerate(draws) if draw.temperature > 0]
    if not drawn:
        return tokens
    probabilities = _probabilities(logits[[row for row, _ in drawn]], [draw.temperature for _, draw in drawn])
    cut = [place for place, (_, draw) in enumerate(drawn) if draw.top_p < 1]
    if cut:
        probabilities[cut] = _nucleus(probabilities[cut], [drawn[place][1].top_p for place in cut])
    chosen = probabilities.div_(_noise(drawn, logits.shape[-1])).argmax(dim=-1).tolist()
    for (row, _), token in zip(drawn, chosen, strict=True):
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


def _probabilities(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    # The maximum goes first, so that a tiny temperature gives 0 and -inf, not inf - inf.
    return ((logits - logits.amax(dim=-1, keepdim=True)) / torch.tensor(temperatures)[:, None]).softmax(dim=-1)


def _nucleus(probabilities: Tensor, limits: Sequence[float]) -> Tensor:
    """Only the fewest most probable tokens that hold `top_p` (Holtzman et al. 2020, arXiv:1904.09751)."""
    limit = torch.tensor(limits, dtype=torch.float64)[:, None]
    values, indices = probabilities.topk(min(NUCLEUS_CANDIDATES, probabilities.shape[-1]), dim=-1)
    if (values.sum(dim=-1, dtype=torch.float64, keepdim=True) < limit).any():
        values, indices = probabilities.sort(dim=-1, descending=True)
    before = values.cumsum(dim=-1, dtype=torch.float64) - values
    outside = before >= limit
    outside[:, 0] = False
    return torch.zeros_like(probabilities).scatter_(-1, indices, values.masked_fill(outside, 0.0))


def _noise(drawn: Sequence[tuple[int, Draw]], vocabulary: int) -> Tensor:
    numbers = np.empty((len(drawn), vocabulary), dtype=np.float32)
    for row, (_, draw) in zip(numbers, drawn, strict=True):
        if draw.noise is not None:
            draw.noise.standard_exponential(dtype=np.float32, out=row)
    return torch.from_numpy(numbers).clamp_min_(NOISE_MIN)
