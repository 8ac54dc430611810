"""Rows are read at the line numbers where they stand, whatever stands between and inside them."""

import json
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewise.contracts.chat import AssistantMessage, ChatExample, UserMessage
from tunewise.contracts.check import RowFormat
from tunewise.data import reader, rules
from tunewise.data.answers import PREFERENCE_FIELDS
from tunewise.data.explain import explain_row
from tunewise.data.formats import decode_block, decode_row, detect_format, read_examples
from tunewise.data.reader import lines_of
from tunewise.data.scan import validate
from tunewise.errors import DataError

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\r"
texts = st.text(st.characters(exclude_categories=["Cs"], include_characters=SEPARATORS), max_size=20)


def row(text: str, answer: str = "yes") -> bytes:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False).encode()


broken = st.sampled_from([b"{", b"[]", b"1", b"{}", b'{"messages":[]}', b"\xff", b"nul", b"{}{}", b'{"messages"'])
lines_strategy = st.lists(st.one_of(texts.map(row), texts.map(row), broken, st.just(b""), st.just(b" \t")), max_size=12)


@given(lines=lines_strategy, ends_with_feed=st.booleans(), crlf=st.booleans())
def test_problems_stand_at_the_lines_that_a_single_row_decoder_refuses(
    lines: list[bytes], ends_with_feed: bool, crlf: bool
) -> None:
    data = (b"\r\n" if crlf else b"\n").join(lines) + (b"\n" if ends_with_feed else b"")
    expected = set()
    for index, line in enumerate(lines_of(data)):
        try:
            decode_row(line, "chat")
        except (msgspec.DecodeError, UnicodeDecodeError):
            expected.add(index)
    checked = validate(data, "chat")
    assert {i for i, p in checked.problems if p.code != "empty_content"} == expected
    assert checked.lines == len(lines_of(data))


@given(rows=st.lists(texts.map(row), min_size=1, max_size=30), crlf=st.booleans(), size=st.integers(1, 400))
def test_read_examples_gives_every_row_once_at_its_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bytes], crlf: bool, size: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes((b"\r\n" if crlf else b"\n").join(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader.spans, "__defaults__", (size,))
        assert list(read_examples(path)) == [(n, decode_row(r, "chat")) for n, r in enumerate(rows, start=1)]


@pytest.mark.parametrize(
    "data",
    [
        b'{"messages":[]}{"messages":[]}\n',
        row("a") + row("b") + b"\n" + row("c")[:20] + b"\n" + row("c")[20:],
        b"\n" + row("a") + row("b"),
        row("a")[:13] + b"\n" + row("a")[13:] + row("b") + b"\n",
    ],
)
def test_a_block_whose_values_are_not_one_a_line_is_never_taken_whole(data: bytes) -> None:
    assert decode_block(data, "chat") is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "role",
        "content",
        "name",
        "weight",
        "tool_calls",
        "function_call",
        "tool_call_id",
        "type",
        "text",
        "refusal",
        "id",
    ]
)
values = st.one_of(
    json_values,
    st.sampled_from(["user", "assistant", "system", "tool", "function", "text", 0, 1]),
    st.lists(st.dictionaries(fields, st.sampled_from(["text", "a", 1, None]), max_size=3), max_size=2),
)
rows_of_any_kind = st.dictionaries(
    st.sampled_from(["messages", "tools", "functions", "parallel_tool_calls", "prompt", *PREFERENCE_FIELDS, "label"]),
    st.one_of(json_values, st.lists(st.dictionaries(fields, values, max_size=4), max_size=3)),
)


@given(value=st.one_of(json_values, rows_of_any_kind), row_format=st.sampled_from(get_args(RowFormat)))
def test_a_row_is_explained_exactly_when_the_decoder_refuses_it(value: object, row_format: RowFormat) -> None:
    line = json.dumps(value).encode()
    try:
        decode_row(line, row_format)
    except msgspec.DecodeError:
        problems = explain_row(line, row_format)
        assert problems
        assert all(problem.message and problem.remedy for problem in problems)
        assert "duplicate_key" not in {problem.code for problem in problems}


conversations = st.lists(
    st.one_of(
        texts.map(lambda text: {"role": "user", "content": text}),
        texts.map(lambda text: {"role": "system", "content": text}),
        st.tuples(texts, st.sampled_from([None, 0, 1])).map(
            lambda pair: {"role": "assistant", "content": pair[0], "weight": pair[1]}
        ),
        st.just({"role": "tool", "content": "x", "tool_call_id": "c"}),
    ),
    min_size=1,
    max_size=4,
)


@given(rows=st.lists(conversations, min_size=1, max_size=4))
def test_the_sweep_passes_only_what_no_rule_refuses(rows: list[list[dict[str, object]]]) -> None:
    examples = [msgspec.convert({"messages": messages}, ChatExample) for messages in rows]
    shapes, clean = rules.sweep(examples)
    assert shapes == rules.shapes_of(examples)
    if clean:
        assert [p for example in examples for p in rules.row_problems(example)] == []


def test_the_sweep_passes_ordinary_rows() -> None:
    one = ChatExample(messages=[UserMessage(content="a"), AssistantMessage(content="b")])
    two = ChatExample(messages=[*one.messages, *one.messages])
    assert rules.sweep([one, one])[1]
    assert rules.sweep([one, two])[1]


def test_prompt_and_completion_are_a_user_and_an_assistant_turn(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "completion": " b"}\n' * 2)
    assert detect_format(path) == "prompt_completion"
    expected = ChatExample(messages=[UserMessage(content="a"), AssistantMessage(content=" b")])
    assert list(read_examples(path)) == [(1, expected), (2, expected)]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + row("a") + b"\n")
    assert [line for line, _ in read_examples(path)] == [1]


def test_read_examples_stops_at_the_first_bad_row_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(row("a") + b"\n\n" + row("b").replace(b"assistant", b"gpt"))
    rows = read_examples(path)
    assert next(rows)[0] == 1
    with pytest.raises(DataError, match=r'rows.jsonl, line 3: role "gpt" .* write "assistant"') as caught:
        next(rows)
    assert (caught.value.code, caught.value.param) == ("invalid_role", "messages[1].role")


def test_a_row_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_ROW_BYTES", 1000)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(DataError) as caught:
        list(reader.spans(path, 5000, 100))
    assert caught.value.code == "row_too_large"
