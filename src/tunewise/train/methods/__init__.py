"""The methods of training, one file each: what a run minimises, by its objective. Knows no steps and no files."""

from typing import assert_never

from tunewise.contracts.run import (
    DpoObjective,
    KtoObjective,
    Objective,
    OrpoObjective,
    PretrainingObjective,
    SupervisedObjective,
)
from tunewise.errors import TrainingError
from tunewise.train.criterion import Criterion
from tunewise.train.methods.supervised import TokenCriterion


def criterion(objective: Objective, *, share_prefixes: bool) -> Criterion:
    """The loss of an objective.

    Raises:
        TrainingError: unsupported_method.
    """
    match objective:
        case SupervisedObjective():
            return TokenCriterion(
                share_prefixes=share_prefixes,
                label_smoothing=objective.label_smoothing,
                neftune_alpha=objective.neftune_alpha,
            )
        case PretrainingObjective():
            return TokenCriterion(share_prefixes=share_prefixes)
        case DpoObjective() | OrpoObjective() | KtoObjective():
            raise TrainingError(
                "unsupported_method",
                f"method.type: {objective.type!r} is not trained by this version; choose supervised or pretraining",
                param="method.type",
            )
        case _:
            assert_never(objective)
