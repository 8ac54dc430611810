"""The whole way in a browser, on a tiny model: from a spreadsheet to a verdict, a chat and an export."""

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from jobs.tuned import BASE
from tunewise.contracts.run import BaseModelRef
from tunewise.settings import get_settings
from web.browsing import Site, look, serious_issues, studio

ROWS = 60
WAIT_MS = 120_000


def spreadsheet() -> bytes:
    """Questions with one answer of three; line 7 has no answer, and the last row repeats the first."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["Question", "Answer", "Author"])
    for number in range(ROWS):
        answer = "" if number == 5 else ("red", "green", "blue")[number % 3]
        writer.writerow([f"What colour has thing {number}, the {'big' if number % 2 else 'small'} one?", answer, "me"])
    writer.writerow(["What colour has thing 0, the small one?", "red", "me"])
    return text.getvalue().encode()


@pytest.fixture(scope="module")
def tiny_site(tmp_path_factory: pytest.TempPathFactory, tiny_model: BaseModelRef) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("way")
    models = home / "models"
    models.mkdir()
    for ready in get_settings().models_dir.iterdir():
        (models / ready.name).symlink_to(ready)
    (models / f"hub--{BASE.replace('/', '--')}").symlink_to(tiny_model.path)
    with studio(home, TUNEWISE_HOME=str(home)) as running:
        yield running


def choose(page: Page, label: str, value: str) -> None:
    page.get_by_label(label).click()
    page.get_by_role("option", name=value, exact=True).click()


def test_from_a_spreadsheet_to_a_verdict_a_chat_and_an_export(
    browser: Browser, tiny_site: Site, tmp_path: Path
) -> None:
    with look(browser, f"{tiny_site.url}/data") as page:
        bring_the_spreadsheet(page)
        mend_and_split(page)
        start_the_run(page)
        address = page.url
        with look(browser, address, phone=True) as other:
            page.get_by_role("button", name="Pause").click(timeout=WAIT_MS)
            expect(other.get_by_text("Paused", exact=True)).to_be_visible(timeout=WAIT_MS)
            other.get_by_role("button", name="Resume").click()
    with look(browser, address) as page:  # every browser was closed meanwhile
        expect(page.get_by_text("Succeeded", exact=True)).to_be_visible(timeout=WAIT_MS)
        expect(page.get_by_role("heading", name="Scores", exact=True)).to_be_visible(timeout=WAIT_MS)
        assert serious_issues(page) == []
        assert "Biggest wins and regressions" in saved(page, "Report", tmp_path / "report.html").read_text()
        chat(page)
        page.goto(address)
        page.get_by_role("link", name="ft:").click()
        export = saved(page, "LoRA adapter (zip)", tmp_path / "adapter.zip")
    assert "adapter_model.safetensors" in {name.rpartition("/")[2] for name in zipfile.ZipFile(export).namelist()}


def bring_the_spreadsheet(page: Page) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a file").click()
    brought: FilePayload = {"name": "colours.csv", "mimeType": "text/csv", "buffer": spreadsheet()}
    chooser.value.set_files([brought])
    page.wait_for_url("**/data/file-*")
    expect(page.get_by_label("What the user says")).to_have_value("Question")
    expect(page.get_by_label("What the assistant answers")).to_have_value("Answer")
    expect(page.get_by_text("What colour has thing 0, the small one?").nth(1)).to_be_visible()
    assert serious_issues(page) == []
    page.get_by_role("button", name="Convert").click()
    expect(page.get_by_text(f"{ROWS} of {ROWS + 1} rows became examples.")).to_be_visible()
    bad_row = page.get_by_role("region", name="Rows that could not be converted").get_by_role("row").nth(1)
    expect(bad_row.get_by_role("cell").first).to_have_text("7")
    page.get_by_role("link", name="Go on with colours.jsonl").click()


def mend_and_split(page: Page) -> None:
    finding = page.get_by_role("article").filter(has_text="1 × Repeated row")
    expect(finding.get_by_text(f"Line {ROWS}")).to_be_visible(timeout=WAIT_MS)
    finding.get_by_role("button", name="Make a copy without this line").click()
    expect(page.get_by_role("heading", name="colours.mended.jsonl")).to_be_visible()
    expect(page.get_by_text("Rows and tokens")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_text("× Repeated row")).to_have_count(0)
    assert serious_issues(page) == []
    page.get_by_role("button", name="Split, and go on to a new run").click()
    page.wait_for_url("**/runs/new?*")


def start_the_run(page: Page) -> None:
    choose(page, "Model to tune", BASE)
    expect(page.get_by_label("Examples to train on")).to_have_value("colours.mended.train.jsonl")
    expect(page.get_by_label("How an answer is graded")).to_have_value("One of a few labels")
    page.get_by_role("button", name="Grade this answer").click()
    expect(page.get_by_text("Score: 1.00")).to_be_visible()
    page.get_by_label("Name of the run").fill("colours")
    page.get_by_text("Quick: one epoch").click()
    expect(page.get_by_text("Time to train")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_role("button", name="Start the run")).to_be_enabled(timeout=WAIT_MS)
    assert serious_issues(page) == []
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url("**/runs/ftjob-*")
    expect(page.get_by_role("heading", name="colours")).to_be_visible()


def chat(page: Page) -> None:
    page.get_by_role("link", name="Try it in the playground").click()
    page.get_by_label("Your question").fill("What colour has thing 3, the big one?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("tokens").first).to_be_visible(timeout=WAIT_MS)


def saved(page: Page, link: str, place: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("link", name=link).first.click()
    download.value.save_as(place)
    return place
