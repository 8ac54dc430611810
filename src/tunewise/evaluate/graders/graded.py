"""What every grader returns, and the two ways in which one can be asked for the impossible."""

from typing import NamedTuple

from tunewise.errors import EvaluationError


class Graded(NamedTuple):
    """Scores of the rows, each from 0 to 1 and in order, and figures over all rows (macro_f1, valid_json, ...)."""

    rows: list[float]
    extras: dict[str, float]


def share(flags: list[bool]) -> float:
    """The share of true flags; 0 of an empty list."""
    return sum(flags) / len(flags) if flags else 0.0


def mean(values: list[float]) -> float:
    """The arithmetic mean; 0 of an empty list."""
    return sum(values) / len(values) if values else 0.0


def misconfigured(grader: str, message: str, *, code: str = "grader_misconfigured") -> EvaluationError:
    """The error for a grader whose config or reference, not the answer, is at fault."""
    return EvaluationError(code, f"grader {grader!r}: {message}", param="graders")
