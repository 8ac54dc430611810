"""Home: what runs, what is hosted, what needs somebody, verdicts; where there is nothing, a beginning."""

import time
from typing import NamedTuple

from markupsafe import Markup
from nicegui import context, ui

from tunewise.contracts.evaluations import Evaluation
from tunewise.contracts.jobs import Deployment, Job
from tunewise.errors import TunewiseError
from tunewise.jobs import attention, deployments, evaluations, example
from tunewise.jobs.attention import Overview, Progress
from tunewise.web.pages import models
from tunewise.web.pages.models import Loaded
from tunewise.web.parts import bar, button, card, empty, link, live, markup, table
from tunewise.web.states import name_of, outcome_badge, status_badge
from tunewise.web.visit import Visit
from tunewise.web.words import duration, number, size, t, when

LOOK_SECONDS = 2.0


class Seen(NamedTuple):
    """Everything that the page shows, as it stands at a moment."""

    overview: Overview
    verdicts: dict[str, Evaluation]
    loaded: list[Loaded]
    broken: list[Deployment]


async def draw(visit: Visit) -> None:
    """Looked at every two seconds, and drawn anew when something has changed."""
    await live(LOOK_SECONDS, lambda: _look(visit), lambda seen: _show(visit, seen))


async def _look(visit: Visit) -> Seen:
    overview = await visit.ask(attention.overview)
    state = visit.studio.provisioner.state
    deployed = await visit.ask(deployments.list_deployments)
    return Seen(
        overview=overview,
        verdicts=await visit.ask(evaluations.of_jobs, [job.id for job in overview.newest]),
        loaded=await models.look(visit),
        broken=[one for one in deployed if state(one) == "Failed"],
    )


def _show(visit: Visit, seen: Seen) -> None:
    _attention(seen)
    if not seen.overview.newest:
        _beginning(visit)
        return
    with card(t("Running")):
        _running(seen.overview)
    with ui.element("div").classes("tw-columns"):
        with card(t("Newest runs")):
            markup("{}", _newest(seen))
        with card(t("Loaded now")):
            markup("{}", _loaded(seen.loaded))


def _beginning(visit: Visit) -> None:
    empty(t("Nothing has run yet"), t("Start the example to see a whole run, or bring a file of your own."))

    async def start() -> None:
        begin.disable()
        with context.client:  # the button is gone as soon as the page sees the run
            try:
                job = await visit.ask(example.start)
            except TunewiseError:
                begin.enable()
                raise
            ui.navigate.to(f"/runs/{job.id}")

    with ui.element("div").classes("tw-actions tw-middle"):
        begin = button(t("Start the example"), start, kind="first")
        markup('<a class="tw-button" href="/runs/new">{}</a>', t("New run"))
    markup(
        '<p class="tw-quiet tw-middle">{}</p>',
        t(
            "The example teaches a small model to name the ingredients of recipes: 400 rows, compared with prompting, "
            "in some minutes on a laptop."
        ),
    )


def _attention(seen: Seen) -> None:
    """What somebody should look at, worst first; nothing where all is well."""
    entries: list[Markup] = []
    if (left := seen.overview.scarce_bytes) is not None:
        words = t("The disk is nearly full: {free} are free. Delete models or files, or give it more.", free=size(left))
        entries.append(Markup("{}").format(words))
    entries += [
        Markup("{}: {}").format(link(f"/runs/{job.id}", t("{run} failed", run=name_of(job))), _why(job))
        for job in seen.overview.failed
    ]
    entries += [
        Markup("{}: {}").format(
            link("/models", t("The deployment {name} could not be loaded", name=one.name)),
            t("the log of the model's server says why."),
        )
        for one in seen.broken
    ]
    if entries:
        markup(
            '<section class="tw-card tw-alert"><h2>{}</h2><ul class="tw-files">{}</ul></section>',
            t("Needs attention"),
            Markup().join(Markup("<li>{}</li>").format(entry) for entry in entries),
        )


def _why(job: Job) -> str:
    return t("its page says why.") if job.error is None else job.error.message


def _running(overview: Overview) -> None:
    if not overview.unfinished:
        markup('<p class="tw-quiet">{}</p>', t("Nothing is running."))
    for one in overview.unfinished:
        markup("{}", _progress(one))
    markup('<a class="tw-button" href="/runs/new">{}</a>', t("New run"))


def _progress(one: Progress) -> Markup:
    head = Markup('<p class="tw-run">{} {}</p>').format(
        link(f"/runs/{one.job.id}", name_of(one.job)), status_badge(one.job.status)
    )
    if one.step is None or not one.total_steps:
        return head
    said = [t("step {step} of {total}", step=number(one.step), total=number(one.total_steps))]
    if one.train_loss is not None:
        said.append(t("loss {loss}", loss=number(one.train_loss, 3)))
    if one.job.estimated_finish is not None:
        said.append(t("{time} left", time=duration(one.job.estimated_finish - time.time())))
    progress = bar(one.step / one.total_steps, t("Progress of {run}", run=name_of(one.job)))
    return Markup('{}{}<p class="tw-quiet">{}</p>').format(head, progress, " · ".join(said))


def _newest(seen: Seen) -> Markup:
    rows = [
        (link(f"/runs/{job.id}", name_of(job)), status_badge(job.status), _verdict(seen, job), when(job.created_at))
        for job in seen.overview.newest
    ]
    headers = [t("Run"), t("Status"), t("Verdict"), t("Created")]
    return Markup("{}<p>{}</p>").format(table(headers, rows, caption=t("Newest runs")), link("/runs", t("All runs")))


def _verdict(seen: Seen, job: Job) -> str | Markup:
    found = seen.verdicts.get(job.id)
    return "" if found is None or found.outcome is None else outcome_badge(found.outcome)


def _loaded(loaded: list[Loaded]) -> Markup:
    if not loaded:
        return Markup('<p class="tw-quiet">{}</p>').format(
            t("Nothing. A model is loaded when it is first asked, or on the page Models.")
        )
    entries = [
        Markup("<li><b>{}</b> · {}{}</li>").format(
            one.base, size(one.memory_bytes), Markup().join(Markup("<br>{}").format(name) for name in one.adapters)
        )
        for one in loaded
    ]
    return Markup('<ul class="tw-files">{}</ul>').format(Markup().join(entries))
