"""Test rows as the evaluation sees them: the request, the reference answer, and the fields that graders may ask for.

Knows the data formats; knows nothing of models, arms or scores.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tunewise.contracts.chat import AssistantMessage, ChatExample, Json, Message, Tool, UserMessage
from tunewise.data.conversation import text_of
from tunewise.data.formats import read_examples
from tunewise.errors import DataError

REFERENCE = "reference"


class EvalRow(NamedTuple):
    """One test row. `messages` ends before the last assistant message, whose text is `reference`.

    `line` counts from 1; `item` holds the fields of the row's line in `data.test_items`, and the reference.
    """

    line: int
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] | None
    reference: str
    item: dict[str, Json]


def answer_of(example: ChatExample) -> str | None:
    """The text of the last message where that is an assistant's text, else None (a tool call, a user turn)."""
    last = example.messages[-1]
    if not isinstance(last, AssistantMessage) or last.content is None or last.tool_calls:
        return None
    return text_of(last.content)


def question_of(messages: Sequence[Message]) -> str:
    """What is asked: all user turns, as a follow-up question says little without the ones before it."""
    turns = [text_of(message.content) for message in messages if isinstance(message, UserMessage)]
    return "\n".join(turns)


def read_rows(test: Path, items: Path | None = None) -> list[EvalRow]:
    """Read the test rows and, where given, the JSONL file that holds more fields for each of them.

    Raises:
        DataError: a bad row; no rows; a row without an assistant text at its end; items that do not match the rows.
    """
    examples = list(read_examples(test))
    if not examples:
        raise DataError("empty_file", f"{test}: no test rows; a verdict needs some", param="data.test")
    fields: list[dict[str, Json]] = [{} for _ in examples] if items is None else _read_items(items, rows=len(examples))
    return [_row(test, line, example, item) for (line, example), item in zip(examples, fields, strict=True)]


def freeze(rows: Sequence[EvalRow]) -> str:
    """The content hash (sha256, hex) of rows and items: equal exactly when nothing that is asked or graded changed."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(msgspec.json.encode((row.messages, row.tools, row.reference)) + b"\n")
        digest.update(json.dumps(row.item, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def read_jsonl_objects(path: Path, *, param: str) -> Iterator[tuple[int, dict[str, Json]]]:
    r"""Yield (line number from 1, object) of a JSONL file; a row ends at `\n` only and empty lines are skipped.

    Raises:
        DataError: the file is missing or not UTF-8, or a line is no JSON object.
    """
    for line, raw in enumerate(_raw_lines(path, param), start=1):
        if not raw.strip():
            continue
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError("invalid_json", f"{path}, line {line}: not valid JSON: {error}", param=param) from error
        if not isinstance(value, dict):
            raise DataError(
                "not_an_object", f"{path}, line {line}: a JSON object was expected, not {raw[:60]!r}", param=param
            )
        yield line, value


def _raw_lines(path: Path, param: str) -> Iterator[bytes]:
    try:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines):
                yield raw.removeprefix(b"\xef\xbb\xbf") if number == 0 else raw
    except OSError as error:
        raise DataError(
            "unreadable_file", f"{path}: {error.strerror}; check the path in {param}", param=param
        ) from error


def _read_items(path: Path, *, rows: int) -> list[dict[str, Json]]:
    items = [item for _, item in read_jsonl_objects(path, param="data.test_items")]
    if len(items) != rows:
        raise DataError(
            "items_do_not_match",
            f"{path} has {len(items)} lines for {rows} test rows; line i must hold the fields of test row i",
            param="data.test_items",
        )
    return items


def _row(test: Path, line: int, example: ChatExample, item: dict[str, Json]) -> EvalRow:
    reference = answer_of(example)
    if reference is None:
        raise DataError(
            "no_reference",
            f"{test}, line {line}: the last message of a test row must be an assistant's text, as that is the "
            f"reference answer; it is {_describe(example.messages[-1])}",
            param="messages",
        )
    if item.get(REFERENCE, reference) != reference:
        raise DataError(
            "reserved_field",
            f"{test}, line {line}: its test item's field {REFERENCE!r} is the name of the row's own answer; rename it",
            param="data.test_items",
        )
    tools = _tools(example)
    return EvalRow(line, tuple(example.messages[:-1]), tools, reference, {**item, REFERENCE: reference})


def _describe(message: Message) -> str:
    if isinstance(message, AssistantMessage):
        return "an assistant message without text"
    return f"a {message.__struct_config__.tag} message"


def _tools(example: ChatExample) -> tuple[Tool, ...] | None:
    if example.tools:
        return tuple(example.tools)
    if example.functions:
        return tuple(Tool(function) for function in example.functions)
    return None
