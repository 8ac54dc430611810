import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.making import example, row
from tunewise.contracts.chat import ChatExample, UserMessage
from tunewise.errors import EvaluationError
from tunewise.evaluate.floors import majority_answers, nearest_answers, train_answers

TRAIN = [example("Where is my card?", "card"), example("Top up failed", "top_up"), example("My PIN is blocked", "pin")]


def texts(train: list[ChatExample], question: str) -> tuple[str, str]:
    rows = [row(question=question)]
    return majority_answers(train, rows).answers[0].text, nearest_answers(train, rows).answers[0].text


def test_the_majority_answer_is_the_commonest_and_of_equals_the_first() -> None:
    assert texts(TRAIN, "?")[0] == "card"
    assert texts([*TRAIN, example("x", "pin")], "?")[0] == "pin"


def test_the_nearest_answer_is_that_of_the_most_similar_question() -> None:
    assert texts(TRAIN, "why is my pin blocked")[1] == "pin"
    assert texts(TRAIN, "topping up has failed")[1] == "top_up"


def test_of_equally_near_rows_the_earlier_one_answers() -> None:
    assert texts([example("same", "first"), example("same", "second")], "same")[1] == "first"


def test_a_question_like_no_other_still_gets_an_answer() -> None:
    assert texts(TRAIN, "ж")[1] == "card"


@given(st.lists(st.text(), min_size=1, max_size=6), st.text())
def test_floors_answer_any_question_from_any_train_rows(questions: list[str], question: str) -> None:
    train = [example(text, str(index)) for index, text in enumerate(questions)]
    majority, nearest = texts(train, question)
    assert majority == "0"
    assert nearest in train_answers(train)


def test_floors_without_a_train_answer_are_refused() -> None:
    with pytest.raises(EvaluationError, match="no train row"):
        majority_answers([ChatExample([UserMessage("q")])], [row()])


def test_floors_cost_no_tokens_and_no_time() -> None:
    arm = nearest_answers(TRAIN, [row(question="pin")])
    assert (arm.model, arm.wall_seconds, arm.answers[0].prompt_tokens, arm.answers[0].seconds) == (None, 0, 0, 0)
