"""Pages that are open while something happens: they follow it, and they outlive the server."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from tunewise.contracts.jobs import Job, JobRequest
from tunewise.jobs.platform import Platform
from tunewise.store import events, jobs
from tunewise.store.rows import new_id, now
from web.browsing import Site, free_port, is_cut, look, serious_issues, studio

WAIT_MS = 60_000


def add_run(platform: Platform, name: str) -> Job:
    """A run that waits for a worker, of which there is none."""
    request = JobRequest(model="m", base="m", training_file="file-x", seed=1, suffix=name)
    job = Job(
        id=new_id("ftjob-"), project="default", organization="o", request=request, status="queued", created_at=now()
    )
    with platform.database.write() as session:
        jobs.add(session, job)
        events.tell(session, job.id, "Created")
    return job


def test_two_browsers_see_a_new_run_and_what_becomes_of_it(browser: Browser, site: Site) -> None:
    with look(browser, f"{site.url}/runs") as one, look(browser, f"{site.url}/runs", phone=True) as other:
        job = add_run(site.platform, "seen-by-both")
        for page in (one, other):
            expect(page.get_by_role("link", name="seen-by-both")).to_be_visible(timeout=WAIT_MS)
        one.get_by_role("link", name="seen-by-both").click()
        one.get_by_role("button", name="Cancel the run").click()
        one.get_by_role("alertdialog").get_by_role("button", name="Cancel the run").click()
        expect(one.get_by_text("Cancelled", exact=True)).to_be_visible(timeout=WAIT_MS)
        row = other.get_by_role("row").filter(has=other.get_by_role("link", name="seen-by-both"))
        expect(row.get_by_text("Cancelled", exact=True)).to_be_visible(timeout=WAIT_MS)
    assert job.status == "queued"


def test_an_open_page_is_right_again_after_the_server_was_killed_and_started(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    with studio(tmp_path, "--no-worker", port=port) as first:
        add_run(first.platform, "before")
        with look(browser, f"{first.url}/runs") as page:
            expect(page.get_by_role("link", name="before")).to_be_visible()
            first.process.kill()
            first.process.wait()
            with studio(tmp_path, "--no-worker", port=port) as second:
                add_run(second.platform, "after")
                expect(page.get_by_role("link", name="after")).to_be_visible(timeout=WAIT_MS)
                expect(page.get_by_role("link", name="before")).to_be_visible()


def test_a_long_list_comes_in_pages(browser: Browser, tmp_path: Path) -> None:
    with studio(tmp_path, "--no-worker") as site:
        for number in range(60):
            add_run(site.platform, f"run-{number}")
        with look(browser, f"{site.url}/runs") as page:
            expect(page.get_by_role("link", name="run-59")).to_be_visible()
            assert page.get_by_role("row").count() == 51
            page.get_by_role("link", name="Older runs").click()
            expect(page.get_by_role("link", name="run-0", exact=True)).to_be_visible()
            assert page.get_by_role("row").count() == 11
            page.get_by_role("link", name="Newest runs").click()
            expect(page.get_by_role("link", name="run-59")).to_be_visible()


def test_runs_are_found_by_words_and_by_status_and_the_list_goes_on_being_followed(
    browser: Browser, tmp_path: Path
) -> None:
    with studio(tmp_path, "--no-worker") as site:
        with look(browser, f"{site.url}/runs") as page:
            expect(page.get_by_text("Nothing has run yet")).to_be_visible()
            add_run(site.platform, "owls")
            expect(page.get_by_role("searchbox")).to_be_visible(timeout=WAIT_MS)
            expect(page.get_by_text("Nothing has run yet")).to_be_hidden()
        for number in range(55):
            add_run(site.platform, f"cats-{number}")
        with look(browser, f"{site.url}/runs", phone=True) as page:
            page.get_by_label("Find runs").fill("CATS")
            page.keyboard.press("Enter")
            expect(page.get_by_role("link", name="cats-54")).to_be_visible()
            page.get_by_role("link", name="Older runs").click()
            expect(page.get_by_role("row")).to_have_count(6)
            expect(page.get_by_label("Find runs")).to_have_value("CATS")
            page.get_by_label("Status").last.select_option("failed")
            expect(page.get_by_text("No run is like that")).to_be_visible()
            assert serious_issues(page) == []
            assert not is_cut(page)
            page.get_by_label("Status").last.select_option("unfinished")
            expect(page.get_by_role("row")).to_have_count(51)
            add_run(site.platform, "cats-new")
            expect(page.get_by_role("link", name="cats-new")).to_be_visible(timeout=WAIT_MS)
            add_run(site.platform, "dogs")
            page.get_by_role("link", name="All runs").click()
            expect(page.get_by_role("link", name="dogs")).to_be_visible()
