"""Bringing data in a real browser: a workbook of several sheets."""

from pathlib import Path

from playwright.sync_api import Browser, FilePayload, expect

from data.workbooks import ROWS, sheet, text, workbook
from web.browsing import Site, is_cut, look, serious_issues

TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def test_a_workbook_is_dropped_and_another_of_its_sheets_is_converted(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    notes = sheet({1: [text("A1", "what"), text("B1", "when")], 2: [text("A2", "call"), text("B2", "Monday")]})
    book = workbook(tmp_path / "faq.xlsx", {"Notes": notes, "Answers": sheet(ROWS)})
    with look(browser, f"{site.url}/data", phone=True) as page:
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose a file").click()
        brought: FilePayload = {"name": "faq.xlsx", "mimeType": TYPE, "buffer": book.read_bytes()}
        chooser.value.set_files([brought])
        page.wait_for_url("**/data/file-*")
        expect(page.get_by_text("sheet 'Notes' is read")).to_be_visible()
        expect(page.get_by_role("button", name="Convert")).to_be_disabled()
        page.get_by_label("Sheet", exact=True).click()
        page.get_by_role("option", name="Answers").click()
        expect(page.get_by_label("What the user says")).to_have_value("question")
        expect(page.get_by_text("日本", exact=True).first).to_be_visible()
        assert serious_issues(page) == []
        assert not is_cut(page)
        page.get_by_role("button", name="Convert").click()
        expect(page.get_by_role("heading", name="faq.jsonl")).to_be_visible()
