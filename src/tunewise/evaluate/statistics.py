"""Intervals, paired differences and the number of test rows: plain statistics over scores from 0 to 1.

Knows arrays of scores; knows nothing of arms, money or what a difference means. docs/adr/0009 argues the choice of
methods and gives their measured coverage.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

from tunewise.contracts.evaluation import Interval
from tunewise.errors import EvaluationError

# `scipy.stats` takes a second to import; named in full, it is imported when the first interval is computed, and a
# mistake in the data is told before that.
Scores: TypeAlias = Sequence[float] | NDArray[np.float64]

# Below ten differing rows a bootstrap has too few distinct samples: its 95 % interval covered the truth in 70-88 %.
ENOUGH_DIFFERING_ROWS = 10
RESAMPLES = 9_999
# BCa's jackknife takes rows² steps; from here on its correction, of order 1/rows, is far below the interval's width.
BCA_ROWS = 2_000
# Bounds the memory of a bootstrap: 4 million draws at a time are 32 MB.
DRAWS_AT_ONCE = 4_000_000


def mean_interval(scores: Scores, confidence: float, seed: int) -> Interval:
    """The mean of `scores`, (rows,), with its interval: Wilson's for binary scores, otherwise a BCa bootstrap.

    Sources: Wilson 1927 (JASA 22:209-212); Efron 1987 (JASA 82:171-185). A constant sample that is not binary gives
    no bootstrap; there the interval is the widest one in which other scores are too rare to have been seen.

    Raises:
        EvaluationError: no rows, or a score outside 0..1.
    """
    x = _checked(scores)
    mean = float(x.mean())
    if np.isin(x, (0.0, 1.0)).all():
        wilson = scipy.stats.binomtest(int(x.sum()), x.size).proportion_ci(confidence, method="wilson")
        return Interval(value=mean, low=min(float(wilson.low), mean), high=max(float(wilson.high), mean))
    if np.ptp(x) == 0:
        unseen = 1 - ((1 - confidence) / 2) ** (1 / x.size)
        return Interval(value=mean, low=mean * (1 - unseen), high=mean + (1 - mean) * unseen)
    return _bootstrap(x, confidence, seed, lowest=0.0)


def paired_difference(a: Scores, b: Scores, confidence: float, seed: int) -> Interval:
    """The mean of a - b, paired by row, with its interval.

    Binary scores, and any pair that differs in fewer than ten rows: the adjusted Wald interval of Bonett and Price
    (2012, Statistical Methodology 9:479-488), which adds one won and one lost row to the sample. Otherwise a paired
    BCa bootstrap: the rows are drawn, and each row keeps both scores.

    Raises:
        EvaluationError: no rows, arms of different length, or a score outside 0..1.
    """
    difference = _paired(a, b)
    if _is_sparse(difference):
        return _bonett_price(difference, confidence)
    return _bootstrap(difference, confidence, seed, lowest=-1.0)


def mcnemar(a: Scores, b: Scores) -> float:
    """McNemar's exact two-sided p-value: could rows won and rows lost, of binary scores, differ so by chance alone.

    Source: McNemar 1947 (Psychometrika 12:153-157), with the binomial distribution over the rows that differ.
    """
    difference = _paired(a, b)
    won, lost = int((difference > 0).sum()), int((difference < 0).sum())
    return float(scipy.stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def rows_needed(differences: Scores, worthwhile: float, confidence: float, power: float = 0.8) -> int | None:
    """Test rows, in all, that decide whether a gain is worthwhile, if mean and spread stay as `differences` show.

    Decided is what docs/adr/0009 calls so: the interval's low end above 0 and its middle at `worthwhile` or more; or
    its high end below `worthwhile`; or the interval no wider than `worthwhile`. The result is the least n, within
    half a percent, at which a normal mean with standard error sd / sqrt(n) is decided with probability `power`
    (Chow, Shao and Wang 2008, "Sample Size Calculations in Clinical Research", ch. 3, for this rule's two bounds).
    None where no number of rows would do: a mean of exactly 0, and every gain counts as worthwhile.
    """
    x = np.asarray(differences, dtype=np.float64)
    mean, sd, z = float(x.mean()), _spread(x), _z(confidence)
    if worthwhile == 0:
        enough = rows_to_clear(x, abs(mean), confidence, power)
    else:
        enough = max(2, math.ceil((2 * z * sd / worthwhile) ** 2))
    if enough is None:
        return None
    n = np.unique(np.ceil(np.geomspace(2, enough, 4_000)))
    error = sd / np.sqrt(n)
    decided = scipy.stats.norm.sf((np.maximum(worthwhile, z * error) - mean) / error)
    decided += scipy.stats.norm.cdf((worthwhile - z * error - mean) / error)
    decided[-1] = 1.0
    return int(n[np.argmax(decided >= power)])


def rows_to_clear(differences: Scores, gap: float, confidence: float, power: float = 0.8) -> int | None:
    """Test rows, in all, with which the interval leaves a bound that lies `gap` from its mean; None for no gap.

    n = ((z_confidence + z_power) * sd / gap)², the textbook formula of the source above.
    """
    x = np.asarray(differences, dtype=np.float64)
    z = _z(confidence) + float(scipy.stats.norm.ppf(power))
    return math.ceil((z * _spread(x) / gap) ** 2) if gap > 0 else None


def is_binary(scores: Scores) -> bool:
    """Whether every score is 0 or 1, which McNemar's test needs."""
    return bool(np.isin(np.asarray(scores, dtype=np.float64), (0.0, 1.0)).all())


def _is_sparse(difference: NDArray[np.float64]) -> bool:
    only_signs = np.isin(difference, (-1.0, 0.0, 1.0)).all()
    return bool(only_signs or np.count_nonzero(difference) < ENOUGH_DIFFERING_ROWS)


def _bonett_price(difference: NDArray[np.float64], confidence: float) -> Interval:
    adjusted = np.append(difference, (1.0, -1.0))
    half = _z(confidence) * float(adjusted.std()) / math.sqrt(adjusted.size)
    middle, value = float(adjusted.mean()), float(difference.mean())
    return Interval(value=value, low=max(min(middle - half, value), -1.0), high=min(max(middle + half, value), 1.0))


def _bootstrap(x: NDArray[np.float64], confidence: float, seed: int, lowest: float) -> Interval:
    result = scipy.stats.bootstrap(
        (x,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, DRAWS_AT_ONCE // x.size),
        confidence_level=confidence,
        method="BCa" if x.size <= BCA_ROWS else "percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    value = float(x.mean())
    return Interval(value=value, low=max(min(float(low), value), lowest), high=min(max(float(high), value), 1.0))


def _spread(x: NDArray[np.float64]) -> float:
    """Standard deviation of a row's difference; for few differing rows, that of the adjusted sample, so never 0."""
    return float(np.append(x, (1.0, -1.0)).std()) if _is_sparse(x) else float(x.std(ddof=1))


def _z(confidence: float) -> float:
    return float(scipy.stats.norm.ppf((1 + confidence) / 2))


def _paired(a: Scores, b: Scores) -> NDArray[np.float64]:
    if len(a) != len(b):
        raise EvaluationError(
            "unpaired_scores", f"{len(a)} scores cannot be paired with {len(b)}: one a test row each."
        )
    return _checked(a) - _checked(b)


def _checked(scores: Scores) -> NDArray[np.float64]:
    x = np.asarray(scores, dtype=np.float64)
    if x.size == 0:
        raise EvaluationError("no_scores", "There are no scores: the test file has no rows that could be graded.")
    outside = x[~((x >= 0) & (x <= 1))]
    if outside.size:
        raise EvaluationError("score_out_of_range", f"A score is {outside[0]:g}; graders score from 0 to 1.")
    return x
