"""KTO's mismatched rows: a question with the answer to another, on which the run's drift is measured.

Which answer goes to which question is decided by the file alone, so that a row's partner, and what the model that the
run begins with makes of the two, are the same in every epoch.
"""

from collections.abc import Sequence

from tunewise.data.template import Rendered
from tunewise.train.criterion import Unit


def with_mismatched(units: Sequence[Unit], max_tokens: int) -> list[Unit]:
    """Each unit with its question and the answer of the nearest unit before it, cyclically, to another question.

    Files that were made from pairs hold a question twice in a row: the other answer to it would be no mismatch. Where
    all questions are the same, the answer is the neighbour's.
    """
    halves = [_halves(unit.rows[0]) for unit in units]
    partners = _partners([question for question, _ in halves])
    return [
        unit._replace(mismatched=(_joined(question, halves[partner][1], max_tokens),))
        for unit, (question, _), partner in zip(units, halves, partners, strict=True)
    ]


def _halves(row: Rendered) -> tuple[list[int], list[int]]:
    """The ids before the answer, and those of the answer."""
    trained = [at for at, on in enumerate(row.mask) if on]
    return row.ids[: trained[0]], row.ids[trained[0] : trained[-1] + 1]


def _partners(questions: Sequence[list[int]]) -> list[int]:
    """For each question the nearest place before it, cyclically, with another one."""
    partners = [at - 1 for at in range(len(questions))]
    begins = [at for at in range(len(questions)) if questions[at - 1] != questions[at]]
    for step in range(len(questions) if begins else 0):
        at = (begins[0] + step) % len(questions)
        if questions[at - 1] == questions[at]:
            partners[at] = partners[at - 1]
    return partners


def _joined(question: list[int], answer: list[int], max_tokens: int) -> Rendered:
    kept = answer[: max_tokens - len(question)]
    return Rendered(question + kept, [0] * len(question) + [1] * len(kept))
