"""A new run: model, data, what counts as good, what to compare with, how to train; and what it will take."""

from nicegui import ui

from tunewise.contracts.check import CheckReport
from tunewise.contracts.config import ArmsConfig, FewShotArm, Prices, PromptArm, RetrievalArm, UseCase
from tunewise.contracts.evaluations import EvaluationRequest
from tunewise.contracts.fine_tuning import Hyperparameters, Method, Supervised, TrainingRequest
from tunewise.contracts.graders import AnyGrader
from tunewise.contracts.jobs import StoredFile
from tunewise.errors import TunewiseError
from tunewise.evaluate.graders.suggest import suggest
from tunewise.jobs import evaluations, files, models, proposals
from tunewise.jobs.fine_tuning import Submission
from tunewise.web.equivalents import as_python, as_yaml
from tunewise.web.graders import Sample, describe, named
from tunewise.web.hyperparameters import PRESETS, Advanced
from tunewise.web.parts import button, card, copyable, empty, facts, markup
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
    await form.changed()


class _Form:
    """What is chosen so far."""

    def __init__(self, visit: Visit, known: list[StoredFile], names: list[str]) -> None:
        self._visit = visit
        self._files = {file.id: file.filename for file in known}
        self._models = names
        asked = visit.request.query_params
        self._training = asked.get("training", known[0].id)
        self._asked = dict(asked)
        self._report: CheckReport | None = None
        self._sample: Sample | None = None

    def draw(self) -> None:
        """All of the form, and the places of what follows from it."""
        with ui.element("div").classes("tw-form"):
            with ui.element("div").classes("tw-fields"):
                self._draw_model()
                self._draw_data()
                self._draw_graders()
                self._draw_arms()
                self._draw_method()
            with ui.element("div").classes("tw-aside"), card(t("What it will take")):
                self._estimate = ui.element("div").props('aria-live="polite"')
                self._start = button(t("Start the run"), self.start, kind="first")
        with ui.expansion(t("The same without a browser")).classes("tw-card"):
            self._equivalents = ui.element("div")

    def _draw_model(self) -> None:
        with card(t("1. Base model")):
            self.model = ui.select(self._models, value=self._models[0], label=t("Model to tune"), with_input=True)
            self.model.on_value_change(self.changed)
            self.suffix = ui.input(t("Name of the run (letters, digits, dashes)"), value=self._asked.get("name", ""))
            self.suffix.on("blur", self.changed)

    def _draw_data(self) -> None:
        none = {"": t("(none)")}
        with card(t("2. Data")):
            self.training = ui.select(self._files, value=self._training, label=t("Examples to train on"))
            validation = self._asked.get("validation", "")
            self.validation = ui.select(none | self._files, value=validation, label=t("Examples to validate on"))
            self.test = ui.select(none | self._files, value=self._asked.get("test", ""), label=t("Test rows"))
            markup(
                '<p class="tw-quiet">{}</p>',
                t("Test rows are never trained on. With them the run ends in a verdict; without, in a model."),
            )
        for field in (self.training, self.validation):
            field.on_value_change(self.changed)
        self.test.on_value_change(self._test_changed)

    def _draw_graders(self) -> None:
        with card(t("3. What counts as good")) as self._judging:
            choices = {kind: described.title for kind, described in describe().items()}
            self.grader = ui.select(choices, value="exact_match", label=t("How an answer is graded"))
            self._about = markup("")
            self._trial = ui.element("div")
            self.grader.on_value_change(self.changed)

    def _draw_arms(self) -> None:
        with card(t("4. What to compare with")) as self._comparing:
            self.prompt = ui.checkbox(t("The plain prompt"), value=True).props("disable")
            self.system = ui.textarea(t("A better prompt: another system message, tried beside it")).props("autogrow")
            self.few_shot = ui.number(
                t("Few-shot: examples before each question (0: leave out)"), value=4, min=0, max=64
            )
            self.retrieval = ui.number(
                t("Retrieval: similar examples per question (0: leave out)"), value=2, min=0, max=64
            )
            self.price = ui.number(t("Price of this machine per hour, in USD (empty: not known)"), min=0)
            self.requests = ui.number(t("Requests per month, where you know it"), min=0, format="%.0f")
        for field in (self.system, self.few_shot, self.retrieval, self.price, self.requests):
            field.on("blur", self.changed)

    def _draw_method(self) -> None:
        with card(t("5. How to train")):
            titles = {name: t(preset.title) for name, preset in PRESETS.items()}
            self.preset = ui.radio(titles, value="balanced").props("inline")
            with ui.expansion(t("Every setting")):
                self.advanced = Advanced(Hyperparameters, self.changed)
                self.seed = ui.number(t("Seed (empty: drawn)"), min=0, max=2**31 - 1, format="%.0f")
                self.seed.on("blur", self.changed)

        async def chosen() -> None:
            self.advanced.set(PRESETS[self.preset.value].hyperparameters)
            await self.changed()

        self.preset.on_value_change(chosen)

    async def _test_changed(self) -> None:
        """Look at the test rows: they tell which grader fits, and one of them is tried on."""
        self._sample = None
        if self.test.value:
            self._sample = await Sample.of(self._visit, self.test.value)
            self.grader.set_value(suggest(self._sample.references).type)
        await self.changed()

    async def changed(self) -> None:
        """Draw anew whatever follows from the choices."""
        self._judging.set_visibility(bool(self.test.value))
        self._comparing.set_visibility(bool(self.test.value))
        self._draw_trial()
        await self._propose()
        self._draw_equivalents()

    def _draw_trial(self) -> None:
        described = describe()[self.grader.value]
        self._about.set_content(described.about)
        self._trial.clear()
        if self._sample is not None:
            with self._trial:
                self._sample.draw_trial(self._visit, lambda: named(self.grader.value), self.training.value)

    async def _propose(self) -> None:
        chosen = {"train": self.training.value, "valid": self.validation.value, "test": self.test.value}
        self._estimate.clear()
        with self._estimate:
            try:
                report = await self._visit.ask(
                    proposals.propose,
                    model=self.model.value,
                    chosen={split: file_id for split, file_id in chosen.items() if file_id},  # type: ignore[misc]
                    request=TrainingRequest(method=self._method()),
                    machine_hour=self.price.value,
                )
            except TunewiseError as error:
                self._report = None
                markup('<p class="tw-bad-text">{}</p>', error.message)
            else:
                self._report = report
                _draw_report(report)
        self._start.set_enabled(self._report is not None and not self._report.errors)

    def _draw_equivalents(self) -> None:
        self._equivalents.clear()
        asked, evaluation = self._submission(), self._evaluation()
        with self._equivalents:
            markup("<h3>{}</h3>", t("Code for the openai package"))
            copyable(as_python(asked, evaluation, f"{self._visit.request.base_url}v1"), "python")
            if evaluation is not None:
                markup("<h3>{}</h3>", t("tunewise.yaml, for: tunewise run tunewise.yaml"))
                copyable(as_yaml(asked, evaluation, self._files), "yaml")

    def _method(self) -> Method:
        return Method(supervised=Supervised(hyperparameters=self.advanced.value()))

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
        )

    def _evaluation(self) -> EvaluationRequest | None:
        if not self.test.value:
            return None
        prompts = [PromptArm()]
        if self.system.value.strip():
            prompts.append(PromptArm(name="better_prompt", system=self.system.value.strip()))
        few_shot, retrieval = int(self.few_shot.value or 0), int(self.retrieval.value or 0)
        grader: AnyGrader = named(self.grader.value)
        return EvaluationRequest(
            test_file=self.test.value,
            graders=(grader,),
            arms=ArmsConfig(
                prompt=tuple(prompts),
                few_shot=FewShotArm(k=few_shot) if few_shot else None,
                retrieval=RetrievalArm(k=retrieval) if retrieval else None,
            ),
            prices=Prices(machine_hour=self.price.value),
            use_case=UseCase(requests_per_month=None if self.requests.value is None else int(self.requests.value)),
        )

    async def start(self) -> None:
        """Keep the run, and go to its page."""
        self._start.set_enabled(False)
        try:
            job = await self._visit.ask(evaluations.submit_run, self._submission(), self._evaluation())
        finally:
            self._start.set_enabled(True)
        ui.navigate.to(f"/runs/{job.id}")


def _draw_report(report: CheckReport) -> None:
    """The estimate, or why there is none."""
    for finding in report.errors[:SHOWN_FINDINGS]:
        line = "" if finding.line is None else t(", line {line}", line=finding.line)
        markup(
            '<p class="tw-bad-text"><strong>{}{}</strong>: {} {}</p>',
            finding.file,
            line,
            finding.message,
            finding.remedy,
        )
    if report.errors:
        markup("<p>{}</p>", t("{count} problem(s) in the data; mend them on the page Data.", count=len(report.errors)))
    estimate, numbers = report.estimate, report.hyperparameters
    if estimate is not None and numbers is not None:
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
    warnings = [finding for finding in report.findings if finding.severity == "warning"]
    if warnings:
        markup("<p>{}</p>", t("{count} warning(s) in the data; the page Data lists them.", count=len(warnings)))
