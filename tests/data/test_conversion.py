"""Import: real files become the rows that a person would write, and what is open is asked."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tunewise.contracts.importing import ColumnMapping, Conversion
from tunewise.data.check import check
from tunewise.data.convert import convert, detect, preview, unanswered
from tunewise.errors import DataError

Row = dict[str, Any]
NOTHING_SAID = ColumnMapping()
ANSWERED = {
    "preferences/raw/kto_en_demo.json": ColumnMapping(keep="label"),
    "instruct_formats/reason_tool_use_demo_50.jsonl": ColumnMapping(reasoning="think"),
}
REAL = [
    "instruct_formats/alpaca_en_demo.json",
    "instruct_formats/identity.json",
    "instruct_formats/v1_sft_demo.jsonl",
    "instruct_formats/reason_tool_use_demo_50.jsonl",
    "instruct_formats/chitchat_prompt_completion_head.jsonl",
    "instruct_formats/chitchat_crlf_head.csv",
    "glaive_tools/raw/glaive_toolcall_en_demo.json",
    "glaive_tools/raw/weather_chat_fine_tuning.jsonl",
    "preferences/raw/dpo_en_demo.json",
    "preferences/raw/kto_en_demo.json",
]


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def converted(path: Path, out: Path, said: ColumnMapping = NOTHING_SAID) -> tuple[Conversion, list[Row]]:
    found = detect(path, said)
    assert found.mapping is not None, unanswered(found).message
    result = convert(path, found.mapping, out)
    return result, rows_of(out)


def by_hand_in(folder: Path) -> list[Row]:
    return [row for split in ("train", "valid", "test") for row in rows_of(folder / f"{split}.jsonl")]


def missing(wanted: list[Row], rows: list[Row]) -> list[Row]:
    known = {json.dumps(row, sort_keys=True) for row in rows}
    return [row for row in wanted if json.dumps(row, sort_keys=True) not in known]


def written(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def one(tmp_path: Path, row: Row, said: ColumnMapping = NOTHING_SAID) -> Row:
    """The example that a file of this one row becomes."""
    result, rows = converted(written(tmp_path / "rows.jsonl", [row]), tmp_path / "out.jsonl", said)
    assert result.findings == ()
    return rows[0]


def problem(tmp_path: Path, row: Row, said: ColumnMapping = NOTHING_SAID) -> str:
    """The code of what stands against this row."""
    path = written(tmp_path / "rows.jsonl", [row])
    mapping = detect(path, said).mapping
    assert mapping is not None
    return preview(path, mapping, 1)[0].problems[0].code


@pytest.mark.parametrize("name", REAL)
def test_every_real_row_is_converted_and_data_check_takes_it(shared_data: Path, tmp_path: Path, name: str) -> None:
    result, rows = converted(shared_data / name, tmp_path / "out.jsonl", ANSWERED.get(name, NOTHING_SAID))
    assert result.findings == ()
    assert result.written == len(rows) == result.rows - result.left_out
    report = check([("train", tmp_path / "out.jsonl")])
    assert report.errors == ()
    assert report.files[0].format == result.to


def test_alpaca_becomes_the_rows_that_were_made_by_hand(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "instruct_formats"
    _, rows = converted(folder / "alpaca_en_demo.json", tmp_path / "out.jsonl")
    by_hand = by_hand_in(folder / "alpaca_chat")
    assert len(by_hand) == 900
    assert missing(by_hand, rows) == []


def test_glaive_becomes_the_tool_messages_that_were_made_by_hand(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "glaive_tools"
    _, rows = converted(folder / "raw" / "glaive_toolcall_en_demo.json", tmp_path / "out.jsonl")
    assert missing(by_hand_in(folder), rows) == []


def test_preferences_become_the_pairs_that_were_made_by_hand(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "preferences"
    _, rows = converted(folder / "raw" / "dpo_en_demo.json", tmp_path / "out.jsonl")
    by_hand = by_hand_in(folder)
    for row in by_hand:
        row["input"] = {"messages": row["input"]["messages"]}
    assert len(by_hand) == 196
    assert missing(by_hand, rows) == []


@pytest.mark.parametrize("name", ["recipes/test.jsonl", "glaive_tools/test.jsonl"])
def test_openai_rows_are_taken_over_as_they_are(shared_data: Path, tmp_path: Path, name: str) -> None:
    _, rows = converted(shared_data / name, tmp_path / "out.jsonl")
    assert rows == rows_of(shared_data / name)


def test_converting_a_second_time_changes_nothing(shared_data: Path, tmp_path: Path) -> None:
    for name in ("glaive_tools/raw/glaive_toolcall_en_demo.json", "preferences/raw/dpo_en_demo.json"):
        first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
        converted(shared_data / name, first)
        converted(first, second)
        assert second.read_bytes() == first.read_bytes()


USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
CHIEF = '[{"role": "CEO", "content": 1}]'
PLAIN = {"messages": [USER, ANSWER]}


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"prompt": "q", "completion": "a"}, PLAIN),
        ({"Question": "q", "ANSWER": "a", "id": 3}, PLAIN),
        ({"instruction": "q", "input": "r", "output": "a"}, {"messages": [{**USER, "content": "q\n\nr"}, ANSWER]}),
        ({"instruction": "q", "context": "", "response": "a"}, PLAIN),
        ({"input": "q", "output": "a"}, PLAIN),
        ({"system_prompt": "s", "question": "q", "response": "a"}, {"messages": [SYSTEM, USER, ANSWER]}),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, PLAIN),
        ({"messages": str([USER, ANSWER])}, PLAIN),
        ({"messages": json.dumps([USER, ANSWER]), "prompt": "q"}, PLAIN),
        ({"prompt": [USER], "completion": [ANSWER]}, PLAIN),
        ({"prompt": "q", "completion": 7}, {"messages": [USER, {**ANSWER, "content": "7"}]}),
        ({"prompt": "q", "completion": CHIEF}, {"messages": [USER, {**ANSWER, "content": CHIEF}]}),
    ],
)  # fmt: skip
def test_each_shape_becomes_chat(tmp_path: Path, row: Row, example: Row) -> None:
    assert one(tmp_path, row) == example


PAIR = {
    "input": {"messages": [USER]},
    "preferred_output": [ANSWER],
    "non_preferred_output": [{**ANSWER, "content": "b"}],
}
WORSE = {**ANSWER, "content": "b"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
        {"chosen": [USER, ANSWER], "rejected": [USER, WORSE], "score": 3},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": WORSE,
        },
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        PAIR,
        {**PAIR, "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True}},
    ],
)
def test_each_shape_of_a_pair_becomes_openais(tmp_path: Path, row: Row) -> None:
    assert one(tmp_path, row) == PAIR


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "equal_answers"),
        ({"prompt": "q", "chosen": "a", "rejected": "\n"}, "empty_assistant_content"),
        ({"prompt": "other", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, "prompts_differ"),
        ({"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, WORSE]}, "no_single_answer"),
        ({"chosen": "a", "rejected": "b"}, "no_prompt"),
        ({"prompt": "q", "completion": " "}, "empty_assistant_content"),
        ({"prompt": "q", "completion": ["a"]}, "wrong_type"),
        ({"prompt": "q", "completion": {"a": 1}}, "wrong_type"),
        ({"messages": [USER, {"role": "narrator", "content": "x"}]}, "invalid_role"),
        ({"messages": [USER]}, "no_assistant_message"),
        ({"messages": [{**USER, "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER]}, "unsupported_part"),
        ({"messages": [{**USER, "loss_weight": 1}, ANSWER]}, "unsupported_weight"),
        ({"messages": [USER, {**ANSWER, "loss_weight": 0.5}]}, "unsupported_weight"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, ANSWER]}, "unknown_tool_call_id"),
        ({"messages": [USER, {"from": "function_call", "value": "not a call"}]}, "invalid_tool_call"),
        ({"messages": [USER, ANSWER], "tools": "search"}, "invalid_tools"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_example_is_told_by_its_code(tmp_path: Path, row: Row, code: str) -> None:
    said = ColumnMapping(messages="messages") if "messages" in row else NOTHING_SAID
    assert problem(tmp_path, row, said) == code


def test_weights_calls_and_answers_of_tools_are_carried_over(tmp_path: Path) -> None:
    calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]
    row = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "wait", "loss_weight": 0.0},
            {"from": "function_call", "value": json.dumps(calls)},
            {"from": "observation", "value": '["one", {"content": "two"}]'},
            {"from": "gpt", "value": "a", "loss_weight": 1.0},
        ],
        "tools": json.dumps([{"name": "f", "description": "d", "parameters": {"type": "object"}}]),
    }
    example = one(tmp_path, row)
    assert [message.get("weight") for message in example["messages"]] == [None, 0, None, None, None, 1]
    assert [call["function"] for call in example["messages"][2]["tool_calls"]] == [
        {"name": "f", "arguments": '{"x": 1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert example["messages"][3:5] == [
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {"role": "tool", "tool_call_id": "call_2", "content": "two"},
    ]
    assert example["tools"][0]["function"]["name"] == "f"


def test_a_call_without_an_answer_before_the_talk_goes_on_is_told(tmp_path: Path) -> None:
    calls = json.dumps([{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}])
    turns = [("human", "q"), ("function_call", calls), ("observation", "one"), ("gpt", "a")]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    assert problem(tmp_path, row) == "missing_tool_answer"


def test_reasoning_is_asked_then_left_out_or_kept(tmp_path: Path) -> None:
    parts = [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "a"}]
    row = {"messages": [USER, {"role": "assistant", "content": parts}]}
    path = written(tmp_path / "rows.jsonl", [row])
    assert [question.role for question in detect(path).questions] == ["reasoning"]
    assert one(tmp_path, row, ColumnMapping(reasoning="drop")) == PLAIN
    kept = one(tmp_path, row, ColumnMapping(reasoning="think"))
    assert kept["messages"][1]["content"] == "<think>\nhm\n</think>\n\na"


def test_a_system_text_is_for_rows_without_one_and_two_are_told(tmp_path: Path) -> None:
    said = ColumnMapping(system_text="be brief")
    assert one(tmp_path, {"prompt": "q", "completion": "a"}, said)["messages"][0]["content"] == "be brief"
    own = {"messages": [{"role": "system", "content": "own"}, USER, ANSWER]}
    assert one(tmp_path, own, said) == own
    assert problem(tmp_path, {**own, "system": "another"}) == "two_system_messages"


def test_white_space_is_kept_and_told_and_taken_away_when_asked(tmp_path: Path) -> None:
    row = {"prompt": " q", "completion": " a\n"}
    assert one(tmp_path, row)["messages"][1]["content"] == " a\n"
    assert "--strip" in detect(tmp_path / "rows.jsonl").notes[0]
    assert one(tmp_path, row, ColumnMapping(strip=True)) == PLAIN


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"text": "q", "category": "a"}, ["prompt", "completion"]),
        ({"question": "q", "prompt": "q", "answer": "a"}, ["prompt"]),
        ({"prompt": "q", "answer": "a", "response": "b"}, ["completion"]),
        ({"messages": [USER, ANSWER], "conversations": [USER, ANSWER]}, ["messages"]),
        ({"messages": [USER, ANSWER], "label": True}, ["keep"]),
    ],
)
def test_what_is_open_is_asked_with_every_choice(tmp_path: Path, row: Row, asked: list[str]) -> None:
    found = detect(written(tmp_path / "rows.jsonl", [row]))
    assert found.mapping is None
    assert [question.role for question in found.questions] == asked
    for question in found.questions:
        assert len(question.choices) >= 2
        for choice in question.choices:
            assert choice.flag in unanswered(found).message


def test_an_answer_fills_its_role_and_the_rest_is_completed(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", [{"prompt": "q", "answer": "a", "response": "b", "label": True}])
    mapping = detect(path, ColumnMapping(completion="answer")).mapping
    assert mapping is not None
    assert (mapping.to, mapping.prompt, mapping.completion) == ("chat", "prompt", "answer")


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (ColumnMapping(prompt="promt"), "unknown_column", "did you mean 'prompt'"),
        (ColumnMapping(prompt="prompt", completion="prompt"), "mapping_conflict", "prompt"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(tmp_path: Path, said: ColumnMapping, code: str, words: str) -> None:
    path = written(tmp_path / "rows.jsonl", [{"prompt": "q", "completion": "a"}])
    with pytest.raises(DataError, match=words) as refused:
        detect(path, said)
    assert refused.value.code == code


def test_bad_rows_are_findings_with_their_line_and_good_ones_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('question,answer\nq1,a1\nq2,\n"q\n3",a3\nq4,a4,x\n')
    result, rows = converted(path, tmp_path / "out.jsonl")
    assert [(found.line, found.code) for found in result.findings] == [
        (3, "empty_assistant_content"),
        (6, "wrong_width"),
    ]
    assert (result.rows, result.written, len(rows)) == (4, 2, 2)
    assert result.found == {"empty_assistant_content": 1, "wrong_width": 1}


def test_fields_that_are_not_carried_over_are_counted(tmp_path: Path) -> None:
    rows = [
        {"messages": [USER, {**ANSWER, "mood": "glad"}], "source": "web"},
        {"messages": [USER, ANSWER], "source": ""},
    ]
    result, _ = converted(written(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl")
    assert result.ignored == {"messages[].mood": 1, "source": 1}


def test_nothing_is_left_when_the_file_breaks_midway_or_no_row_is_fit(tmp_path: Path) -> None:
    broken, empty = tmp_path / "a.json", tmp_path / "b.jsonl"
    broken.write_text('[{"prompt": "q", "completion": "a"},' * 200 + '{"prompt": nope}]')
    written(empty, [{"prompt": "q", "completion": ""}] * 3)
    mapping = ColumnMapping(to="chat", prompt="prompt", completion="completion")
    for path in (broken, empty):
        with pytest.raises(DataError):
            convert(path, mapping, tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.jsonl"]


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_memory_does_not_grow_with_the_table(tmp_path: Path, kind: str) -> None:
    peaks = []
    for count in (8_000, 24_000):
        rows = [{"prompt": f"question {n} " * 8, "completion": f"answer {n} " * 20} for n in range(count)]
        path = tmp_path / f"{count}.{kind}"
        match kind:
            case "csv":
                lines = ["prompt,completion", *(f"{row['prompt']},{row['completion']}" for row in rows)]
                path.write_text("\n".join(lines))
            case "json":
                path.write_text(json.dumps(rows))
            case _:
                written(path, rows)
        del rows
        tracemalloc.start()
        converted_rows = convert(
            path, ColumnMapping(to="chat", prompt="prompt", completion="completion"), tmp_path / "out.jsonl"
        ).written
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert converted_rows == count
    assert peaks[1] < peaks[0] + 1_000_000
