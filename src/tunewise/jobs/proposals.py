"""What a run would be, before it is asked for: the findings of its files, every "auto" as a number, time and memory.

Reads stored files and keeps nothing, so that a form may ask again at every change.
"""

from pathlib import Path

from tunewise import __version__, catalogue
from tunewise.contracts.check import CheckReport, Split
from tunewise.contracts.fine_tuning import TrainingRequest
from tunewise.contracts.graders import AnyGrader
from tunewise.contracts.jobs import Caller, StoredFile
from tunewise.data.check import Limits, check
from tunewise.data.formats import read_conversations
from tunewise.data.template import Template
from tunewise.errors import RequestError
from tunewise.evaluate import floors
from tunewise.evaluate.graders import grade
from tunewise.evaluate.rows import EvalRow, read_rows
from tunewise.jobs import files
from tunewise.jobs.names import resolve
from tunewise.jobs.plan import make_spec, with_plan
from tunewise.jobs.platform import Platform
from tunewise.machine import this_machine
from tunewise.planning import longest_row
from tunewise.settings import installed_versions

_FIELDS: dict[Split, str] = {"train": "training_file", "valid": "validation_file", "test": "test_file"}


def propose(
    platform: Platform,
    caller: Caller,
    *,
    model: str,
    chosen: dict[Split, str],
    request: TrainingRequest,
    machine_hour: float | None = None,
) -> CheckReport:
    """The findings of the chosen files (ids by split), and, where none of them is an error, numbers and the estimate.

    Raises:
        RequestError: model_not_found, or a file that is not there.
        ModelError: the base model cannot be read.
    """
    with platform.database.read() as session:
        found = resolve(session, platform.settings, caller, model)
    base = catalogue.find(found.base, platform.settings)
    stored = {split: stored_path(platform, caller, file_id, split) for split, file_id in chosen.items()}
    limits = Limits(
        template=Template.load(base.path),
        max_tokens=longest_row(request.method.type, base.context_length),
        overlong=platform.settings.overlong,
        context=base.context_length,
        loss_on=request.method.loss_on,
    )
    report = check([(split, path) for split, (_, path) in stored.items()], limits)
    if report.errors or "train" not in chosen:
        return _named(report, stored)
    spec = make_spec(
        request,
        report,
        base=base,
        max_tokens=longest_row(request.method.type, base.context_length),
        overlong=platform.settings.overlong,
        machine=this_machine(),
        versions=installed_versions("torch", "transformers", "peft", "numpy") | {"tunewise": __version__},
    )
    planned = with_plan(report, spec, machine=this_machine(), price_per_hour=machine_hour, settings=platform.settings)
    return _named(planned, stored)


def stored_path(platform: Platform, caller: Caller, file_id: str, split: Split) -> tuple[StoredFile, Path]:
    """One of the caller's files, and where its bytes lie.

    Raises:
        RequestError: invalid_file, naming the field.
    """
    try:
        return files.retrieve(platform, caller, file_id), platform.rows_of(file_id)
    except RequestError as missing:
        param = _FIELDS[split]
        raise RequestError(
            "invalid_file", f"{param}: there is no file {file_id!r}; upload it first", param=param
        ) from missing


def test_rows(platform: Platform, caller: Caller, file_id: str) -> list[EvalRow]:
    """The rows of a test file.

    Raises:
        RequestError: invalid_file.
        DataError: the rows cannot be read, or are no test rows.
    """
    return read_rows(stored_path(platform, caller, file_id, "test")[1])


def try_grader(
    platform: Platform, caller: Caller, grader: AnyGrader, row: EvalRow, answer: str, training_file: str | None
) -> float:
    """What the grader gives an answer to a test row, from 0 to 1.

    Raises:
        TunewiseError: the grader's settings do not fit the rows.
    """
    known: list[str] = []
    if training_file is not None:
        path = stored_path(platform, caller, training_file, "train")[1]
        known = floors.train_answers(list(read_conversations(path)))
    return grade(grader, [row], [answer], train_answers=known).rows[0]


def _named(report: CheckReport, stored: dict[Split, tuple[StoredFile, Path]]) -> CheckReport:
    """The report with the files called as their owner called them, and not by their ids."""
    names = {path.name: file.filename for file, path in stored.values()}
    findings = tuple(
        finding.model_copy(update={"file": names.get(finding.file, finding.file)}) for finding in report.findings
    )
    inspected = tuple(row.model_copy(update={"file": names.get(row.file, row.file)}) for row in report.inspected)
    return report.model_copy(update={"findings": findings, "inspected": inspected})
