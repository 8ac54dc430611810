"""A new run: model, data, what counts as good, what to compare with, how to train; and what it will take."""

from collections import Counter

from markupsafe import Markup
from nicegui import context, ui

from tunewise.contracts.check import CheckReport, Split
from tunewise.contracts.fine_tuning import METHOD_TYPES, Method, TrainingOptions, TrainingRequest
from tunewise.contracts.jobs import StoredFile
from tunewise.errors import RequestError, TunewiseError
from tunewise.jobs import evaluations, files, models, proposals
from tunewise.jobs.conflicts import conflict
from tunewise.jobs.fine_tuning import Submission
from tunewise.web.equivalents import as_python, as_yaml
from tunewise.web.fields import ModelForm
from tunewise.web.judging import Judging
from tunewise.web.methods import METHODS, PRESETS, titles
from tunewise.web.parts import button, card, copyable, empty, facts, hint, markup
from tunewise.web.told import told
from tunewise.web.visit import Visit
from tunewise.web.words import duration, number, size, t

FILES = 100
SHOWN_FINDINGS = 5


async def draw(visit: Visit) -> None:
    """The form; the estimate beside it follows every change."""
    known = (await visit.ask(files.list_files, purpose="fine-tune", after=None, limit=FILES, order="desc")).items
    if not known:
        empty(t("Data first"), t("A run needs a file of examples. Bring one on the page Data."))
        markup('<p class="tw-actions"><a class="tw-button tw-first" href="/data">{}</a></p>', t("To the data"))
        return
    names = [model.name for model in await visit.ask(models.list_models)]
    form = _Form(visit, known, names)
    form.draw()
    await context.client.connected()  # a model that is used for the first time may take half a minute to be read
    await form.judging.look_at_test()


class _Form:
    """What is chosen so far."""

    def __init__(self, visit: Visit, known: list[StoredFile], names: list[str]) -> None:
        self._visit = visit
        self._files = {file.id: file.filename for file in known}
        self._models = names
        self._asked = visit.request.query_params
        self._changes = 0
        self.judging = Judging(visit, self._files, lambda: str(self.training.value), self.changed)

    def draw(self) -> None:
        """All of the form, and the places of what follows from it."""
        with ui.element("div").classes("tw-form"):
            with ui.element("div").classes("tw-fields"):
                self._draw_model()
                self._draw_data()
                self.judging.draw()
                self._draw_method()
            with ui.element("div").classes("tw-aside"), card(t("What it will take")):
                self._estimate = ui.element("div").props('aria-live="polite"')
                self._start = button(t("Start the run"), self.start, kind="first")
        with ui.expansion(t("The same without a browser")).classes("tw-card"):
            self._equivalents = ui.element("div")

    def _draw_model(self) -> None:
        with card(t("Base model")):
            chosen = self._asked.get("model", self._models[0])
            self.model = ui.select(self._models, value=chosen, label=t("Model to tune"), with_input=True)
            self.model.on_value_change(self.changed)
            self.suffix = ui.input(t("Name of the run"), value=self._asked.get("name", ""))
            hint(self.suffix, t("Letters, digits and dashes."))
            self.suffix.on("blur", self.changed)

    def _draw_data(self) -> None:
        with card(t("Data")):
            training = self._asked.get("training", next(iter(self._files)))
            self.training = ui.select(self._files, value=training, label=t("Examples to train on"))
            choices = {"": t("(none)")} | self._files
            validation = self._asked.get("validation", "")
            self.validation = ui.select(choices, value=validation, label=t("Examples to validate on"))
            self.judging.draw_test(self._asked.get("test", ""))
        for field in (self.training, self.validation):
            field.on_value_change(self.changed)

    def _draw_method(self) -> None:
        with card(t("How to train")):
            self._kind = ui.select(dict(titles()), value="supervised", label=t("Method"))
            self._about = markup("")
            presets = {name: t(preset.title) for name, preset in PRESETS.items()}
            self._preset = ui.radio(presets, value="balanced").props(f'inline aria-label="{t("How to train")}"')
            with ui.expansion(t("Every setting")):
                self._settings_place = ui.element("div").classes("tw-settings")
                with ui.element("div").classes("tw-settings"):
                    markup("<h3>{}</h3>", t("Beside the method"))
                    self._options = ModelForm(TrainingOptions, self.changed)
                    self.seed = ui.number(t("Seed"), min=0, max=2**31 - 1, format="%.0f")
                    hint(self.seed, t("Empty: drawn."))
                self.seed.on("blur", self.changed)
        self._draw_settings()
        self._kind.on_value_change(self._turn_to_method)
        self._preset.on_value_change(self._choose_preset)

    def _draw_settings(self) -> None:
        """The settings of the method that is chosen, its presets applied."""
        kind = METHOD_TYPES[METHOD_TYPES.index(self._kind.value)]
        self._about.set_content(Markup('<p class="tw-quiet">{}</p>').format(t(METHODS[kind].about)))
        self._settings_place.clear()
        with self._settings_place:
            self._settings = ModelForm(type(Method(type=kind).settings), self.changed)
        self._apply_preset()

    def _apply_preset(self) -> None:
        settings = self._settings.read()
        numbers = PRESETS[self._preset.value].hyperparameters.model_dump()
        hyperparameters = settings.hyperparameters.model_copy(update=numbers)
        self._settings.write(settings.model_copy(update={"hyperparameters": hyperparameters}))

    async def _turn_to_method(self) -> None:
        self._draw_settings()
        await self.changed()

    async def _choose_preset(self) -> None:
        self._apply_preset()
        await self.changed()

    async def changed(self) -> None:
        """Draw anew whatever follows from the choices; of several at once, what follows from the last."""
        self._changes += 1
        change = self._changes
        self._start.set_enabled(False)
        self._estimate.clear()
        with self._estimate:
            markup('<p class="tw-quiet">{}</p>', t("Reading model and data …"))
        report = await self._propose()
        if change != self._changes:
            return
        self._estimate.clear()
        with self._estimate:
            if isinstance(report, TunewiseError):
                markup('<p class="tw-bad-text">{}</p>', report.message)
            else:
                _draw_report(report)
                self._start.set_enabled(not report.errors)
        self._draw_equivalents()

    async def _propose(self) -> CheckReport | TunewiseError:
        chosen: dict[Split, str] = {"train": self.training.value}
        if self.validation.value:
            chosen["valid"] = self.validation.value
        if self.judging.test.value:
            chosen["test"] = self.judging.test.value
        try:
            self._refuse_conflicts()
            return await self._visit.ask(
                proposals.propose,
                model=self.model.value,
                chosen=chosen,
                request=TrainingRequest(method=self._method(), **dict(self._options.read())),
                machine_hour=self.judging.price.value,
            )
        except TunewiseError as error:
            return error

    def _refuse_conflicts(self) -> None:
        """Say what does not go together before the button is pressed; the API refuses the same.

        Raises:
            RequestError: as `conflict` says, or for a value beyond its limits.
        """
        model = self.model.value
        parent = model if model.startswith("ft:") else None
        found = conflict(self._options.read(), has_validation=bool(self.validation.value), parent=parent)
        if found is not None:
            raise RequestError(found.code, found.message, param=found.option)

    def _draw_equivalents(self) -> None:
        self._equivalents.clear()
        try:
            asked, evaluation = self._submission(), self.judging.evaluation()
        except RequestError:  # said where the estimate stands
            return
        with self._equivalents:
            markup("<h3>{}</h3>", t("Code for the openai package"))
            copyable(as_python(asked, evaluation, f"{self._visit.request.base_url}v1"), "python")
            if evaluation is not None:
                markup("<h3>{}</h3>", t("tunewise.yaml, for: tunewise run tunewise.yaml"))
                copyable(as_yaml(asked, evaluation, self._files), "yaml")

    def _method(self) -> Method:
        kind = METHOD_TYPES[METHOD_TYPES.index(self._kind.value)]
        return Method(type=kind).model_copy(update={kind: self._settings.read()})

    def _submission(self) -> Submission:
        return Submission(
            model=self.model.value,
            training_file=self.training.value,
            validation_file=self.validation.value or None,
            method=self._method(),
            seed=None if self.seed.value is None else int(self.seed.value),
            suffix=self.suffix.value.strip() or None,
            metadata=None,
            integrations=None,
            training=self._options.read(),
        )

    async def start(self) -> None:
        """Keep the run, and go to its page."""
        self._start.set_enabled(False)
        try:
            job = await self._visit.ask(evaluations.submit_run, self._submission(), self.judging.evaluation())
        finally:
            self._start.set_enabled(True)
        ui.navigate.to(f"/runs/{job.id}")


