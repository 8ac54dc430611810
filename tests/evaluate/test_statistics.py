"""The statistics against published numbers, against statsmodels and scipy, and against their own promise."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

from tunewise.errors import EvaluationError
from tunewise.evaluate.statistics import mcnemar, mean_interval, paired_difference, rows_needed, rows_to_clear

Array = NDArray[np.float64]
binary_scores = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=80)


def pairs(won: int, lost: int, n: int) -> tuple[Array, Array]:
    a = np.zeros(n)
    b = np.zeros(n)
    a[:won] = 1
    b[won : won + lost] = 1
    return a, b


@given(binary_scores, st.sampled_from([0.8, 0.95, 0.99]))
def test_binary_mean_has_the_wilson_interval_of_statsmodels(scores: list[float], confidence: float) -> None:
    interval = mean_interval(scores, confidence, 0)
    low, high = proportion_confint(sum(scores), len(scores), alpha=1 - confidence, method="wilson")
    assert interval.value == pytest.approx(np.mean(scores))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


def test_graded_mean_has_the_bca_interval_of_scipy() -> None:
    scores = np.random.default_rng(5).beta(6, 2, size=150)
    interval = mean_interval(scores, 0.9, 7)
    oracle = stats.bootstrap(
        (scores,), np.mean, confidence_level=0.9, n_resamples=9_999, rng=np.random.default_rng(7)
    ).confidence_interval
    assert (interval.low, interval.high) == pytest.approx(tuple(oracle))


def test_same_seed_gives_the_same_interval() -> None:
    scores = np.random.default_rng(5).random(60)
    assert mean_interval(scores, 0.95, 1) == mean_interval(scores, 0.95, 1)
    assert mean_interval(scores, 0.95, 1) != mean_interval(scores, 0.95, 2)


def test_constant_scores_are_not_certain() -> None:
    interval = mean_interval([0.5] * 50, 0.95, 0)
    assert interval.low < 0.47 < interval.value < 0.53 < interval.high
    assert mean_interval([0.5], 0.95, 0).high > 0.98


def test_bonett_price_interval_as_its_author_publishes_it() -> None:
    """Bonett's own code gives [0.3126438, 0.7349752] for 26 rows won, 4 lost, of 40."""
    interval = paired_difference(*pairs(26, 4, 40), 0.95, 0)
    assert interval.value == pytest.approx(22 / 40)
    assert (interval.low, interval.high) == pytest.approx((0.3126438, 0.7349752), abs=1e-7)


def test_graded_difference_has_the_paired_bca_interval_of_scipy() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(120), rng.random(120)
    interval = paired_difference(a, b, 0.95, 11)

    def mean_difference(x: Array, y: Array, axis: int = -1) -> Array:
        return np.asarray(np.mean(x - y, axis=axis))

    oracle = stats.bootstrap(
        (a, b), mean_difference, paired=True, n_resamples=9_999, rng=np.random.default_rng(11), vectorized=True
    ).confidence_interval
    assert (interval.low, interval.high) == pytest.approx(tuple(oracle), abs=1e-3)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 100))
def test_mcnemar_equals_statsmodels(won: int, lost: int, same: int) -> None:
    a, b = pairs(won, lost, won + lost + same + 1)
    oracle = statsmodels_mcnemar([[same + 1, won], [lost, 0]], exact=True).pvalue if won + lost else 1.0
    assert mcnemar(a, b) == pytest.approx(oracle)


@pytest.mark.parametrize("won", range(1, 12))
def test_interval_and_mcnemar_agree_for_few_differing_rows(won: int) -> None:
    a, b = pairs(won, 0, 200)
    assert (paired_difference(a, b, 0.95, 0).low > 0) == (mcnemar(a, b) < 0.05)


def test_equal_arms_are_not_certainly_equal() -> None:
    interval = paired_difference([1.0, 0.0] * 50, [1.0, 0.0] * 50, 0.95, 0)
    assert interval.value == 0
    assert -0.04 < interval.low < -0.01
    assert interval.low == -interval.high


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=25))
def test_difference_lies_inside_its_interval_and_the_interval_inside_the_scale(rows: list[tuple[float, float]]) -> None:
    a, b = zip(*rows, strict=True)
    interval = paired_difference(a, b, 0.95, 0)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1


