import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.making import row
from tunewise.contracts.chat import Json
from tunewise.contracts.graders import NumberMatch, TokenF1
from tunewise.errors import EvaluationError
from tunewise.evaluate.graders import grade
from tunewise.evaluate.graders.reading import last_number, normalise, token_f1

# Worked by hand by the rules of SQuAD's evaluate-v1.1.py and evaluate-v2.0.py.
TOKEN_F1 = [
    ("the cat", "a cat", 1.0),
    ("The Cat!", "cat", 1.0),
    ("over 2,000 buildings", "2,000 buildings", 0.8),
    ("cat cat dog", "cat", 0.5),
    ("dog", "cat", 0.0),
    ("", "cat", 0.0),
    ("?", "?", 1.0),
    ("the", "?", 1.0),
    ("cat", "?", 0.0),
    ("18–49", "18–49", 1.0),
]


@pytest.mark.parametrize(("answer", "reference", "score"), TOKEN_F1)
def test_token_f1_is_squads(answer: str, reference: str, score: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(score)


def test_normalising_drops_case_punctuation_articles_and_blanks() -> None:
    assert normalise(" The  U.S.'s an-swer,\n a theme ") == "uss answer theme"


@given(st.text(), st.text())
def test_token_f1_is_symmetric_and_normalising_settles(one: str, two: str) -> None:
    assert token_f1(one, two) == pytest.approx(token_f1(two, one))
    assert token_f1(one, one) == 1


def test_the_best_reference_counts() -> None:
    rows = [row("over 2,000", answers=["2,000 buildings", "over 2,000"])]
    result = grade(TokenF1(name="g", references="answers"), rows, ["Over 2,000."])
    assert (result.rows, result.extras) == ([1.0], {"exact_match": 1.0})


def test_no_references_means_that_there_is_no_answer() -> None:
    rows = [row("?", answers=[]), row("?", answers=[])]
    assert grade(TokenF1(name="g", references="answers"), rows, ["", "x"]).rows == [1, 0]


@pytest.mark.parametrize("item", [{}, {"answers": "text"}, {"answers": [1]}])
def test_references_that_are_no_list_of_texts_are_refused(item: dict[str, Json]) -> None:
    with pytest.raises(EvaluationError, match="'answers' must name a list of strings"):
        grade(TokenF1(name="g", references="answers"), [row("x", **item)], ["x"])


NUMBERS = [
    ("15", "15"),
    ("1,000", "1000"),
    ("1000.0", "1000"),
    ("$1,234.50", "1234.5"),
    ("$ 5", "5"),
    ("-5", "-5"),
    ("−5", "-5"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("€-5", "-5"),
    ("10-5", "5"),
    ("= -3", "-3"),
    ("=-3", "-3"),
    ("(-3)", "-3"),
    (".5", "0.5"),
    ("3 + 4 = 7 apples.", "7"),
    ("1,2,3", "3"),
    ("1,0000", "0000"),
    ("2.", "2"),
    ("5%", "5"),
    ("1e3", "1000"),
    ("12 eggs", "12"),
    ("1.2.3", "0.3"),
]


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_the_last_number_is_read_as_a_person_reads_it(text: str, number: str) -> None:
    found, expected = last_number(text, ""), last_number(number, "")
    assert found is not None
    assert found == expected
    assert last_number(f"7 #### {text}", "####") == found


@pytest.mark.parametrize("text", ["", "none", "five", "-", "$", ".", "٣"])
def test_a_text_without_a_number_has_none(text: str) -> None:
    assert last_number(text, "") is None


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("2 + 2\n#### 4", 1),
        ("#### 4.00", 1),
        ("#### 5\n#### 4", 1),
        ("#### 5 or rather 4", 1),
        ("#### 4\n#### 5", 0),
        ("the answer is 4", 0),
        ("4 ####", 0),
        ("####", 0),
        ("", 0),
    ],
)
def test_the_number_must_stand_after_the_last_marker(answer: str, score: int) -> None:
    assert grade(NumberMatch(name="g"), [row("so\n#### 4")], [answer]).rows == [score]


def test_without_a_marker_the_last_number_of_the_text_counts() -> None:
    rows = [row("#### 4"), row("4")]
    assert grade(NumberMatch(name="g", marker=""), rows, ["it is 4", "4 or 5"]).rows == [1, 0]


def test_a_bare_reference_needs_no_marker_but_the_answer_does() -> None:
    rows = [row("", answer="1,000"), row("", answer="1,000")]
    assert grade(NumberMatch(name="g", reference="{{ item.answer }}"), rows, ["#### 1000", "1000"]).rows == [1, 0]


def test_a_reference_without_a_number_is_the_datas_fault() -> None:
    with pytest.raises(EvaluationError, match="test row 1 holds no number"):
        grade(NumberMatch(name="g"), [row("four")], ["4"])


@given(st.integers(-(10**30), 10**30))
def test_every_integer_is_found_with_and_without_thousands_signs(number: int) -> None:
    assert last_number(f"so it is {number:,}.", "") == number
    assert last_number(f"so it is {number}", "") == number
