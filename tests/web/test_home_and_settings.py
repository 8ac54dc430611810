"""Home and settings in a real browser: a beginning, what needs somebody, and the first keys."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from tunewise.contracts.jobs import Caller
from tunewise.contracts.run import RunFailure
from tunewise.jobs import fine_tuning
from tunewise.store import jobs
from web.browsing import is_cut, look, serious_issues, studio

CALLER = Caller(organization="tunewise", project="default", role="admin")
WAIT_MS = 30_000


def test_the_example_begins_with_one_click_and_home_follows_it(browser: Browser, tmp_path: Path) -> None:
    with studio(tmp_path, "--no-worker") as site, look(browser, site.url) as page:
        expect(page.get_by_text("Nothing has run yet")).to_be_visible()
        page.get_by_role("button", name="Start the example").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Run", timeout=WAIT_MS)
        page.goto(site.url)
        expect(page.get_by_role("link", name="recipe-assistant").first).to_be_visible()
        (job,) = fine_tuning.list_jobs(site.platform, CALLER, after=None, limit=9, metadata=None).items
        with site.platform.database.write() as session:
            why = RunFailure(code="x", message="The rows are no rows.").model_dump()
            assert jobs.transition(session, job.id, "failed", error=why)
        expect(page.get_by_text("Needs attention")).to_be_visible(timeout=WAIT_MS)
        expect(page.get_by_text("The rows are no rows.")).to_be_visible()
        expect(page.get_by_text("Nothing is running.")).to_be_visible()
        assert serious_issues(page) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert not is_cut(page)


def test_the_first_key_is_shown_once_and_closes_the_door(browser: Browser, tmp_path: Path) -> None:
    with studio(tmp_path, "--no-worker") as site, look(browser, f"{site.url}/settings") as page:
        expect(page.get_by_text("GFLOP/s")).to_be_visible()
        expect(page.get_by_text("Runs and their weights")).to_be_visible(timeout=WAIT_MS)
        page.get_by_role("button", name="Create a key").click()
        secret = page.get_by_role("dialog").locator("code").inner_text()
        assert serious_issues(page) == []
        page.get_by_role("button", name="Done").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        page.get_by_label("API key").fill(secret)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
        assert secret not in page.content()
        page.get_by_role("button", name="Create a key").click()
        member = page.get_by_role("dialog").locator("code").inner_text()
        page.get_by_role("button", name="Done").click()
        expect(page.get_by_text("member", exact=True)).to_be_visible()
        with look(browser, f"{site.url}/sign-in?to=/settings") as other:
            other.get_by_label("API key").fill(member)
            other.get_by_role("button", name="Sign in").click()
            expect(other.get_by_text("Only admins see and make keys.")).to_be_visible()
            assert other.get_by_text("Storage").count() == 0
            page.get_by_role("button", name=f"Revoke {member[:7]}").click()
            page.get_by_role("alertdialog").get_by_role("button", name="Revoke").click()
            expect(page.get_by_text("member", exact=True)).to_be_hidden()
            other.reload()
            expect(other.get_by_role("heading", level=1)).to_have_text("Sign in")
