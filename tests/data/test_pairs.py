"""Preference pairs in `data check`: both answers are looked at, and what is wrong is named where it stands."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunewise.contracts.check import CheckReport
from tunewise.contracts.fine_tuning import TrainingRequest
from tunewise.contracts.run import BaseModelRef
from tunewise.data.check import check
from tunewise.data.formats import read_examples
from tunewise.errors import DataError
from tunewise.jobs.plan import make_spec
from tunewise.machine import Machine


def pair(number: int, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    asked = [{"role": "user", "content": f"What is {number} times {number + 7}?"}]
    better, worse = f"It is {number * (number + 7)}.", f"Who knows? Perhaps {number}."
    return {
        "input": {"messages": asked, "tools": [], "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": better}],
        "non_preferred_output": [{"role": "assistant", "content": worse}],
        **fields,
    }


def checked(path: Path, rows: list[dict[str, Any]]) -> CheckReport:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return check([("train", path)])


def test_the_shared_pairs_have_no_errors(shared_data: Path) -> None:
    report = check([("train", shared_data / "preferences" / "train.jsonl")])
    assert report.errors == ()
    assert (report.files[0].format, report.files[0].rows) == ("preference", 126)


EMPTY = [{"role": "assistant", "content": " "}]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"non_preferred_output": EMPTY}, "empty_assistant_content", "non_preferred_output[0].content"),
        ({"preferred_output": EMPTY}, "empty_assistant_content", "preferred_output[0].content"),
        ({"preferred_output": EMPTY, "non_preferred_output": EMPTY}, "equal_answers", "non_preferred_output"),
        ({"preferred_output": []}, "empty_list", "preferred_output"),
        ({"preferred_output": EMPTY * 2}, "too_long", "preferred_output"),
        ({"preferred_output": [{"role": "user", "content": "a"}]}, "invalid_role", "preferred_output[0].role"),
        ({"score": 3}, "unknown_field", "score"),
        ({"input": {"messages": []}}, "empty_list", "input.messages"),
    ],
)
def test_what_is_wrong_with_a_pair_is_named_where_it_stands(
    tmp_path: Path, fields: dict[str, Any], code: str, param: str
) -> None:
    report = checked(tmp_path / "pairs.jsonl", [*(pair(n) for n in range(12)), pair(12, **fields)])
    assert [(found.line, found.code, found.param) for found in report.errors] == [(13, code, param)]


def test_the_older_names_of_both_answers_are_checked_under_these_names(tmp_path: Path) -> None:
    older = [{name.replace("output", "completion"): value for name, value in pair(n).items()} for n in range(12)]
    empty = {**older[3], "non_preferred_completion": EMPTY}
    report = checked(tmp_path / "pairs.jsonl", [*older, empty])
    assert [(found.line, found.param) for found in report.errors] == [(13, "non_preferred_completion[0].content")]
    assert report.files[0].format == "preference"


def test_read_as_chats_pairs_give_the_better_answer(tmp_path: Path) -> None:
    checked(tmp_path / "pairs.jsonl", [pair(3)])
    [(line, example)] = read_examples(tmp_path / "pairs.jsonl")
    assert (line, example.messages[-1].content) == (1, "It is 30.")


def test_no_supervised_run_is_planned_on_pairs(tmp_path: Path, smollm2: BaseModelRef) -> None:
    report = checked(tmp_path / "pairs.jsonl", [pair(n) for n in range(12)])
    with pytest.raises(DataError, match="holds preference pairs") as refused:
        make_spec(
            TrainingRequest(),
            report,
            base=smollm2,
            max_tokens=100,
            overlong="error",
            machine=Machine(name="m", cores=1, memory_bytes=1, bfloat16=False, gflops=1.0),
            versions={},
        )
    assert refused.value.code == "invalid_file_format"
