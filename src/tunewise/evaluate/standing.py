"""How the tuned arm stands against each other arm: the claims that the verdict is made of.

Knows the rules for one comparison, which docs/adr/0009 argues; the outcome over all of them is `verdict`'s.
"""

from typing import Literal, NamedTuple, TypeAlias

from tunewise.contracts.check import Split
from tunewise.contracts.evaluation import ArmKind, ArmResult, BreakEven, Comparison, Economics, GraderScore, Interval
from tunewise.errors import EvaluationError
from tunewise.evaluate.economics import FLOORS
from tunewise.evaluate.statistics import is_binary, mcnemar, paired_difference, rows_needed, rows_to_clear

Claim: TypeAlias = Literal["holds", "fails", "open"]

# What never sees a training row cannot profit from a leaked one.
BLIND_TO_TRAIN: frozenset[ArmKind] = frozenset({"prompt", "majority"})


class Terms(NamedTuple):
    """What the user asks of a gain."""

    worthwhile: float
    usable: float
    confidence: float
    requests_per_year: int | None


class Standing(NamedTuple):
    """How the tuned arm stands against one other arm."""

    arm: ArmResult
    mean: GraderScore
    comparison: Comparison
    break_even: BreakEven | None
    quality: Claim
    cost: Claim

    @property
    def claim(self) -> Claim:
        """Better in quality, or as good and cheaper: one of the two is enough."""
        if "holds" in {self.quality, self.cost}:
            return "holds"
        return "fails" if self.quality == self.cost == "fails" else "open"


class Case(NamedTuple):
    """All that the outcome follows from."""

    tuned: ArmResult
    score: GraderScore
    standings: tuple[Standing, ...]
    best: Standing
    leaked_lines: tuple[int, ...]
    leaked_from: frozenset[Split]
    without_leaked: Interval | None
    repeated_rows: int
    economics: Economics
    terms: Terms

    @property
    def rows(self) -> int:
        """Test rows."""
        return len(self.score.rows)

    @property
    def is_usable(self) -> bool:
        """Whether the tuned score reaches what the user could work with at all."""
        return self.score.mean.value >= self.terms.usable

    @property
    def lacks_alternatives(self) -> bool:
        """Whether there is nothing but floors to compare with."""
        return all(standing.arm.kind in FLOORS for standing in self.standings)

    @property
    def lost(self) -> tuple[Standing, ...]:
        """The arms against which the claim fails; with leaked rows, those alone that leakage cannot have helped.

        A leak from the validation file can have helped none of them, as they see training rows at most.
        """
        return tuple(
            standing
            for standing in self.standings
            if standing.claim == "fails" and ("train" not in self.leaked_from or standing.arm.kind in BLIND_TO_TRAIN)
        )

    @property
    def open(self) -> tuple[Standing, ...]:
        """The arms against which nothing is decided yet."""
        return tuple(standing for standing in self.standings if standing.claim == "open")


def primary_score(arm: ArmResult, primary: str) -> GraderScore:
    """The arm's score by the grader named `primary`.

    Raises:
        EvaluationError: the arm was not scored by it.
    """
    for score in arm.scores:
        if score.grader == primary:
            return score
    raise EvaluationError("missing_score", f"Arm {arm.arm!r} has no scores by the primary grader {primary!r}.")


def quality_claim(comparison: Comparison, terms: Terms, lost_by_tuned: float, lost_by_other: float) -> Claim:
    """Is the tuned arm better by enough? The lost shares are failed requests, which may have scored anything.

    It holds where the interval lies above 0 and its middle reaches the worthwhile difference; it fails where a
    worthwhile difference lies above the interval, or above the middle of one narrower than that difference.
    """
    difference, worthwhile = comparison.difference, terms.worthwhile
    is_significant = comparison.p_value is None or comparison.p_value < 1 - terms.confidence
    if difference.low > lost_by_other and difference.value - lost_by_other >= worthwhile and is_significant:
        return "holds"
    is_narrow = difference.high - difference.low < worthwhile
    most = (difference.value if is_narrow else difference.high) + lost_by_tuned
    return "fails" if most < worthwhile else "open"


def cost_claim(comparison: Comparison, break_even: BreakEven | None, terms: Terms, lost_by_other: float) -> Claim:
    """Judge whether the tuned arm is as good and earns its training back within a year's requests.

    As good means that the interval lies above minus the worthwhile difference (non-inferiority with that margin).
    """
    difference, worthwhile = comparison.difference, terms.worthwhile
    if break_even is None or break_even.requests is None or difference.value <= -worthwhile:
        return "fails"
    if terms.requests_per_year is not None and break_even.requests > terms.requests_per_year:
        return "fails"
    is_as_good = difference.low - lost_by_other > -worthwhile
    return "holds" if is_as_good and terms.requests_per_year is not None else "open"


def standing_against(
    tuned: ArmResult, other: ArmResult, primary: str, economics: Economics, terms: Terms, seed: int
) -> Standing:
    """Compare the tuned arm with one other, on the primary grader and, where it takes requests, on cost."""
    ours, theirs = primary_score(tuned, primary), primary_score(other, primary)
    both_binary = is_binary(ours.rows) and is_binary(theirs.rows)
    comparison = Comparison(
        other=other.arm,
        difference=paired_difference(ours.rows, theirs.rows, terms.confidence, seed),
        p_value=mcnemar(ours.rows, theirs.rows) if both_binary else None,
        rows_needed=None,
    )
    n = len(ours.rows)
    lost_by_tuned, lost_by_other = tuned.failed_requests / n, other.failed_requests / n
    break_even = next((be for be in economics.break_even if be.other == other.arm), None)
    standing = Standing(
        arm=other,
        mean=theirs,
        comparison=comparison,
        break_even=break_even,
        quality=quality_claim(comparison, terms, lost_by_tuned, lost_by_other),
        cost=cost_claim(comparison, break_even, terms, lost_by_other),
    )
    needed = _needed_against(standing, ours, terms)
    return standing._replace(comparison=comparison.model_copy(update={"rows_needed": needed}))


def _needed_against(standing: Standing, ours: GraderScore, terms: Terms) -> int | None:
    """Test rows that would decide this comparison; None where it is decided, or where more rows would not help.

    More rows do not help against failed requests, nor where only the monthly volume is unknown.
    """
    comparison = standing.comparison
    if standing.claim != "open":
        return None
    differences = [a - b for a, b in zip(ours.rows, standing.mean.rows, strict=True)]
    candidates = []
    if quality_claim(comparison, terms, 0, 0) == "open":
        candidates.append(rows_needed(differences, terms.worthwhile, terms.confidence))
    if standing.cost == "open" and comparison.difference.low <= -terms.worthwhile:
        gap = comparison.difference.value + terms.worthwhile
        candidates.append(rows_to_clear(differences, gap, terms.confidence))
    found = [n for n in candidates if n is not None]
    # An exact test or a skewed sample can want a little more than the formula, which then names too few.
    return max(min(found), len(differences) + len(differences) // 10 + 1) if found else None
