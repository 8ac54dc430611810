"""`tunewise run`: data, baselines, training, evaluation, verdict, report.

Each stage takes frozen values and gives one; what it gave before for the same inputs is taken from the stage cache.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tunewise.contracts.chat import ChatExample
from tunewise.contracts.check import CheckReport, Finding, Split
from tunewise.contracts.evaluation import ArmResult, GraderScore, Question, Report
from tunewise.contracts.run import RunResult, TrainSpec
from tunewise.data.check import Limits, check
from tunewise.data.formats import read_examples
from tunewise.errors import ConfigError, DataError, EvaluationError
from tunewise.evaluate import floors
from tunewise.evaluate.decision import Evidence, decision_record
from tunewise.evaluate.economics import arm_result, economics
from tunewise.evaluate.report import write_report
from tunewise.evaluate.rows import EvalRow, freeze, question_of, read_rows
from tunewise.evaluate.scoring import primary, score, score_references
from tunewise.evaluate.statistics import mean_interval
from tunewise.evaluate.verdict import decide
from tunewise.jobs.adapter import adapter_of
from tunewise.jobs.arms import Asked, ask_baselines, ask_tuned, check_arms
from tunewise.jobs.lab import Lab, set_up
from tunewise.jobs.plan import with_plan
from tunewise.jobs.progress import Watcher
from tunewise.jobs.stages import cached, input_key, write_whole
from tunewise.jobs.training import curve, max_tokens, resolved_spec, run_directory, train
from tunewise.settings import Settings

_SHOWN_PROBLEMS = 5
_FROZEN_FILE = "frozen-test-rows.txt"


def run_experiment(
    config_path: Path, directory: Path | None, settings: Settings, watcher: Watcher
) -> tuple[Report, Path]:
    """Everything from the config file to the report, and the directory that the report stands in.

    Raises:
        TunewiseError: with what stopped it; what was finished is kept, and the next call goes on from there.
    """
    lab = set_up(config_path, directory, settings, watcher)
    with _alone_in(lab.directory):
        return _run(lab), lab.directory


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold the experiment's directory, as two runs in it would mix their answers."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / ".lock", timeout=0):
            yield
    except Timeout as taken:
        raise ConfigError(
            "already_running",
            f"{directory}: another `tunewise run` works in this directory; wait for it, stop it, or give --output",
            param="--output",
        ) from taken


def _run(lab: Lab) -> Report:
    watcher = lab.watcher
    check = _check(lab)
    spec = resolved_spec(lab, check)
    check = with_plan(
        check, spec, machine=lab.machine, price_per_hour=lab.config.prices.machine_hour, settings=lab.settings
    )
    rows, frozen = _freeze(lab)
    examples = [example for _, example in read_examples(lab.config.data.train)]
    watcher.stage("baselines", f"{len(rows)} test rows, each alternative asked")
    asked = ask_baselines(lab, rows, examples)
    watcher.stage("train", f"{spec.train_file.rows} rows, n_epochs {spec.n_epochs}, {spec.dtype}")
    result = train(lab, spec)
    watcher.stage("evaluate", f"{len(rows)} test rows, the tuned model asked")
    _still_frozen(lab, frozen)
    asked.append(Asked(ask_tuned(lab, rows, examples, adapter_of(run_directory(lab, spec), result)), None))
    watcher.stage("verdict", "scores, intervals, costs, report")
    report = _report(lab, check, rows, examples, asked, spec, result, frozen)
    write_report(report, lab.directory)
    return report


def _check(lab: Lab) -> CheckReport:
    """Every problem of the data and of what the arms need, before anything is spent.

    Raises:
        ConfigError: a key that an arm needs is not set.
        DataError: there are errors among the findings, or an arm's documents cannot be read.
    """
    check_arms(lab.config.arms)
    data = lab.config.data
    splits: list[tuple[Split, Path | None]] = [("train", data.train), ("valid", data.valid), ("test", data.test)]
    files = [(split, path) for split, path in splits if path is not None]
    lab.watcher.stage("check", ", ".join(path.name for _, path in files))
    hashes = {split: _sha256(path) for split, path in files}
    limits = Limits(lab.template, max_tokens(lab), data.overlong, lab.base.context_length)
    key = input_key(hashes, lab.base.revision, limits[1:], data.model_dump(mode="json"))
    report, was_kept = cached(
        lab.stages_dir / f"check-{key}.json",
        CheckReport,
        lambda: check(files, limits),
    )
    if was_kept:
        lab.watcher.reused("check", f"{len(report.findings)} findings")
    if report.errors:
        raise _data_errors(lab, report)
    return report


def _data_errors(lab: Lab, report: CheckReport) -> DataError:
    first = report.errors[:_SHOWN_PROBLEMS]
    lines = [f"{_place(error)}: {error.message}; {error.remedy}" for error in first]
    more = len(report.errors) - len(first)
    tail = [f"and {more} more"] if more else []
    data = lab.config.data
    named = [("--train", data.train), ("--valid", data.valid), ("--test", data.test)]
    paths = " ".join(f"{flag} {path}" for flag, path in named if path is not None)
    limits = f"--max-tokens {max_tokens(lab)} --overlong {data.overlong}"
    return DataError(
        first[0].code,
        f"{len(report.errors)} problem(s) in the data; nothing was trained.\n  "
        + "\n  ".join(lines + tail)
        + f"\nSee them all with: tunewise data check {paths} --model {lab.config.model} {limits}",
        param=first[0].param,
    )


def _place(error: Finding) -> str:
    return error.file if error.line is None else f"{error.file}, line {error.line}"


def _freeze(lab: Lab) -> tuple[list[EvalRow], str]:
    """The test rows and their content hash, kept before anything is trained; the graders are tried on the references.

    Raises:
        EvaluationError: a grader gives the reference itself less than half.
    """
    data = lab.config.data
    rows = read_rows(data.test, data.test_items)
    _refuse_tools(data.test, rows)
    frozen = freeze(rows)
    lab.watcher.stage("freeze", f"{len(rows)} test rows, sha256 {frozen[:12]}")
    answers = floors.train_answers([example for _, example in read_examples(data.train)])
    for grader in lab.config.graders:
        graded = score_references(grader, rows, train_answers=answers)
        mean = sum(graded.rows) / len(graded.rows)
        if grader == primary(lab.config.graders) and mean < 0.5:
            raise EvaluationError(
                "grader_refuses_references",
                f"grader {grader.name!r} gives the reference answers themselves {mean:.2f} of 1; it grades something "
                "else than these rows hold: check its `reference` and data.test_items",
                param="graders",
            )
    _keep_frozen(lab, f"{frozen}  {len(rows)} rows of {data.test.name}")
    return rows, frozen


def _refuse_tools(test: Path, rows: Sequence[EvalRow]) -> None:
    """The model server does not take `tools` yet: such a row would fail in every arm, so it is refused at once."""
    lines = [str(row.line) for row in rows if row.tools]
    if lines:
        raise EvaluationError(
            "tools_not_hosted",
            f"{test}: {len(lines)} test row(s) offer tools (line {', '.join(lines[:5])}), and the model server takes "
            "none yet; leave them out of data.test",
            param="data.test",
        )


def _keep_frozen(lab: Lab, line: str) -> None:
    """Add to the list of test sets that this experiment was ever judged on; a second one is told, never hidden."""
    path = lab.directory / _FROZEN_FILE
    before = path.read_text().splitlines() if path.exists() else []
    if line in before:
        return
    if before:
        lab.watcher.note(f"The test rows are not those of an earlier run ({before[-1][:12]}); {path.name} lists both.")
    write_whole(path, "\n".join([*before, line]) + "\n")


def _still_frozen(lab: Lab, frozen: str) -> None:
    data = lab.config.data
    if freeze(read_rows(data.test, data.test_items)) != frozen:
        raise EvaluationError(
            "test_rows_changed",
            f"{data.test}: the test rows changed while the model was trained; a verdict on them would prove nothing. "
            "Put the old rows back, or run again for a verdict on the new ones",
            param="data.test",
        )


def _report(
    lab: Lab,
    check: CheckReport,
    rows: Sequence[EvalRow],
    train_rows: Sequence[ChatExample],
    asked: Sequence[Asked],
    spec: TrainSpec,
    result: RunResult,
    frozen: str,
) -> Report:
    config = lab.config
    arms = [_scored(lab, rows, train_rows, answers) for answers in asked]
    grader = primary(config.graders).name
    costs = economics(arms, result, config.prices)
    verdict = decide(arms, grader, costs, check, config, lines=[row.line for row in rows])
    return Report(
        title=f"{config.suffix}: {lab.base.name} tuned on {config.data.train.name}",
        created_at=time.time(),
        primary_grader=grader,
        verdict=verdict,
        arms=tuple(arms),
        economics=costs,
        decision=decision_record(Evidence(config, grader, check, spec, result, arms, costs, verdict)),
        check=check,
        spec=spec,
        result=result,
        curve=curve(run_directory(lab, spec)),
        questions=tuple(Question(line=r.line, question=question_of(r.messages), reference=r.reference) for r in rows),
        answers=tuple(answers.answers for answers in asked),
        manifest=_manifest(lab, frozen, run_directory(lab, spec)),
    )


def _scored(lab: Lab, rows: Sequence[EvalRow], train_rows: Sequence[ChatExample], asked: Asked) -> ArmResult:
    """One arm's scores with their intervals, its speed and its cost."""
    evaluation, seed = lab.config.evaluation, lab.config.training.seed
    known = floors.train_answers(train_rows)
    scores = []
    for grader in lab.config.graders:
        graded = score(grader, rows, asked.answers.answers, train_answers=known)
        mean = mean_interval(graded.rows, evaluation.confidence, seed)
        scores.append(GraderScore(grader=grader.name, mean=mean, rows=tuple(graded.rows), extras=graded.extras))
    return arm_result(asked.answers, scores, lab.config.prices, asked.endpoint)


def _manifest(lab: Lab, frozen: str, run_dir: Path) -> dict[str, str]:
    """What a rerun needs, and what a doubter wants to compare."""
    machine = lab.machine
    return {
        "config": str(lab.config_path),
        "config sha256": _sha256(lab.config_path),
        "test rows sha256": frozen,
        "test sets judged on so far": str(len((lab.directory / _FROZEN_FILE).read_text().splitlines())),
        "base model": lab.base.name,
        "base model sha256": lab.base.revision,
        "run directory": run_dir.name,
        "machine": f"{machine.name}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB",
        "number format": lab.dtype,
        **{f"version of {name}": version for name, version in lab.versions.items()},
    }


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as missing:
        raise DataError(
            "file_not_found", f"{path}: no such file; check `data:` in the config", param="data"
        ) from missing
