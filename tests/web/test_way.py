"""The whole way in a browser, on a tiny model: from files to a verdict."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from playwright.sync_api import Browser, Page, expect

from jobs.tuned import BASE
from tunewise.contracts.run import BaseModelRef
from tunewise.settings import get_settings
from web.browsing import Site, look, serious_issues, studio

ROWS = 24
WAIT_MS = 120_000


def rows(count: int, *, first: int = 0) -> bytes:
    """Questions with one answer of three."""
    line = (
        '{{"messages":[{{"role":"user","content":"colour of thing {n}?"}},{{"role":"assistant","content":"{a}"}}]}}\n'
    )
    return "".join(line.format(n=n, a=("red", "green", "blue")[n % 3]) for n in range(first, first + count)).encode()


@pytest.fixture(scope="module")
def tiny_site(tmp_path_factory: pytest.TempPathFactory, tiny_model: BaseModelRef) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("way")
    models = home / "models"
    models.mkdir()
    for ready in get_settings().models_dir.iterdir():
        (models / ready.name).symlink_to(ready)
    (models / f"hub--{BASE.replace('/', '--')}").symlink_to(tiny_model.path)
    with studio(home, TUNEWISE_HOME=str(home)) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="x")
        client.files.create(file=("train.jsonl", rows(ROWS)), purpose="fine-tune")
        client.files.create(file=("test.jsonl", rows(12, first=1000)), purpose="fine-tune")
        yield running


def choose(page: Page, label: str, value: str) -> None:
    page.get_by_label(label).click()
    page.get_by_role("option", name=value, exact=True).click()


def test_a_run_is_asked_for_watched_paused_resumed_and_judged(
    browser: Browser, tiny_site: Site, tmp_path: Path
) -> None:
    with look(browser, f"{tiny_site.url}/runs/new") as page:
        choose(page, "Model to tune", BASE)
        choose(page, "Examples to train on", "train.jsonl")
        choose(page, "Test rows", "test.jsonl")
        expect(page.get_by_label("How an answer is graded")).to_have_value("One of a few labels")
        page.get_by_role("button", name="Grade this answer").click()
        expect(page.get_by_text("Score: 1.00")).to_be_visible()
        page.get_by_label("Name of the run").fill("colours")
        page.get_by_text("Quick: one epoch").click()
        expect(page.get_by_text("Time to train")).to_be_visible()
        expect(page.get_by_role("button", name="Start the run")).to_be_enabled()
        assert serious_issues(page) == []
        page.get_by_role("button", name="Start the run").click()
        page.wait_for_url("**/runs/ftjob-*")
        expect(page.get_by_role("heading", name="colours")).to_be_visible()
        with look(browser, page.url, phone=True) as other:
            page.get_by_role("button", name="Pause").click(timeout=WAIT_MS)
            expect(other.get_by_text("Paused", exact=True)).to_be_visible(timeout=WAIT_MS)
            other.get_by_role("button", name="Resume").click()
        expect(page.get_by_text("Succeeded", exact=True)).to_be_visible(timeout=WAIT_MS)
        expect(page.get_by_role("heading", name="Scores")).to_be_visible(timeout=WAIT_MS)
        assert serious_issues(page) == []
        with page.expect_download() as saved:
            page.get_by_role("link", name="Report", exact=True).click()
        saved.value.save_as(tmp_path / "report.html")
        assert "Biggest wins and regressions" in (tmp_path / "report.html").read_text()
