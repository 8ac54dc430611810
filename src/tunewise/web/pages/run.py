"""One run: what it does now, how its loss falls, what it has told; and at its end the verdict."""

from collections.abc import Awaitable, Callable, Iterable

from markupsafe import Markup
from nicegui import ui

from tunewise.contracts.evaluation import Report
from tunewise.contracts.evaluations import UNFINISHED, Evaluation, StageState, StudyProgress
from tunewise.contracts.jobs import ACTIVE, Job, JobEvent
from tunewise.errors import RequestError
from tunewise.evaluate.pictures import Picture, accuracy_picture, loss_picture, preference_picture
from tunewise.evaluate.report import render_body
from tunewise.jobs import evaluations, files, fine_tuning, following
from tunewise.jobs.following import Follower, RunState
from tunewise.web.methods import METHODS
from tunewise.web.parts import badge, bar, button, card, code, confirm, download, facts, link, markup
from tunewise.web.states import name_of, status_badge
from tunewise.web.told import told
from tunewise.web.visit import Visit
from tunewise.web.words import duration, number, said, size, t, when

REFRESH_SECONDS = 1.0
EVENTS = 100
STAGES = {
    "check": said("Check the data"),
    "freeze": said("Freeze the test rows"),
    "baselines": said("Ask the alternatives"),
    "train": said("Train"),
    "evaluate": said("Ask the tuned model"),
    "verdict": said("Verdict"),
}


async def draw(visit: Visit) -> None:
    """The whole page; the parts that change are drawn again when what they show has changed."""
    job_id = visit.part("job_id")
    follower = Follower(visit.platform, job_id)
    live = _Live(visit, follower)
    await live.look()
    ui.timer(REFRESH_SECONDS, live.look_again, immediate=False)


class _Live:
    """The page's parts, and what they showed last."""

    def __init__(self, visit: Visit, follower: Follower) -> None:
        self._visit = visit
        self._follower = follower
        self._is_over = False
        self._stands: Job | None = None
        self._files_of_job: dict[str, str] = {}
        markup('<p><a href="/runs">{}</a></p>', t("All runs"))
        self._head = markup("")
        self._actions = ui.element("div").classes("tw-actions")
        self._verdict = ui.element("div").classes("tw-live")
        self._stages = markup("")
        self._numbers = markup("")
        self._curves = markup("")
        with card(t("Events")):
            self._events = markup("")
        _log(visit, follower.job_id)
        self._files = markup("").classes("tw-card")

    async def look_again(self) -> None:
        """Once a second while something may change."""
        if not self._is_over:
            await self.look()

    async def look(self) -> None:
        """Ask how the run stands, and draw what is new."""
        story = await self._visit.ask(self._follower.read_story, EVENTS)
        state, evaluation = story.state, story.state.evaluation
        if not self._files_of_job:
            self._files_of_job = await self._visit.ask(files.names_of, state.job.request.files)
        self._show(self._head, _head(state.job, self._files_of_job))
        self._show(self._stages, _stages(story.progress) if story.progress else Markup())
        self._show(self._numbers, _numbers(state))
        self._show(self._curves, _curves(state))
        self._show(self._events, _events(story.events))
        self._show(self._files, _files(state.job.id, story.files))
        is_new = self._stands is None or self._stands.status != state.job.status
        self._stands = state.job
        self._is_over = state.job.status not in (*ACTIVE, "paused") and not _is_open(evaluation)
        if is_new or self._is_over:
            self._draw_actions(state.job, evaluation)
        if self._is_over and evaluation is not None and evaluation.status == "succeeded":
            await self._draw_verdict()

    def _show(self, part: ui.html, content: Markup) -> None:
        if part.content != content:
            part.set_content(content)

    def _draw_actions(self, job: Job, evaluation: Evaluation | None) -> None:
        self._actions.clear()
        with self._actions:
            if job.status in ("queued", "running"):
                button(t("Pause"), self._moving(fine_tuning.pause))
            if job.status == "paused":
                button(t("Resume"), self._moving(fine_tuning.resume), kind="first")
            if job.status in (*ACTIVE, "paused"):
                button(t("Cancel the run"), self._cancel, kind="danger")
            if job.fine_tuned_model is not None:
                markup(
                    '<a class="tw-button tw-first" href="/playground?model={}">{}</a>',
                    job.fine_tuned_model,
                    t("Try it in the playground"),
                )
            if job.status == "succeeded" and not _is_open(evaluation):
                markup('<a class="tw-button" href="/runs/{}/evaluate">{}</a>', job.id, _evaluate_words(evaluation))

    def _moving(self, move: Callable[..., Job]) -> Callable[[], Awaitable[None]]:
        async def moved() -> None:
            await self._visit.ask(move, self._follower.job_id)
            await self.look()

        return moved

    async def _cancel(self) -> None:
        question = t("Cancel this run for good? What it has learnt so far stays as checkpoints; it cannot go on.")
        if await confirm(question, t("Cancel the run")):
            await self._moving(fine_tuning.cancel)()

    async def _draw_verdict(self) -> None:
        try:
            report = await self._visit.ask(evaluations.report, self._follower.job_id)
        except RequestError as error:
            self._verdict.clear()
            with self._verdict:
                markup('<section class="tw-card tw-alert"><p>{}</p></section>', error.message)
            return
        self._verdict.clear()
        with self._verdict:
            ui.html(render_body(_in_words(report), t), sanitize=False).classes("tw-report")