def test_rows_to_clear_equals_the_power_function_of_statsmodels() -> None:
    rng = np.random.default_rng(1)
    for sd, gap, confidence, power in itertools.product((0.1, 0.3), (0.02, 0.05), (0.9, 0.95), (0.8, 0.9)):
        differences = rng.normal(0, 1, 400)
        differences = (differences - differences.mean()) / differences.std(ddof=1) * sd
        oracle = NormalIndPower(ddof=0).solve_power(gap / sd, alpha=1 - confidence, power=power, ratio=0)
        assert rows_to_clear(differences, gap, confidence, power) == pytest.approx(oracle, abs=1)


def test_rows_needed_equals_the_power_function_of_statsmodels_where_every_gain_counts() -> None:
    differences = np.random.default_rng(1).normal(0.05, 0.3, 400)
    effect = differences.mean() / differences.std(ddof=1)
    oracle = NormalIndPower(ddof=0).solve_power(effect, alpha=0.05, power=0.8, ratio=0)
    assert rows_needed(differences, 0.0, 0.95) == pytest.approx(oracle, rel=0.005, abs=1)


@pytest.mark.parametrize("mean", [-0.03, 0.0, 0.01, 0.019, 0.02, 0.06])
def test_with_the_rows_needed_four_in_five_runs_are_decided(mean: float) -> None:
    rng = np.random.default_rng(2)
    pilot = rng.normal(0, 1, 300)
    pilot = (pilot - pilot.mean()) / pilot.std(ddof=1) * 0.25 + mean
    n = rows_needed(pilot, 0.02, 0.95)
    assert n is not None
    means = rng.normal(mean, 0.25 / np.sqrt(n), 4_000)
    half = stats.norm.ppf(0.975) * 0.25 / np.sqrt(n)
    better = (means - half > 0) & (means >= 0.02)
    not_better = (means + half < 0.02) | ((2 * half <= 0.02) & (means < 0.02))
    assert np.mean(better | not_better) >= 0.78


def test_no_number_of_rows_decides_between_equal_arms_when_any_gain_counts() -> None:
    assert rows_needed([0.5, -0.5] * 20, 0.0, 0.95) is None


def cover(draw: Callable[[np.random.Generator], tuple[Array, Array]], truth: float, samples: int) -> float:
    rng = np.random.default_rng(17)
    intervals = [paired_difference(*draw(rng), 0.95, seed) for seed in range(samples)]
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))


def test_interval_of_graded_differences_covers_the_truth() -> None:
    """80 rows of skewed scores, as json_set_f1 gives them; the truth is the difference of the beta means."""
    rate = cover(lambda rng: (rng.beta(5, 1, 80), rng.beta(3, 1, 80)), 5 / 6 - 3 / 4, 300)
    assert 0.92 <= rate <= 0.98


@pytest.mark.parametrize(("win", "lose"), [(0.02, 0.01), (0.05, 0.0), (0.1, 0.05), (0.4, 0.2)])
def test_interval_of_binary_differences_covers_the_truth_however_few_rows_differ(win: float, lose: float) -> None:
    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        u = rng.random(150)
        return (u < win).astype(float), ((u >= win) & (u < win + lose)).astype(float)

    assert 0.935 <= cover(draw, win - lose, 2_000) <= 1.0


def test_interval_of_graded_differences_covers_the_truth_however_few_rows_differ() -> None:
    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        differ = rng.random(100) < 0.03
        return np.where(differ, rng.uniform(0.4, 1, 100), 0.5), np.full(100, 0.5)

    assert cover(draw, 0.03 * 0.2, 600) >= 0.94


def test_wilson_covers_the_truth_near_zero() -> None:
    hits = [mean_interval((np.random.default_rng(s).random(200) < 0.03).astype(float), 0.95, 0) for s in range(1_500)]
    assert 0.93 <= np.mean([i.low <= 0.03 <= i.high for i in hits]) <= 0.98


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        ([], [], "no_scores"),
        ([1.0], [1.0, 0.0], "unpaired_scores"),
        ([1.2], [1.0], "score_out_of_range"),
        ([float("nan")], [1.0], "score_out_of_range"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(a: list[float], b: list[float], code: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        paired_difference(a, b, 0.95, 0)
    assert caught.value.code == code
