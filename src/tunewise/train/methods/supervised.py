"""Supervised fine-tuning: the next tokens of some messages. Knows nothing of steps, files or optimizers."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from tunewise.modeling.packing import pack, packed_loss, supervised_tokens
from tunewise.train.criterion import PartLoss, Unit, count


class TokenCriterion:
    """Cross-entropy of the supervised tokens: their weighted mean over a step, not over rows.

    Smoothing is in the loss that is trained on and in the one that validation tells, as in transformers' Trainer, so
    that the two can be compared with each other; those of runs with another smoothing cannot. Noise is for training
    only, and each row's is its own.
    """

    def __init__(
        self, *, share_prefixes: bool, label_smoothing: float = 0.0, neftune_alpha: float | None = None
    ) -> None:
        self.share_prefixes = share_prefixes and neftune_alpha is None
        self._label_smoothing = label_smoothing
        self._neftune_alpha = neftune_alpha

    def size(self, unit: Unit) -> float:
        """Supervised tokens times their weight."""
        return unit.weight * sum(supervised_tokens(row) for row in unit.rows)

    def prepare(self, model: PreTrainedModel, units: Sequence[Unit]) -> None:
        """Nothing is needed."""

    def loss(self, model: PreTrainedModel, units: Sequence[Unit]) -> PartLoss:
        """Summed over the supervised tokens, each times its unit's weight."""
        packed = pack([row for unit in units for row in unit.rows], share_prefixes=self.share_prefixes)
        noise = self._neftune_alpha if model.training else None
        found = packed_loss(model, packed, label_smoothing=self._label_smoothing, noise_alpha=noise)
        of_rows = torch.tensor([unit.weight for unit in units for _ in unit.rows], dtype=torch.float64)
        weights = of_rows[packed.row_of]
        total = (found.losses * weights).sum()
        return PartLoss(total, count(units, total.item(), weights.sum().item(), found.correct))
