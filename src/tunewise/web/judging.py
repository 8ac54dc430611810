"""The part of a form that says how a run is judged: test rows, a grader that is tried at once, and the alternatives."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from tunewise.contracts.config import ArmsConfig, FewShotArm, Prices, PromptArm, RetrievalArm, UseCase
from tunewise.contracts.evaluations import EvaluationRequest
from tunewise.evaluate.graders.suggest import suggest
from tunewise.web.graders import Sample, describe, named
from tunewise.web.parts import card, hint, markup
from tunewise.web.visit import Visit
from tunewise.web.words import t

BETTER_PROMPT = "better_prompt"


class Judging:
    """What is chosen so far. `files`: names by id; `training`: the id of the training file, as it is chosen now."""

    def __init__(
        self,
        visit: Visit,
        files: dict[str, str],
        training: Callable[[], str],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._visit = visit
        self._files = files
        self._training = training
        self._changed = changed
        self._sample: Sample | None = None

    def draw_test(self, chosen: str) -> None:
        """The choice of the test rows."""
        self.test = ui.select({"": t("(none)")} | self._files, value=chosen, label=t("Test rows"))
        markup(
            '<p class="tw-quiet">{}</p>',
            t("Test rows are never trained on. With them the run ends in a verdict; without, in a model."),
        )
        self.test.on_value_change(self.look_at_test)

    def draw(self) -> None:
        """The grader and the alternatives; shown once test rows are chosen."""
        with card(t("What counts as good")) as self._grading:
            choices = {kind: described.title for kind, described in describe().items()}
            self.grader = ui.select(choices, value="exact_match", label=t("How an answer is graded"))
            self._about = markup("")
            self._trial = ui.element("div")
        with card(t("What to compare with")) as self._comparing:
            markup("<p>{}</p>", t("Asked in any case: the model as it is, and two simple answers that need no model."))
            self._draw_arms()
        self.grader.on_value_change(self._regrade)

    def _draw_arms(self) -> None:
        self.system = ui.textarea(t("A better prompt")).props("autogrow")
        hint(self.system, t("Another system message, tried beside the plain one. Empty: left out."))
        self.few_shot = ui.number(t("Few-shot examples"), value=4, min=0, max=64, format="%.0f")
        hint(self.few_shot, t("Shown before each question. 0: left out."))
        self.retrieval = ui.number(t("Retrieved examples"), value=2, min=0, max=64, format="%.0f")
        hint(self.retrieval, t("The most similar ones, for each question. 0: left out."))
        self.price = ui.number(t("Price of this machine"), min=0)
        hint(self.price, t("USD an hour. Empty: not known."))
        self.requests = ui.number(t("Requests a month"), min=0, format="%.0f")
        hint(self.requests, t("They tell when the training is earned back. Empty: not known."))
        for field in (self.system, self.few_shot, self.retrieval, self.price, self.requests):
            field.on("blur", self._changed)

    async def look_at_test(self) -> None:
        """Look at the test rows: they tell which grader fits, and one of them is there to try it on."""
        self._sample = None
        if self.test.value:
            self._sample = await Sample.of(self._visit, self.test.value)
            self.grader.set_value(suggest(self._sample.references).type)
        self._draw_grading()
        await self._changed()

    async def _regrade(self) -> None:
        self._draw_grading()
        await self._changed()

    def _draw_grading(self) -> None:
        self._grading.set_visibility(bool(self.test.value))
        self._comparing.set_visibility(bool(self.test.value))
        self._about.set_content(describe()[self.grader.value].about)
        self._trial.clear()
        if self._sample is not None:
            with self._trial:
                self._sample.draw_trial(self._visit, lambda: named(self.grader.value), self._training())

    def evaluation(self) -> EvaluationRequest | None:
        """What the form asks for; None without test rows."""
        if not self.test.value:
            return None
        few_shot, retrieval = int(self.few_shot.value or 0), int(self.retrieval.value or 0)
        return EvaluationRequest(
            test_file=self.test.value,
            graders=(named(self.grader.value),),
            arms=ArmsConfig(
                prompt=self._prompts(),
                few_shot=FewShotArm(k=few_shot) if few_shot else None,
                retrieval=RetrievalArm(k=retrieval) if retrieval else None,
            ),
            prices=Prices(machine_hour=self.price.value),
            use_case=UseCase(requests_per_month=None if self.requests.value is None else int(self.requests.value)),
        )

    def _prompts(self) -> tuple[PromptArm, ...]:
        system = self.system.value.strip()
        return (PromptArm(), PromptArm(name=BETTER_PROMPT, system=system)) if system else (PromptArm(),)