def _in_words(report: Report) -> Report:
    """The report with its verdict and findings in the page's language, as far as that has words for them."""
    reasons = tuple(told(reason) for reason in report.verdict.reasons)
    verdict = report.verdict.model_copy(update={"headline": told(report.verdict.headline), "reasons": reasons})
    findings = tuple(
        one.model_copy(update={"message": told(one.message), "remedy": told(one.remedy)})
        for one in report.check.findings
    )
    check = report.check.model_copy(update={"findings": findings})
    return report.model_copy(update={"verdict": verdict, "check": check})


def _is_open(evaluation: Evaluation | None) -> bool:
    return evaluation is not None and evaluation.status in UNFINISHED


def _evaluate_words(evaluation: Evaluation | None) -> str:
    return t("Was it worth it?") if evaluation is None else t("Evaluate again")


def _head(job: Job, names: dict[str, str]) -> Markup:
    asked, found = job.request, job.hyperparameters
    pairs: list[tuple[str, str | Markup]] = [
        (t("Status"), status_badge(job.status)),
        (t("Base model"), asked.model),
        (t("Method"), t(METHODS[asked.method.type].title)),
        (t("Training file"), names.get(asked.training_file, asked.training_file)),
        (t("Created"), when(job.created_at)),
        (t("Job"), code(job.id)),
    ]
    if asked.validation_file is not None:
        pairs.insert(4, (t("Validation file"), names.get(asked.validation_file, asked.validation_file)))
    if found is not None:
        rate = f"{found.learning_rate_multiplier:g}"
        pairs.append((t("Epochs, batch size, learning rate ×"), f"{found.n_epochs}, {found.batch_size}, {rate}"))
    if job.fine_tuned_model is not None:
        pairs.append((t("Tuned model"), link(f"/models/{job.fine_tuned_model}", job.fine_tuned_model)))
    if job.finished_at is not None:
        pairs.append((t("Ended"), when(job.finished_at)))
    error = Markup("")
    if job.error is not None:
        error = Markup('<div class="tw-card tw-alert" role="alert"><h2>{}</h2><p>{}</p></div>').format(
            t("Why it failed"), job.error.message
        )
    return Markup('{}<section class="tw-card"><h2>{}</h2>{}</section>').format(error, name_of(job), facts(pairs))


