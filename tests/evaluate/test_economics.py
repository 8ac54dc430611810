"""Costs worked out by hand, and what is left unknown where no price speaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.finished_run import RECIPES, training_run
from tunewise.contracts.config import Endpoint, Prices
from tunewise.contracts.evaluation import Answer, ArmAnswers, ArmKind, ArmResult
from tunewise.errors import EvaluationError
from tunewise.evaluate.economics import arm_result, computed_tokens, economics

API = Endpoint(
    base_url="https://api.example.org/v1",
    model="m",
    price_per_million_prompt_tokens=2.0,
    price_per_million_completion_tokens=8.0,
)
TRAINING = training_run(RECIPES)[1].model_copy(update={"seconds": 1_800.0})


def answers(
    arm: str, kind: ArmKind, *, n: int = 100, wall: float = 50.0, prompt: int = 200, cached: int = 0, failed: int = 0
) -> ArmAnswers:
    made = [
        Answer(
            row=row,
            text="",
            finish_reason="stop",
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=20,
            seconds=float(row),
            error="timed out" if row < failed else None,
        )
        for row in range(n)
    ]
    return ArmAnswers(arm=arm, kind=kind, model="m", settings={}, answers=tuple(made), concurrency=8, wall_seconds=wall)


def result(collected: ArmAnswers, price: float | None = 0.36, endpoint: Endpoint | None = None) -> ArmResult:
    return arm_result(collected, [], Prices(machine_hour=price), endpoint)


def test_machine_time_and_money_per_thousand_requests() -> None:
    arm = result(answers("prompt", "prompt"))
    assert arm.requests_per_second == 2.0
    assert arm.machine_hours_per_1000 == pytest.approx(500 / 3600)
    assert arm.cost_per_1000 == pytest.approx(0.05)
    assert (arm.p50_seconds, arm.p95_seconds) == pytest.approx((49.5, 94.05))


def test_an_api_arm_is_charged_by_its_tokens() -> None:
    arm = result(answers("api", "prompt"), None, API)
    assert arm.cost_per_1000 == pytest.approx(1_000 * (200 * 2 + 20 * 8) / 1e6)
    assert arm.machine_hours_per_1000 is None


def test_failed_requests_count_for_no_speed_and_no_tokens() -> None:
    arm = result(answers("prompt", "prompt", failed=50))
    assert arm.failed_requests == 50
    assert arm.requests_per_second == 1.0
    assert arm.prompt_tokens == 200
    none_answered = result(answers("prompt", "prompt", failed=100))
    assert none_answered.machine_hours_per_1000 is None
    assert none_answered.cost_per_1000 is None


def test_floors_cost_nothing_to_run() -> None:
    arm = result(answers("nearest", "nearest", wall=0.0))
    assert (arm.requests_per_second, arm.machine_hours_per_1000, arm.cost_per_1000) == (0, None, None)


def test_break_even_is_training_cost_over_what_a_request_saves() -> None:
    arms = [
        result(answers("tuned", "tuned", wall=50)),
        result(answers("few_shot", "few_shot", wall=150, prompt=900, cached=600)),
        result(answers("prompt", "prompt", wall=50)),
        result(answers("nearest", "nearest", wall=0)),
    ]
    costs = economics(arms, TRAINING, Prices(currency="EUR", machine_hour=0.36))
    assert (costs.currency, costs.training_hours) == ("EUR", 0.5)
    assert costs.training_cost == pytest.approx(0.18)
    few_shot, prompt = costs.break_even
    assert few_shot.saved_per_1000 == pytest.approx(0.10)
    assert few_shot.requests == pytest.approx(1_800)
    assert few_shot.tokens_saved_per_request == 900 - 600 - 200
    assert prompt.saved_per_1000 == 0
    assert prompt.requests is None


def test_without_a_machine_price_everything_stays_machine_hours() -> None:
    arms = [
        result(answers("tuned", "tuned", wall=50), None),
        result(answers("few_shot", "few_shot", wall=150), None),
        result(answers("api", "prompt"), None, API),
    ]
    costs = economics(arms, TRAINING, Prices())
    assert costs.currency is None
    assert costs.training_cost == costs.training_hours == 0.5
    few_shot, api = costs.break_even
    assert few_shot.requests == pytest.approx(0.5 / (100 / 100 / 3600))
    assert (api.saved_per_1000, api.requests) == (None, None)
    assert "machine-hours" in costs.basis
    assert "token prices" in costs.basis


@given(st.floats(1, 1_000), st.floats(1, 1_000), st.floats(0.01, 100))
def test_at_the_break_even_both_have_cost_the_same(tuned_wall: float, other_wall: float, price: float) -> None:
    tuned = result(answers("tuned", "tuned", wall=tuned_wall), price)
    other = result(answers("prompt", "prompt", wall=other_wall), price)
    costs = economics([tuned, other], TRAINING, Prices(machine_hour=price))
    n = costs.break_even[0].requests
    assert (n is None) == (tuned_wall >= other_wall)
    if n is not None:
        assert tuned.cost_per_1000 is not None
        assert other.cost_per_1000 is not None
        assert costs.training_cost + n * tuned.cost_per_1000 / 1_000 == pytest.approx(n * other.cost_per_1000 / 1_000)


def test_cached_tokens_are_not_computed_again() -> None:
    assert computed_tokens(result(answers("few_shot", "few_shot", prompt=900, cached=600))) == 320


def test_a_run_without_a_tuned_arm_is_refused() -> None:
    with pytest.raises(EvaluationError, match="exactly one tuned arm"):
        economics([result(answers("prompt", "prompt"))], TRAINING, Prices())
