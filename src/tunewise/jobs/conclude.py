"""After training: the tuned model is asked as well, all are scored and compared, and the report is written.

Knows a finished training run by its spec, its result and its directory; nothing of who trained it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tunewise.contracts.evaluation import ArmResult, GraderScore, Interval, Question, Report
from tunewise.contracts.run import RunResult, TrainSpec
from tunewise.evaluate import floors
from tunewise.evaluate.decision import Evidence, decision_record
from tunewise.evaluate.economics import arm_result, economics
from tunewise.evaluate.embedding import Embed
from tunewise.evaluate.report import write_report
from tunewise.evaluate.rows import question_of
from tunewise.evaluate.scoring import primary, score
from tunewise.evaluate.standing import primary_score
from tunewise.evaluate.statistics import mean_interval
from tunewise.evaluate.verdict import decide
from tunewise.jobs.arms import Asked, ask_tuned
from tunewise.jobs.embedding import embeddings
from tunewise.jobs.lab import Lab
from tunewise.jobs.prepare import Prepared, still_frozen, test_sets
from tunewise.jobs.training import curve
from tunewise.jobs.weights import weights_of


class Trained(NamedTuple):
    """A training run that has succeeded."""

    spec: TrainSpec
    result: RunResult
    directory: Path


def conclude(lab: Lab, prepared: Prepared, asked: Sequence[Asked], trained: Trained) -> Report:
    """Ask the tuned model, and say whether it was worth it; the report is on the disk when this returns.

    Raises:
        EvaluationError: the test rows changed while the model was trained.
        ModelError: the weights are not those that were trained.
    """
    lab.watcher.stage("evaluate", f"{len(prepared.rows)} test rows, the tuned model asked")
    still_frozen(lab, prepared.frozen)
    weights = weights_of(trained.directory, trained.result)
    tuned = Asked(ask_tuned(lab, prepared.rows, prepared.train, weights), None)
    lab.watcher.stage("verdict", "scores, intervals, costs, report")
    report = _report(lab, prepared, [*asked, tuned], trained)
    write_report(report, lab.directory)
    return report


def scores(lab: Lab, prepared: Prepared, asked: Sequence[Asked]) -> dict[str, Interval]:
    """What each arm scored on the primary grader."""
    return primary_scores(_scored(lab, prepared, asked), primary(lab.config.graders).name)


def primary_scores(arms: Sequence[ArmResult], grader: str) -> dict[str, Interval]:
    """Each arm's mean by the grader of that name."""
    return {arm.arm: primary_score(arm, grader).mean for arm in arms}


def _report(lab: Lab, prepared: Prepared, asked: Sequence[Asked], trained: Trained) -> Report:
    config, rows, (spec, result, run_dir) = lab.config, prepared.rows, trained
    arms = _scored(lab, prepared, asked)
    grader = primary(config.graders).name
    costs = economics(arms, result, config.prices)
    verdict = decide(arms, grader, costs, prepared.check, config, lines=[row.line for row in rows])
    return Report(
        title=lab.title,
        created_at=time.time(),
        primary_grader=grader,
        verdict=verdict,
        arms=tuple(arms),
        economics=costs,
        decision=decision_record(Evidence(config, grader, prepared.check, spec, result, arms, costs, verdict)),
        check=prepared.check,
        spec=spec,
        result=result,
        curve=curve(run_dir),
        questions=tuple(Question(line=r.line, question=question_of(r.messages), reference=r.reference) for r in rows),
        answers=tuple(answers.answers for answers in asked),
        manifest=_manifest(lab, prepared.frozen, run_dir),
    )


def _scored(lab: Lab, prepared: Prepared, asked: Sequence[Asked]) -> list[ArmResult]:
    with embeddings(lab.directory / "serve") as embed:
        return [_arm_scored(lab, prepared, answers, embed) for answers in asked]


def _arm_scored(lab: Lab, prepared: Prepared, asked: Asked, embed: Embed) -> ArmResult:
    """One arm's scores with their intervals, its speed and its cost."""
    evaluation, seed = lab.config.evaluation, lab.config.training.seed
    known = floors.train_answers(prepared.train)
    scores = []
    for grader in lab.config.graders:
        graded = score(grader, prepared.rows, asked.answers.answers, train_answers=known, embed=embed)
        mean = mean_interval(graded.rows, evaluation.confidence, seed)
        scores.append(GraderScore(grader=grader.name, mean=mean, rows=tuple(graded.rows), extras=graded.extras))
    return arm_result(asked.answers, scores, lab.config.prices, asked.endpoint)


def _manifest(lab: Lab, frozen: str, run_dir: Path) -> dict[str, str]:
    """What a rerun needs, and what a doubter wants to compare."""
    machine = lab.machine
    return {
        **lab.origin,
        "test rows sha256": frozen,
        "test sets judged on so far": str(test_sets(lab)),
        "base model": lab.base.name,
        "base model sha256": lab.base.revision,
        "run directory": run_dir.name,
        "machine": f"{machine.name}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB",
        "number format": lab.dtype,
        **{f"version of {name}": version for name, version in lab.versions.items()},
    }
