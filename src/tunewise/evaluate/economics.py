"""Money and machine time: what a request costs on each arm, and when training is earned back.

Knows measured answers and the user's prices; guesses no price. Without a machine price amounts stay machine-hours.
"""

from collections.abc import Sequence

import numpy as np

from tunewise.contracts.config import Endpoint, Prices
from tunewise.contracts.evaluation import Answer, ArmAnswers, ArmKind, ArmResult, BreakEven, Economics, GraderScore
from tunewise.contracts.run import RunResult
from tunewise.errors import EvaluationError

FLOORS: frozenset[ArmKind] = frozenset({"majority", "nearest"})
SECONDS_PER_HOUR = 3_600.0


def arm_result(
    collected: ArmAnswers, scores: Sequence[GraderScore], prices: Prices, endpoint: Endpoint | None = None
) -> ArmResult:
    """An arm with its speed and cost: means per request and latencies over the requests that were answered.

    Args:
        collected: all answers of the arm, with the wall time (seconds) that they took together.
        scores: the arm's scores, one a grader.
        prices: what a machine-hour costs.
        endpoint: the paid API that answered, if one did; its token prices then stand in for machine time.
    """
    answered = [answer for answer in collected.answers if answer.error is None]
    is_floor = collected.kind in FLOORS
    p50, p95 = _latencies(answered)
    hours = None if is_floor or endpoint or not answered else _machine_hours_per_1000(collected, len(answered))
    return ArmResult(
        arm=collected.arm,
        kind=collected.kind,
        scores=tuple(scores),
        prompt_tokens=_mean([answer.prompt_tokens for answer in answered]),
        cached_tokens=_mean([answer.cached_tokens for answer in answered]),
        completion_tokens=_mean([answer.completion_tokens for answer in answered]),
        p50_seconds=p50,
        p95_seconds=p95,
        requests_per_second=0.0 if is_floor else _rate(collected, len(answered)),
        machine_hours_per_1000=hours,
        cost_per_1000=_cost_per_1000(answered, hours, prices, endpoint),
        failed_requests=len(collected.answers) - len(answered),
        cut_answers=sum(answer.finish_reason == "length" for answer in answered),
        fit=collected.fit,
    )


def economics(arms: Sequence[ArmResult], training: RunResult, prices: Prices) -> Economics:
    """Training cost as measured, and the break-even of the tuned arm against every other model arm."""
    tuned = tuned_arm(arms)
    hours = training.seconds / SECONDS_PER_HOUR
    cost = hours if prices.machine_hour is None else hours * prices.machine_hour
    others = [arm for arm in arms if arm is not tuned and arm.kind not in FLOORS]
    return Economics(
        currency=None if prices.machine_hour is None else prices.currency,
        training_hours=hours,
        training_cost=cost,
        break_even=tuple(_break_even(tuned, other, cost, prices) for other in others),
        basis=_basis(arms, prices),
    )


def tuned_arm(arms: Sequence[ArmResult]) -> ArmResult:
    """The one tuned arm.

    Raises:
        EvaluationError: there is none, or more than one.
    """
    tuned = [arm for arm in arms if arm.kind == "tuned"]
    if len(tuned) != 1:
        names = ", ".join(arm.arm for arm in arms)
        raise EvaluationError("tuned_arm", f"A verdict needs exactly one tuned arm; {len(tuned)} among: {names}.")
    return tuned[0]


def computed_tokens(arm: ArmResult) -> float:
    """Tokens per request that the engine has to compute: prompt and completion, without what its cache holds."""
    return arm.prompt_tokens - arm.cached_tokens + arm.completion_tokens


def _break_even(tuned: ArmResult, other: ArmResult, training_cost: float, prices: Prices) -> BreakEven:
    saved = _saved_per_1000(tuned, other, prices)
    return BreakEven(
        other=other.arm,
        tokens_saved_per_request=computed_tokens(other) - computed_tokens(tuned),
        saved_per_1000=saved,
        requests=1_000 * training_cost / saved if saved is not None and saved > 0 else None,
    )


def _saved_per_1000(tuned: ArmResult, other: ArmResult, prices: Prices) -> float | None:
    """In currency where there is a machine price, in machine-hours otherwise; None where the two have no one unit."""
    if prices.machine_hour is None:
        return _difference(other.machine_hours_per_1000, tuned.machine_hours_per_1000)
    return _difference(other.cost_per_1000, tuned.cost_per_1000)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _machine_hours_per_1000(collected: ArmAnswers, answered: int) -> float:
    return collected.wall_seconds / answered * 1_000 / SECONDS_PER_HOUR


def _rate(collected: ArmAnswers, answered: int) -> float:
    return answered / collected.wall_seconds if collected.wall_seconds > 0 else 0.0


def _cost_per_1000(
    answered: Sequence[Answer], hours: float | None, prices: Prices, endpoint: Endpoint | None
) -> float | None:
    if endpoint is not None:
        prompt = _mean([answer.prompt_tokens for answer in answered]) * endpoint.price_per_million_prompt_tokens
        completion = (
            _mean([answer.completion_tokens for answer in answered]) * endpoint.price_per_million_completion_tokens
        )
        return (prompt + completion) / 1_000 if answered else None
    return None if hours is None or prices.machine_hour is None else hours * prices.machine_hour


def _basis(arms: Sequence[ArmResult], prices: Prices) -> str:
    unit = (
        "No machine price is given, so amounts are machine-hours."
        if prices.machine_hour is None
        else f"A machine-hour costs {prices.machine_hour:g} {prices.currency}."
    )
    sentences = [
        unit,
        "Machine time is the measured wall time of all test requests, at the run's own concurrency and with nothing "
        "else to serve; a prompt prefix that the engine had in its cache cost next to nothing and counts as no saving.",
    ]
    if any(arm.kind not in FLOORS and arm.machine_hours_per_1000 is None for arm in arms):
        sentences.append("A paid API is charged by its token prices, with no discount for cached prompt tokens.")
    sentences.append("The time to write the data and to evaluate is not counted.")
    return " ".join(sentences)


def _latencies(answered: Sequence[Answer]) -> tuple[float, float]:
    if not answered:
        return 0.0, 0.0
    p50, p95 = np.percentile([answer.seconds for answer in answered], [50, 95])
    return float(p50), float(p95)


def _mean(values: Sequence[int]) -> float:
    return float(np.mean(values)) if values else 0.0
