"""Validation of a job: its stored files are checked, every "auto" becomes a number, and the run's manifest is written.

Knows the job's request and the state directory; the job's status is moved by its caller.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tunewise import __version__
from tunewise.contracts.check import CheckReport, Finding, Split
from tunewise.contracts.fine_tuning import TrainingRequest
from tunewise.contracts.jobs import Job, ResolvedHyperparameters
from tunewise.contracts.run import SPEC_FILE, BaseModelRef, TrainSpec
from tunewise.data.check import LEAST_ROWS, Limits, check
from tunewise.data.template import Template
from tunewise.errors import DataError
from tunewise.jobs import parents, room
from tunewise.jobs.plan import CHECK_FILE, make_spec, with_plan
from tunewise.jobs.platform import ROWS_SUFFIX, Platform
from tunewise.jobs.stages import write_whole
from tunewise.machine import Machine
from tunewise.planning import beta_of, longest_row
from tunewise.settings import installed_versions

_SHOWN = 5
_PARAMS: dict[Split, str] = {"train": "training_file", "valid": "validation_file"}
_NAMES: dict[Split, str] = {"train": "Training", "valid": "Validation"}


class Validated(NamedTuple):
    """What validation gives: the resolved numbers, and what a person must be told of the rows."""

    hyperparameters: ResolvedHyperparameters
    warnings: tuple[str, ...]


def validate(platform: Platform, job: Job, machine: Callable[[], Machine]) -> Validated:
    """Check the job's files and write `spec.json` and `check.json` into its run directory.

    Raises:
        DataError: a file is not fit for the method; the code is one of OpenAI's, `param` names the file's field.
        ModelError: the base model or the parent cannot be used.
        TrainingError: too_many_processes; qlora_unavailable; insufficient_memory, however long it waited.
    """
    base = parents.base_of(platform, job)
    report = _checked(platform, job, base)
    parent = parents.freeze(platform, job, base)
    asked = _asked(job, parent)
    hardware = machine()
    spec = make_spec(
        asked,
        report,
        base=base,
        max_tokens=longest_row(asked.method.type, base.context_length),
        overlong=platform.settings.overlong,
        machine=hardware,
        versions=installed_versions("torch", "transformers", "peft", "numpy") | {"tunewise": __version__},
    )
    room.refuse_the_impossible(spec, hardware, platform.settings)
    if parent is not None:
        spec = spec.model_copy(update={"parent": parent.adapter})
    run_dir = platform.runs_dir / job.id
    planned = with_plan(report, spec, machine=hardware, price_per_hour=None, settings=platform.settings)
    write_whole(run_dir / CHECK_FILE, planned.model_dump_json(indent=1))
    write_whole(run_dir / SPEC_FILE, spec.model_dump_json(indent=1))
    return Validated(_resolved(asked, spec), _warnings(report, spec))


def _asked(job: Job, parent: parents.Parent | None) -> TrainingRequest:
    """What is asked for; an adapter that trains on has the parent's shape and layers."""
    options = dict(job.request.training)
    if parent is not None and parent.adapter.use == "continue" and job.request.training.weights != "full":
        options["lora"] = parent.lora.model_copy(update={"plus_ratio": job.request.training.lora.plus_ratio})
        options["top_layers"] = parent.top_layers
    return TrainingRequest(method=job.request.method, seed=job.request.seed, **options)


def _checked(platform: Platform, job: Job, base: BaseModelRef) -> CheckReport:
    files: list[tuple[Split, Path]] = [("train", platform.rows_of(job.request.training_file))]
    if job.request.validation_file is not None:
        files.append(("valid", platform.rows_of(job.request.validation_file)))
    limits = Limits(
        template=Template.load(base.path),
        max_tokens=longest_row(job.request.method.type, base.context_length),
        overlong=platform.settings.overlong,
        context=base.context_length,
        loss_on=job.request.method.loss_on,
    )
    report = check(files, limits)
    for split, path in files:
        errors = [found for found in report.errors if found.file == path.name]
        if errors:
            raise _refused(split, path.name.removesuffix(ROWS_SUFFIX), errors, report)
    return report


def _refused(split: Split, file_id: str, errors: Sequence[Finding], report: CheckReport) -> DataError:
    """The file's errors as one of OpenAI's: the lines at fault, else too few rows, else the file as a whole."""
    param, name = _PARAMS[split], _NAMES[split]
    in_rows = [found for found in errors if found.line is not None]
    if in_rows:
        shown = "; ".join(f"line {found.line}: {found.message} ({found.remedy})" for found in in_rows[:_SHOWN])
        more = f"; and {len(in_rows) - _SHOWN} more" if len(in_rows) > _SHOWN else ""
        return DataError(
            f"invalid_{param}", f"{name} file {file_id} has {len(in_rows)} problem(s): {shown}{more}", param=param
        )
    if any(found.code == "invalid_n_examples" for found in errors):
        rows = next(file.rows for file in report.files if file.split == split)
        return DataError(
            "invalid_n_examples",
            f"{name} file has {rows} example(s), but must have at least {LEAST_ROWS} examples",
            param=param,
        )
    whole = errors[0]
    return DataError(
        "invalid_file_format", f"{name} file {file_id} cannot be used: {whole.message}; {whole.remedy}", param=param
    )


def _resolved(asked: TrainingRequest, spec: TrainSpec) -> ResolvedHyperparameters:
    multiplier = asked.method.hyperparameters.learning_rate_multiplier
    return ResolvedHyperparameters(
        n_epochs=spec.n_epochs,
        batch_size=spec.batch_size,
        learning_rate_multiplier=1.0 if multiplier == "auto" else multiplier,
        beta=beta_of(spec.objective),
    )


def _warnings(report: CheckReport, spec: TrainSpec) -> tuple[str, ...]:
    """One sentence for each file with over-long rows, naming how many and which."""
    told = []
    for file in report.files:
        lines = [found.line for found in report.findings if found.code == "overlong" and found.file == file.path.name]
        if lines:
            shown = ", ".join(str(line) for line in lines[:20])
            more = f" and {len(lines) - 20} more" if len(lines) > 20 else ""
            told.append(
                f"{len(lines)} row(s) of {_NAMES[file.split].lower()} file {file.path.name} are longer than "
                f"{spec.max_tokens} tokens and are cut at the end: line(s) {shown}{more}"
            )
    return tuple(told)
