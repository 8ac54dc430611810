"""The verdict: each rule decides where it should, and nothing that is unproven is called worth it."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.finished_run import (
    GSM8K,
    PRIMARY,
    RECIPES,
    UNDECIDED,
    Story,
    check_report,
    evidence,
    grader_score,
    run_config,
)
from tunewise.contracts.check import Split
from tunewise.contracts.config import EvaluationConfig, RunConfig, UseCase
from tunewise.contracts.evaluation import (
    ArmKind,
    ArmResult,
    BreakEven,
    Comparison,
    Economics,
    Fit,
    Interval,
    Outcome,
    Verdict,
)
from tunewise.contracts.fine_tuning import TrainingRequest
from tunewise.errors import EvaluationError
from tunewise.evaluate.standing import Terms, cost_claim, quality_claim
from tunewise.evaluate.verdict import decide

SOURCES: tuple[Split, Split] = ("train", "valid")
TERMS = Terms(worthwhile=0.02, usable=0.1, confidence=0.95, requests_per_year=120_000)


def arm(name: str, kind: ArmKind, scores: Sequence[float], failed: int = 0, cut: int = 0) -> ArmResult:
    return ArmResult(
        arm=name,
        kind=kind,
        scores=(grader_score(PRIMARY, scores),),
        prompt_tokens=100,
        cached_tokens=0,
        completion_tokens=10,
        p50_seconds=1,
        p95_seconds=2,
        requests_per_second=1,
        machine_hours_per_1000=0.1,
        cost_per_1000=None,
        failed_requests=failed,
        cut_answers=cut,
    )


def costs(requests: float | None = None, other: str = "prompt") -> Economics:
    saved = None if requests is None else 1_000 * 0.1 / requests
    paid = BreakEven(other=other, tokens_saved_per_request=50, saved_per_1000=saved or -0.1, requests=requests)
    return Economics(currency=None, training_hours=0.1, training_cost=0.1, break_even=(paid,), basis="measured")


def verdict(
    *arms: ArmResult,
    economics: Economics | None = None,
    leaked: int = 0,
    leaked_from: Split = "train",
    patience: int | None = None,
    monthly: int | None = None,
    **terms: float,
) -> Verdict:
    story = Story("case", len(arms[0].scores[0].rows), (), leaked=leaked, leaked_from=leaked_from)
    return decide(arms, PRIMARY, economics or costs(), check_report(story), asked(monthly, patience, **terms))


def asked(monthly: int | None = None, patience: int | None = None, **terms: float) -> RunConfig:
    """A config with these terms of the verdict."""
    changes = {
        "evaluation": EvaluationConfig.model_validate(terms),
        "use_case": UseCase(requests_per_month=monthly),
        "training": TrainingRequest(seed=1, early_stopping_patience=patience),
    }
    return run_config(RECIPES).model_copy(update=changes)


def right(n: int, rows: int = 200) -> list[float]:
    """The first n of `rows` answers are right."""
    return [1.0] * n + [0.0] * (rows - n)


def test_a_clear_gain_over_every_arm_is_worth_it() -> None:
    result = verdict(
        arm("tuned", "tuned", right(170)), arm("prompt", "prompt", right(90)), arm("n", "nearest", right(60))
    )
    assert result.outcome == "worth_it"
    assert result.best_alternative == "prompt"
    assert result.rows_needed is None
    assert "0.850" in result.headline
    assert "0.450" in result.headline
    assert "200 test rows" in result.headline


def test_the_three_finished_runs_end_as_told() -> None:
    assert [evidence(story).verdict.outcome for story in (RECIPES, GSM8K, UNDECIDED)] == [
        "worth_it",
        "not_worth_it",
        "inconclusive",
    ]


@pytest.mark.parametrize("tuned", [13, 26, 53, 105])
def test_gsm8k_is_never_worth_it(tuned: int) -> None:
    """1,319 rows, the prompt at 1 %: whatever a small model gains, up to 8 %, no one can use its answers."""
    result = verdict(
        arm("tuned", "tuned", right(tuned, 1_319)),
        arm("prompt", "prompt", right(13, 1_319)),
        arm("majority", "majority", right(2, 1_319)),
        economics=costs(1_000),
        monthly=1_000_000,
    )
    assert result.outcome == "not_worth_it"
    assert "usable" in result.headline


def test_a_floor_that_is_not_beaten_blocks() -> None:
    result = verdict(
        arm("tuned", "tuned", right(130)), arm("prompt", "prompt", right(40)), arm("nearest", "nearest", right(128))
    )
    assert result.outcome != "worth_it"
    assert result.best_alternative == "nearest"


def test_a_floor_that_wins_decides() -> None:
    result = verdict(
        arm("tuned", "tuned", right(100)), arm("prompt", "prompt", right(40)), arm("nearest", "nearest", right(150))
    )
    assert result.outcome == "not_worth_it"
    assert "nearest" in result.headline


def test_one_unbeaten_alternative_among_many_is_enough_to_lose() -> None:
    beaten = [arm(f"prompt-{i}", "prompt", right(20 + i)) for i in range(6)]
    result = verdict(arm("tuned", "tuned", right(120)), *beaten, arm("few_shot", "few_shot", right(150)))
    assert result.outcome == "not_worth_it"
    assert "few_shot" in result.headline


def test_leaked_test_rows_block_and_are_named() -> None:
    result = verdict(arm("tuned", "tuned", right(170)), arm("prompt", "prompt", right(90)), leaked=7)
    assert result.outcome == "inconclusive"
    assert "7 test rows" in result.headline
    assert any("line 3, 12, 21, 30, 39 and 2 more" in reason for reason in result.reasons)


def test_a_leaky_run_hears_what_its_other_rows_show() -> None:
    """The five leaked rows are all that the tuned model wins."""
    won = [1.0 if 3 <= line <= 39 and line % 9 == 3 else 0.0 for line in range(1, 61)]
    arms = (arm("tuned", "tuned", won), arm("prompt", "prompt", [0.0] * 60))
    result = decide(
        arms,
        PRIMARY,
        costs(),
        check_report(Story("case", 60, (), leaked=5)),
        asked(usable_score=0.0),
        lines=range(1, 61),
    )
    assert any("On the other rows the difference to prompt is 0.000" in reason for reason in result.reasons)


@pytest.mark.parametrize(("patience", "outcome"), [(None, "worth_it"), (2, "inconclusive")])
def test_test_rows_that_validate_block_only_where_validation_chose_the_checkpoint(
    patience: int | None, outcome: Outcome
) -> None:
    arms = (arm("tuned", "tuned", right(170)), arm("prompt", "prompt", right(90)))
    result = verdict(*arms, leaked=7, leaked_from="valid", patience=patience)
    assert result.outcome == outcome
    told = [reason for reason in result.reasons if "in the validation file too" in reason]
    assert bool(told) == (patience is not None)


def test_losing_to_an_arm_that_sees_train_rows_stands_in_spite_of_a_leak_from_validation() -> None:
    arms = (arm("tuned", "tuned", right(90)), arm("nearest", "nearest", right(150)))
    outcomes = {source: verdict(*arms, leaked=2, leaked_from=source, patience=1).outcome for source in SOURCES}
    assert outcomes == {"train": "inconclusive", "valid": "not_worth_it"}


def test_losing_to_a_plain_prompt_stands_in_spite_of_leakage() -> None:
    """A prompt never sees a training row, so leakage can only have helped the tuned model."""
    prompt_wins = verdict(arm("tuned", "tuned", right(90)), arm("prompt", "prompt", right(150)), leaked=2)
    nearest_wins = verdict(
        arm("tuned", "tuned", right(90)), arm("prompt", "prompt", right(30)), arm("n", "nearest", right(150)), leaked=2
    )
    assert prompt_wins.outcome == "not_worth_it"
    assert nearest_wins.outcome == "inconclusive"


@pytest.mark.parametrize(("rows", "outcome"), [(3, "inconclusive"), (29, "inconclusive"), (30, "worth_it")])
def test_fewer_than_thirty_rows_prove_nothing(rows: int, outcome: str) -> None:
    result = verdict(arm("tuned", "tuned", right(rows, rows)), arm("prompt", "prompt", right(0, rows)))
    assert result.outcome == outcome
    assert outcome == "worth_it" or (result.rows_needed or 0) >= 30


def test_an_undecided_run_says_how_many_more_rows() -> None:
    shifted = [0.0] * 25 + [1.0] * 80 + [0.0] * 15
    result = verdict(arm("tuned", "tuned", right(84, 120)), arm("prompt", "prompt", shifted))
    assert result.outcome == "inconclusive"
    assert result.rows_needed is not None
    assert result.rows_needed > 120
    assert result.comparisons[0].rows_needed == result.rows_needed
    assert "more test rows" in result.headline


def test_failed_requests_of_an_alternative_do_not_make_a_winner() -> None:
    working = right(120)
    broken = [0.0] * 60 + working[60:]
    tuned, floor = arm("tuned", "tuned", right(125)), arm("majority", "majority", right(5))
    result = verdict(tuned, arm("few_shot", "few_shot", broken, failed=60), floor)
    assert result.comparisons[0].difference.low > 0.02
    assert result.outcome == "inconclusive"
    assert result.rows_needed is None
    assert "few_shot" in result.headline
    assert any("60 requests of 200 failed" in reason for reason in result.reasons)


def test_failed_requests_of_the_tuned_model_do_not_make_a_loser() -> None:
    tuned = arm("tuned", "tuned", [0.0] * 100 + [1.0] * 100, failed=100)
    assert verdict(tuned, arm("prompt", "prompt", right(140))).outcome == "inconclusive"


def test_as_good_and_cheaper_is_worth_it_where_the_volume_is_known() -> None:
    rng = np.random.default_rng(8)
    scores = rng.beta(8, 2, 400)
    tuned = arm("tuned", "tuned", list(np.clip(scores + rng.normal(0, 0.02, 400), 0, 1)))
    others = (arm("prompt", "prompt", list(scores)), arm("n", "nearest", list(scores * 0.5)))
    assert verdict(tuned, *others, economics=costs(5_000), monthly=1_000).outcome == "worth_it"
    assert verdict(tuned, *others, economics=costs(50_000), monthly=1_000).outcome == "not_worth_it"
    assert verdict(tuned, *others, economics=costs(None), monthly=1_000).outcome == "not_worth_it"
    unknown = verdict(tuned, *others, economics=costs(5_000))
    assert unknown.outcome == "inconclusive"
    assert unknown.rows_needed is None
    assert "use_case.requests_per_month" in unknown.headline


def test_without_any_alternative_but_floors_nothing_is_proved() -> None:
    result = verdict(arm("tuned", "tuned", right(170)), arm("majority", "majority", right(20)))
    assert result.outcome == "inconclusive"
    assert "few-shot" in result.headline


def difference(value: float, low: float, high: float, p: float | None = None) -> Comparison:
    return Comparison(other="x", difference=Interval(value=value, low=low, high=high), p_value=p, rows_needed=None)


@pytest.mark.parametrize(
    ("comparison", "claim"),
    [
        (difference(0.05, 0.01, 0.09), "holds"),
        (difference(0.05, 0.01, 0.09, p=0.06), "open"),
        (difference(0.02, 0.001, 0.04), "holds"),
        (difference(0.019, 0.001, 0.04), "open"),
        (difference(0.019, 0.011, 0.029), "fails"),
        (difference(0.05, 0.0, 0.10), "open"),
        (difference(0.0, -0.019, 0.019), "fails"),
        (difference(0.0, -0.03, 0.03), "open"),
        (difference(-0.1, -0.2, 0.0), "fails"),
    ],
)
def test_quality_claim(comparison: Comparison, claim: str) -> None:
    assert quality_claim(comparison, TERMS, 0, 0) == claim


@pytest.mark.parametrize(
    ("comparison", "requests", "yearly", "claim"),
    [
        (difference(0.0, -0.01, 0.01), 50_000, 120_000, "holds"),
        (difference(0.0, -0.01, 0.01), 130_000, 120_000, "fails"),
        (difference(0.0, -0.01, 0.01), None, 120_000, "fails"),
        (difference(0.0, -0.01, 0.01), 50_000, None, "open"),
        (difference(0.0, -0.03, 0.03), 50_000, 120_000, "open"),
        (difference(-0.03, -0.05, 0.03), 50_000, 120_000, "fails"),
    ],
)
def test_cost_claim(comparison: Comparison, requests: float | None, yearly: int | None, claim: str) -> None:
    paid = BreakEven(other="x", tokens_saved_per_request=1, saved_per_1000=1, requests=requests)
    assert cost_claim(comparison, paid, TERMS._replace(requests_per_year=yearly), 0) == claim


def test_a_floor_is_never_beaten_on_cost() -> None:
    assert cost_claim(difference(0.0, -0.01, 0.01), None, TERMS, 0) == "fails"


@settings(max_examples=60, deadline=None)
@given(st.integers(30, 120), st.data())
def test_worth_it_always_rests_on_every_comparison(rows: int, data: st.DataObject) -> None:
    wins = [data.draw(st.integers(0, rows)) for _ in range(4)]
    kinds: list[ArmKind] = ["tuned", "prompt", "few_shot", "nearest"]
    arms = [arm(kind, kind, right(n, rows)) for kind, n in zip(kinds, wins, strict=True)]
    result = verdict(*arms)
    clear = all(c.difference.low > 0 and c.difference.value >= 0.02 for c in result.comparisons)
    assert (result.outcome == "worth_it") <= clear
    assert (result.rows_needed is not None) <= (result.outcome == "inconclusive")
    assert result.rows_needed is None or result.rows_needed > rows


def test_equal_arms_are_seldom_called_worth_it() -> None:
    """Five alternatives as good as the tuned model: picking none and needing all keeps the error rate low."""
    wrong = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        draws = [(rng.random(100) < 0.5).astype(float) for _ in range(6)]
        arms = [arm("tuned", "tuned", list(draws[0]))]
        arms += [arm(f"p{i}", "prompt", list(scores)) for i, scores in enumerate(draws[1:])]
        wrong += verdict(*arms).outcome == "worth_it"
    assert wrong <= 4


def test_arms_that_give_no_verdict_are_refused() -> None:
    tuned, prompt = arm("tuned", "tuned", right(50)), arm("prompt", "prompt", right(50))
    unscored = prompt.model_copy(update={"scores": ()})
    for arms, code in [((tuned,), "no_alternative"), ((prompt,), "tuned_arm"), ((tuned, unscored), "missing_score")]:
        with pytest.raises(EvaluationError) as caught:
            verdict(*arms)
        assert caught.value.code == code


@pytest.mark.parametrize(("cut", "is_told"), [(9, False), (10, True)])
def test_answers_that_were_often_cut_are_told(cut: int, is_told: bool) -> None:
    result = verdict(arm("tuned", "tuned", right(150)), arm("prompt", "prompt", right(60), cut=cut))
    told = [reason for reason in result.reasons if f"prompt ({cut} of 200)" in reason]
    assert bool(told) == is_told


@pytest.mark.parametrize(
    ("fit", "told"),
    [
        (Fit(), ""),
        (Fit(fewer_examples=200, no_examples=200), "for even one example on few_shot, so this arm is the plain prompt"),
        (Fit(fewer_examples=7), "On few_shot, the context has room for fewer examples than asked for on 7 test rows"),
        (Fit(fewer_examples=7, no_examples=2), "of 200, and for none on 2 of them, which is the plain prompt."),
        (Fit(lowered_limits=1), "On few_shot, the answer limit is lowered on 1 test row of 200"),
    ],
)
def test_what_the_context_had_no_room_for_is_told(fit: Fit, told: str) -> None:
    shown = arm("few_shot", "few_shot", right(60)).model_copy(update={"fit": fit})
    reasons = verdict(arm("tuned", "tuned", right(150)), shown).reasons
    assert [told in reason for reason in reasons if "context" in reason] == ([True] if told else [])
