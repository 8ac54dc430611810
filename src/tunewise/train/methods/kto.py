"""KTO: Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306). Answers come alone, with a label.

With r(y) = log p(y | x) - log p_ref(y | x), ref being the model that the run began with:

    z0 = max(0, mean over the step of r(y')), y' the answer to another question         section 4.1 of the paper
    wanted:   weight_desirable (1 - sigmoid(beta (r(y) - z0)))
    unwanted: weight_undesirable (1 - sigmoid(beta (z0 - r(y))))                        equations 7 and 8

z0 estimates how far the run has drifted; no gradient flows through it. It is that of the whole step, so that a step's
parts do not each have one of their own, and without dropout. A reward is beta r(y).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewise.train.criterion import PartLoss, Tally, Unit, count
from tunewise.train.methods.answers import score, score_apart


class KtoCriterion:
    """The mean over answers; each unit is one, with a mismatched row and the reference of both."""

    def __init__(
        self, *, beta: float, desirable_weight: float, undesirable_weight: float, share_prefixes: bool
    ) -> None:
        self.share_prefixes = share_prefixes
        self._beta = beta
        self._weights = {True: desirable_weight, False: undesirable_weight}
        self._drift = 0.0

    def size(self, unit: Unit) -> float:
        """An answer counts once, whatever its weight."""
        return 1.0

    def prepare(self, model: PreTrainedModel, units: Sequence[Unit]) -> None:
        """Measure z0 on the mismatched rows of the step."""
        logps = score_apart(model, [row for unit in units for row in unit.mismatched])
        drifts = [now - unit.reference[1] for now, unit in zip(logps, units, strict=True)]
        self._drift = max(0.0, sum(drifts) / len(drifts))

    def loss(self, model: PreTrainedModel, units: Sequence[Unit]) -> PartLoss:
        """Summed over the answers."""
        answers = score(model, [unit.rows[0] for unit in units], share_prefixes=self.share_prefixes)
        ratios = answers.logps - torch.tensor([unit.reference[0] for unit in units], dtype=torch.float64)
        signs = torch.tensor([1.0 if unit.wanted else -1.0 for unit in units], dtype=torch.float64)
        weights = torch.tensor([self._weights[unit.wanted] for unit in units], dtype=torch.float64)
        values = signs * (ratios - self._drift)
        total = (weights * torch.sigmoid(-self._beta * values)).sum()
        tally = _count(units, self._beta * ratios.detach(), values.detach())
        return PartLoss(total, count(units, total.item(), len(units), answers.correct).plus(tally))


def _count(units: Sequence[Unit], rewards: Tensor, values: Tensor) -> Tally:
    """rewards, values: (units,); an answer of positive value is on its side of the baseline."""
    wanted = torch.tensor([unit.wanted for unit in units])
    return Tally(
        chosen=int(wanted.sum()),
        rejected=int((~wanted).sum()),
        chosen_reward=rewards[wanted].sum().item(),
        rejected_reward=rewards[~wanted].sum().item(),
        compared=len(units),
        wins=int((values > 0).sum()),
    )
