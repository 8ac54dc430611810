"""Scoring: the graders of a run over the answers of an arm, and over the references themselves.

Knows answers and graders; intervals and comparisons are the statistics' business.
"""

from collections.abc import Sequence

from tunewise.contracts.evaluation import Answer
from tunewise.contracts.graders import AnyGrader
from tunewise.errors import ConfigError, EvaluationError
from tunewise.evaluate.embedding import Embed, no_embeddings
from tunewise.evaluate.graders import Graded, grade
from tunewise.evaluate.rows import EvalRow


def score(
    grader: AnyGrader,
    rows: Sequence[EvalRow],
    answers: Sequence[Answer],
    *,
    train_answers: Sequence[str] = (),
    embed: Embed = no_embeddings,
) -> Graded:
    """Score an arm's answers, one per row and in row order. A row that could not be answered scores 0.

    Raises:
        EvaluationError: answers that do not match the rows; a grader's config or reference at fault.
    """
    if [answer.row for answer in answers] != list(range(len(rows))):
        raise EvaluationError("answers_do_not_match", f"{len(answers)} answers for {len(rows)} rows, or not in order")
    graded = grade(grader, rows, [answer.text for answer in answers], train_answers=train_answers, embed=embed)
    # An empty text can satisfy a grader (`ne`, an empty set), but no answer is not an answer.
    return Graded(
        [0.0 if answer.error else value for answer, value in zip(answers, graded.rows, strict=True)], graded.extras
    )


def score_references(
    grader: AnyGrader, rows: Sequence[EvalRow], *, train_answers: Sequence[str] = (), embed: Embed = no_embeddings
) -> Graded:
    """Score the references as if they were answers: below 1 the grader asks for what the data do not say.

    Run before anything is spent; it also raises every error that the grader's config can cause.
    """
    return grade(grader, rows, [row.reference for row in rows], train_answers=train_answers, embed=embed)


def primary(graders: Sequence[AnyGrader]) -> AnyGrader:
    """The grader that the verdict is about: the one marked, or the only one there is.

    Raises:
        ConfigError: none or several are marked among several; two have the same name.
    """
    names = [grader.name for grader in graders]
    if len(set(names)) != len(names):
        raise ConfigError("duplicate_grader", f"graders must have different names, not {names}", param="graders")
    marked = [grader for grader in graders if grader.primary]
    if len(marked) == 1:
        return marked[0]
    if len(graders) == 1:
        return graders[0]
    found = ", ".join(grader.name for grader in marked) or "none"
    raise ConfigError(
        "primary_grader", f"mark exactly one grader with `primary: true`; {found} marked among {names}", param="graders"
    )
