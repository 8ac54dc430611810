"""Bringing data in a real browser: what a table leaves open, and a workbook of several sheets."""

from pathlib import Path

from playwright.sync_api import Browser, FilePayload, Page, expect

from data.workbooks import ROWS, sheet, text, workbook
from web.browsing import Site, is_cut, look, serious_issues

TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def drop(page: Page, name: str, kind: str, content: bytes) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a file").click()
    brought: FilePayload = {"name": name, "mimeType": kind, "buffer": content}
    chooser.value.set_files([brought])
    page.wait_for_url("**/data/file-*")


def test_what_a_table_leaves_open_is_asked_and_answered_with_a_click(browser: Browser, site: Site) -> None:
    with look(browser, f"{site.url}/data") as page:
        drop(page, "tickets.csv", "text/csv", b"text,category;x\nWhere is it,arrival;1\nI lost it,lost;2\n")
        expect(page.get_by_text("cells may be parted by comma or semicolon")).to_be_visible()
        page.get_by_label("What parts the cells").click()
        page.get_by_role("option", name="comma").click()
        asked = page.get_by_role("listitem").filter(has_text="such as 'Where is it'").first
        expect(asked).to_be_visible()
        expect(page.get_by_role("button", name="Convert")).to_be_disabled()
        assert serious_issues(page) == []
        asked.get_by_role("button", name="text").click()
        expect(page.get_by_text("Which column is what the user says?")).to_be_hidden()
        page.get_by_role("button", name="category;x").click()
        expect(page.get_by_label("What the assistant answers")).to_have_value("category;x")
        page.get_by_role("button", name="Convert").click()
        expect(page.get_by_role("heading", name="tickets.jsonl")).to_be_visible()


def test_a_workbook_is_dropped_and_another_of_its_sheets_is_converted(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    notes = sheet({1: [text("A1", "what"), text("B1", "when")], 2: [text("A2", "call"), text("B2", "Monday")]})
    book = workbook(tmp_path / "faq.xlsx", {"Notes": notes, "Answers": sheet(ROWS)})
    with look(browser, f"{site.url}/data", phone=True) as page:
        drop(page, "faq.xlsx", TYPE, book.read_bytes())
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
