"""The report: `report.html` (one file, offline, no script), `report.json` and `decision.md`.

Knows how a finished evaluation is shown. Every text of a model or a data file is untrusted: templates escape all of
it, and long texts are cut where that is said.
"""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tunewise.contracts.check import InspectedRow, InspectedToken
from tunewise.contracts.evaluation import (
    DECISION_FILE,
    HTML_FILE,
    JSON_FILE,
    ArmResult,
    Comparison,
    Outcome,
    Report,
)
from tunewise.evaluate import wording
from tunewise.evaluate.charts import interval_bar, scale_top
from tunewise.evaluate.decision import decision_markdown
from tunewise.evaluate.economics import FLOORS, tuned_arm
from tunewise.evaluate.pictures import Picture, cost_picture, loss_picture, preference_picture
from tunewise.evaluate.standing import primary_score

Say: TypeAlias = Callable[[str], str]
MOST_EXAMPLES = 5
MOST_FINDINGS = 20
MOST_CHARACTERS = 1_500
MOST_TOKENS = 400

OUTCOMES: dict[Outcome, str] = {
    "worth_it": "Worth it",
    "not_worth_it": "Not worth it",
    "inconclusive": "Inconclusive",
}


class ArmRow(NamedTuple):
    """One arm as the table of scores shows it."""

    arm: ArmResult
    score: str
    interval: str
    bar: Markup
    is_best: bool
    comparison: Comparison | None
    others: str


class Example(NamedTuple):
    """One test row, side by side."""

    line: int
    question: str
    reference: str
    tuned: str
    tuned_score: float
    other: str
    other_score: float


class Inspected(NamedTuple):
    """A row of the label inspector: its tokens, and how many are left out for length."""

    row: InspectedRow
    tokens: Sequence[InspectedToken]
    left_out: int


class View(NamedTuple):
    """What the template shows beside the report itself."""

    outcome: str
    headline: str
    created: str
    best: ArmResult
    tuned: ArmResult
    difference: Comparison
    arms: Sequence[ArmRow]
    scale_top: float
    wins: Sequence[Example]
    regressions: Sequence[Example]
    n_wins: int
    n_regressions: int
    loss: Picture | None
    preferences: Picture | None
    cost: Picture | None
    inspected: Sequence[Inspected]


def write_report(report: Report, directory: Path) -> None:
    """Write the three files; each is written aside and then renamed, so a reader never sees half of one.

    Raises:
        OSError: the directory cannot be written to.
        EvaluationError: the report lacks a tuned arm or a primary score.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / JSON_FILE, report.model_dump_json(indent=1))
    _write(directory / DECISION_FILE, decision_markdown(report.title, report.verdict, report.decision))
    _write(directory / HTML_FILE, render_html(report))


def render_html(report: Report) -> str:
    """`report.html` as text."""
    return _rendered("report.html.j2", report, str, headline_tag="h1")


def render_body(report: Report, say: Say = str) -> Markup:
    """What stands on that page, to be set within another; `report_body.css` styles it. `say` translates headings."""
    return Markup(_rendered("report_body.html.j2", report, say, headline_tag="h2"))


def _rendered(name: str, report: Report, say: Say, headline_tag: str) -> str:
    return (
        _environment()
        .get_template(name)
        .render(report=report, view=_view(report), most_findings=MOST_FINDINGS, headline_tag=headline_tag, say=say)
    )


def shortened(text: str) -> str:
    """A text, cut where it is very long, and saying so."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… [cut here: {wording.count(len(text))} characters in all]"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tunewise.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        wording.score, wording.gain, wording.between, wording.percent, wording.count, wording.about, wording.digits,
        wording.amount, wording.duration, wording.size, wording.plural,
    ):  # fmt: skip
        environment.filters[function.__name__] = function
    return environment


