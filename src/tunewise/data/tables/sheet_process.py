"""A spreadsheet's rows as JSON lines on standard output: `python -m tunewise.data.tables.sheet_process FILE [SHEET]`.

A process of its own: what decodes the file holds a whole sheet as one rectangle, and aborts the process where memory
does not last, as it does for one cell that stands far off. Knows python-calamine; `sheets` reads what is written here.

The first line is [names of the sheets that have a cell, name of the one that is read]; then come [line, cells].
"""

import resource
import sys
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import TypeAlias

import msgspec
from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

Cell: TypeAlias = int | float | str | bool | time | date | datetime | timedelta
MEMORY_BYTES, PROCESSOR_SECONDS = 4 * 1024**3, 300
DIGITS = 15  # as many as spreadsheets keep of a number


def main(path: str, asked: str | None) -> int:
    """Write one sheet, or say on standard error why that is not possible."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    try:
        with CalamineWorkbook.from_path(path) as book:
            filled = _filled(book)
            chosen = asked if asked is not None else next(iter(filled), None)
            _write((filled, chosen))
            for row in _rows(book.get_sheet_by_name(chosen)) if chosen in filled else ():
                _write(row)
    except (CalamineError, OSError, ValueError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _filled(book: CalamineWorkbook) -> list[str]:
    """The sheets that hold anything, hidden ones last."""
    tables = [sheet for sheet in book.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
    tables.sort(key=lambda sheet: sheet.visible != SheetVisibleEnum.Visible)
    return [sheet.name for sheet in tables if book.get_sheet_by_name(sheet.name).start is not None]


def _rows(sheet: CalamineSheet) -> Iterator[tuple[int, list[str]]]:
    """Each row that has a cell, with its number; the cells of a merged range all hold what its first one does."""
    merged: dict[tuple[int, int], str] = {}
    ranges = sheet.merged_cell_ranges or []
    for row, cells in enumerate(sheet.iter_rows()):
        texts = [text_of(cell) for cell in cells]
        for (top, left), (bottom, right) in ranges:
            if top <= row <= bottom:
                first = merged.setdefault((top, left), texts[left] if left < len(texts) else "")
                texts[left : right + 1] = [first] * len(texts[left : right + 1])
        if any(texts):
            yield row + 1, texts


def text_of(cell: Cell) -> str:
    """A cell as a person would write it: 3 and not 3.0, 2026-01-31 and not a time at midnight."""
    match cell:
        case str():
            return cell
        case bool():
            return str(cell).lower()
        case int() | float():
            return f"{cell:.{DIGITS}g}"
        case datetime():
            return cell.date().isoformat() if cell.time() == time() else cell.isoformat(sep=" ")
        case date() | time():
            return cell.isoformat()
        case timedelta():
            return str(cell)


def _write(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
    except BrokenPipeError:  # whoever reads has enough
        raise SystemExit(0) from None
