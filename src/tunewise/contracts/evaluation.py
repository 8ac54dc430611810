"""Scores, comparisons and the verdict: what the evaluation hands to the report."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from tunewise.contracts.check import CheckReport
from tunewise.contracts.frozen import Frozen
from tunewise.contracts.run import RunResult, StepMetrics, TrainSpec

ArmKind: TypeAlias = Literal["prompt", "few_shot", "retrieval", "tuned", "majority", "nearest"]
Outcome: TypeAlias = Literal["worth_it", "not_worth_it", "inconclusive"]

# What a `Report` is written to.
HTML_FILE, JSON_FILE, DECISION_FILE = "report.html", "report.json", "decision.md"


class Answer(Frozen):
    """One model's answer to one test row. A row that could not be answered has `error` and scores 0."""

    row: int = Field(description="Index of the test row, from 0.")
    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int = Field(description="Prompt tokens that the engine took from its prefix cache.")
    completion_tokens: int
    seconds: float = Field(description="From sending the request to its last token, under the run's concurrency.")
    error: str | None = None


class Fit(Frozen):
    """In how many test rows an arm had to ask for less than planned, as the context was too short."""

    lowered_limits: int = Field(default=0, description="Rows whose answer limit was lowered to what was left.")
    fewer_examples: int = Field(default=0, description="Rows that showed fewer examples or passages than planned.")
    no_examples: int = Field(default=0, description="Those of them that showed none: the plain prompt.")


class ArmAnswers(Frozen):
    """All answers of one arm, as collected in one go."""

    arm: str
    kind: ArmKind
    model: str | None = Field(description="None for the floors, which need no model.")
    settings: dict[str, str | int | float] = Field(description="What a reader needs to repeat it: k, system, endpoint.")
    answers: tuple[Answer, ...]
    concurrency: int
    wall_seconds: float
    fit: Fit = Fit()


class Interval(Frozen):
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


class GraderScore(Frozen):
    """One grader on one arm."""

    grader: str
    mean: Interval
    rows: tuple[float, ...] = Field(description="Score of each test row, in order.")
    extras: dict[str, float] = Field(description="Over all rows: macro_f1, outside_labels, valid_json, valid_sql, ...")


class ArmResult(Frozen):
    """One arm with its scores, speed and cost."""

    arm: str
    kind: ArmKind
    scores: tuple[GraderScore, ...]
    prompt_tokens: float = Field(description="Mean per request.")
    cached_tokens: float
    completion_tokens: float
    p50_seconds: float
    p95_seconds: float
    requests_per_second: float = Field(description="0 for the floors.")
    machine_hours_per_1000: float | None = Field(description="None for a paid API and for the floors.")
    cost_per_1000: float | None = Field(description="In the user's currency; None without a price.")
    failed_requests: int
    cut_answers: int = Field(description="Answers that ran into the token limit; they are scored as they stand.")
    fit: Fit = Fit()


class Comparison(Frozen):
    """Tuned minus another arm on the primary grader, paired by row."""

    other: str
    difference: Interval
    p_value: float | None = Field(description="McNemar's exact test; None where scores are not all 0 or 1.")
    rows_needed: int | None = Field(description="Test rows for a decided answer, where this one is undecided.")


class BreakEven(Frozen):
    """After how many requests the training cost is earned back against one other arm."""

    other: str
    tokens_saved_per_request: float
    saved_per_1000: float | None = Field(description="In currency, or in machine-hours without a machine price.")
    requests: float | None = Field(description="None: never, as the tuned model is not cheaper per request.")


class Economics(Frozen):
    """Money and machine time."""

    currency: str | None = Field(description="None: no machine price given, all amounts in machine-hours.")
    training_hours: float
    training_cost: float
    break_even: tuple[BreakEven, ...]
    basis: str = Field(description="How the costs were computed, in a sentence.")


class DecisionLine(Frozen):
    """One question of the decision record; `answer` is "not known" where neither measurement nor config speaks."""

    topic: Literal["use case", "alternatives", "cost", "benefit"]
    question: str
    answer: str
    source: Literal["measured", "config", "not known"]


class Verdict(Frozen):
    """Was the fine-tune worth it."""

    outcome: Outcome
    headline: str = Field(description="One sentence.")
    reasons: tuple[str, ...] = Field(description="Plain sentences: quality, cost, floors, leakage.")
    best_alternative: str
    comparisons: tuple[Comparison, ...]
    rows_needed: int | None


class Question(Frozen):
    """A test row as the report shows it."""

    line: int
    question: str
    reference: str


class Report(Frozen):
    """Everything in `report.html`, as `report.json` gives it."""

    title: str
    created_at: Annotated[float, Field(description="Unix time, seconds.")]
    primary_grader: str
    verdict: Verdict
    arms: tuple[ArmResult, ...]
    economics: Economics
    decision: tuple[DecisionLine, ...]
    check: CheckReport
    spec: TrainSpec
    result: RunResult
    curve: tuple[StepMetrics, ...]
    questions: tuple[Question, ...]
    answers: tuple[ArmAnswers, ...]
    manifest: dict[str, str] = Field(description="Hashes, versions, machine, config: what a rerun needs.")
