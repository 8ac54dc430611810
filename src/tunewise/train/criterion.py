"""What a run minimises, as one seam: units of data go in, a loss that can be differentiated and its counts come out.

A unit is what a batch counts: one row, or the rows that are compared with each other. The loop divides the summed loss
of a step by the summed `size` of its units, so that how a step is split into parts changes nothing.
"""

from collections.abc import Sequence
from operator import add
from typing import NamedTuple, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from tunewise.data.template import Rendered


class Unit(NamedTuple):
    """`rows` that belong together, the better of two answers first; `wanted`: whether a single answer is.

    `weight`: how much their tokens count beside those of other units. `mismatched` are rows to measure the run's drift
    on, never trained on. `reference` are the log-probabilities of the answers in `rows` and `mismatched`, in nats,
    under the model that the run began with.
    """

    rows: tuple[Rendered, ...]
    reference: tuple[float, ...] = ()
    wanted: bool = True
    weight: float = 1.0
    mismatched: tuple[Rendered, ...] = ()

    @property
    def tokens(self) -> int:
        """Useful tokens of all rows."""
        return sum(len(row.ids) for row in self.rows)


class Tally(NamedTuple):
    """Sums over units: their loss, what it is divided by, tokens predicted right, with loss, and in all.

    Of preferences, how many answers were `chosen` and how many `rejected`, the sums of their rewards, and how many of
    those `compared` were told apart rightly: pairs by their margin, single answers by the baseline.
    """

    loss_sum: float = 0.0
    size: float = 0.0
    correct: int = 0
    supervised: int = 0
    tokens: int = 0
    chosen: int = 0
    rejected: int = 0
    chosen_reward: float = 0.0
    rejected_reward: float = 0.0
    compared: int = 0
    wins: int = 0

    def plus(self, other: "Tally") -> "Tally":
        """Both tallies as one."""
        return Tally._make(map(add, self, other))

    @property
    def loss(self) -> float:
        """Mean, in nats."""
        return self.loss_sum / self.size

    @property
    def accuracy(self) -> float:
        """Share of the supervised tokens that were predicted right."""
        return self.correct / self.supervised


class PartLoss(NamedTuple):
    """Of some units: the summed loss (0-dim, differentiable), and the counts, its value among them."""

    total: Tensor
    tally: Tally


class Criterion(Protocol):
    """One objective. It knows nothing of steps, files or optimizers.

    `share_prefixes`: rows that begin alike may compute it once. No two of them may differ by chance then.
    """

    share_prefixes: bool

    def size(self, unit: Unit) -> float:
        """What one unit adds to the number that the summed loss is divided by."""
        ...

    def prepare(self, model: PreTrainedModel, units: Sequence[Unit]) -> None:
        """Look at all units of a step before its parts are computed, without a gradient."""
        ...

    def loss(self, model: PreTrainedModel, units: Sequence[Unit]) -> PartLoss:
        """The summed loss of the units of one part."""
        ...


def count(units: Sequence[Unit], loss_sum: float, size: float, correct: Tensor) -> Tally:
    """The counts that every objective has."""
    return Tally(
        loss_sum=loss_sum,
        size=size,
        correct=int(correct.sum()),
        supervised=len(correct),
        tokens=sum(unit.tokens for unit in units),
    )
