"""`python -m tunewise.jobs.study STUDY_DIR`: evaluate a training run, as far as `study.json` says, or go on with it.

Knows files and model servers, which it starts itself; nothing of jobs or databases. Everything that was finished is
kept, so that a process that is killed costs no more than what was under way. `--lock FD` names an inherited file
descriptor that holds the directory's lock already.

Exit codes: 0 there is a verdict, or the alternatives are scored; 128 + n stopped by signal n; 2 to 7 it failed, and
`result.json` says why; 6 a model server died, and 1 a fault in this program: start it again to go on.
"""

import argparse
import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tunewise import machine
from tunewise.contracts.check import CheckReport
from tunewise.contracts.evaluation import Report
from tunewise.contracts.run import RESULT_FILE, SPEC_FILE, RunFailure, TrainSpec
from tunewise.contracts.study import STUDY_FILE, Study, StudyResult
from tunewise.data.template import Template
from tunewise.errors import EvaluationError, ServingError, TunewiseError
from tunewise.jobs import trainer
from tunewise.jobs.conclude import Trained, conclude, primary_scores, scores
from tunewise.jobs.lab import Lab, with_engine
from tunewise.jobs.plan import CHECK_FILE
from tunewise.jobs.prepare import Prepared, baselines, prepare
from tunewise.jobs.progress import Watcher
from tunewise.jobs.stages import write_whole
from tunewise.jobs.study_files import JournalWatcher, key_of, read_study, result_of
from tunewise.settings import get_settings

log = logging.getLogger("tunewise.study")

USAGE_EXIT = 64


def main(arguments: list[str]) -> int:
    """Study what is named; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m tunewise.jobs.study")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lock", type=int)
    asked = parser.parse_args(arguments)
    directory = asked.directory.resolve()
    question = read_study(directory)
    if question is None:
        log.error("%s: no %s of this version there; name a study's directory", directory, STUDY_FILE)
        return USAGE_EXIT
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    if not trainer.hold(directory, asked.lock):
        log.error("%s: another process is at work on this study", directory)
        return USAGE_EXIT
    return study(directory, question)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """End, and what was started with it; asyncio lets SystemExit pass, and few others."""
    raise SystemExit(128 + number)


def study(directory: Path, asked: Study) -> int:
    """Bring the study in `directory` to its end, or to a failure that is written down; the exit code."""
    key = key_of(directory)
    if result_of(directory) is not None:
        log.info("%s: this study has ended already", directory)
        return 0
    try:
        result = _found(_lab(directory, asked, key, JournalWatcher(directory)), asked, key)
    except ServingError as error:
        log.error("%s", error.message)
        return error.exit_code
    except TunewiseError as error:
        log.error("%s", error.message)
        failure = RunFailure(code=error.code, message=error.message, param=error.param)
        write_whole(directory / RESULT_FILE, StudyResult(study=key, error=failure).model_dump_json(indent=1))
        return error.exit_code
    write_whole(directory / RESULT_FILE, result.model_dump_json(indent=1))
    return 0


def _lab(directory: Path, asked: Study, key: str, watcher: Watcher) -> Lab:
    """The run's own base model, number format and versions; the machine is this one."""
    spec = _spec(directory)
    return Lab(
        config=with_engine(asked.config, get_settings()),
        title=asked.title,
        tuned_name=asked.tuned_name,
        origin={"job": directory.parent.name, "study sha256": key},
        base=spec.base_model,
        template=Template.load(spec.base_model.path),
        machine=machine.probe(),
        dtype=spec.dtype,
        versions=spec.versions,
        remedy="Upload a corrected file and ask again.",
        directory=directory,
        watcher=watcher,
    )


def _found(lab: Lab, asked: Study, key: str) -> StudyResult:
    prepared = prepare(lab)
    answers = baselines(lab, prepared)
    if asked.until == "baselines":
        return StudyResult(study=key, scores=scores(lab, prepared, answers))
    report = conclude(lab, _with_plan(lab, prepared), answers, _trained(lab.directory))
    return _of_report(report, key)


def _of_report(report: Report, key: str) -> StudyResult:
    return StudyResult(
        study=key,
        scores=primary_scores(report.arms, report.primary_grader),
        outcome=report.verdict.outcome,
        headline=report.verdict.headline,
    )


def _with_plan(lab: Lab, prepared: Prepared) -> Prepared:
    """The check with the numbers and the estimate that the job was planned with."""
    planned = lab.directory.parent / CHECK_FILE
    if not planned.exists():
        return prepared
    plan = CheckReport.model_validate_json(planned.read_bytes())
    numbers = {"hyperparameters": plan.hyperparameters, "estimate": plan.estimate}
    return prepared._replace(check=prepared.check.model_copy(update=numbers))


def _trained(directory: Path) -> Trained:
    """The run that is studied.

    Raises:
        EvaluationError: not_trained.
    """
    result = trainer.result_of(directory.parent)
    if result is None or result.status != "succeeded":
        raise EvaluationError("not_trained", f"{directory.parent} holds no run that has succeeded; train it first")
    return Trained(_spec(directory), result, directory.parent)


def _spec(directory: Path) -> TrainSpec:
    return TrainSpec.model_validate_json((directory.parent / SPEC_FILE).read_bytes())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
