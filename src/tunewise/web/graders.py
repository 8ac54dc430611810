"""Choosing how answers are graded: each way in a sentence, and one tried on a row at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from markupsafe import Markup
from nicegui import ui

from tunewise.contracts.graders import (
    AnyGrader,
    ExactMatch,
    JsonSetF1,
    Label,
    NumberMatch,
    TextSimilarity,
    TokenF1,
)
from tunewise.evaluate.rows import EvalRow, question_of
from tunewise.jobs import proposals
from tunewise.web.parts import button, markup
from tunewise.web.visit import Visit
from tunewise.web.words import number, t


class Described(NamedTuple):
    """A grader in words."""

    title: str
    about: str


def describe() -> dict[str, Described]:
    """What can be chosen here, by the grader's type, in the page's language."""
    return {
        "exact_match": Described(t("The same text"), t("1 where answer and reference are the same text, else 0.")),
        "label": Described(
            t("One of a few labels"), t("1 where the label is right. F1 over all labels is told besides.")
        ),
        "json_set_f1": Described(
            t("A JSON list, in any order"), t("F1 of the two lists taken as sets; an answer that is no list gets 0.")
        ),
        "number_match": Described(
            t("A number"), t("1 where the last number of the answer is the reference's, as in exercises.")
        ),
        "token_f1": Described(t("Words in common"), t("F1 of the words of both; for short answers to questions.")),
        "text_similarity": Described(
            t("A text that resembles"), t("ROUGE-L: the longest sequence of words that both have; for long texts.")
        ),
    }


def named(kind: str) -> AnyGrader:
    """A grader of that type with its usual settings."""
    match kind:
        case "label":
            return Label(name="label")
        case "json_set_f1":
            return JsonSetF1(name="json_set_f1")
        case "number_match":
            return NumberMatch(name="number_match", marker="")
        case "token_f1":
            return TokenF1(name="token_f1")
        case "text_similarity":
            return TextSimilarity(name="rouge_l", evaluation_metric="rouge_l")
        case _:
            return ExactMatch(name="exact_match")


class Sample(NamedTuple):
    """A test row to try a grader on, and the references of all, which tell what they look like."""

    row: EvalRow
    references: Sequence[str]

    @classmethod
    async def of(cls, visit: Visit, file_id: str) -> Self:
        """The first test row of a stored file.

        Raises:
            TunewiseError: the file holds no test rows.
        """
        rows = await visit.ask(proposals.test_rows, file_id)
        return cls(rows[0], [row.reference for row in rows])

    def draw_trial(self, visit: Visit, grader: Callable[[], AnyGrader], training_file: str) -> None:
        """The row, an answer to write, and the score that it gets."""
        markup(
            '<div class="tw-sides"><div><h3>{}</h3><pre tabindex="0">{}</pre></div><div><h3>{}</h3>'
            '<pre tabindex="0">{}</pre></div></div>',
            t("A question of the test rows"),
            question_of(self.row.messages),
            t("Its reference answer"),
            self.row.reference,
        )
        answer = ui.textarea(t("An answer to try"), value=self.row.reference).props("autogrow")
        score = ui.html(sanitize=False).props('aria-live="polite"')

        async def try_it() -> None:
            given = await visit.ask(proposals.try_grader, grader(), self.row, answer.value, training_file)
            score.set_content(Markup("<p>{} <strong>{}</strong></p>").format(t("Score:"), number(given, 2)))

        button(t("Grade this answer"), try_it)
