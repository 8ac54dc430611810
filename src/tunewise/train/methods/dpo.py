"""DPO: direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), and IPO (arXiv:2310.12036).

Of a pair with the chosen answer w and the rejected one l to the prompt x, and the model ref that the run began with:

    r(y) = log p(y | x) - log p_ref(y | x)
    sigmoid: -log sigmoid(beta (r(w) - r(l)))                              equation 7 of the first paper
    ipo:     (r(w) / |w| - r(l) / |l| - 1 / (2 beta))^2                    equation 17 of the second, tau = beta

IPO's log-ratios are means over an answer's tokens, as in TRL, whose authors have it from the paper's: sums would tie
the loss to the answers' lengths. A reward is beta r(y).
"""

from collections.abc import Sequence
from typing import assert_never

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from tunewise.contracts.fine_tuning import DpoLoss
from tunewise.train.criterion import PartLoss, Unit
from tunewise.train.methods.answers import Answers, score
from tunewise.train.methods.pairs import count_pairs


class DpoCriterion:
    """The mean over pairs; each unit is a pair with its reference."""

    def __init__(self, *, beta: float, loss: DpoLoss, share_prefixes: bool) -> None:
        self.share_prefixes = share_prefixes
        self._beta = beta
        self._loss = loss

    def size(self, unit: Unit) -> float:
        """A pair counts once, however long."""
        return 1.0

    def prepare(self, model: PreTrainedModel, units: Sequence[Unit]) -> None:
        """Nothing is needed."""

    def loss(self, model: PreTrainedModel, units: Sequence[Unit]) -> PartLoss:
        """Summed over the pairs."""
        answers = score(model, [row for unit in units for row in unit.rows], share_prefixes=self.share_prefixes)
        reference = torch.tensor([logp for unit in units for logp in unit.reference], dtype=torch.float64)
        ratios = answers.logps - reference
        total = self._losses(ratios, answers).sum()
        return PartLoss(total, count_pairs(units, total.item(), self._beta * ratios.detach(), answers.correct))

    def _losses(self, ratios: Tensor, answers: Answers) -> Tensor:
        """ratios: (2 x pairs,), chosen and rejected in turn; the losses are (pairs,)."""
        match self._loss:
            case "sigmoid":
                return -logsigmoid(self._beta * (ratios[::2] - ratios[1::2]))
            case "ipo":
                means = ratios / answers.lengths
                return (means[::2] - means[1::2] - 1 / (2 * self._beta)) ** 2
            case _:
                assert_never(self._loss)
