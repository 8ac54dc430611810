from pathlib import Path

import pytest

from evaluate.making import chat, write_jsonl
from tunewise.contracts.chat import AssistantMessage, Message, SystemMessage, TextPart, UserMessage
from tunewise.data.conversation import text_of
from tunewise.errors import DataError
from tunewise.evaluate.rows import freeze, question_of, read_rows

ROW = chat(("system", "s"), ("user", "q"), ("assistant", "a"))


def test_a_row_is_split_into_request_and_reference(tmp_path: Path) -> None:
    (row,) = read_rows(
        write_jsonl(tmp_path / "test.jsonl", [ROW]), write_jsonl(tmp_path / "items.jsonl", [{"id": 7, "list": ["x"]}])
    )
    assert row.messages == (SystemMessage("s"), UserMessage("q"))
    assert row.reference == "a"
    assert row.item == {"id": 7, "list": ["x"], "reference": "a"}


def test_a_prompt_and_completion_row_is_one_question_and_one_reference(tmp_path: Path) -> None:
    (row,) = read_rows(write_jsonl(tmp_path / "test.jsonl", [{"prompt": "q", "completion": "a"}]))
    assert (row.messages, row.reference) == ((UserMessage("q"),), "a")


def test_content_parts_are_one_text() -> None:
    assert text_of([TextPart("a"), TextPart("b")]) == "a\nb"


def test_earlier_user_turns_belong_to_the_question() -> None:
    turns: list[Message] = [SystemMessage("s"), UserMessage("Ohio?"), AssistantMessage("yes"), UserMessage("and Utah?")]
    assert question_of(turns) == "Ohio?\nand Utah?"


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BAD_ROWS = [
    ([chat(("assistant", "a"), ("user", "q"))], "no_reference"),
    ([{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [CALL]}]}], "no_reference"),
    ([], "empty_file"),
]


@pytest.mark.parametrize(("rows", "code"), BAD_ROWS)
def test_rows_that_cannot_be_graded_are_refused(tmp_path: Path, rows: list[object], code: str) -> None:
    with pytest.raises(DataError) as raised:
        read_rows(write_jsonl(tmp_path / "test.jsonl", rows))
    assert raised.value.code == code


BAD_ITEMS = [
    ("{}\n{}\n", "items_do_not_match"),
    ("[1]\n", "not_an_object"),
    ("{\n", "invalid_json"),
    ('{"reference": "other"}\n', "reserved_field"),
    ("[" * 100_000 + "\n", "invalid_json"),
]


@pytest.mark.parametrize(("text", "code"), BAD_ITEMS)
def test_items_that_do_not_fit_the_rows_are_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "items.jsonl").write_text(text)
    with pytest.raises(DataError) as raised:
        read_rows(write_jsonl(tmp_path / "test.jsonl", [ROW]), tmp_path / "items.jsonl")
    assert raised.value.code == code


def test_a_missing_items_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl.*data\.test_items"):
        read_rows(write_jsonl(tmp_path / "test.jsonl", [ROW]), tmp_path / "nowhere.jsonl")


def test_the_frozen_hash_changes_with_anything_that_is_asked_or_graded(tmp_path: Path) -> None:
    def hashed(rows: list[object], items: list[object]) -> str:
        test, fields = write_jsonl(tmp_path / "t.jsonl", rows), write_jsonl(tmp_path / "i.jsonl", items)
        return freeze(read_rows(test, fields))

    other_answer = chat(("system", "s"), ("user", "q"), ("assistant", "b"))
    other_question = chat(("system", "s"), ("user", "p"), ("assistant", "a"))
    hashes = [
        hashed([ROW], [{"x": 1}]),
        hashed([ROW], [{"x": 2}]),
        hashed([other_answer], [{"x": 1}]),
        hashed([other_question], [{"x": 1}]),
        hashed([ROW, ROW], [{"x": 1}, {"x": 1}]),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hashed([ROW], [{"x": 1}]) == hashes[0]
    assert hashed([ROW], [{"x": 1}]) != hashed([ROW], [{"x": 1, "y": 1}])


def test_the_order_of_an_items_fields_does_not_change_the_hash(tmp_path: Path) -> None:
    test = write_jsonl(tmp_path / "t.jsonl", [ROW])
    one = read_rows(test, write_jsonl(tmp_path / "1.jsonl", [{"a": 1, "b": 2}]))
    two = read_rows(test, write_jsonl(tmp_path / "2.jsonl", [{"b": 2, "a": 1}]))
    assert freeze(one) == freeze(two)
