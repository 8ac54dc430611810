"""What the labels of a whole file must be like for KTO to learn from them. Knows how many there are of each."""

from collections import Counter
from collections.abc import Iterator

from tunewise.data.problems import Problem

# The weighted numbers of wanted and unwanted answers that the paper advises: arXiv:2402.01306, section 4.2.
LEAST_RATIO, GREATEST_RATIO = 1.0, 4 / 3


def problems_of(labels: Counter[bool]) -> Iterator[Problem]:
    """An error where there is one label only; a note where one of the two needs a weight."""
    wanted, unwanted = labels[True], labels[False]
    if not wanted or not unwanted:
        yield _one_label(wanted)
        return
    ratio = wanted / unwanted
    if ratio < LEAST_RATIO:
        yield _unbalanced(wanted, unwanted, "desirable_weight", LEAST_RATIO / ratio)
    elif ratio > GREATEST_RATIO:
        yield _unbalanced(wanted, unwanted, "undesirable_weight", ratio / GREATEST_RATIO)


def _one_label(wanted: int) -> Problem:
    only, other = ("true", "unwanted") if wanted else ("false", "wanted")
    instead = ", or train on these by the method supervised" if wanted else ""
    return Problem(
        "error",
        "one_label",
        f"every label is {only}: there is nothing to tell apart",
        f"add rows with {other} answers{instead}",
        "label",
        only,
    )


def _unbalanced(wanted: int, unwanted: int, weight: str, least: float) -> Problem:
    return Problem(
        "note",
        "unbalanced_labels",
        f"{wanted} answers are wanted and {unwanted} are not: the many outweigh the few",
        f"set {weight} to about {least * (1 + GREATEST_RATIO) / 2:.2g}",
        "label",
        f"{wanted}:{unwanted}",
    )
