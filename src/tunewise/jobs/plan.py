"""The plan of a job: what "auto" becomes for these files, and what the job will take. Told before it is started."""

import json
from pathlib import Path

from tunewise import planning
from tunewise.contracts.check import CheckReport, FileReport, Split
from tunewise.contracts.fine_tuning import Overlong, TrainingRequest
from tunewise.contracts.run import BaseModelRef, DataFile, TrainSpec
from tunewise.jobs.stages import write_whole
from tunewise.machine import Machine
from tunewise.settings import Settings


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
    """The request with every "auto" resolved for the checked files and this machine."""
    valid = _file(check, "valid")
    return planning.resolve(
        request,
        base_model=base,
        train_file=_data_file(next(file for file in check.files if file.split == "train")),
        valid_file=None if valid is None else _data_file(valid),
        max_tokens=max_tokens,
        overlong=overlong,
        machine=machine,
        versions=versions,
    )


def with_plan(
    check: CheckReport, spec: TrainSpec, *, machine: Machine, price_per_hour: float | None, settings: Settings
) -> CheckReport:
    """The report with the resolved hyperparameters and the estimate added, where there are tokens to plan with."""
    train = _file(check, "train")
    if train is None or train.tokens_per_row is None:
        return check
    tokens = train.tokens_per_row
    estimate = planning.estimate(
        spec,
        tokens=tokens.total,
        longest_row=min(tokens.maximum, spec.max_tokens),
        machine=machine,
        price_per_hour=price_per_hour,
        measured_tokens_per_second=known_speed(settings, spec),
    )
    return check.model_copy(update={"hyperparameters": _resolved(spec), "estimate": estimate})


def known_speed(settings: Settings, spec: TrainSpec) -> float | None:
    """Tokens per second of the last run with this base model and number format on this machine."""
    return _speeds(settings).get(_speed_key(spec))


def remember_speed(settings: Settings, spec: TrainSpec, tokens_per_second: float) -> None:
    """Keep it for the next estimate."""
    speeds = _speeds(settings) | {_speed_key(spec): tokens_per_second}
    write_whole(_speed_file(settings), json.dumps(speeds, indent=1))


def _file(check: CheckReport, split: Split) -> FileReport | None:
    return next((file for file in check.files if file.split == split), None)


def _data_file(report: FileReport) -> DataFile:
    return DataFile(path=report.path.resolve(), sha256=report.sha256, rows=report.rows)


def _resolved(spec: TrainSpec) -> dict[str, int | float | str]:
    return {
        "n_epochs": spec.n_epochs,
        "batch_size": spec.batch_size,
        "learning_rate": spec.learning_rate,
        "schedule": spec.schedule,
        "lora_rank": spec.lora.rank,
        "lora_alpha": spec.lora.alpha,
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
    return f"{spec.base_model.revision}:{spec.dtype}:{spec.lora.rank}"
