"""ORPO: odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691). It needs no reference.

With p(y | x) the geometric mean of the probabilities of an answer's tokens, and odds = p / (1 - p):

    -log p(w | x) - beta log sigmoid(log odds(w | x) - log odds(l | x))    equations 6 and 7; beta is their lambda

for the chosen answer w and the rejected one l. The first term is the chosen answer's loss over its own tokens; the
authors' program and TRL's count the prompt's tokens there as well. A reward is beta log p(y | x), as theirs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from tunewise.train.criterion import PartLoss, Unit
from tunewise.train.methods.answers import score
from tunewise.train.methods.pairs import count_pairs

# Where an answer is certain in float32, its odds are infinite: no log-probability counts as nearer to 0 than this.
NEAREST_TO_CERTAIN = torch.finfo(torch.float32).eps
LOG_HALF = -0.6931471805599453


class OrpoCriterion:
    """The mean over pairs."""

    def __init__(self, *, beta: float, share_prefixes: bool) -> None:
        self.share_prefixes = share_prefixes
        self._beta = beta

    def size(self, unit: Unit) -> float:
        """A pair counts once, however long."""
        return 1.0

    def prepare(self, model: PreTrainedModel, units: Sequence[Unit]) -> None:
        """Nothing is needed."""

    def loss(self, model: PreTrainedModel, units: Sequence[Unit]) -> PartLoss:
        """Summed over the pairs."""
        answers = score(model, [row for unit in units for row in unit.rows], share_prefixes=self.share_prefixes)
        means = answers.logps / answers.lengths
        odds = log_odds(means)
        total = (-means[::2] - self._beta * logsigmoid(odds[::2] - odds[1::2])).sum()
        return PartLoss(total, count_pairs(units, total.item(), self._beta * means.detach(), answers.correct))


def log_odds(logps: Tensor) -> Tensor:
    """`log(p / (1 - p))` of log-probabilities, in nats, without leaving the logarithm."""
    logps = logps.clamp(max=-NEAREST_TO_CERTAIN)
    return logps - log1mexp(logps)


def log1mexp(x: Tensor) -> Tensor:
    """`log(1 - exp(x))` for x < 0: by expm1 near 0, by log1p elsewhere (Mächler 2012, Rmpfr's note on log1mexp).

    Each form is finite, with its gradient, where the other is taken.
    """
    return torch.where(x > LOG_HALF, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
