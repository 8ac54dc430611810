"""The counts of methods that compare two answers."""

from collections.abc import Sequence

from torch import Tensor

from tunewise.train.criterion import Tally, Unit, count


def count_pairs(units: Sequence[Unit], loss_sum: float, rewards: Tensor, correct: Tensor) -> Tally:
    """rewards: (2 x pairs,), chosen and rejected in turn."""
    chosen, rejected = rewards[::2], rewards[1::2]
    return count(units, loss_sum, len(units), correct)._replace(
        chosen=len(units),
        rejected=len(units),
        chosen_reward=chosen.sum().item(),
        rejected_reward=rejected.sum().item(),
        compared=len(units),
        wins=int((chosen > rejected).sum()),
    )
