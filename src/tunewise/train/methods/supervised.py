"""Supervised fine-tuning: the next tokens of some messages. Knows nothing of steps, files or optimizers."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from tunewise.modeling.packing import pack, packed_loss, supervised_tokens
from tunewise.train.criterion import PartLoss, Unit, count


class TokenCriterion:
    """Cross-entropy of the supervised tokens; the mean over all tokens of a step, not over rows."""

    def __init__(self, *, share_prefixes: bool) -> None:
        self.share_prefixes = share_prefixes

    def size(self, unit: Unit) -> float:
        """Supervised tokens."""
        return sum(supervised_tokens(row) for row in unit.rows)

    def prepare(self, model: PreTrainedModel, units: Sequence[Unit]) -> None:
        """Nothing is needed."""

    def loss(self, model: PreTrainedModel, units: Sequence[Unit]) -> PartLoss:
        """Summed over the supervised tokens."""
        rows = [row for unit in units for row in unit.rows]
        found = packed_loss(model, pack(rows, share_prefixes=self.share_prefixes))
        total = found.losses.sum(dtype=torch.float64)
        return PartLoss(total, count(units, total.item(), len(found.losses), found.correct))
