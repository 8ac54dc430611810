"""Spreadsheets give the rows that a person sees in them, and no workbook takes the server's memory."""

from pathlib import Path
from zipfile import ZipFile

import pytest

from data.workbooks import DATE, HEADER, ROWS, sheet, text, value, workbook
from tunewise.contracts.importing import ColumnMapping
from tunewise.data.convert import convert, detect
from tunewise.data.tables import sheet_process
from tunewise.data.tables.table import Way, count_rows, head_rows, look, read_rows
from tunewise.errors import DataError


def read(path: Path, name: str | None = None) -> list[tuple[int, dict[str, str]]]:
    rows = [placed.row for placed in read_rows(look(path, Way(split=name)))]
    assert not any(row.problem for row in rows)
    return [(row.line, row.fields) for row in rows]


def test_rows_have_the_names_of_the_first_row_and_the_number_that_the_sheet_shows(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", {"Data": sheet(ROWS)})
    assert read(path) == [
        (2, {"question": " Wie heißt\n<du>? ", "answer": "日本"}),
        (3, {"question": "q", "answer": "a"}),
    ]
    table = look(path, Way())
    assert (table.format, table.notes, count_rows(table)) == ("spreadsheet", (), (2, False))


def test_cells_are_text_as_a_person_would_write_them(tmp_path: Path) -> None:
    cells = [
        value("A2", "3"), value("B2", "0.1"), value("C2", "0.30000000000000004"), value("D2", "1", "b"),
        value("E2", "45000", style=DATE), value("F2", "45000.5", style=DATE), value("G2", "1e15"),
        value("H2", "#N/A", "e"),
    ]  # fmt: skip
    header = [text(f"{column}1", column) for column in "ABCDEFGH"]
    ((_, fields),) = read(workbook(tmp_path / "a.xlsx", {"Data": sheet({1: header, 2: cells})}))
    assert list(fields.values()) == ["3", "0.1", "0.3", "true", "2023-03-15", "2023-03-15 12:00:00", "1e+15", ""]


def test_empty_rows_are_passed_over_and_columns_without_a_name_get_one(tmp_path: Path) -> None:
    rows = {3: [text("B3", "q"), text("D3", "a")], 6: [text("B6", "1"), text("C6", "x"), text("D6", "2")], 9: []}
    assert read(workbook(tmp_path / "a.xlsx", {"Data": sheet(rows)})) == [(6, {"q": "1", "column 2": "x", "a": "2"})]


def test_every_cell_of_a_merged_range_holds_its_text(tmp_path: Path) -> None:
    rows = {
        1: HEADER,
        2: [text("A2", "topic"), text("B2", "one")],
        3: [text("B3", "two")],
        4: [text("A4", "wide")],
        5: [text("A5", "end"), text("B5", "three")],
    }
    found = read(workbook(tmp_path / "a.xlsx", {"Data": sheet(rows, ("A2:A3", "A4:B4", "A5:A99"))}))
    assert [tuple(fields.values()) for _, fields in found] == [
        ("topic", "one"), ("topic", "two"), ("wide", "wide"), ("end", "three"),
    ]  # fmt: skip


def test_the_first_filled_sheet_that_is_shown_is_read_and_the_others_are_told(tmp_path: Path) -> None:
    other = sheet({1: [text("A1", "x")], 2: [text("A2", "y")]})
    sheets = {"Cover": sheet({}), "Lists": other, "Q & A": sheet(ROWS), "More": other}
    path = workbook(tmp_path / "a.xlsx", sheets, hidden=("Lists",))
    found = detect(path)
    assert (found.sheet, found.sheets) == ("Q & A", ("Q & A", "More", "Lists"))
    assert found.notes == ("sheet 'Q & A' is read; the others are 'More', 'Lists'",)
    assert read(path, "More") == [(2, {"x": "y"})]
    with pytest.raises(DataError, match=r"name one: .*a\.xlsx:Q & A or ") as refused:
        read(path, "Cover")
    assert refused.value.code == "no_such_sheet"


def test_a_workbook_becomes_chats_and_the_sheet_stays_said(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", {"Notes": sheet({1: [text("A1", "x")]}), "Data": sheet(ROWS)})
    found = detect(path, ColumnMapping(split="Data"))
    assert found.mapping is not None
    done = convert(path, found.mapping, tmp_path / "out.jsonl")
    assert (done.written, done.findings) == (2, ())


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"\xd0\xcf\x11\xe0 old", "old_office"), (b"PK\x03\x04 cut off", "not_text")],
)
def test_what_is_no_workbook_says_what_to_do(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        look(path, Way())
    assert refused.value.code == code


def test_broken_workbooks_empty_ones_and_doubled_names_are_errors_of_the_file(tmp_path: Path) -> None:
    broken = workbook(tmp_path / "broken.xlsx", {"Data": "<worksheet><sheetData><row></sheet"})
    empty = workbook(tmp_path / "empty.xlsx", {"Data": sheet({})})
    doubled = workbook(tmp_path / "doubled.xlsx", {"Data": sheet({1: [text("A1", "a"), text("B1", "a")], 2: []})})
    for path, code in ((broken, "unreadable_table"), (empty, "empty_file"), (doubled, "bad_header")):
        with pytest.raises(DataError) as refused:
            head_rows(look(path, Way()))
        assert refused.value.code == code


def test_one_cell_far_off_ends_the_reading_and_not_the_server(tmp_path: Path) -> None:
    rows = {**ROWS, 1048576: [text("XFD1048576", "far")]}
    with pytest.raises(DataError, match="a cell far off the others") as refused:
        look(workbook(tmp_path / "a.xlsx", {"Data": sheet(rows)}), Way())
    assert refused.value.code == "unreadable_table"


def test_reading_a_few_rows_leaves_no_process_behind(tmp_path: Path) -> None:
    rows = {1: HEADER} | {n: [text(f"A{n}", "q" * 500), text(f"B{n}", "a" * 500)] for n in range(2, 3000)}
    path = workbook(tmp_path / "a.xlsx", {"Data": sheet(rows)})
    assert len(head_rows(look(path, Way()))) == 100


def test_the_rows_of_an_open_document_are_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "a.ods"
    office = "urn:oasis:names:tc:opendocument:xmlns"
    begin, end = '<table:table-cell office:value-type="string"><text:p>', "</text:p></table:table-cell>"
    rows = [begin + cell + end + begin + other + end for cell, other in (("q", "a"), ("1", "2"))]
    cells = "".join(f"<table:table-row>{row}</table:table-row>" for row in rows)
    with ZipFile(path, "w") as packed:
        packed.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        packed.writestr("META-INF/manifest.xml", f'<manifest:manifest xmlns:manifest="{office}:manifest:1.0"/>')
        packed.writestr(
            "content.xml",
            f'<office:document-content xmlns:office="{office}:office:1.0" xmlns:table="{office}:table:1.0" '
            f'xmlns:text="{office}:text:1.0"><office:body><office:spreadsheet><table:table table:name="S">{cells}'
            "</table:table></office:spreadsheet></office:body></office:document-content>",
        )
    assert read(path) == [(2, {"q": "1", "a": "2"})]


def test_times_and_lengths_of_time_are_written_out() -> None:
    from datetime import time, timedelta

    assert sheet_process.text_of(time(9, 30)) == "09:30:00"
    assert sheet_process.text_of(timedelta(hours=26)) == "1 day, 2:00:00"
