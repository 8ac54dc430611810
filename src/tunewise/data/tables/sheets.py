"""Spreadsheets: the sheets of a workbook, and the rows of one, by the names in the first row that is not empty.

Excel's .xlsx and its kin, and OpenDocument's .ods. Each reading is a process of its own (`sheet_process` says why);
cells are text, as they are in CSV.
"""

import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import msgspec

from tunewise.data.problems import shorten
from tunewise.data.tables.row import TableRow
from tunewise.errors import DataError

PACKED, OLD_OFFICE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
MARKS = {"xl/workbook.xml", "xl/workbook.bin"}
OPEN_DOCUMENT = b"application/vnd.oasis.opendocument.spreadsheet"


class Sheets(NamedTuple):
    """The sheets that hold anything, and the one that is read; the latter is None where there is none."""

    sheets: tuple[str, ...]
    chosen: str | None


def is_workbook(path: Path) -> bool:
    """Whether a file is a spreadsheet, by its contents.

    Raises:
        DataError: old_office, for one that has a password or is of a time before .xlsx.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head == OLD_OFFICE:
        raise DataError(
            "old_office",
            f"{path}: has a password, or is an Office file of a time before .xlsx; save it as .xlsx without a password",
            param=str(path),
        )
    if head != PACKED:
        return False
    try:
        with ZipFile(path) as packed:
            names = set(packed.namelist())
            return bool(MARKS & names) or ("mimetype" in names and packed.read("mimetype").strip() == OPEN_DOCUMENT)
    except BadZipFile:
        return False


def find_sheets(path: Path, asked: str | None) -> Sheets:
    """The sheets of a workbook, and the one that is asked for, else the first that is not empty.

    Raises:
        DataError: no_such_sheet, unreadable_table, or empty_file.
    """
    with closing(_lines(path, asked)) as lines:
        found = msgspec.json.decode(next(lines), type=Sheets)
    if not found.sheets:
        raise DataError("empty_file", f"{path}: none of its sheets holds a cell", param=str(path))
    if found.chosen not in found.sheets:
        names = " or ".join(f"{path}:{name}" for name in found.sheets)
        raise DataError("no_such_sheet", f"{path}: has no filled sheet {asked!r}; name one: {names}", param="split")
    return found


def read_sheet(path: Path, sheet: str | None) -> Iterator[TableRow]:
    """Each row below the header that is not empty; `line` is its number in the sheet.

    Raises:
        DataError: unreadable_table; bad_header, where two columns share a name.
    """
    with closing(_lines(path, sheet)) as lines:
        header: list[str] | None = None
        for text in islice(lines, 1, None):
            line, cells = msgspec.json.decode(text, type=tuple[int, list[str]])
            if header is None:
                header = _header(path, line, cells)
            else:
                yield TableRow(line, dict(zip(header, cells, strict=True)))


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    header = [name.strip() or f"column {number}" for number, name in enumerate(cells, start=1)]
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise DataError("bad_header", f"{path}, row {line}: two columns are called {doubled[0]!r}; rename one")
    return header


def _lines(path: Path, sheet: str | None) -> Generator[bytes, None, None]:
    """What the process writes that decodes the workbook; it ends where no more is wanted.

    Raises:
        DataError: unreadable_table.
    """
    command = [sys.executable, "-m", "tunewise.data.tables.sheet_process", str(path)]
    command += [] if sheet is None else [sheet]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        try:
            yield from process.stdout
            status, told = process.wait(), process.stderr.read().decode(errors="replace")
        finally:
            process.kill()
    if status == 0:
        return
    why = f"is a broken spreadsheet: {shorten(told, 200)}; save it again, or as CSV"
    if status != 1:
        why = (
            "its sheet takes more memory or time than it may; is there a cell far off the others? Delete the rows and "
            "columns between, or save the sheet as CSV"
        )
    raise DataError("unreadable_table", f"{path}: {why}", param=str(path))
