"""The list of runs, newest first, page by page; the page that is shown is kept up to date."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from markupsafe import Markup
from nicegui import ui
from starlette.datastructures import QueryParams

from tunewise.contracts.evaluations import Evaluation
from tunewise.contracts.jobs import ACTIVE, Job, JobStatus
from tunewise.jobs import evaluations, fine_tuning
from tunewise.web.parts import emptiness, link, markup, table
from tunewise.web.states import STATUSES, name_of, outcome_badge, status_badge
from tunewise.web.visit import Visit
from tunewise.web.words import said, t, when

ROWS = 50
REFRESH_SECONDS = 2.0
CHOICES: dict[str, tuple[str, tuple[JobStatus, ...]]] = {
    "": (said("Any status"), ()),
    "unfinished": (said("Not ended"), (*ACTIVE, "paused")),
} | {status: (words, (status,)) for status, (words, _) in STATUSES.items()}


class Sought(NamedTuple):
    """What the address asks for: which runs, and after which of them."""

    text: str
    choice: str
    after: str | None

    @classmethod
    def of(cls, asked: QueryParams) -> "Sought":
        """What is asked, a choice that there is not left out."""
        choice = asked.get("status", "")
        return cls(asked.get("q", "").strip(), choice if choice in CHOICES else "", asked.get("after"))

    @property
    def is_narrowed(self) -> bool:
        """Whether some runs are left out."""
        return bool(self.text or self.choice)

    def page_after(self, job_id: str | None) -> str:
        """The address of the same list, from after that run on."""
        named = {"q": self.text, "status": self.choice, "after": job_id or ""}
        query = urlencode({name: value for name, value in named.items() if value})
        return f"/runs?{query}" if query else "/runs"


async def draw(visit: Visit) -> None:
    """The way to a new run, what to look for, the list, and the choice of runs to compare."""
    sought = Sought.of(visit.request.query_params)
    markup('<p class="tw-actions"><a class="tw-button tw-first" href="/runs/new">{}</a></p>', t("New run"))
    search, shown = markup(""), markup("")

    async def refresh() -> list[Job]:
        page = await visit.ask(
            fine_tuning.search_jobs, sought.text, statuses=CHOICES[sought.choice][1], after=sought.after, limit=ROWS
        )
        found = await visit.ask(evaluations.of_jobs, [job.id for job in page.items])
        content = _list(page.items, found, sought, more=page.has_more)
        if content != shown.content:
            shown.set_content(content)
        if not search.content and (page.items or sought.is_narrowed):  # once: somebody may be writing into it
            search.set_content(_search(sought))
        return page.items

    jobs = await refresh()

    async def look_again() -> None:
        nonlocal jobs
        if sought.after is None or any(job.status in ACTIVE for job in jobs):
            jobs = await refresh()

    ui.timer(REFRESH_SECONDS, look_again, immediate=False)


def _search(sought: Sought) -> Markup:
    """A form that leads to an address of its own, so that what was found can be gone back to and passed on."""
    options = Markup().join(
        Markup('<option value="{}"{}>{}</option>').format(
            value, Markup(" selected") if value == sought.choice else "", t(words)
        )
        for value, (words, _) in CHOICES.items()
    )
    everything = Markup('<a href="/runs">{}</a>').format(t("All runs")) if sought.is_narrowed else ""
    return Markup(
        '<form action="/runs" role="search" class="tw-search">'
        '<label><span>{find}</span><input class="tw-field" type="search" name="q" value="{text}" maxlength="200" '
        'enterkeyhint="search" placeholder="{hint}"></label>'
        '<label><span>{status}</span><select class="tw-field" name="status" onchange="this.form.submit()">{options}'
        '</select></label><button class="tw-button">{go}</button>{everything}</form>'
    ).format(
        find=t("Find runs"),
        text=sought.text,
        hint=t("name, model or id"),
        status=t("Status"),
        options=options,
        go=t("Search"),
        everything=everything,
    )


def _list(jobs: Sequence[Job], found: dict[str, Evaluation], sought: Sought, *, more: bool) -> Markup:
    """A form, so that choosing runs to compare needs no more than a browser."""
    if not jobs:
        return _nothing(sought)
    headers = [t("Compare"), t("Run"), t("Status"), t("Verdict"), t("Base model"), t("Created")]
    content = table(headers, [_row(job, found.get(job.id)) for job in jobs], caption=t("Runs"))
    ways = [link(sought.page_after(None), t("Newest runs"))] if sought.after else []
    ways += [link(sought.page_after(jobs[-1].id), t("Older runs"))] if more else []
    return Markup(
        '<form action="/compare" class="tw-card">{}<div class="tw-actions">'
        '<button class="tw-button">{}</button>{}</div></form>'
    ).format(content, t("Compare the chosen"), Markup().join(ways))


def _nothing(sought: Sought) -> Markup:
    if sought.is_narrowed:
        return emptiness(t("No run is like that"), t("Try fewer words, or another status."))
    return emptiness(
        t("Nothing has run yet"), t("A run trains a model on your rows, and finds out whether it was worth it.")
    )


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
