"""The list of runs, newest first, page by page; the page that is shown is kept up to date."""

from collections.abc import Sequence
from urllib.parse import urlencode

from markupsafe import Markup
from nicegui import ui

from tunewise.contracts.evaluations import Evaluation
from tunewise.contracts.jobs import ACTIVE, Job
from tunewise.jobs import evaluations, fine_tuning
from tunewise.web.parts import empty, link, markup, table
from tunewise.web.states import name_of, outcome_badge, status_badge
from tunewise.web.visit import Visit
from tunewise.web.words import t, when

ROWS = 50
REFRESH_SECONDS = 2.0


async def draw(visit: Visit) -> None:
    """The list, the way to a new run, and the choice of runs to compare."""
    after = visit.request.query_params.get("after")
    markup('<p class="tw-actions"><a class="tw-button tw-first" href="/runs/new">{}</a></p>', t("New run"))
    shown = markup("")

    async def refresh() -> list[Job]:
        page = await visit.ask(fine_tuning.list_jobs, after=after, limit=ROWS, metadata=None)
        found = await visit.ask(evaluations.of_jobs, [job.id for job in page.items])
        content = _list(page.items, found, more=page.has_more)
        if content != shown.content:
            shown.set_content(content)
        return page.items

    jobs = await refresh()
    if not jobs:
        empty(t("Nothing has run yet"), t("A run trains a model on your rows, and finds out whether it was worth it."))

    async def look_again() -> None:
        nonlocal jobs
        if after is None or any(job.status in ACTIVE for job in jobs):
            jobs = await refresh()

    ui.timer(REFRESH_SECONDS, look_again, immediate=False)


def _list(jobs: Sequence[Job], found: dict[str, Evaluation], *, more: bool) -> Markup:
    """A form, so that choosing runs to compare needs no more than a browser."""
    if not jobs:
        return Markup()
    headers = [t("Compare"), t("Run"), t("Status"), t("Verdict"), t("Base model"), t("Created")]
    content = table(headers, [_row(job, found.get(job.id)) for job in jobs], caption=t("Runs"))
    older = Markup("")
    if more:
        older = Markup('<a href="?{}">{}</a>').format(urlencode({"after": jobs[-1].id}), t("Older runs"))
    return Markup(
        '<form action="/compare" class="tw-card">{}<div class="tw-actions">'
        '<button class="tw-button">{}</button>{}</div></form>'
    ).format(content, t("Compare the chosen"), older)


def _row(job: Job, evaluation: Evaluation | None) -> list[str | Markup]:
    choose = Markup('<input type="checkbox" name="run" value="{}" aria-label="{}">').format(
        job.id, t("Compare {name}", name=name_of(job))
    )
    return [
        choose,
        link(f"/runs/{job.id}", name_of(job)),
        status_badge(job.status),
        _verdict(evaluation),
        job.request.model,
        when(job.created_at),
    ]


def _verdict(evaluation: Evaluation | None) -> str | Markup:
    if evaluation is None:
        return Markup('<span class="tw-quiet">{}</span>').format(t("not asked for"))
    if evaluation.outcome is not None:
        return outcome_badge(evaluation.outcome)
    return {"failed": t("failed"), "cancelled": t("cancelled")}.get(evaluation.status, t("not yet"))