def _view(report: Report) -> View:
    tuned = tuned_arm(report.arms)
    difference = next(c for c in report.verdict.comparisons if c.other == report.verdict.best_alternative)
    best = next(arm for arm in report.arms if arm.arm == difference.other)
    top = scale_top(max(primary_score(arm, report.primary_grader).mean.high for arm in report.arms))
    gains = [
        a - b
        for a, b in zip(
            primary_score(tuned, report.primary_grader).rows,
            primary_score(best, report.primary_grader).rows,
            strict=True,
        )
    ]
    order = sorted(range(len(gains)), key=lambda row: gains[row])
    wins, regressions = [r for r in reversed(order) if gains[r] > 0], [r for r in order if gains[r] < 0]
    return View(
        outcome=OUTCOMES[report.verdict.outcome],
        headline=_headline(report),
        created=datetime.fromtimestamp(report.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        best=best,
        tuned=tuned,
        difference=difference,
        arms=[_arm_row(arm, report, top) for arm in _best_first(report)],
        scale_top=top,
        wins=[_example(report, tuned, best, row) for row in wins[:MOST_EXAMPLES]],
        regressions=[_example(report, tuned, best, row) for row in regressions[:MOST_EXAMPLES]],
        n_wins=len(wins),
        n_regressions=len(regressions),
        loss=loss_picture(report.curve),
        preferences=preference_picture(report.curve),
        cost=cost_picture(report.arms, report.economics),
        inspected=[_inspected(row) for row in report.check.inspected],
    )


def _headline(report: Report) -> str:
    """The headline without the outcome, which stands above it."""
    _, _, sentence = report.verdict.headline.partition(": ")
    return sentence[:1].upper() + sentence[1:] if sentence else report.verdict.headline


def _best_first(report: Report) -> list[ArmResult]:
    return sorted(report.arms, key=lambda arm: primary_score(arm, report.primary_grader).mean.value, reverse=True)


def _arm_row(arm: ArmResult, report: Report, top: float) -> ArmRow:
    mean = primary_score(arm, report.primary_grader).mean
    style = "tuned" if arm.kind == "tuned" else "floor" if arm.kind in FLOORS else "other"
    return ArmRow(
        arm=arm,
        score=wording.score(mean.value),
        interval=wording.between(mean),
        bar=interval_bar(mean.value, mean.low, mean.high, top, style),
        is_best=arm.arm == report.verdict.best_alternative,
        comparison=next((c for c in report.verdict.comparisons if c.other == arm.arm), None),
        others=_other_scores(arm, report.primary_grader),
    )


def _other_scores(arm: ArmResult, primary: str) -> str:
    """The further graders and extras of an arm in one line."""
    shown = [f"{score.grader} {wording.score(score.mean.value)}" for score in arm.scores if score.grader != primary]
    shown += [f"{name} {wording.digits(value)}" for score in arm.scores for name, value in score.extras.items()]
    return ", ".join(shown)


def _example(report: Report, tuned: ArmResult, best: ArmResult, row: int) -> Example:
    question = report.questions[row]
    return Example(
        line=question.line,
        question=shortened(question.question),
        reference=shortened(question.reference),
        tuned=_answer_text(report, tuned.arm, row),
        tuned_score=primary_score(tuned, report.primary_grader).rows[row],
        other=_answer_text(report, best.arm, row),
        other_score=primary_score(best, report.primary_grader).rows[row],
    )


def _answer_text(report: Report, arm: str, row: int) -> str:
    answers = next(collected.answers for collected in report.answers if collected.arm == arm)
    answer = answers[row]
    if answer.error is not None:
        return f"[no answer: {answer.error}]"
    return shortened(answer.text) or "[an empty answer]"


def _inspected(row: InspectedRow) -> Inspected:
    """The tokens shown end with those that were trained on, which stand last in a row."""
    left_out = max(len(row.tokens) - MOST_TOKENS, 0)
    return Inspected(row, row.tokens[left_out:], left_out)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
