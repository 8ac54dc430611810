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
from tunewise.train.criterion import Criterion
from tunewise.train.methods.dpo import DpoCriterion
from tunewise.train.methods.kto import KtoCriterion
from tunewise.train.methods.orpo import OrpoCriterion
from tunewise.train.methods.supervised import TokenCriterion


def criterion(objective: Objective, *, share_prefixes: bool) -> Criterion:
    """The loss of an objective."""
    match objective:
        case SupervisedObjective():
            return TokenCriterion(
                share_prefixes=share_prefixes,
                label_smoothing=objective.label_smoothing,
                neftune_alpha=objective.neftune_alpha,
            )
        case PretrainingObjective():
            return TokenCriterion(share_prefixes=share_prefixes)
        case DpoObjective():
            return DpoCriterion(beta=objective.beta, loss=objective.loss, share_prefixes=share_prefixes)
        case OrpoObjective():
            return OrpoCriterion(beta=objective.beta, share_prefixes=share_prefixes)
        case KtoObjective():
            return KtoCriterion(
                beta=objective.beta,
                desirable_weight=objective.desirable_weight,
                undesirable_weight=objective.undesirable_weight,
                share_prefixes=share_prefixes,
            )
        case _:
            assert_never(objective)


def needs_reference(objective: Objective) -> bool:
    """Whether a method compares answers with what the model that the run began with makes of them."""
    match objective:
        case DpoObjective() | KtoObjective():
            return True
        case SupervisedObjective() | OrpoObjective() | PretrainingObjective():
            return False
        case _:
            assert_never(objective)
