"""Before training: the data is checked, the test rows are frozen, the graders are tried, the alternatives are asked.

What was found before for the same inputs is taken from the stage cache. Knows nothing of training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tunewise.contracts.chat import ChatExample
from tunewise.contracts.check import CheckReport, Finding, Split
from tunewise.contracts.graders import AnyGrader
from tunewise.data.check import Limits, check
from tunewise.data.fitting import HELD
from tunewise.data.formats import read_conversations
from tunewise.errors import DataError, EvaluationError
from tunewise.evaluate import floors
from tunewise.evaluate.graders import Graded
from tunewise.evaluate.rows import EvalRow, freeze, read_rows
from tunewise.evaluate.scoring import primary, score_references
from tunewise.jobs.arms import Asked, ask_baselines, check_arms
from tunewise.jobs.embedding import embeddings, require_embeddings
from tunewise.jobs.lab import Lab, sha256
from tunewise.jobs.stages import cached, input_key, write_whole

_SHOWN_PROBLEMS = 5
_FROZEN_FILE = "frozen-test-rows.txt"


class Prepared(NamedTuple):
    """What is known before training. `frozen`: the content hash (sha256, hex) of the test rows."""

    check: CheckReport
    rows: list[EvalRow]
    train: list[ChatExample]
    frozen: str


def prepare(lab: Lab) -> Prepared:
    """Check everything, and freeze the test rows.

    Raises:
        ConfigError: a key that an arm needs is not set.
        DataError: there are errors in the data, or an arm's documents cannot be read.
        EvaluationError: the rows or the graders cannot give a verdict.
    """
    report = _check(lab)
    rows, train, frozen = _freeze(lab)
    return Prepared(report, rows, train, frozen)


def baselines(lab: Lab, prepared: Prepared) -> list[Asked]:
    """Every alternative's answers."""
    lab.watcher.stage("baselines", f"{len(prepared.rows)} test rows, each alternative asked")
    return ask_baselines(lab, prepared.rows, prepared.train)


def still_frozen(lab: Lab, frozen: str) -> None:
    """Refuse test rows that changed since.

    Raises:
        EvaluationError: test_rows_changed.
    """
    data = lab.config.data
    if freeze(read_rows(data.test, data.test_items)) != frozen:
        raise EvaluationError(
            "test_rows_changed",
            f"{data.test}: the test rows changed while the model was trained; a verdict on them would prove nothing. "
            "Put the old rows back, or run again for a verdict on the new ones",
            param="data.test",
        )


def test_sets(lab: Lab) -> int:
    """How many sets of test rows this experiment was judged on so far."""
    return len((lab.directory / _FROZEN_FILE).read_text().splitlines())


def _check(lab: Lab) -> CheckReport:
    """Every problem of the data and of what the arms need, before anything is spent.

    Raises:
        ConfigError: a key that an arm needs is not set.
        DataError: there are errors among the findings, or an arm's documents cannot be read.
        ModelError: embeddings are needed, and their model is not installed.
    """
    check_arms(lab.config.arms)
    require_embeddings(lab.config)
    data = lab.config.data
    splits: list[tuple[Split, Path | None]] = [("train", data.train), ("valid", data.valid), ("test", data.test)]
    files = [(split, path) for split, path in splits if path is not None]
    lab.watcher.stage("check", ", ".join(path.name for _, path in files))
    hashes = {split: sha256(path) for split, path in files}
    limits = Limits(
        lab.template, lab.max_tokens, data.overlong, lab.base.context_length, lab.config.training.method.loss_on
    )
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
    _refuse_unasked(report)
    return report


def _refuse_unasked(report: CheckReport) -> None:
    """Of a test row the question is asked and the answer graded by; some rows have no question, or no right answer."""
    for file in report.files:
        if file.split == "test" and file.format in {"labelled", "text"}:
            raise DataError(
                "invalid_file_format",
                f"{file.path.name}: holds {HELD[file.format]}, and test rows need a question and the answer that is "
                "wanted; give conversations or preference pairs",
                param="data.test",
            )


def _data_errors(lab: Lab, report: CheckReport) -> DataError:
    first = report.errors[:_SHOWN_PROBLEMS]
    lines = [f"{_place(error)}: {error.message}; {error.remedy}" for error in first]
    more = len(report.errors) - len(first)
    tail = [f"and {more} more"] if more else []
    return DataError(
        first[0].code,
        f"{len(report.errors)} problem(s) in the data; nothing was trained.\n  "
        + "\n  ".join(lines + tail)
        + f"\n{lab.remedy}",
        param=first[0].param,
    )


def _place(error: Finding) -> str:
    return error.file if error.line is None else f"{error.file}, line {error.line}"


def _freeze(lab: Lab) -> tuple[list[EvalRow], list[ChatExample], str]:
    """The test rows, the train rows, and the former's content hash, which is kept before anything is trained.

    The graders are tried on the references.

    Raises:
        EvaluationError: a grader gives the reference itself less than half.
    """
    data = lab.config.data
    rows = read_rows(data.test, data.test_items)
    _refuse_tools(data.test, rows)
    frozen = freeze(rows)
    lab.watcher.stage("freeze", f"{len(rows)} test rows, sha256 {frozen[:12]}")
    train = list(read_conversations(data.train))
    answers = floors.train_answers(train)
    with embeddings(lab.directory / "serve") as embed:
        for grader in lab.config.graders:
            _try(lab, grader, score_references(grader, rows, train_answers=answers, embed=embed))
    _keep_frozen(lab, f"{frozen}  {len(rows)} rows of {data.test.name}")
    return rows, train, frozen


def _try(lab: Lab, grader: AnyGrader, graded: Graded) -> None:
    mean = sum(graded.rows) / len(graded.rows)
    if grader == primary(lab.config.graders) and mean < 0.5:
        raise EvaluationError(
            "grader_refuses_references",
            f"grader {grader.name!r} gives the reference answers themselves {mean:.2f} of 1; it grades something "
            "else than these rows hold: check its `reference` and data.test_items",
            param="graders",
        )


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
