"""Properties that every grader has, and what the references of real data sets score against themselves."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from evaluate.making import answers, row
from tunewise.contracts.graders import AnyGrader, Grader
from tunewise.data.formats import read_examples
from tunewise.evaluate.floors import majority_answers, nearest_answers, train_answers
from tunewise.evaluate.graders import grade
from tunewise.evaluate.rows import read_rows
from tunewise.evaluate.scoring import score, score_references

GRADER: TypeAdapter[AnyGrader] = TypeAdapter(AnyGrader)
METRICS = ["fuzzy_match", "bleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]
# One reference that is right for all types: a JSON list, a number, a label and a query at once.
REFERENCES = {"json_set_f1": '["a"]', "number_match": "#### 4", "sql_execution": "SELECT 1"}
GRADERS = [
    *({"type": "string_check", "operation": operation} for operation in ("eq", "ne", "like", "ilike")),
    {"type": "string_check", "input": "{{ sample.output_json.f }}"},
    *({"type": "text_similarity", "evaluation_metric": metric} for metric in METRICS),
    {"type": "exact_match"},
    {"type": "label"},
    {"type": "json_set_f1"},
    {"type": "token_f1"},
    {"type": "number_match"},
    {"type": "number_match", "marker": ""},
    {"type": "sql_execution"},
]
TEXTS = st.text() | st.text("0123456789.,-$#eE ") | st.text('[]{}",:a') | st.text("select1'\";(*)- ")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sql") / "empty.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    return path


def test_every_grader_type_is_tried_here() -> None:
    union = get_args(get_args(AnyGrader)[0])
    assert {entry["type"] for entry in GRADERS} == {member.model_fields["type"].default for member in union}
    assert all(issubclass(member, Grader) for member in union)


@pytest.mark.parametrize("config", GRADERS, ids=lambda config: "-".join(config.values()))
@given(text=TEXTS)
def test_any_answer_gets_a_score_from_0_to_1(database: Path, config: dict[str, str], text: str) -> None:
    extra = {"database": database} if config["type"] == "sql_execution" else {}
    grader = GRADER.validate_python({"name": "g", **config, **extra})
    result = grade(grader, [row(REFERENCES.get(config["type"], "some text"))], [text])
    assert 0 <= result.rows[0] <= 1
    assert all(0 <= value <= 1 for value in result.extras.values())


# (data set, grader, floors: majority and nearest), the floors as measured; the references themselves score 1.
REAL = [
    ("recipes", {"type": "json_set_f1"}, 0.0889, 0.3836),
    ("recipes", {"type": "json_set_f1", "reference": "{{ item.ingredients }}"}, 0.0889, 0.3836),
    ("banking77", {"type": "label", "labels": "labels.json"}, 0.0130, 0.7110),
    ("banking77", {"type": "label", "reference": "{{ item.label }}"}, 0.0130, 0.7110),
    ("gsm8k", {"type": "number_match"}, 0.0350, 0.0250),
    ("gsm8k", {"type": "number_match", "reference": "{{ item.answer }}"}, 0.0350, 0.0250),
    ("squad_rag", {"type": "token_f1", "references": "answers"}, 0.0075, 0.0028),
    ("geosql", {"type": "sql_execution", "database": "geography.sqlite"}, 0.0296, 0.2481),
    ("e2e_nlg", {"type": "text_similarity", "evaluation_metric": "bleu"}, 0.0313, 0.1251),
    ("e2e_nlg", {"type": "text_similarity", "evaluation_metric": "rouge_l"}, 0.1697, 0.3363),
]


@pytest.mark.parametrize(("data", "config", "majority", "nearest"), REAL)
def test_on_real_data_the_references_are_right_and_the_floors_are_where_they_were_measured(
    shared_data: Path, data: str, config: dict[str, str], majority: float, nearest: float
) -> None:
    directory = shared_data / data
    files = {key: str(directory / config[key]) for key in ("labels", "database") if key in config}
    grader = GRADER.validate_python({"name": "g", **config, **files})
    rows = read_rows(directory / "test.jsonl", directory / "test.meta.jsonl")
    train = [example for _, example in read_examples(directory / "train.jsonl")]
    known = train_answers(train)
    assert set(score_references(grader, rows, train_answers=known).rows) == {1.0}
    for arm, expected in ((majority_answers(train, rows), majority), (nearest_answers(train, rows), nearest)):
        scored = score(grader, rows, arm.answers, train_answers=known)
        assert sum(scored.rows) / len(rows) == pytest.approx(expected, abs=1e-4)


def test_swapping_answers_lowers_the_score(shared_data: Path) -> None:
    directory = shared_data / "geosql"
    grader = GRADER.validate_python(
        {"name": "g", "type": "sql_execution", "database": str(directory / "geography.sqlite")}
    )
    rows = read_rows(directory / "test.jsonl")
    texts = [row.reference for row in rows]
    assert sum(score(grader, rows, answers([*texts[1:], texts[0]])).rows) < len(rows) / 2