def _stages(progress: StudyProgress) -> Markup:
    steps = Markup().join(
        Markup('<li class="tw-stage tw-{}"{}>{} {}</li>').format(
            stage.state,
            Markup(' aria-current="step"') if stage.state == "running" else "",
            t(STAGES[stage.name]),
            badge(_stage_word(stage.state)),
        )
        for stage in progress.stages
    )
    now = Markup("")
    if progress.total:
        label = progress.detail or t(STAGES[progress.stage])
        now = Markup("<p>{}</p>{}").format(label, bar(progress.done / progress.total, label))
    return Markup('<section class="tw-card"><h2>{}</h2><ol class="tw-stages">{}</ol>{}</section>').format(
        t("Stages"), steps, now
    )


def _stage_word(state: StageState) -> str:
    return {
        "waiting": t("to come"),
        "running": t("now"),
        "done": t("done"),
        "stopped": t("stopped"),
    }[state]


def _numbers(state: RunState) -> Markup:
    last = state.last
    if last is None:
        return Markup()
    speed = last.tokens / last.seconds if last.seconds else 0.0
    pairs: list[tuple[str, str | Markup]] = [
        (t("Step"), t("{step} of {total}", step=number(last.step), total=number(last.total_steps))),
        (t("Training loss"), number(last.train_loss, 4)),
        (t("Tokens per second"), number(speed)),
        (t("Trained for"), duration(last.seconds)),
    ]
    if state.job.status == "running" and state.seconds_left is not None:
        pairs.append((t("Time left"), duration(state.seconds_left)))
    if state.memory_bytes is not None:
        pairs.append((t("Memory"), size(state.memory_bytes)))
    return Markup('<section class="tw-card"><h2>{}</h2>{}{}</section>').format(
        t("Training"), bar(last.step / last.total_steps, t("Steps trained")), facts(pairs)
    )


def _curves(state: RunState) -> Markup:
    pictures = [
        (t("Loss"), loss_picture(state.curve)),
        (t("Token accuracy"), accuracy_picture(state.curve)),
        (t("Pairs that come right"), preference_picture(state.curve)),
    ]
    drawn = Markup().join(_picture(title, found) for title, found in pictures if found is not None)
    return Markup('<div class="tw-columns tw-report">{}</div>').format(drawn) if drawn else Markup()


def _picture(title: str, picture: Picture) -> Markup:
    keys = Markup().join(
        Markup('<li><svg class="key {}" viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26"/></svg>{}</li>').format(
            style, label
        )
        for label, style in picture.legend
    )
    return Markup('<section><h2>{}</h2><figure>{}<ul class="legend">{}</ul></figure></section>').format(
        title, picture.svg, keys
    )


def _events(events: list[JobEvent]) -> Markup:
    lines = Markup().join(
        Markup('<li class="tw-event-{}"><time>{}</time> {}</li>').format(
            event.level, when(event.created_at), event.message
        )
        for event in events
        if event.message is not None
    )
    return Markup('<ol class="tw-events" tabindex="0" aria-label="{}">{}</ol>').format(t("Events, newest first"), lines)


def _log(visit: Visit, job_id: str) -> None:
    """The trainer's log, read when it is opened."""
    with ui.expansion(t("The trainer's log")).classes("tw-card") as opened:
        shown = markup("")

    async def read() -> None:
        if opened.value:
            text = await visit.ask(following.log_of, job_id)
            shown.set_content(Markup('<pre class="tw-log" tabindex="0">{}</pre>').format(text or t("(nothing yet)")))

    opened.on_value_change(read)


def _files(job_id: str, names: Iterable[str]) -> Markup:
    titles = {
        "spec.json": t("Manifest"),
        "check.json": t("Findings"),
        "log.txt": t("Log"),
        "step_metrics.csv": t("Steps"),
        "report.html": t("Report"),
        "report.json": t("Report, for programs"),
        "decision.md": t("Decision record"),
    }
    links = Markup().join(
        Markup("<li>{} <code>{}</code></li>").format(download(f"/runs/{job_id}/files/{name}", titles[name]), name)
        for name in names
    )
    return Markup('<h2>{}</h2><ul class="tw-files">{}</ul>').format(t("Files"), links) if links else Markup()
