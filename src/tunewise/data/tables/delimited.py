"""CSV, TSV and their kin, through the standard library's reader: a header, then one record a row.

Knows delimiters and quotes. Cells may hold line ends; a row's line is where its record begins. Excel's `sep=;` line is
understood. Quotes are read strictly, so that one that is never closed is a problem with a place, and does not swallow
the rest of the file without a word.
"""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tunewise.data.problems import Problem, shorten
from tunewise.data.reader import MAX_ROW_BYTES
from tunewise.data.tables.encodings import foreign_byte, open_text
from tunewise.data.tables.row import TableRow, broken
from tunewise.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
SAMPLE_CHARS = 256 * 1024
SAMPLE_RECORDS = 200
NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}

# The reader's own limit is 128 KB a cell, and it is one for the whole process.
csv.field_size_limit(MAX_ROW_BYTES)


class Dialect(NamedTuple):
    """What parts the cells; `skip` lines stand before the header."""

    delimiter: str
    skip: int


def find_dialect(path: Path, encoding: str, asked: str | None) -> Dialect:
    """The dialect as asked for, as the file's first line says, or by which header and records agree.

    Raises:
        DataError: unknown_delimiter, where two would do.
    """
    with open_text(path, encoding) as file:
        sample = file.read(SAMPLE_CHARS).removeprefix("\ufeff")
    first = sample.partition("\n")[0].strip("\r\"' ")
    skip = int(first.lower().startswith("sep=") and len(first) == len("sep=") + 1)
    if asked is not None:
        return Dialect({"tab": "\t", "\\t": "\t"}.get(asked, asked), skip)
    if skip:
        return Dialect(first[-1], skip)
    widths = {delimiter: _widths(sample, delimiter) for delimiter in DELIMITERS}
    in_header = [delimiter for delimiter in DELIMITERS if widths[delimiter] and widths[delimiter][0] > 1]
    fitting = [delimiter for delimiter in in_header if _are_even(widths[delimiter])] or in_header
    if len(fitting) < 2:
        return Dialect(fitting[0] if fitting else ",", 0)
    raise DataError(
        "unknown_delimiter",
        f"{path}: cells may be parted by "
        + " or ".join(NAMES[delimiter] for delimiter in fitting)
        + f"; say which, as in --delimiter {fitting[0]!r}",
        param="delimiter",
    )


def _are_even(widths: list[int]) -> bool:
    """Whether nine records in ten have as many cells as the header."""
    return widths.count(widths[0]) >= 0.9 * len(widths)


def _widths(sample: str, delimiter: str) -> list[int]:
    widths: list[int] = []
    try:
        for record in islice(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter), SAMPLE_RECORDS):
            if record:
                widths.append(len(record))
    except csv.Error:
        return widths
    # The sample may end within its last record.
    return widths[:-1] if len(sample) == SAMPLE_CHARS and len(widths) > 1 else widths


def read_delimited(path: Path, encoding: str, dialect: Dialect) -> Iterator[TableRow]:
    """Each record after the header, its cells by the header's names.

    Raises:
        DataError: bad_header, where there is none, or two columns share a name.
    """
    with open_text(path, encoding) as file:
        for _ in range(dialect.skip):
            file.readline()
        reader = csv.reader(file, delimiter=dialect.delimiter, strict=True)
        header = _header(path, reader)
        while True:
            line = reader.line_num + dialect.skip + 1
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield broken(line, _bad_quotes(str(error)))
                continue
            if record:
                yield _row(line, header, record)


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        # A column without a name is mostly an index that some program wrote.
        header = [name.strip().removeprefix("\ufeff") or f"column {n}" for n, name in enumerate(next(reader), start=1)]
    except (StopIteration, csv.Error) as error:
        raise DataError("bad_header", f"{path}, line 1: no header: {error}; name the columns there") from None
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise DataError("bad_header", f"{path}, line 1: two columns are called {doubled[0]!r}; rename one")
    return header


def _row(line: int, header: list[str], record: list[str]) -> TableRow:
    if len(record) != len(header):
        message = f"the row has {len(record)} cells, and the header {len(header)}"
        remedy = "put cells that hold delimiters or line ends in double quotes"
        return broken(line, Problem("error", "wrong_width", message, remedy, value=shorten(" | ".join(record))))
    for cell in record:
        problem = foreign_byte(cell)
        if problem is not None:
            return broken(line, problem)
    return TableRow(line, dict(zip(header, record, strict=True)))


def _bad_quotes(reason: str) -> Problem:
    return Problem(
        "error",
        "bad_quotes",
        f"the row's quotes are wrong: {reason}",
        'double each quote inside a quoted cell: "He said ""no"" twice"',
    )
