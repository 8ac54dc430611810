"""Answers with a label: their two forms are checked, counted and made out of tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunewise.contracts.check import CheckReport
from tunewise.contracts.importing import ColumnMapping
from tunewise.contracts.run import BaseModelRef
from tunewise.data.answers import Answered
from tunewise.data.check import Limits, check
from tunewise.data.convert import convert, detect
from tunewise.data.formats import read_rows
from tunewise.data.template import Template


def labelled(number: int, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    asked = {"role": "user", "content": f"What is {number} times {number + 7}?"}
    answer = {"role": "assistant", "content": f"It is {number * (number + 7)}." if number % 2 else f"Guess {number}!"}
    return {"messages": [asked, answer], "label": number % 2 == 1, **fields}


def parted(number: int, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    row = labelled(number)
    return {"prompt": row["messages"][:1], "completion": row["messages"][1:], "label": row["label"], **fields}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def checked(path: Path, rows: list[dict[str, Any]]) -> CheckReport:
    return check([("train", written(path, rows))])


@pytest.mark.parametrize("form", [labelled, parted])
def test_both_forms_have_no_errors_and_are_counted(form: Any, tmp_path: Path) -> None:  # noqa: ANN401
    report = checked(tmp_path / "rows.jsonl", [form(n) for n in range(12)])
    assert [found.code for found in report.findings if found.severity != "note"] == []
    assert (report.files[0].format, report.files[0].rows) == ("labelled", 12)


SILENT = {"role": "assistant", "content": " "}


@pytest.mark.parametrize(
    ("row", "code", "param"),
    [
        (labelled(12, label="yes"), "wrong_type", "label"),
        ({"messages": labelled(12)["messages"]}, "missing_field", "label"),
        (labelled(12, score=3), "unknown_field", "score"),
        (
            labelled(12, messages=[labelled(12)["messages"][0], SILENT]),
            "empty_assistant_content",
            "messages[1].content",
        ),
        (labelled(12, messages=labelled(12)["messages"][:1]), "no_assistant_message", "messages"),
        (parted(12, completion=[SILENT]), "empty_assistant_content", "completion[0].content"),
        (parted(12, completion=[]), "empty_list", "completion"),
        (parted(12, prompt=[{"role": "human", "content": "Hi"}]), "invalid_role", "prompt[0].role"),
    ],
)
def test_what_is_wrong_with_a_row_is_named_where_it_stands(
    row: dict[str, Any], code: str, param: str, tmp_path: Path
) -> None:
    report = checked(tmp_path / "rows.jsonl", [*(labelled(n) for n in range(12)), row])
    assert [(found.line, found.code, found.param) for found in report.errors] == [(13, code, param)]


@pytest.mark.parametrize(("label", "other"), [(True, "unwanted"), (False, "wanted")])
def test_one_label_only_is_an_error(label: bool, other: str, tmp_path: Path) -> None:
    report = checked(tmp_path / "rows.jsonl", [labelled(n, label=label) for n in range(12)])
    assert [(found.code, f"add rows with {other} answers" in found.remedy) for found in report.errors] == [
        ("one_label", True)
    ]


@pytest.mark.parametrize(
    ("wanted", "weight"),
    [(9, "undesirable_weight to about 2.6"), (3, "desirable_weight to about 3.5"), (6, None)],
)
def test_unbalanced_labels_are_told_with_the_weight_that_they_need(
    wanted: int, weight: str | None, tmp_path: Path
) -> None:
    rows = [labelled(n, label=n < wanted) for n in range(12)]
    notes = [
        found.remedy for found in checked(tmp_path / "rows.jsonl", rows).findings if found.code == "unbalanced_labels"
    ]
    assert notes == ([] if weight is None else [f"set {weight}"])


def test_personal_data_in_the_worse_answer_is_found_where_it_stands(tmp_path: Path) -> None:
    asked = {"messages": [{"role": "user", "content": "Who wrote this?"}]}
    pairs = [
        {
            "input": asked,
            "preferred_output": [{"role": "assistant", "content": f"Somebody, the {n}th."}],
            "non_preferred_output": [{"role": "assistant", "content": f"Ask ann{n}.lee@initech.com now."}],
        }
        for n in range(10)
    ]
    found = [found for found in checked(tmp_path / "pairs.jsonl", pairs).findings if found.code == "personal_data"]
    assert {one.param for one in found} == {"non_preferred_output[0].content"}


def test_both_sides_of_a_pair_are_counted_and_each_may_be_as_long_as_a_row(
    tmp_path: Path, smollm2: BaseModelRef
) -> None:
    template = Template.load(smollm2.path)
    asked = {"messages": [{"role": "user", "content": "Say it"}]}
    pairs = [
        {
            "input": asked,
            "preferred_output": [{"role": "assistant", "content": f"No {n}"}],
            "non_preferred_output": [{"role": "assistant", "content": "word " * (n * 6)}],
        }
        for n in range(1, 13)
    ]
    path = written(tmp_path / "pairs.jsonl", pairs)
    lengths = [
        [len(template.render(example).ids) for example in row.examples]
        for _, row in read_rows(path)
        if isinstance(row, Answered)
    ]
    limit = lengths[-1][1] - 1
    report = check([("train", path)], Limits(template, limit, "drop", limit))
    tokens, fitted = report.files[0].tokens_per_row, report.files[0].fitted
    assert tokens is not None
    assert tokens.total == sum(map(sum, lengths))
    assert [found.line for found in report.findings if found.code == "overlong"] == [12]
    assert fitted is not None
    assert (fitted.rows, fitted.tokens) == (11, sum(map(sum, lengths[:-1])))


def test_a_table_with_labels_is_asked_about_and_converted_whole(tmp_path: Path) -> None:
    source = tmp_path / "kto.json"
    source.write_text(json.dumps([{"conversations": sharegpt(n), "kto_tag": n % 2 == 0} for n in range(4)]))
    found = detect(source)
    assert found.mapping is None
    assert [choice.flag for choice in found.questions[0].choices] == ["--map keep=kto_tag", "--map keep="]
    assert "--to labelled" in found.questions[0].asks
    mapping = detect(source, ColumnMapping(to="labelled")).mapping
    assert mapping is not None
    assert convert(source, mapping, tmp_path / "kto.jsonl").written == 4
    rows = [json.loads(line) for line in (tmp_path / "kto.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [True, False, True, False]
    assert rows[1]["messages"][-1] == {"role": "assistant", "content": "Answer 1"}


def sharegpt(number: int) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"Question {number}"}, {"from": "gpt", "value": f"Answer {number}"}]


def test_labels_of_a_text_table_are_read_and_others_named(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("prompt,completion,label\na,b,true\nc,d,0\ne,f,maybe\n")
    mapping = detect(source, ColumnMapping(label="label")).mapping
    assert mapping is not None
    assert mapping.to == "labelled"
    result = convert(source, mapping, tmp_path / "rows.jsonl")
    assert [json.loads(line)["label"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [True, False]
    assert [(found.line, found.code) for found in result.findings] == [(4, "wrong_type")]


def test_the_shared_labelled_rows_are_converted_without_a_loss(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "preferences" / "raw" / "kto_en_demo.json"
    mapping = detect(source, ColumnMapping(to="labelled")).mapping
    assert mapping is not None
    result = convert(source, mapping, tmp_path / "kto.jsonl")
    assert (result.written, result.findings) == (300, ())
    assert check([("train", tmp_path / "kto.jsonl")]).errors == ()
