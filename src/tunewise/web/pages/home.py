"""Home: what runs, what is hosted, what needs somebody."""

from tunewise.jobs import fine_tuning
from tunewise.web.parts import card, empty, link, markup, table
from tunewise.web.visit import Visit
from tunewise.web.words import t, when


async def draw(visit: Visit) -> None:
    """The newest runs; a way to begin where there is none."""
    found = await visit.ask(fine_tuning.list_jobs, after=None, limit=5, metadata=None)
    if not found.items:
        empty(t("Nothing has run yet"), t("Start with the example, or bring a file of your own."))
        return
    with card(t("Newest runs")):
        rows = [
            (link(f"/runs/{job.id}", job.request.suffix or job.id), job.status, when(job.created_at))
            for job in found.items
        ]
        markup("{}", table([t("Run"), t("Status"), t("Created")], rows, caption=t("Newest runs")))
