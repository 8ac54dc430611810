"""The pictures of the report, from its numbers: loss, preferences, and cost against volume with the break-even.

Knows arms, costs and steps; `charts` draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from tunewise.contracts.evaluation import ArmResult, Economics
from tunewise.contracts.run import StepMetrics
from tunewise.evaluate import wording
from tunewise.evaluate.charts import Chart, Line, Mark, line_chart, thinned
from tunewise.evaluate.economics import FLOORS, tuned_arm

# A break-even this many times farther out than the first would flatten the chart; the table still has it.
FARTHEST = 8.0


class Picture(NamedTuple):
    """A drawn chart, with the legend that the page sets as text."""

    svg: Markup
    legend: Sequence[tuple[str, str]]


def loss_picture(curve: Sequence[StepMetrics]) -> Picture | None:
    """Train and validation loss by step; None for a run without steps."""
    if not curve:
        return None
    sample = [(float(m.step), m.valid_loss) for m in curve if m.valid_loss is not None]
    full = [(float(m.step), m.full_valid_loss) for m in curve if m.full_valid_loss is not None]
    lines = [Line("train loss, smoothed", "train", thinned([(float(m.step), m.train_loss) for m in curve]))]
    if sample:
        lines.append(Line("validation loss, on a sample", "sample", sample, has_dots=True))
    if full:
        lines.append(Line("validation loss, all rows, at the end of an epoch", "valid", full, has_dots=True))
    ends = "; ".join(
        f"{line.label}: {line.points[0][1]:.3g} at first, {line.points[-1][1]:.3g} at last" for line in lines
    )
    unit = "loss, nats per token" if curve[0].train_reward_accuracy is None else "loss, nats per pair"
    chart = Chart("loss", "Loss by training step", f"{ends}.", "step", unit, lines)
    return Picture(line_chart(chart), [(line.label, line.style) for line in lines])


def accuracy_picture(curve: Sequence[StepMetrics]) -> Picture | None:
    """Mean token accuracy by step, on train and validation rows; None for a run without steps."""
    if not curve:
        return None
    train = [(float(m.step), m.train_mean_token_accuracy) for m in curve]
    lines = [Line("train accuracy, smoothed", "train", thinned(train))]
    sample = [(float(m.step), v) for m in curve if (v := m.valid_mean_token_accuracy) is not None]
    if sample:
        lines.append(Line("validation accuracy, on a sample", "sample", sample, has_dots=True))
    ends = "; ".join(f"{line.label}: {line.points[-1][1]:.3g} at last" for line in lines)
    chart = Chart(
        "accuracy", "Token accuracy by training step", f"{ends}.", "step", "share of tokens", lines, y_top=1.0
    )
    return Picture(line_chart(chart), [(line.label, line.style) for line in lines])


def preference_picture(curve: Sequence[StepMetrics]) -> Picture | None:
    """Share of pairs whose better answer gained more, by step; None for a run that compares no answers."""
    train = [(float(m.step), m.train_reward_accuracy) for m in curve if m.train_reward_accuracy is not None]
    if not train:
        return None
    lines = [Line("train pairs, smoothed", "train", thinned(train))]
    full = [(float(m.step), m.full_valid_reward_accuracy) for m in curve if m.full_valid_reward_accuracy is not None]
    if full:
        lines.append(Line("validation pairs, all, at the end of an epoch", "valid", full, has_dots=True))
    ends = "; ".join(f"{line.label}: {line.points[-1][1]:.3g} at last" for line in lines)
    title = "Preferred answers by training step"
    chart = Chart("preferences", title, f"{ends}.", "step", "share of pairs", lines, y_top=1.0)
    return Picture(line_chart(chart), [(line.label, line.style) for line in lines])


def cost_picture(arms: Sequence[ArmResult], costs: Economics) -> Picture | None:
    """Total cost against requests: training comes first for the tuned arm, the others start at 0.

    None where the tuned arm has no cost in the unit of the training cost.
    """
    tuned = tuned_arm(arms)
    per_request = {arm.arm: _per_request(arm, costs) for arm in arms if arm.kind not in FLOORS}
    slopes = {name: cost for name, cost in per_request.items() if cost is not None}
    if tuned.arm not in slopes or max(slopes.values()) <= 0:
        return None
    top = _volume(slopes, costs)
    lines = [_cost_line(index, arm, tuned, slopes[arm], top, costs) for index, arm in enumerate(slopes)]
    marks = [
        Mark(f"{paid.other}: {wording.about(paid.requests)}", paid.requests, paid.requests * slopes[paid.other])
        for paid in costs.break_even
        if paid.requests is not None and paid.requests <= top and paid.other in slopes
    ]
    chart = Chart(
        "cost",
        "Total cost against the number of requests",
        _described(costs),
        "requests",
        f"total, {costs.currency or 'machine-hours'}",
        lines,
        marks,
    )
    return Picture(line_chart(chart), [(line.label, line.style) for line in lines])


def _per_request(arm: ArmResult, costs: Economics) -> float | None:
    per_1000 = arm.cost_per_1000 if costs.currency else arm.machine_hours_per_1000
    return None if per_1000 is None else per_1000 / 1_000


def _volume(slopes: dict[str, float], costs: Economics) -> float:
    """The chart's last request count: past the break-evens, or where running costs are thrice the training."""
    found = sorted(paid.requests for paid in costs.break_even if paid.requests)
    if found:
        return 1.7 * max(requests for requests in found if requests <= FARTHEST * found[0])
    return 3 * costs.training_cost / max(slopes.values()) or 1_000.0


def _cost_line(index: int, arm: str, tuned: ArmResult, slope: float, top: float, costs: Economics) -> Line:
    if arm == tuned.arm:
        start = costs.training_cost
        return Line(f"{arm}, with its training", "tuned", [(0, start), (top, start + slope * top)])
    return Line(arm, f"arm{index % 4}", [(0, 0), (top, slope * top)])


def _described(costs: Economics) -> str:
    training = wording.amount(costs.training_cost, costs.currency)
    against = [
        f"against {paid.other} after {wording.about(paid.requests)} requests" if paid.requests is not None
        else f"against {paid.other} never"
        for paid in costs.break_even
    ]  # fmt: skip
    return (
        f"Training costs {training}, earned back {wording.listed(against)}."
        if against
        else f"Training costs {training}."
    )
