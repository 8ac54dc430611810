"""Rows to examples: chats, the older prompt/completion pairs, preference pairs, labelled answers, and plain text.

The decoder itself refuses wrong types, unknown fields and fields on the wrong role (see `contracts.chat`), in C.
Knows JSON and the formats; what a refused row should have been is told by `explain`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias, assert_never

import msgspec
import numpy as np

from tunewise.contracts.chat import (
    AssistantMessage,
    ChatExample,
    PlainText,
    PromptCompletion,
    UserMessage,
)
from tunewise.contracts.check import RowFormat
from tunewise.data.answers import PREFERENCE_FIELDS, Answered, decode_labelled, decode_preference
from tunewise.data.explain import explain_row
from tunewise.data.reader import is_blank, lines_of, open_checked, read_span, spans
from tunewise.errors import DataError

CHAT = msgspec.json.Decoder(ChatExample)
PAIR = msgspec.json.Decoder(PromptCompletion)
TEXT = msgspec.json.Decoder(PlainText)
Row: TypeAlias = ChatExample | Answered | PlainText
HEAD_LINES = 100
LINE_FEED, CARRIAGE_RETURN, BRACES = 10, 13, b"{}"


def from_pair(pair: PromptCompletion) -> ChatExample:
    """A prompt/completion row as one user turn and one assistant turn."""
    return ChatExample(messages=[UserMessage(content=pair.prompt), AssistantMessage(content=pair.completion)])


def examples_of(row: Row) -> tuple[ChatExample, ...]:
    """The conversations that a row stands for, the one with the better answer first; of plain text none."""
    match row:
        case ChatExample():
            return (row,)
        case Answered():
            return row.examples
        case PlainText():
            return ()
        case _:
            assert_never(row)


def detect_format(path: Path) -> RowFormat:
    """The format of a file: that of the first row, among its first hundred lines, that is of any."""
    size = open_checked(path)
    first = next(spans(path, size), None)
    lines = [] if first is None else lines_of(read_span(path, first))[:HEAD_LINES]
    for line in lines:
        keys = _keys(line)
        is_pair = {"prompt", "completion"} <= keys
        if "messages" in keys or is_pair:
            return "labelled" if "label" in keys else "prompt_completion" if is_pair else "chat"
        if keys & PREFERENCE_FIELDS:
            return "preference"
        if keys == {"text"}:
            return "text"
    return "chat"


def _keys(line: bytes) -> frozenset[str]:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()
    return frozenset(value) if isinstance(value, dict) else frozenset()


def decode_row(line: bytes, row_format: RowFormat) -> Row:
    """One line as an example.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: the line is no row of this format.
    """
    match row_format:
        case "chat":
            return CHAT.decode(line)
        case "prompt_completion":
            return from_pair(PAIR.decode(line))
        case "preference":
            return decode_preference(line)
        case "labelled":
            return decode_labelled(line)
        case "text":
            return TEXT.decode(line)
        case _:
            assert_never(row_format)


def decode_block(data: bytes, row_format: RowFormat) -> list[ChatExample] | None:
    """All rows of a span of lines in one call, or None where that cannot be proved to be one row a line.

    The decoder takes values one after another, whatever stands between them. That each line is one value follows from
    two facts: every line feed stands between `}` and `{`, where no JSON object has one inside it; and there are as many
    values as lines.
    """
    lines = _object_lines(data)
    if lines is None:
        return None
    try:
        match row_format:
            case "chat":
                rows = CHAT.decode_lines(data)
            case "prompt_completion":
                rows = [from_pair(pair) for pair in PAIR.decode_lines(data)]
            case "preference" | "labelled" | "text":
                return None  # A row is long, or two: it has nothing to gain by being decoded among others.
            case _:
                assert_never(row_format)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return rows if len(rows) == lines else None


def _object_lines(data: bytes) -> int | None:
    """The number of lines if each begins with `{` and ends with `}`, else None."""
    if not data.startswith(b"{"):
        return None
    codes = np.frombuffer(data, dtype=np.uint8)
    feeds = np.flatnonzero(codes == LINE_FEED)
    inner = feeds[:-1] if len(feeds) and feeds[-1] == len(codes) - 1 else feeds
    before, after = codes[inner - 1], codes[inner + 1]
    # Of a line that ends in CR LF, the brace stands one byte further left.
    before = np.where(before == CARRIAGE_RETURN, codes[inner - 2], before)
    return len(inner) + 1 if (before == BRACES[1]).all() and (after == BRACES[0]).all() else None


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Each row with its line number, from 1; blank lines are passed over.

    Raises:
        DataError: at the first bad row, or when the file cannot be read at all.
    """
    return _rows(path, detect_format(path))


def read_examples(path: Path) -> Iterator[tuple[int, ChatExample]]:
    """Each row's conversation with its line number, from 1; of two, the one with the better answer.

    Raises:
        DataError: at the first bad row, or when the file cannot be read at all.
    """
    for line, row in read_rows(path):
        if isinstance(row, PlainText):
            raise DataError(
                "plain_text",
                f"{path.name}, line {line}: plain text has no roles; choose the method pretraining, or give rows with "
                "messages",
                param="text",
            )
        yield line, examples_of(row)[0]


def read_conversations(path: Path) -> Iterator[ChatExample]:
    """Each row that alternatives to training may learn from: no plain text, and no answer that is not wanted.

    Raises:
        DataError: at the first bad row, or when the file cannot be read at all.
    """
    for _, row in read_rows(path):
        if not isinstance(row, Answered) or row.wanted:
            yield from examples_of(row)[:1]


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Each document of a file of plain text with its line number, from 1.

    Raises:
        DataError: at the first row that is none, or when the file cannot be read at all.
    """
    for line, row in _rows(path, "text"):
        if isinstance(row, PlainText):
            yield line, row.text


def _rows(path: Path, row_format: RowFormat) -> Iterator[tuple[int, Row]]:
    line = 1
    for span in spans(path, open_checked(path)):
        data = read_span(path, span)
        rows = decode_block(data, row_format)
        if rows is not None:
            yield from enumerate(rows, start=line)
            line += len(rows)
            continue
        for text in lines_of(data):
            if not is_blank(text):
                yield line, _decode_or_explain(path, line, text, row_format)
            line += 1


def _decode_or_explain(path: Path, line: int, text: bytes, row_format: RowFormat) -> Row:
    try:
        return decode_row(text, row_format)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = explain_row(text, row_format)[0]
        where = f"{path.name}, line {line}: "
        raise DataError(problem.code, f"{where}{problem.message}; {problem.remedy}", param=problem.param) from error
