import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from evaluate.making import row
from tunewise.contracts.graders import JsonSetF1, Label
from tunewise.errors import EvaluationError
from tunewise.evaluate.graders import Graded, grade
from tunewise.evaluate.graders.json_set import set_f1

LABELS = ["a", "b", "c", "D?"]
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)
NAMES = st.frozensets(st.sampled_from("abcdef"))


def graded(grader: Label | JsonSetF1, pairs: list[tuple[str, str]], train: list[str] | None = None) -> Graded:
    rows = [row(reference) for reference, _ in pairs]
    return grade(grader, rows, [answer for _, answer in pairs], train_answers=train or [])


@given(PAIRS)
def test_accuracy_and_macro_f1_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    references, answers = zip(*pairs, strict=True)
    result = graded(Label(name="g", labels=tuple(LABELS)), pairs)
    assert result.extras["macro_f1"] == pytest.approx(f1_score(references, answers, average="macro"))
    assert result.rows == [float(reference == answer) for reference, answer in pairs]
    assert result.extras["outside_labels"] == 0


@given(PAIRS, st.lists(st.text("xyz", min_size=1), max_size=10))
def test_an_answer_outside_the_labels_is_a_miss_but_no_class(pairs: list[tuple[str, str]], noise: list[str]) -> None:
    noisy = pairs + [("a", text) for text in noise]
    references, answers = zip(*noisy, strict=True)
    result = graded(Label(name="g", labels=tuple(LABELS)), noisy)
    seen = sorted((set(references) | set(answers)) & set(LABELS))
    assert result.extras["macro_f1"] == pytest.approx(f1_score(references, answers, labels=seen, average="macro"))
    assert result.extras["outside_labels"] == pytest.approx(len(noise) / len(noisy))


def test_labels_are_stripped_but_keep_case_and_signs() -> None:
    pairs = [("D?", " D?\n"), ("D?", "d?"), ("D?", "D")]
    assert graded(Label(name="g"), pairs, train=LABELS).rows == [1, 0, 0]


def test_labels_come_from_the_train_rows_by_default() -> None:
    assert graded(Label(name="g"), [("a", "b"), ("a", "z")], train=["b"]).extras["outside_labels"] == 0.5


def test_labels_come_from_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(LABELS))
    assert graded(Label(name="g", labels=path), [("a", "z")]).extras["outside_labels"] == 1


@pytest.mark.parametrize(("text", "what"), [(None, "cannot read"), ("{}", "no JSON list"), ('["z"]', "none of its")])
def test_labels_that_cannot_be_right_are_refused(tmp_path: Path, text: str | None, what: str) -> None:
    path = tmp_path / "labels.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EvaluationError, match=what):
        graded(Label(name="g", labels=path), [("a", "a")])


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=8))
def test_set_f1_is_scikit_learns_for_each_row_and_over_all(pairs: list[tuple[frozenset[str], frozenset[str]]]) -> None:
    encoder = MultiLabelBinarizer(classes=list("abcdef"))
    references = encoder.fit_transform([reference for reference, _ in pairs])
    answers = encoder.transform([given for _, given in pairs])
    result = graded(JsonSetF1(name="g"), [(json.dumps(sorted(r)), json.dumps(sorted(g))) for r, g in pairs])
    by_row = [f1_score(r, g, zero_division=1.0) for r, g in zip(references, answers, strict=True)]
    assert result.rows == pytest.approx(by_row)
    micro = f1_score(references, answers, average="micro", zero_division=1.0)
    assert result.extras["micro_f1"] == pytest.approx(micro)


@given(NAMES, NAMES)
def test_set_f1_is_symmetric(one: frozenset[str], two: frozenset[str]) -> None:
    assert set_f1(one, two) == set_f1(two, one)


SET_ANSWERS = [
    ('["Salt", "sugar"]', 1.0, 1),
    (' \n["SALT","Sugar"] ', 1.0, 1),
    ('["salt"]', 2 / 3, 1),
    ('["salt", "salt", "sugar"]', 1.0, 1),
    ("[]", 0.0, 1),
    ('Here: ["Salt", "sugar"]', 0.0, 0),
    ('```json\n["Salt", "sugar"]\n```', 0.0, 0),
    ('{"Salt": 1}', 0.0, 0),
    ('["Salt", 1]', 0.0, 0),
    ("Salt, sugar", 0.0, 0),
    ("", 0.0, 0),
    ("[" * 100_000, 0.0, 0),
]


@pytest.mark.parametrize(("answer", "score", "valid"), SET_ANSWERS)
def test_an_answer_is_read_as_code_would_read_it(answer: str, score: float, valid: int) -> None:
    result = graded(JsonSetF1(name="g"), [('["Salt", "sugar"]', answer)])
    assert result.rows == pytest.approx([score])
    assert result.extras["valid_json"] == valid


def test_exact_list_asks_for_order_and_case() -> None:
    pairs = [('["a", "b"]', '["a", "b"]'), ('["a", "b"]', '["b", "a"]'), ('["a"]', '["A"]'), ('["a"]', "a")]
    assert graded(JsonSetF1(name="g"), pairs).extras["exact_list"] == 0.25


def test_the_reference_may_be_a_list_in_the_item() -> None:
    rows = [row("not json", names=["Über", "b"])]
    assert grade(JsonSetF1(name="g", reference="{{ item.names }}"), rows, ['["über", "b"]']).rows == [1]


def test_a_reference_that_is_no_list_is_the_configs_fault() -> None:
    with pytest.raises(EvaluationError, match="row 1 is no JSON list of strings: 'salt'"):
        graded(JsonSetF1(name="g"), [("salt", "[]")])
