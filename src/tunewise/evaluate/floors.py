"""The floors: answers that need no model, and to which nobody should lose.

Each floor is fitted on the train rows alone and answers as any arm does, at no cost in tokens or time.
"""

from collections import Counter
from collections.abc import Sequence

from tunewise.contracts.chat import ChatExample
from tunewise.contracts.evaluation import Answer, ArmAnswers, ArmKind
from tunewise.errors import EvaluationError
from tunewise.evaluate.retrieval import SearchIndex
from tunewise.evaluate.rows import EvalRow, answer_of, question_of


def train_answers(train: Sequence[ChatExample]) -> list[str]:
    """The answers of the train rows that end in an assistant's text."""
    return [answer for answer in map(answer_of, train) if answer is not None]


def majority_answers(train: Sequence[ChatExample], rows: Sequence[EvalRow]) -> ArmAnswers:
    """The commonest train answer for every row; of equally common ones, the one seen first.

    Raises:
        EvaluationError: no train row ends in an assistant's text.
    """
    answers = _answered(train)
    counted = Counter(answer for _, answer in answers)
    answer, count = counted.most_common(1)[0]
    return _floor("majority", [answer] * len(rows), {"share_of_train": count / len(answers)})


def nearest_answers(train: Sequence[ChatExample], rows: Sequence[EvalRow]) -> ArmAnswers:
    """The answer of the train row whose question is most like the row's (BM25); of equals, the earlier row.

    Raises:
        EvaluationError: no train row ends in an assistant's text.
    """
    answers = _answered(train)
    index = SearchIndex([question_of(example.messages) for example, _ in answers])
    found = [index.nearest(question_of(row.messages), 1)[0] for row in rows]
    return _floor("nearest", [answers[nearest][1] for nearest in found], {"train_rows": len(answers)})


def _answered(train: Sequence[ChatExample]) -> list[tuple[ChatExample, str]]:
    pairs = [(example, answer) for example in train if (answer := answer_of(example)) is not None]
    if not pairs:
        raise EvaluationError(
            "no_train_answers", "no train row ends in an assistant's text, so there is nothing to compare with"
        )
    return pairs


def _floor(kind: ArmKind, texts: Sequence[str], settings: dict[str, str | int | float]) -> ArmAnswers:
    answers = tuple(
        Answer(
            row=row,
            text=text,
            finish_reason="stop",
            prompt_tokens=0,
            cached_tokens=0,
            completion_tokens=0,
            seconds=0.0,
        )
        for row, text in enumerate(texts)
    )
    return ArmAnswers(
        arm=kind, kind=kind, model=None, settings=settings, answers=answers, concurrency=0, wall_seconds=0.0
    )