def _draw_report(report: CheckReport) -> None:
    """What is wrong with the data; the estimate, where there is one; what to know of the data."""
    for finding in report.errors[:SHOWN_FINDINGS]:
        line = "" if finding.line is None else t(", line {line}", line=finding.line)
        place = f"{finding.file}{line}"
        markup(
            '<p class="tw-bad-text"><strong>{}</strong>: {}; {}</p>', place, told(finding.message), told(finding.remedy)
        )
    if report.errors:
        markup("<p>{}</p>", t("Problems in the data: {count}. Mend them on the page Data.", count=len(report.errors)))
    _draw_estimate(report)
    warnings = [finding for finding in report.findings if finding.severity == "warning"]
    counts = Counter(finding.code for finding in warnings)
    for code, count in counts.items():
        first = next(finding for finding in warnings if finding.code == code)
        more = t(" ({count} such lines)", count=count) if count > 1 else ""
        markup('<p class="tw-warn-text">{}{}; {}</p>', told(first.message), more, told(first.remedy))


def _draw_estimate(report: CheckReport) -> None:
    estimate, numbers = report.estimate, report.hyperparameters
    if estimate is None or numbers is None:
        return
    pairs = [
        (t("Time to train"), t("about {time}", time=duration(estimate.seconds))),
        (t("Memory"), t("about {size}", size=size(estimate.memory_bytes))),
        (t("Steps"), number(estimate.steps)),
        (t("Tokens"), number(estimate.billed_tokens)),
        (t("Epochs, batch size"), f"{numbers['n_epochs']}, {numbers['batch_size']}"),
    ]
    if estimate.cost is not None:
        pairs.insert(2, (t("Cost"), f"{estimate.cost:.2f} USD"))
    markup("{}", facts(pairs))
    markup('<p class="tw-quiet">{}</p>', t("Speed: {basis}.", basis=estimate.basis))
