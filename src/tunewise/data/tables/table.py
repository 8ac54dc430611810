"""A table of any kind: what it is, and its rows. Puts the readers of this package together; knows no examples."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, assert_never

import msgspec

from tunewise.contracts.importing import TableFormat
from tunewise.data.reader import BOM, CONTAINERS, wide_encoding
from tunewise.data.tables.arrow import column_names, count_columnar, read_columnar
from tunewise.data.tables.delimited import Dialect, find_dialect, read_delimited
from tunewise.data.tables.encodings import find_encoding
from tunewise.data.tables.json_rows import read_json_array, read_json_lines
from tunewise.data.tables.row import TableRow
from tunewise.data.tables.sheets import find_sheets, is_workbook, read_sheet
from tunewise.data.tables.source import PARQUET, find_files, is_columnar
from tunewise.errors import DataError

HEAD_BYTES = 64 * 1024
HEAD_ROWS = 100
COUNTED_BYTES = 64 * 1024 * 1024


class Table(NamedTuple):
    """What is known of a table before its rows are read. All its files are of one kind."""

    path: Path
    files: tuple[Path, ...]
    format: TableFormat
    encoding: str | None
    dialect: Dialect | None
    notes: tuple[str, ...]
    sheets: tuple[str, ...] = ()
    sheet: str | None = None


class PlacedRow(NamedTuple):
    """A row, and the file that it stands in."""

    file: Path
    row: TableRow


class Way(NamedTuple):
    """What a person said of how the table is to be read."""

    split: str | None = None
    encoding: str | None = None
    delimiter: str | None = None


def look(path: Path, way: Way) -> Table:
    """Find out what a file or directory is.

    Raises:
        DataError: it is missing, empty, of no kind that can be read, or its split, encoding or delimiter is open.
    """
    if path.is_file() and is_workbook(path):
        return _look_at_workbook(path, way.split)
    files = find_files(path, way.split)
    with files[0].open("rb") as file:
        head = file.read(HEAD_BYTES)
    if is_columnar(head):
        return Table(path, files, "parquet" if head.startswith(PARQUET) else "arrow", None, None, ())
    _refuse_packed(files[0], head)
    encoding = find_encoding(files[0], way.encoding)
    notes = () if encoding.note is None else (encoding.note,)
    text = head.decode(encoding.name, "replace").lstrip("\ufeff \t\r\n")
    if text.startswith("["):
        return Table(path, files, "json", encoding.name, None, notes)
    if text.startswith("{"):
        _refuse_spread(files[0], text)
        return Table(path, files, "jsonl", encoding.name, None, notes)
    dialect = find_dialect(files[0], encoding.name, way.delimiter)
    return Table(path, files, "csv", encoding.name, dialect, notes)


def _look_at_workbook(path: Path, sheet: str | None) -> Table:
    found = find_sheets(path, sheet)
    others = [repr(name) for name in found.sheets if name != found.chosen]
    told = bool(others) and sheet is None
    notes = (f"sheet {found.chosen!r} is read; the others are {', '.join(others)}",) if told else ()
    return Table(path, (path,), "spreadsheet", None, None, notes, found.sheets, found.chosen)


def read_rows(table: Table) -> Iterator[PlacedRow]:
    """Every row of every file.

    Raises:
        DataError: a file as a whole is broken.
    """
    for file in table.files:
        for row in _rows_of(table, file):
            yield PlacedRow(file, row)


def head_rows(table: Table) -> list[TableRow]:
    """The first hundred rows that could be read."""
    return [row for _, row in islice((placed for placed in read_rows(table) if not placed.row.problem), HEAD_ROWS)]


def columns_of(table: Table, head: list[TableRow]) -> list[str]:
    """The columns' names, in the order in which they first stand in the table."""
    if table.format in {"parquet", "arrow"}:
        return column_names(table.files[0])
    return list(dict.fromkeys(name for row in head for name in row.fields))


def count_rows(table: Table) -> tuple[int, bool]:
    """How many rows there are, and whether that is an estimate, as it is for text of more than 64 MB."""
    if table.format in {"parquet", "arrow"}:
        return sum(map(count_columnar, table.files)), False
    size = sum(file.stat().st_size for file in table.files)
    if size <= COUNTED_BYTES or table.format == "spreadsheet":
        return sum(1 for _ in read_rows(table)), False
    sizes = [_text_bytes(table, placed.row) for placed in islice(read_rows(table), 10 * HEAD_ROWS)]
    return size * len(sizes) // max(1, sum(sizes)), True


def _text_bytes(table: Table, row: TableRow) -> int:
    """About as many bytes as the row takes in its file."""
    if table.format == "csv":
        return sum(len(cell) + 1 for cell in row.fields.values())
    return len(msgspec.json.encode(row.fields)) + 1


def _rows_of(table: Table, file: Path) -> Iterator[TableRow]:
    match table.format:
        case "jsonl":
            return read_json_lines(file, table.encoding or "utf_8")
        case "json":
            return read_json_array(file, table.encoding or "utf_8")
        case "csv":
            return read_delimited(file, table.encoding or "utf_8", table.dialect or Dialect(",", 0))
        case "spreadsheet":
            return read_sheet(file, table.sheet)
        case "parquet" | "arrow":
            return read_columnar(file)
        case _:
            assert_never(table.format)


def _refuse_packed(path: Path, head: bytes) -> None:
    if not head.removeprefix(BOM).strip():
        raise DataError("empty_file", f"{path}: the file holds no row", param=str(path))
    for magic, what, remedy in CONTAINERS:
        if head.startswith(magic):
            raise DataError("not_text", f"{path}: this is {what}; {remedy}", param=str(path))
    if b"\0" in head and wide_encoding(head) is None:
        raise DataError(
            "unknown_format",
            f"{path}: is no text, no spreadsheet, no Parquet and no Arrow; write it as one of them, as CSV or as JSON",
            param=str(path),
        )


def _refuse_spread(path: Path, text: str) -> None:
    if text[1:].lstrip(" \t\r").startswith("\n"):
        raise DataError(
            "not_json_lines",
            f"{path}, line 1: this is one JSON object over several lines; write an array of objects, or one object a "
            "line: jq -c . FILE > NEW",
            param=str(path),
        )
