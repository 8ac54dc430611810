"""JSON tables: JSON lines, or one array of objects, read piece by piece.

Knows JSON, not what the objects mean. An array is taken apart without ever being whole in memory; memory is bounded by
the largest row.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tunewise.data.problems import Problem, shorten
from tunewise.data.reader import MAX_ROW_BYTES
from tunewise.data.tables.encodings import foreign_byte, open_text
from tunewise.data.tables.row import TableRow, broken
from tunewise.errors import DataError

PIECE_CHARS = 256 * 1024
ESCAPE_CHARS = 16
BLANKS, BETWEEN = re.compile("[ \t\r\n\ufeff]*"), re.compile("[ \t\r\n,]*")
DECODER = json.JSONDecoder()


def read_json_lines(path: Path, encoding: str) -> Iterator[TableRow]:
    """Each line that is not blank."""
    with open_text(path, encoding) as file:
        for line, text in enumerate(_lines(path, file), start=1):
            if not text.isspace():
                yield _row(line, text)


def _lines(path: Path, file: io.TextIOWrapper) -> Iterator[str]:
    """Lines that end at a line feed and nowhere else."""
    file.reconfigure(newline="\n")
    while text := file.readline(MAX_ROW_BYTES):
        if len(text) == MAX_ROW_BYTES and not text.endswith("\n"):
            raise DataError(
                "row_too_large", f"{path}: a row is longer than {MAX_ROW_BYTES} bytes; is a line end missing?"
            )
        yield text


def _row(line: int, text: str) -> TableRow:
    problem = foreign_byte(text)
    if problem is not None:
        return broken(line, problem)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        return broken(line, _invalid(str(error), text))
    return _checked(line, value)


def _checked(line: int, value: object) -> TableRow:
    if isinstance(value, dict):
        return TableRow(line, value)
    shown = shorten(json.dumps(value, ensure_ascii=False))
    return broken(line, Problem("error", "not_an_object", "the row is no object", "write {column: value}", value=shown))


def _invalid(reason: str, text: str) -> Problem:
    remedy = "a row is one JSON object; write it with json.dumps, not by hand"
    return Problem("error", "invalid_json", f"not valid JSON: {reason}", remedy, value=shorten(text.strip()))


class _Cursor:
    """A place in a text file that is read piece by piece; what lies behind it is let go."""

    def __init__(self, path: Path, file: io.TextIOWrapper) -> None:
        self.path, self._file = path, file
        self.text, self.at, self.line = "", 0, 1

    def read_on(self) -> bool:
        """Let go what was read and take at least as much again as is left; False at the file's end."""
        rest = self.text[self.at :]
        more = self._file.read(max(PIECE_CHARS, len(rest)))
        self.text, self.at = rest + more, 0
        return bool(more)

    def skip(self, letters: re.Pattern[str]) -> str:
        """Pass over these letters; gives the one that follows, or nothing at the end."""
        while True:
            place = letters.match(self.text, self.at)
            self.pass_to(place.end() if place else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.read_on():
                return ""

    def pass_to(self, place: int) -> str:
        """Move on; gives what was passed over."""
        passed = self.text[self.at : place]
        self.line += passed.count("\n")
        self.at = place
        return passed


def read_json_array(path: Path, encoding: str) -> Iterator[TableRow]:
    """Each element of the file's one array, with the line that it begins on.

    Raises:
        DataError: invalid_json, where the array itself is broken: nothing after that place can be trusted.
    """
    with open_text(path, encoding) as file:
        cursor = _Cursor(path, file)
        if cursor.skip(BLANKS) != "[":
            raise _broken(cursor, "an array of objects is expected")
        cursor.pass_to(cursor.at + 1)
        while (letter := cursor.skip(BETWEEN)) != "]":
            if not letter:
                raise _broken(cursor, "the file ends before the array does; was it cut off?")
            yield _element(cursor)
        cursor.pass_to(cursor.at + 1)
        if cursor.skip(BLANKS):
            raise _broken(cursor, "something follows the array")


def _element(cursor: _Cursor) -> TableRow:
    line = cursor.line
    value, end = _decode(cursor)
    problem = foreign_byte(cursor.pass_to(end))
    return _checked(line, value) if problem is None else broken(line, problem)


def _decode(cursor: _Cursor) -> tuple[object, int]:
    """The value at the cursor, and the place where it ends."""
    while True:
        try:
            return DECODER.raw_decode(cursor.text, cursor.at)
        except RecursionError:
            raise _broken(cursor, "nested hundreds of levels deep") from None
        except json.JSONDecodeError as error:
            # Only the piece's end, or a string that goes on past it, can be cured by reading on.
            open_ended = error.msg.startswith("Unterminated string") or error.pos > len(cursor.text) - ESCAPE_CHARS
            too_large = len(cursor.text) - cursor.at > MAX_ROW_BYTES
            if not open_ended or too_large or not cursor.read_on():
                cursor.pass_to(error.pos if error.pos < len(cursor.text) else cursor.at)
                raise _broken(cursor, error.msg) from None


def _broken(cursor: _Cursor, reason: str) -> DataError:
    around = shorten(cursor.text[cursor.at : cursor.at + 60]) or "the end"
    return DataError(
        "invalid_json",
        f"{cursor.path}, line {cursor.line}: not valid JSON: {reason}, at {around!r}; write the file with json.dump",
        param=str(cursor.path),
    )
