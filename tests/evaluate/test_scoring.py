import pytest

from evaluate.making import answer, answers, row
from tunewise.contracts.graders import AnyGrader, ExactMatch, JsonSetF1, NumberMatch, StringCheck
from tunewise.errors import ConfigError, EvaluationError
from tunewise.evaluate.scoring import primary, score, score_references


def test_a_row_that_could_not_be_answered_scores_0_whatever_the_grader_says() -> None:
    grader = StringCheck(name="g", operation="ne")
    given = [answer("", 0, error="HTTP 500"), answer("", 1)]
    assert score(grader, [row("a"), row("a")], given).rows == [0, 1]


def test_scores_come_in_row_order() -> None:
    assert score(ExactMatch(name="g"), [row("a"), row("b")], answers(["a", "x"])).rows == [1, 0]


@pytest.mark.parametrize("given", [answers(["a"]), answers(["a", "b", "c"]), [answer("b", 1), answer("a", 0)]])
def test_answers_that_do_not_match_the_rows_are_refused(given: list[object]) -> None:
    with pytest.raises(EvaluationError, match="answers for 2 rows"):
        score(ExactMatch(name="g"), [row("a"), row("b")], given)  # type: ignore[arg-type]


def test_references_below_1_show_a_grader_that_asks_for_something_else() -> None:
    rows = [row("a", label="a"), row("a", label="b")]
    assert score_references(ExactMatch(name="g", reference="{{ item.label }}"), rows).rows == [1, 0]


ONE, TWO, MARKED = ExactMatch(name="one"), NumberMatch(name="two"), JsonSetF1(name="marked", primary=True)


def test_the_primary_grader_is_the_marked_one_or_the_only_one() -> None:
    assert primary([ONE, TWO, MARKED]) is MARKED
    assert primary([ONE]) is ONE


@pytest.mark.parametrize(
    "graders", [[ONE, TWO], [MARKED, ExactMatch(name="again", primary=True)], [ONE, NumberMatch(name="one")]]
)
def test_an_unclear_primary_grader_is_refused(graders: list[AnyGrader]) -> None:
    with pytest.raises(ConfigError):
        primary(graders)
