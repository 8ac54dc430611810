"""One optimizer step, and the loss on rows that are not trained on. Knows models and rows; nothing of files."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from tunewise.data.template import Rendered
from tunewise.errors import TrainingError
from tunewise.modeling.packing import pack, packed_loss, supervised_tokens
from tunewise.train.plan import parts


class Tally(NamedTuple):
    """Sums over rows: loss in nats, tokens predicted right, tokens that carried loss, all tokens of the rows."""

    loss_sum: float = 0.0
    correct: int = 0
    supervised: int = 0
    tokens: int = 0

    def plus(self, other: "Tally") -> "Tally":
        """Both tallies as one."""
        return Tally(
            self.loss_sum + other.loss_sum,
            self.correct + other.correct,
            self.supervised + other.supervised,
            self.tokens + other.tokens,
        )

    @property
    def loss(self) -> float:
        """Mean over the supervised tokens, in nats."""
        return self.loss_sum / self.supervised

    @property
    def accuracy(self) -> float:
        """Share of the supervised tokens that were predicted right."""
        return self.correct / self.supervised


def accumulate_gradients(model: PreTrainedModel, rows: Sequence[Rendered], chosen: Sequence[int]) -> Tally:
    """Add the gradient of the mean loss over the chosen rows' supervised tokens, whatever the parts they run in.

    Raises:
        TrainingError: loss_not_finite.
    """
    supervised = sum(supervised_tokens(rows[row]) for row in chosen)
    tally = Tally()
    for part in _parts(rows, chosen):
        packed = pack(part)
        loss = packed_loss(model, packed)
        (loss.loss_sum / supervised).backward()  # type: ignore[no-untyped-call]
        tally = tally.plus(_tally(part, loss.loss_sum, loss.correct))
    if not torch.isfinite(torch.tensor(tally.loss_sum)):
        raise _not_finite(f"the training loss is {tally.loss_sum}")
    return tally


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> None:
    """Scale gradients so that their norm is at most `max_norm`.

    Raises:
        TrainingError: loss_not_finite (the norm is not).
    """
    norm = clip_grad_norm_(parameters, max_norm)
    if not torch.isfinite(norm):
        raise _not_finite(f"the gradient's norm is {norm.item()}")


@torch.no_grad()
def evaluate(model: PreTrainedModel, rows: Sequence[Rendered], chosen: Sequence[int]) -> Tally:
    """The loss and accuracy on the chosen rows, without dropout and without a gradient."""
    was_training = model.training
    model.train(False)
    tally = Tally()
    for part in _parts(rows, chosen):
        loss = packed_loss(model, pack(part))
        tally = tally.plus(_tally(part, loss.loss_sum, loss.correct))
    model.train(was_training)
    return tally


def _parts(rows: Sequence[Rendered], chosen: Sequence[int]) -> list[list[Rendered]]:
    lengths = {row: len(rows[row].ids) for row in chosen}
    return [[rows[row] for row in part] for part in parts(chosen, lengths)]


def _tally(part: Sequence[Rendered], loss_sum: Tensor, correct: Tensor) -> Tally:
    return Tally(
        loss_sum=loss_sum.item(),
        correct=int(correct.item()),
        supervised=sum(supervised_tokens(row) for row in part),
        tokens=sum(len(row.ids) for row in part),
    )


def _not_finite(found: str) -> TrainingError:
    return TrainingError(
        "loss_not_finite",
        f"{found}: the run has diverged; lower the learning rate (learning_rate_multiplier), "
        "and look at the rows of this step",
        param="learning_rate_multiplier",
    )
