"""`check` reports every problem at its place, and nothing that is not one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tunewise.contracts.chat import Json
from tunewise.contracts.check import CheckReport, Split
from tunewise.contracts.fine_tuning import Overlong
from tunewise.contracts.run import BaseModelRef
from tunewise.data import survey
from tunewise.data.check import Limits, check
from tunewise.data.template import Template

QUESTIONS = [
    "Where is the river?", "Who wrote this?", "How tall are you?", "What time is it?", "Why do birds sing?",
    "When does it open?", "Which way is north?", "Can fish hear?", "Is tea good?", "Do I need a hat?", "Are we there?",
    "Does it rain often?",
]  # fmt: skip


def chat(question: str, answer: str = "I could not say.", system: str | None = None) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns if system is None else [{"role": "system", "content": system}, *turns]}


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def good_rows() -> list[Any]:
    return [chat(question, f"Answer {n}") for n, question in enumerate(QUESTIONS)]


def found(report: CheckReport) -> list[tuple[str, int | None, str | None]]:
    return [(f.code, f.line, f.param) for f in report.findings]


def with_message(message: dict[str, Any], *after: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "An unusual question"}, message, *after]}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ANSWER = {"role": "assistant", "content": "ok"}
BAD_ROWS: list[tuple[Any, list[tuple[str, str | None]]]] = [
    (b"{", [("invalid_json", None)]),
    (b"{} {}", [("invalid_json", None)]),
    (b'{"messages": NaN}', [("invalid_json", None)]),
    (b'{"messages": "\\ud800"}', [("invalid_json", None)]),
    (b"[" * 100_000, [("too_deep", None)]),
    (b'{"a":' * 100_000, [("too_deep", None)]),
    (b'{"messages": [{"role": "user", "content": "caf\xe9"}]}', [("invalid_utf8", None)]),
    (b"\xff\xfe", [("invalid_utf8", None)]),
    ([1], [("not_an_object", None)]),
    ("text", [("not_an_object", None)]),
    ({}, [("missing_field", "messages")]),
    ({"messages": []}, [("empty_list", "messages")]),
    ({"messages": {}}, [("wrong_type", "messages")]),
    ({"messages": [], "mesages": 1}, [("unknown_field", "mesages"), ("empty_list", "messages")]),
    ({"prompt": "a", "completion": "b"},
     [("unknown_field", "prompt"), ("unknown_field", "completion"), ("missing_field", "messages")]),
    (with_message({"role": "gpt", "content": "a"}), [("invalid_role", "messages[1].role")]),
    (with_message({"role": 7, "content": "a"}), [("invalid_role", "messages[1].role")]),
    (with_message({"from": "gpt", "value": "a"}),
     [(code, f"messages[1].{field}")
      for code, field in (("missing_field", "role"), ("unknown_field", "from"), ("unknown_field", "value"))]),
    (with_message({"role": "assistant", "content": 3, "weight": 2}),
     [("wrong_type", "messages[1].content"), ("invalid_value", "messages[1].weight")]),
    (with_message({"role": "assistant", "content": "a", "weight": True}), [("wrong_type", "messages[1].weight")]),
    (with_message({"role": "user", "content": "a", "weight": 1}, ANSWER), [("unknown_field", "messages[1].weight")]),
    (with_message({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER),
     [("invalid_type", "messages[1].content[0].type"), ("unknown_field", "messages[1].content[0].image_url")]),
    (with_message({"role": "assistant", "tool_calls": []}), [("empty_list", "messages[1].tool_calls")]),
    (with_message({"role": "user", "content": "and?"}), [("no_assistant_message", "messages")]),
    (with_message(ANSWER, {"role": "user", "content": "and?"}), [("last_message_not_assistant", "messages[2].role")]),
    (with_message({"role": "assistant", "content": " \n"}), [("empty_assistant_content", "messages[1].content")]),
    (with_message({"role": "assistant"}), [("empty_assistant_content", "messages[1].content")]),
    (with_message({**ANSWER, "weight": 0}), [("nothing_to_train_on", "messages")]),
    (with_message({"role": "tool", "content": "x", "tool_call_id": "c9"}, ANSWER),
     [("unknown_tool_call_id", "messages[1].tool_call_id")]),
    (with_message({"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "["}}]}),
     [("invalid_tool_arguments", "messages[1].tool_calls[0].function.arguments")]),
    ({"messages": [ANSWER]}, [("no_user_message", "messages")]),
    (with_message({"role": "user", "content": ""}, ANSWER), [("empty_content", "messages[1].content")]),
    (with_message(ANSWER) | {"weight": 0}, [("invalid_value", "weight")]),
    (with_message(ANSWER) | {"weight": -0.5}, [("invalid_value", "weight")]),
    (with_message(ANSWER) | {"weight": "2"}, [("wrong_type", "weight")]),
    (with_message(ANSWER) | {"weight": True}, [("wrong_type", "weight")]),
    (b"", [("blank_line", None)]),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "expected"), BAD_ROWS)
def test_every_problem_of_a_row_is_reported_at_its_line_and_field(
    bad: Json,
    expected: list[tuple[str, str | None]],
    tmp_path: Path,
) -> None:
    rows = good_rows()
    path = write(tmp_path / "rows.jsonl", [*rows[:5], bad, *rows[5:]])
    report = check([("train", path)])
    assert found(report) == [(code, 6, param) for code, param in expected]
    assert all(finding.remedy and finding.message for finding in report.findings)
    assert report.files[0].lines == len(rows) + 1


def bad_files(tmp_path: Path) -> dict[str, Path]:
    text = "\n".join(json.dumps(row) for row in good_rows())
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("empty", "utf16", "utf16_no_mark", "zip", "array", "three")}
    paths["empty"].write_bytes(b"\xef\xbb\xbf\n \n")
    paths["utf16"].write_text(text, encoding="utf-16")
    paths["utf16_no_mark"].write_text(text, encoding="utf-16-be")
    paths["zip"].write_bytes(b"PK\x03\x04rest")
    paths["array"].write_text(json.dumps(good_rows(), indent=1))
    write(paths["three"], good_rows()[:3])
    return {**paths, "absent": tmp_path / "absent.jsonl", "directory": tmp_path}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("absent", "file_not_found"), ("directory", "not_a_file"), ("empty", "empty_file"), ("utf16", "wrong_encoding"),
        ("utf16_no_mark", "wrong_encoding"), ("zip", "not_text"), ("array", "not_json_lines"),
        ("three", "invalid_n_examples"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_error(name: str, code: str, tmp_path: Path) -> None:
    report = check([("train", bad_files(tmp_path)[name])])
    assert found(report) == [(code, None, None)]
    assert report.findings[0].remedy
    assert report.errors


@pytest.mark.parametrize("name", ["mixed_invalid_lines", "mixed_not_chat_rows"])
def test_reported_lines_equal_the_expected_ones(name: str, shared_data: Path) -> None:
    directory = shared_data / "dirty_json"
    expected = json.loads((directory / f"{name}.expected.json").read_text())
    report = check([("train", directory / f"{name}.jsonl")])
    assert sorted({f.line for f in report.errors if f.line}) == [case["line"] for case in expected["bad_lines"]]
    assert report.files[0].lines == expected["total_lines"]


@pytest.mark.timeout(60)
def test_no_parser_test_file_crashes_or_is_taken_for_data(shared_data: Path) -> None:
    files = sorted((shared_data / "dirty_json" / "jsontestsuite").iterdir())
    assert len(files) == 155
    for file in files:
        assert check([("train", file)]).errors, file.name


def test_the_cookbooks_imperfect_file_is_accepted_and_its_repeats_are_reported(shared_data: Path) -> None:
    report = check([("train", shared_data / "dirty_json" / "toy_chat_fine_tuning.jsonl")])
    assert not report.errors
    assert (report.files[0].rows, report.files[0].exact_duplicates) == (10, 5)
    assert [line for code, line, _ in found(report) if code == "no_user_message"] == [4, 9, 10]


# SQuAD asks two of its passages the same question in other words, once in each held-out file; read and found so.
@pytest.mark.parametrize(
    ("task", "leaks"), [("recipes", set()), ("gsm8k", set()), ("squad_rag", {(138, "valid", 60), (198, "valid", 21)})]
)
def test_a_clean_data_set_gets_no_other_finding(task: str, leaks: set[object], shared_data: Path) -> None:
    splits: list[Split] = ["train", "valid", "test"]
    report = check([(split, shared_data / task / f"{split}.jsonl") for split in splits])
    assert {(row.line, row.source, row.source_line) for row in report.leakage} == leaks
    assert {finding.line for finding in report.findings} == {row.line for row in report.leakage}


def test_leaks_are_found_exact_and_near_and_a_shared_template_is_none(tmp_path: Path) -> None:
    system = "You answer in one sentence. " * 40
    question = "Could you tell me where the nearest railway station is and when it opens in the morning"
    answer = "The nearest station is in the old town and opens at five."
    train = write(tmp_path / "train.jsonl", [*good_rows(), chat(f"{question}?", answer, system)])
    held_out = [
        chat("WHERE is  the river?", "Another answer"),
        chat(f"{question}??", answer, system),
        chat("What colour is the sky?", "Blue.", system),
        chat(f"{question} in the evening of the longest day of the year, please?", "Nobody knows that.", system),
    ]
    report = check([("train", train), ("test", write(tmp_path / "test.jsonl", held_out))])
    assert [(row.line, row.source, row.source_line) for row in report.leakage] == [(1, "train", 1), (2, "train", 13)]
    assert report.leakage[0].similarity == 1
    assert 0.8 <= report.leakage[1].similarity < 1


def test_test_rows_are_compared_with_validation_rows_too(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", good_rows())
    valid = write(tmp_path / "valid.jsonl", [chat("Is the sea salt?"), chat(QUESTIONS[2])])
    test = write(tmp_path / "test.jsonl", [chat("What is new?"), chat("Is the sea salt?")])
    report = check([("train", train), ("valid", valid), ("test", test)])
    leaks = {(row.split, row.line, row.source, row.source_line) for row in report.leakage}
    assert leaks == {("valid", 2, "train", 3), ("test", 2, "valid", 1)}
    told = next(f for f in report.findings if f.file == "test.jsonl")
    assert (told.code, told.severity) == ("leakage", "warning")
    assert told.message == "the row stands in the validation data too: valid.jsonl, line 1"


def test_a_question_that_is_always_the_same_identifies_nothing(tmp_path: Path) -> None:
    texts = [f"Text number {n}: {question * 3}" for n, question in enumerate(QUESTIONS)]
    train = write(tmp_path / "train.jsonl", [chat("Summarise.", f"Sum {n}", text) for n, text in enumerate(texts)])
    test = write(tmp_path / "test.jsonl", [chat("Summarise.", "Other", "A text about something else entirely")])
    assert check([("train", train), ("test", test)]).leakage == ()


def test_the_other_answer_to_a_prompt_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*good_rows(), chat(QUESTIONS[0], "Something else")])
    assert found(check([("train", path)])) == [("conflicting_answer", 13, None)]


@pytest.fixture(scope="module")
def template(tiny_model: BaseModelRef) -> Template:
    return Template.load(tiny_model.path)


@pytest.mark.parametrize(
    ("overlong", "severity", "silent"), [("error", "error", 0), ("truncate", "warning", 1), ("drop", "warning", 0)]
)
def test_overlong_rows_are_counted_and_treated_as_chosen(
    overlong: Overlong, severity: str, silent: int, template: Template, tmp_path: Path
) -> None:
    rows = [*good_rows(), chat("word " * 100, "cut off"), chat("Short?", "long " * 100)]
    report = check([("train", write(tmp_path / "rows.jsonl", rows))], Limits(template, 64, overlong, 2048))
    assert [(f.code, f.line, f.severity) for f in report.findings] == [
        ("overlong", 13, severity),
        ("overlong", 14, severity),
    ]
    assert report.files[0].overlong_rows == 2
    assert report.files[0].nothing_to_train_on == silent


@pytest.mark.parametrize("overlong", ["error", "truncate", "drop"])
def test_test_rows_have_the_context_as_their_only_limit(overlong: Overlong, template: Template, tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", [chat("word " * 100), chat("other " * 200, "Nobody knows.")])
    limits = Limits(template, 64, overlong, 160)
    report = check([("train", write(tmp_path / "train.jsonl", good_rows())), ("test", test)], limits)
    assert [(f.code, f.line, f.severity) for f in report.findings] == [("overlong", 2, "warning")]
    assert "the model's context is 160" in report.findings[0].message
    assert (report.files[1].overlong_rows, report.files[1].nothing_to_train_on) == (1, 0)


def test_token_facts_are_those_of_the_rendered_rows(template: Template, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", good_rows())
    report = check([("train", path)], Limits(template, 2048, "error", 2048))
    tokens, trained = report.files[0].tokens_per_row, report.files[0].trained_tokens_per_row
    assert tokens is not None
    assert trained is not None
    assert sum(tokens.histogram) == len(QUESTIONS)
    assert tokens.minimum <= tokens.p5 <= tokens.median <= tokens.p95 <= tokens.maximum
    assert [row.line for row in report.inspected] == [1, 2, 3]
    first = report.inspected[0].tokens
    assert "".join(token.text for token in first if token.trained) == "Answer 0<|im_end|>"
    assert report.files[0].roles == {"user": 12, "assistant": 12}


def test_rows_with_a_weight_of_their_own_are_counted(tmp_path: Path) -> None:
    rows = [
        row | ({"weight": weight} if weight else {})
        for row, weight in zip(good_rows(), [0.5, 3, *[None] * 10], strict=True)
    ]
    report = check([("train", write(tmp_path / "rows.jsonl", rows))])
    assert (report.findings, report.files[0].rows, report.files[0].weighted_rows) == ((), 12, 2)


def test_findings_beyond_the_limit_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "KEPT_PER_CODE", 3)
    report = check([("train", write(tmp_path / "rows.jsonl", [*good_rows(), *[b"{"] * 10]))])
    assert Counter(f.line is None for f in report.findings) == {False: 3, True: 1}
    assert "7 further rows" in report.findings[0].message


def test_a_file_looked_at_in_several_processes_gives_the_same_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for n in range(40) for row in [*good_rows(), chat(f"Question {n}", f"A{n}"), b"{"]]
    path = write(tmp_path / "rows.jsonl", rows)
    alone = check([("train", path)])
    monkeypatch.setattr(survey, "PARALLEL_BYTES", 0)
    assert check([("train", path)]) == alone
