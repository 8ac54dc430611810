"""The plan of a job: what "auto" becomes for these files, and what the job will take. Told before it is started."""

import json
from pathlib import Path
from typing import NamedTuple

from tunewise import planning
from tunewise.contracts.check import CheckReport, FileReport, FittedRows, Split
from tunewise.contracts.fine_tuning import METHOD_TYPES, MethodType, Overlong, TrainingRequest
from tunewise.contracts.run import BaseModelRef, DataFile, TrainSpec
from tunewise.data.fitting import ROWS, misfit
from tunewise.errors import DataError
from tunewise.jobs.stages import write_whole
from tunewise.machine import Machine, refuse_missing_quantization
from tunewise.settings import Settings

CHECK_FILE = "check.json"
_PARAMS: dict[Split, str] = {"train": "training_file", "valid": "validation_file"}


class Expected(NamedTuple):
    """What a job was estimated to take, when its files were checked."""

    seconds: float
    memory_bytes: int
    least_memory_bytes: int


def expected(run_dir: Path) -> Expected:
    """Zeros where no estimate was made."""
    path = run_dir / CHECK_FILE
    made = (json.loads(path.read_bytes())["estimate"] if path.exists() else None) or {}
    return Expected(made.get("seconds", 0.0), made.get("memory_bytes", 0), made.get("least_memory_bytes", 0))


def make_spec(
    request: TrainingRequest,
    check: CheckReport,
    *,
    base: BaseModelRef,
    max_tokens: int,
    overlong: Overlong,
    machine: Machine,
    versions: dict[str, str],
) -> TrainSpec:
    """The request with every "auto" resolved for the checked files and this machine.

    A spec names one training file; where several were checked, it is the first, planned with the rows of all.

    Raises:
        DataError: invalid_file_format, where the rows are not what the method trains on.
        TrainingError: qlora_unavailable.
    """
    refuse_misfits(check, request.method.type)
    if request.weights == "qlora":
        refuse_missing_quantization()
    train, valid = _files(check, "train"), _files(check, "valid")
    first = _data_file(train[0])
    if request.method.type == "pretraining":
        request = planning.for_text(request, _blocks(train))
    return planning.resolve(
        request,
        base_model=base,
        train_file=first.model_copy(update={"rows": sum(file.rows for file in train)}),
        valid_file=_data_file(valid[0]) if valid else None,
        max_tokens=max_tokens,
        overlong=overlong,
        machine=machine,
        versions=versions,
    )


def with_plan(
    check: CheckReport, spec: TrainSpec, *, machine: Machine, price_per_hour: float | None, settings: Settings
) -> CheckReport:
    """The report with the resolved hyperparameters and the estimate added, where there are tokens to plan with."""
    fitted = fitted_rows(check)
    if not fitted.rows:
        return check
    estimate = planning.estimate(
        spec,
        fitted=fitted,
        machine=machine,
        price_per_hour=price_per_hour,
        measured_tokens_per_second=known_speed(settings, spec),
    )
    return check.model_copy(update={"hyperparameters": _resolved(spec), "estimate": estimate})


def fitted_rows(check: CheckReport) -> FittedRows:
    """The rows of all training files as training takes them; none where no tokens were counted."""
    fitted = [file.fitted for file in _files(check, "train") if file.fitted is not None]
    return FittedRows(
        rows=sum(file.rows for file in fitted),
        tokens=sum(file.tokens for file in fitted),
        longest=max((file.longest for file in fitted), default=0),
    )


def known_speed(settings: Settings, spec: TrainSpec) -> float | None:
    """Tokens per second of the last run with this base model, number format and threads on this machine."""
    return _speeds(settings).get(_speed_key(spec))


def remember_speed(settings: Settings, spec: TrainSpec, tokens_per_second: float) -> None:
    """Keep it for the next estimate."""
    speeds = _speeds(settings) | {_speed_key(spec): tokens_per_second}
    write_whole(_speed_file(settings), json.dumps(speeds, indent=1))


def _files(check: CheckReport, split: Split) -> list[FileReport]:
    return [file for file in check.files if file.split == split]


def _blocks(train: list[FileReport]) -> int:
    """Blocks of plain text, one at least."""
    return max(1, sum(file.fitted.rows for file in train if file.fitted is not None))


def _data_file(report: FileReport) -> DataFile:
    return DataFile(path=report.path.resolve(), sha256=report.sha256, rows=report.rows)


def _resolved(spec: TrainSpec) -> dict[str, int | float | str]:
    beta = planning.beta_of(spec.objective)
    lora = {} if spec.weights == "full" else {"lora_rank": spec.lora.rank, "lora_alpha": spec.lora.alpha}
    return {
        "method": spec.objective.type,
        "n_epochs": spec.n_epochs,
        "batch_size": spec.batch_size,
        "learning_rate": spec.learning_rate,
        **({} if beta is None else {"beta": beta}),
        "schedule": spec.schedule,
        "weights": spec.weights,
        **lora,
        "dtype": spec.dtype,
        "max_tokens": spec.max_tokens,
        "seed": spec.seed,
    }


def _speed_file(settings: Settings) -> Path:
    return settings.cache_dir / "speed.json"


def _speeds(settings: Settings) -> dict[str, float]:
    path = _speed_file(settings)
    if not path.exists():
        return {}
    speeds: dict[str, float] = json.loads(path.read_bytes())
    return speeds


def _speed_key(spec: TrainSpec) -> str:
    tuned = spec.lora.rank if spec.weights == "lora" else spec.weights
    layers = "" if spec.top_layers is None else f":top{spec.top_layers}"
    several = f":{spec.processes}:{spec.sharding}" if spec.processes > 1 else ""
    return f"{spec.base_model.revision}:{spec.dtype}:{tuned}:{spec.threads}{layers}{several}"


def refuse_misfits(check: CheckReport, method: MethodType) -> None:
    """Refuse files whose rows are not what the method trains on.

    Raises:
        DataError: invalid_file_format.
    """
    for file in check.files:
        wrong = misfit(file.path.name, file.format, method) if file.split in _PARAMS and file.format else None
        if wrong:
            raise DataError("invalid_file_format", wrong, param=_PARAMS[file.split])


def fitting_method(check: CheckReport) -> MethodType:
    """The method that files are most likely meant for: the first that trains on the training rows as they are."""
    held = next((file.format for file in check.files if file.split == "train" and file.format is not None), "chat")
    return next(method for method in METHOD_TYPES if held in ROWS[method])
