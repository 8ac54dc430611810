"""Graders: answers in, scores from 0 to 1 out. They know no models and never fail on an answer, whatever it says."""

from collections.abc import Sequence
from typing import assert_never

from tunewise.contracts.graders import (
    AnyGrader,
    ExactMatch,
    JsonSetF1,
    Label,
    NumberMatch,
    SqlExecution,
    StringCheck,
    TextSimilarity,
    TokenF1,
)
from tunewise.evaluate.embedding import Embed, no_embeddings
from tunewise.evaluate.graders.graded import Graded
from tunewise.evaluate.graders.json_set import grade_json_set
from tunewise.evaluate.graders.label import grade_label
from tunewise.evaluate.graders.reading import grade_number_match, grade_token_f1
from tunewise.evaluate.graders.sql import grade_sql
from tunewise.evaluate.graders.text import grade_exact_match, grade_string_check, grade_text_similarity
from tunewise.evaluate.rows import EvalRow

__all__ = ["Graded", "grade"]


def grade(
    grader: AnyGrader,
    rows: Sequence[EvalRow],
    answers: Sequence[str],
    *,
    train_answers: Sequence[str] = (),
    embed: Embed = no_embeddings,
) -> Graded:
    """Score one answer per row. `train_answers` gives the label grader its labels where the config names none.

    Raises:
        EvaluationError: the grader's config or a reference is at fault, never an answer.
    """
    match grader:
        case StringCheck():
            graded = grade_string_check(grader, rows, answers)
        case TextSimilarity():
            graded = grade_text_similarity(grader, rows, answers, embed)
        case ExactMatch():
            graded = grade_exact_match(grader, rows, answers)
        case Label():
            graded = grade_label(grader, rows, answers, train_answers)
        case JsonSetF1():
            graded = grade_json_set(grader, rows, answers)
        case TokenF1():
            graded = grade_token_f1(grader, rows, answers)
        case NumberMatch():
            graded = grade_number_match(grader, rows, answers)
        case SqlExecution():
            graded = grade_sql(grader, rows, answers)
        case _:
            assert_never(grader)
    return graded
