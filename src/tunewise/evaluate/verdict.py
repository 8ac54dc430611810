"""The verdict: was the fine-tune worth it? A pure function of scores, costs, data findings and the user's own terms.

Knows the order of the rules, which docs/adr/0009 argues; `reasons` puts the result into sentences.
"""

from collections.abc import Sequence

from tunewise.contracts.check import CheckReport, LeakedRow
from tunewise.contracts.config import EvaluationConfig, RunConfig, UseCase
from tunewise.contracts.evaluation import ArmResult, Economics, GraderScore, Interval, Outcome, Verdict
from tunewise.errors import EvaluationError
from tunewise.evaluate import reasons
from tunewise.evaluate.economics import FLOORS, tuned_arm
from tunewise.evaluate.standing import Case, Terms, primary_score, standing_against
from tunewise.evaluate.statistics import paired_difference

# Below this a bootstrap interval is too narrow by itself, and a few unlucky rows are the whole result.
FEWEST_TEST_ROWS = 30
MONTHS_TO_PAY_BACK = 12


def decide(
    arms: Sequence[ArmResult],
    primary: str,
    economics: Economics,
    check: CheckReport,
    config: RunConfig,
    lines: Sequence[int] = (),
) -> Verdict:
    """The verdict over all arms, scored by the grader named `primary` on the same test rows.

    `lines` are the test rows' lines in their file; with them a leaky run also hears what its other rows show.

    Raises:
        EvaluationError: not exactly one tuned arm, no other arm, or an arm without scores by `primary`.
    """
    case = _case(arms, primary, economics, check, config, lines)
    result = outcome(case)
    needed = _rows_needed(case) if result == "inconclusive" else None
    return Verdict(
        outcome=result,
        headline=reasons.headline(case, result, needed),
        reasons=reasons.reasons(case),
        best_alternative=case.best.arm.arm,
        comparisons=tuple(standing.comparison for standing in case.standings),
        rows_needed=needed,
    )


def outcome(case: Case) -> Outcome:
    """The rules in order; the first that applies decides."""
    if case.rows < FEWEST_TEST_ROWS:
        return "inconclusive"
    if not case.is_usable or case.lost:
        return "not_worth_it"
    if case.leaked_lines or case.lacks_alternatives or case.open:
        return "inconclusive"
    return "worth_it"


def _terms(evaluation: EvaluationConfig, use_case: UseCase) -> Terms:
    monthly = use_case.requests_per_month
    return Terms(
        worthwhile=evaluation.worthwhile_difference,
        usable=evaluation.usable_score,
        confidence=evaluation.confidence,
        requests_per_year=None if monthly is None else MONTHS_TO_PAY_BACK * monthly,
    )


def _case(
    arms: Sequence[ArmResult],
    primary: str,
    economics: Economics,
    check: CheckReport,
    config: RunConfig,
    lines: Sequence[int],
) -> Case:
    terms, seed = _terms(config.evaluation, config.use_case), config.training.seed
    tuned = tuned_arm(arms)
    others = [arm for arm in arms if arm is not tuned]
    if not others:
        raise EvaluationError("no_alternative", "The tuned arm stands alone: a verdict needs at least the floors.")
    standings = tuple(standing_against(tuned, other, primary, economics, terms, seed) for other in others)
    score = primary_score(tuned, primary)
    best = max(standings, key=lambda standing: (standing.mean.mean.value, standing.arm.kind not in FLOORS))
    leaks = _blocking_leaks(check, config)
    leaked = tuple(sorted({row.line for row in leaks}))
    return Case(
        tuned=tuned,
        score=score,
        standings=standings,
        best=best,
        leaked_lines=leaked,
        leaked_from=frozenset(row.source for row in leaks),
        without_leaked=_without(leaked, lines, score, best.mean, terms, seed) if leaked and lines else None,
        repeated_rows=sum(f.exact_duplicates + f.near_duplicates for f in check.files if f.split == "test"),
        economics=economics,
        terms=terms,
    )


def _blocking_leaks(check: CheckReport, config: RunConfig) -> list[LeakedRow]:
    """The test rows that the tuned model may know. Validation rows teach it nothing but when to stop, if they do."""
    sources = {"train"} if config.training.early_stopping_patience is None else {"train", "valid"}
    return [row for row in check.leakage if row.split == "test" and row.source in sources]


def _without(
    leaked: Sequence[int], lines: Sequence[int], ours: GraderScore, theirs: GraderScore, terms: Terms, seed: int
) -> Interval | None:
    """The difference to the best alternative on the rows that did not leak; None where every row did."""
    kept = [row for row, line in enumerate(lines) if line not in set(leaked)]
    if not kept:
        return None
    a, b = [ours.rows[row] for row in kept], [theirs.rows[row] for row in kept]
    return paired_difference(a, b, terms.confidence, seed)


def _rows_needed(case: Case) -> int | None:
    """Test rows in all, to decide against every arm that is open; never fewer than a verdict asks for."""
    needed = [standing.comparison.rows_needed for standing in case.open]
    found = [n for n in needed if n is not None]
    if case.rows < FEWEST_TEST_ROWS:
        found.append(FEWEST_TEST_ROWS)
    return max(found) if found else None
