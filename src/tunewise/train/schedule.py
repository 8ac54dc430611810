"""The learning rate of each step, as pure functions. Knows nothing of optimizers."""

import math
from typing import assert_never

from tunewise.contracts.fine_tuning import Schedule


def learning_rate(step: int, total_steps: int, *, peak: float, schedule: Schedule, warmup_ratio: float) -> float:
    """The rate for `step` (counted from 0): linear warm-up to `peak`, then down towards 0, or constant.

    As `transformers.get_scheduler`, but for the warm-up, which there begins at 0: a first step that changes nothing
    is a third of a run of three steps.
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - warmup)
    match schedule:
        case "linear":
            return peak * (1 - progress)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * progress))
        case "constant":
            return peak
        case _:
            assert_never(schedule)
