"""The decision record: what should be asked before any fine-tune, answered from measurement or from the config.

Knows the finished evaluation; where neither measurement nor config speaks, the answer is "not known".
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from tunewise.contracts.check import CheckReport, FileReport
from tunewise.contracts.config import RunConfig
from tunewise.contracts.evaluation import ArmResult, BreakEven, Comparison, DecisionLine, Economics, Verdict
from tunewise.contracts.run import RunResult, TrainSpec
from tunewise.errors import EvaluationError
from tunewise.evaluate import wording
from tunewise.evaluate.economics import tuned_arm
from tunewise.evaluate.standing import primary_score

NOT_KNOWN = "not known"


class Evidence(NamedTuple):
    """What a finished run knows."""

    config: RunConfig
    primary: str
    check: CheckReport
    spec: TrainSpec
    result: RunResult
    arms: Sequence[ArmResult]
    economics: Economics
    verdict: Verdict


def decision_record(evidence: Evidence) -> tuple[DecisionLine, ...]:
    """Every question with its answer and where the answer comes from."""
    return (*_use_case(evidence), *_alternatives(evidence), *_cost(evidence), *_benefit(evidence))


def decision_markdown(title: str, verdict: Verdict, lines: Sequence[DecisionLine]) -> str:
    """`decision.md`: the headline, its reasons, and the record by topic."""
    parts = [f"# {_one_line(title)}: decision record", f"**{_one_line(verdict.headline)}**"]
    parts.append("\n".join(f"- {_one_line(reason)}" for reason in verdict.reasons))
    for topic, group in groupby(lines, key=lambda line: line.topic):
        parts.append(f"## {topic.capitalize()}")
        parts.append("\n".join(_item(line) for line in group))
    return "\n\n".join(parts) + "\n"


def _item(line: DecisionLine) -> str:
    source = "" if line.source == "not known" else f" *({line.source})*"
    return f"- **{_one_line(line.question)}** {_one_line(line.answer)}{source}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _measured(
    topic: Literal["use case", "alternatives", "cost", "benefit"], question: str, answer: str
) -> DecisionLine:
    return DecisionLine(topic=topic, question=question, answer=answer, source="measured")


def _from_config(
    topic: Literal["use case", "alternatives", "cost", "benefit"], question: str, answer: str | None
) -> DecisionLine:
    if answer is None or not answer.strip():
        return DecisionLine(topic=topic, question=question, answer=NOT_KNOWN, source="not known")
    return DecisionLine(topic=topic, question=question, answer=answer, source="config")


def _use_case(evidence: Evidence) -> Iterator[DecisionLine]:
    evaluation = evidence.config.evaluation
    test = _file(evidence.check, "test")
    frozen = f", on {wording.plural(test.rows, 'test row')} frozen as sha256 {test.sha256[:12]}" if test else ""
    yield _from_config("use case", "Which behaviour is to improve?", evidence.config.use_case.behaviour)
    yield _from_config("use case", "By which grader is it measured?", f"{evidence.primary}{frozen}.")
    yield _from_config(
        "use case",
        "What would be good enough?",
        f"A score of at least {wording.digits(evaluation.usable_score)}, and at least "
        f"{wording.digits(evaluation.worthwhile_difference)} more than every alternative "
        f"(or as good, and cheaper within a year).",
    )


def _alternatives(evidence: Evidence) -> Iterator[DecisionLine]:
    for comparison in evidence.verdict.comparisons:
        mean = primary_score(_arm(evidence.arms, comparison.other), evidence.primary).mean
        difference = comparison.difference
        yield _measured(
            "alternatives",
            f"How good is {comparison.other}, without training?",
            f"{wording.score(mean.value)} ({wording.between(mean)}); the tuned model differs by "
            f"{wording.gain(difference.value)} ({wording.between(difference, signed=True)}).",
        )
    yield _measured("alternatives", "Which alternative is best?", f"{evidence.verdict.best_alternative}.")


def _cost(evidence: Evidence) -> Iterator[DecisionLine]:
    yield _measured("cost", "Can this base model be tuned here?", _tunable(evidence))
    yield _from_config("cost", "What did preparing the data take?", evidence.config.use_case.effort)
    yield _measured("cost", "What was prepared, and what was wrong with it?", _data(evidence))
    yield _measured("cost", "What does training cost?", _training(evidence))
    yield _measured("cost", "What does hosting cost?", _hosting(evidence))
    yield _measured("cost", "Are there enough good examples?", _enough(evidence))


def _benefit(evidence: Evidence) -> Iterator[DecisionLine]:
    best = _comparison(evidence.verdict)
    yield _measured(
        "benefit",
        "What is gained in quality?",
        f"{wording.gain(best.difference.value)} ({wording.between(best.difference, signed=True)}) over "
        f"{best.other}, the best alternative.",
    )
    if evidence.economics.break_even:
        for paid in evidence.economics.break_even:
            yield _measured(
                "benefit", f"What is saved per request, against {paid.other}?", _saving(paid, evidence.economics)
            )
    else:
        yield _from_config("benefit", "What is saved per request?", None)
    monthly = evidence.config.use_case.requests_per_month
    expected = None if monthly is None else f"{wording.count(monthly)} a month."
    yield _from_config("benefit", "How many requests are expected?", expected)
    yield _from_config("benefit", "What else do this base model and this data serve?", evidence.config.use_case.reuse)


def _tunable(evidence: Evidence) -> str:
    base, result = evidence.spec.base_model, evidence.result
    what = f"{base.name} ({wording.digits(base.parameters / 1e6)} million weights)"
    if result.status == "failed":
        return f"Not as configured: training {what} failed. {result.error.message if result.error else ''}".strip()
    return (
        f"Yes: {what} trained for {wording.plural(result.steps, 'step')} in {wording.duration(result.seconds)} with "
        f"{wording.size(result.peak_memory_bytes)} of memory at the peak."
    )


def _data(evidence: Evidence) -> str:
    files = [f"{wording.plural(f.rows, 'row')} to {_USE[f.split]}" for f in evidence.check.files]
    found = Counter(finding.severity for finding in evidence.check.findings)
    problems = wording.listed(
        [wording.plural(found[kind], kind) for kind in ("error", "warning", "note") if found[kind]] or ["no problem"]
    )
    rows = evidence.result.rows
    return (
        f"{wording.listed(files)}; {problems} found. In training {wording.plural(rows.trained, 'row')} were used, "
        f"{rows.truncated} cut, {rows.dropped} dropped for length, {rows.nothing_to_train_on} without anything to "
        "train on."
    )


_USE = {"train": "train on", "valid": "validate on", "test": "test on"}


def _training(evidence: Evidence) -> str:
    costs, result = evidence.economics, evidence.result
    money = f", {wording.amount(costs.training_cost, costs.currency)}" if costs.currency else ""
    return (
        f"{wording.duration(result.seconds)} of this machine ({wording.amount(costs.training_hours, None)}{money}) for "
        f"{wording.count(result.trained_tokens)} tokens, {wording.size(result.peak_memory_bytes)} of memory."
    )


def _hosting(evidence: Evidence) -> str:
    tuned = tuned_arm(evidence.arms)
    if tuned.machine_hours_per_1000 is None:
        return "No request to the tuned model was answered."
    price = (
        "" if tuned.cost_per_1000 is None else f" ({wording.amount(tuned.cost_per_1000, evidence.economics.currency)})"
    )
    return (
        f"{wording.amount(tuned.machine_hours_per_1000, None)}{price} per 1,000 requests at full load; half of the "
        f"requests are answered within {wording.duration(tuned.p50_seconds)}, 95 % within "
        f"{wording.duration(tuned.p95_seconds)}."
    )


def _enough(evidence: Evidence) -> str:
    """Judged by the width of the interval: the test rows decide it, a curve over training rows is not measured."""
    best, worthwhile = _comparison(evidence.verdict), evidence.config.evaluation.worthwhile_difference
    width = best.difference.high - best.difference.low
    wide = (
        f"The interval of the difference to {best.other} is {wording.score(width)} wide, where a gain of "
        f"{wording.digits(worthwhile)} would be worthwhile: "
    )
    needed = evidence.verdict.rows_needed
    if evidence.verdict.outcome == "inconclusive" and needed is not None:
        return f"{wide}too few test rows; about {wording.about(needed)} are needed in all."
    if evidence.verdict.outcome == "inconclusive":
        return f"{wide}more rows alone would not decide it."
    return f"{wide}enough test rows to decide. Whether more training rows would raise the score is {NOT_KNOWN}."


def _saving(paid: BreakEven, costs: Economics) -> str:
    tokens = f"{wording.digits(paid.tokens_saved_per_request)} computed tokens"
    if paid.saved_per_1000 is None:
        return f"{tokens}; in money {NOT_KNOWN}, as the two have no common unit."
    money = f"{wording.amount(paid.saved_per_1000, costs.currency)} per 1,000 requests"
    if paid.requests is None:
        return f"{tokens}, {money}: training is never earned back."
    return f"{tokens}, {money}: training is earned back after {wording.about(paid.requests)} requests."


def _comparison(verdict: Verdict) -> Comparison:
    return next(comparison for comparison in verdict.comparisons if comparison.other == verdict.best_alternative)


def _arm(arms: Sequence[ArmResult], name: str) -> ArmResult:
    for arm in arms:
        if arm.arm == name:
            return arm
    raise EvaluationError("missing_arm", f"The verdict compares with arm {name!r}, which has no result.")


def _file(check: CheckReport, split: str) -> FileReport | None:
    return next((file for file in check.files if file.split == split), None)
