"""The verdict in plain sentences: quality, floors, cost and what stands in the way, each with its numbers and rows.

Knows the case as decided; decides nothing.
"""

from typing import assert_never

from tunewise.contracts.evaluation import ArmKind, ArmResult, Outcome
from tunewise.evaluate.economics import FLOORS
from tunewise.evaluate.standing import Case, Standing
from tunewise.evaluate.wording import about, amount, between, count, digits, gain, listed, percent, plural, score

LINES_SHOWN = 5

# From this share of cut answers on, the limit may have decided the score.
OFTEN_CUT = 0.05


def headline(case: Case, outcome: Outcome, needed: int | None) -> str:
    """The verdict in one sentence."""
    match outcome:
        case "worth_it":
            return _worth_it(case)
        case "not_worth_it":
            return f"Not worth it: {_why_lost(case)}."
        case "inconclusive":
            return f"Inconclusive: {_why_open(case, needed)}."
        case _:
            assert_never(outcome)


def reasons(case: Case) -> tuple[str, ...]:
    """Quality first, then whatever weakens or blocks the claim, the other arms and floors, and cost."""
    others = [standing for standing in _by_difference(case) if standing is not case.best]
    sentences = [
        _quality(case),
        _usable(case),
        _leakage(case),
        *_failures(case),
        *_fits(case),
        _cut(case),
        _repeats(case),
        *(_compared(standing, case) for standing in others if standing.quality != "holds"),
        _beaten([standing for standing in others if standing.quality == "holds"]),
        _cost(case),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def name(standing: Standing) -> str:
    """The arm, with what it is where its name does not say so."""
    return _named(standing.arm.arm, standing.arm.kind)


def _named(arm: str, kind: ArmKind) -> str:
    match kind:
        case "majority":
            return f"{arm} (always the commonest answer)"
        case "nearest":
            return f"{arm} (the answer of the most similar training row)"
        case "prompt" | "few_shot" | "retrieval" | "tuned":
            return arm
        case _:
            assert_never(kind)


def _worth_it(case: Case) -> str:
    best = case.best
    rows = plural(case.rows, "test row")
    on_quality = all(standing.quality == "holds" for standing in case.standings)
    if on_quality:
        return (
            f"Worth it: the tuned model scores {score(case.score.mean.value)} where the best alternative, "
            f"{best.arm.arm}, scores {score(best.mean.mean.value)}, on {rows}."
        )
    cheaper = [standing for standing in case.standings if standing.quality != "holds"]
    payback = max(standing.break_even.requests or 0 for standing in cheaper if standing.break_even)
    return (
        f"Worth it for its cost: the tuned model is as good as {listed([name(s) for s in cheaper])} on {rows} and "
        f"cheaper per request; training is earned back after {about(payback)} requests, within a year."
    )


def _why_lost(case: Case) -> str:
    ours = score(case.score.mean.value)
    if not case.is_usable:
        return (
            f"the tuned model scores {ours}, below the {digits(case.terms.usable)} from which its answers "
            f"would be usable at all"
        )
    worst = min(case.lost, key=lambda standing: standing.comparison.difference.value)
    difference = worst.comparison.difference
    if difference.value <= 0:
        verb = "only as good as" if difference.high > 0 else "worse than"
        return f"at {ours} the tuned model is {verb} {name(worst)} at {score(worst.mean.mean.value)}"
    return (
        f"the gain over {name(worst)} is {gain(difference.value)}, and most likely smaller than the "
        f"{digits(case.terms.worthwhile)} that would be worthwhile"
    )


def _why_open(case: Case, needed: int | None) -> str:
    if case.leaked_lines:
        leaked = f"{plural(len(case.leaked_lines), 'test row')} also {_stand(case.leaked_lines)}"
        return f"{leaked} in {_leaky_file(case)}, so the scores prove nothing yet"
    if needed is not None:
        return (
            f"about {about(needed - case.rows)} more test rows are needed, {about(needed)} in all, to tell how the "
            f"tuned model ({score(case.score.mean.value)}) compares with {_undecided(case)}"
        )
    if case.lacks_alternatives:
        return "no prompt, few-shot or retrieval arm was run, so there is nothing to compare the tuned model with"
    return _why_rows_do_not_help(case)


def _why_rows_do_not_help(case: Case) -> str:
    volume = [s for s in case.open if s.cost == "open" and case.terms.requests_per_year is None and s.break_even]
    if volume:
        requests = max(s.break_even.requests or 0 for s in volume if s.break_even)
        return (
            f"the tuned model is as good as {listed([name(s) for s in volume])} and cheaper from {about(requests)} "
            "requests on, but how many you send is not known (use_case.requests_per_month)"
        )
    failed = [s.arm for s in case.open if s.arm.failed_requests] or [case.tuned]
    return f"requests failed on {listed([arm.arm for arm in failed])}, and their answers could turn the result"


def _undecided(case: Case) -> str:
    shown = [f"{name(s)} ({score(s.mean.mean.value)})" for s in case.open or (case.best,)]
    return listed(shown)


def _quality(case: Case) -> str:
    return (
        f"On {plural(case.rows, 'test row')} the tuned model scores {score(case.score.mean.value)} "
        f"({percent(case.terms.confidence)} interval {between(case.score.mean)}) by {case.score.grader}; "
        f"the best alternative is {name(case.best)} with {score(case.best.mean.mean.value)} "
        f"({between(case.best.mean.mean)}). {_difference(case.best, case)}"
    )


def _difference(standing: Standing, case: Case) -> str:
    difference = standing.comparison.difference
    p = standing.comparison.p_value
    exact = "" if p is None else f", McNemar's exact p {'below 0.001' if p < 0.001 else f'= {p:.3f}'}"
    return (
        f"The difference, row by row, is {gain(difference.value)} ({between(difference, signed=True)}{exact}): "
        f"{_meaning(standing, case)}."
    )


def _meaning(standing: Standing, case: Case) -> str:
    worthwhile = digits(case.terms.worthwhile)
    match standing.quality:
        case "holds":
            return f"better, and by at least the {worthwhile} that you call worthwhile"
        case "fails":
            return f"no gain of the {worthwhile} that you call worthwhile"
        case "open":
            if standing.comparison.difference.low > 0:
                return f"a gain, but too uncertain whether it reaches the {worthwhile} that you call worthwhile"
            return f"too uncertain to tell a gain of {worthwhile} from none"
        case _:
            assert_never(standing.quality)


def _compared(standing: Standing, case: Case) -> str:
    kind = "The floor" if standing.arm.kind in FLOORS else "The arm"
    return f"{kind} {name(standing)} scores {score(standing.mean.mean.value)}. {_difference(standing, case)}"


def _beaten(held: list[Standing]) -> str:
    """The arms that are clearly beaten, in one sentence."""
    if not held:
        return ""
    shown = [
        f"{name(standing)} by {gain(standing.comparison.difference.value)} "
        f"({between(standing.comparison.difference, signed=True)})"
        for standing in held
    ]
    return f"The tuned model clearly beats {listed(shown)}."


def _usable(case: Case) -> str:
    if case.is_usable:
        return ""
    return (
        f"A score of {score(case.score.mean.value)} is below the {digits(case.terms.usable)} set as usable "
        "(evaluation.usable_score), so no gain over another arm makes the answers worth having."
    )


def _cost(case: Case) -> str:
    costs = case.economics
    trained = f"Training took {amount(costs.training_hours, None)}"
    if costs.currency:
        trained += f" and cost {amount(costs.training_cost, costs.currency)}"
    asked = [standing for standing in case.standings if standing.break_even]
    if not asked:
        return f"{trained}."
    return f"{trained}. {_earned_back(max(asked, key=lambda standing: standing.mean.mean.value), case)}"


def _earned_back(standing: Standing, case: Case) -> str:
    """One sentence on the best alternative that takes requests; the table of the report has the others."""
    paid = standing.break_even
    if paid is None or paid.saved_per_1000 is None:
        return f"The costs of {name(standing)} and of the tuned model have no common unit: give prices.machine_hour."
    saved = amount(abs(paid.saved_per_1000), case.economics.currency)
    if paid.requests is None:
        more = f"Per 1,000 requests the tuned model costs {saved} more than {name(standing)}"
        return f"{more}, so its training is never earned back."
    yearly = case.terms.requests_per_year
    volume = "" if yearly is None else f" (you expect {count(yearly)} a year)"
    return (
        f"Per 1,000 requests the tuned model saves {saved} against {name(standing)}; training is earned back after "
        f"{about(paid.requests)} requests{volume}."
    )


def _leakage(case: Case) -> str:
    lines = case.leaked_lines
    if not lines:
        return ""
    shown = ", ".join(str(line) for line in lines[:LINES_SHOWN])
    more = f" and {plural(len(lines) - LINES_SHOWN, 'more', 'more')}" if len(lines) > LINES_SHOWN else ""
    rest = case.without_leaked
    others = ""
    if rest is not None:
        others = (
            f" On the other rows the difference to {case.best.arm.arm} is {gain(rest.value)} "
            f"({between(rest, signed=True)})."
        )
    harm = (
        "the tuned model may have learnt the answers by heart"
        if "train" in case.leaked_from
        else "early stopping may have chosen the checkpoint that answers them best"
    )
    return (
        f"Leakage: {plural(len(lines), 'test row')} (line {shown}{more}) {_stand(lines)} in {_leaky_file(case)} too, "
        f"word for word or nearly, so {harm}. Take them out of the test file and run again; the training is kept."
        f"{others}"
    )


def _leaky_file(case: Case) -> str:
    match sorted(case.leaked_from):
        case ["train"]:
            return "the training file"
        case ["valid"]:
            return "the validation file"
        case _:
            return "the training or the validation file"


def _stand(lines: tuple[int, ...]) -> str:
    return "stands" if len(lines) == 1 else "stand"


def _repeats(case: Case) -> str:
    if not case.repeated_rows:
        return ""
    repeat = "repeats" if case.repeated_rows == 1 else "repeat"
    return (
        f"{plural(case.repeated_rows, 'test row')} {repeat} another test row, so the intervals are somewhat narrower "
        "than they should be."
    )


def _failures(case: Case) -> list[str]:
    return [
        f"On {arm.arm}, {plural(arm.failed_requests, 'request')} of {count(case.rows)} failed and scored 0; the "
        "verdict allows for whatever those answers might have scored."
        for arm in _arms(case)
        if arm.failed_requests
    ]


def _fits(case: Case) -> list[str]:
    """What the context was too short for, arm by arm."""
    return [
        sentence for arm in _arms(case) for sentence in (_shown(arm, case.rows), _limited(arm, case.rows)) if sentence
    ]


def _shown(arm: ArmResult, rows: int) -> str:
    """Examples and passages that did not fit; without any, an arm is another one under its name."""
    fewer, none = arm.fit.fewer_examples, arm.fit.no_examples
    if none == rows:
        return f"The context has no room for even one example on {arm.arm}, so this arm is the plain prompt."
    if not fewer:
        return ""
    plain = f", and for none on {count(none)} of them, which is the plain prompt" if none else ""
    return (
        f"On {arm.arm}, the context has room for fewer examples than asked for on {plural(fewer, 'test row')} of "
        f"{count(rows)}{plain}."
    )


def _limited(arm: ArmResult, rows: int) -> str:
    lowered = arm.fit.lowered_limits
    if not lowered:
        return ""
    return (
        f"On {arm.arm}, the answer limit is lowered on {plural(lowered, 'test row')} of {count(rows)} to what the "
        "context leaves beside the prompt, so such an answer may be cut."
    )


def _arms(case: Case) -> list[ArmResult]:
    return [case.tuned, *(standing.arm for standing in case.standings)]


def _cut(case: Case) -> str:
    """Arms with many answers at the token limit: a longer one might have scored more."""
    arms = _arms(case)
    often = [arm for arm in arms if arm.cut_answers >= OFTEN_CUT * case.rows]
    if not often:
        return ""
    shown = listed([f"{arm.arm} ({count(arm.cut_answers)} of {count(case.rows)})" for arm in often])
    return (
        f"Many answers ran into the token limit and are scored as cut: {shown}. If such an answer could be right when "
        "longer, raise evaluation.max_completion_tokens."
    )


def _by_difference(case: Case) -> list[Standing]:
    """The hardest comparison first."""
    return sorted(case.standings, key=lambda standing: standing.comparison.difference.value)
