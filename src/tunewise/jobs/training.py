"""The train stage: a complete spec, a run directory named by it, and a child process that fills the directory."""

import json
from collections.abc import Callable
from pathlib import Path

from tunewise import planning
from tunewise.contracts.check import CheckReport, FileReport, Split
from tunewise.contracts.run import (
    ADAPTER_DIR,
    EVENTS_FILE,
    RESULT_FILE,
    SPEC_FILE,
    DataFile,
    RunEvent,
    RunResult,
    StepMetrics,
    TrainSpec,
)
from tunewise.jobs import launch
from tunewise.jobs.lab import Lab
from tunewise.jobs.stages import input_key, write_whole
from tunewise.settings import Settings


def make_spec(lab: Lab, check: CheckReport) -> TrainSpec:
    """The config with every "auto" resolved for these files and this machine."""
    data = lab.config.data
    return planning.resolve(
        lab.config.training,
        base_model=lab.base,
        train_file=_data_file(check, "train"),
        valid_file=_data_file(check, "valid") if data.valid else None,
        max_tokens=max_tokens(lab),
        overlong=data.overlong,
        machine=lab.machine,
        versions=lab.versions,
    )


def max_tokens(lab: Lab) -> int:
    """The longest row that is trained on: as asked, else the model's context."""
    asked = lab.config.data.max_tokens
    return lab.base.context_length if asked == "auto" else asked


def run_directory(lab: Lab, spec: TrainSpec) -> Path:
    """Named by everything that goes into the adapter."""
    return lab.directory / f"train-{input_key(spec)}"


def train(lab: Lab, spec: TrainSpec) -> RunResult:
    """The result of the run; trained now, gone on with, or there already.

    Raises:
        TrainingError: with the cause that the trainer named.
    """
    run_dir = run_directory(lab, spec)
    done = _finished(run_dir)
    if done is not None:
        lab.watcher.reused("train", f"trained in {done.seconds:.0f} s")
        return done
    write_whole(run_dir / SPEC_FILE, spec.model_dump_json(indent=1))
    (run_dir / RESULT_FILE).unlink(missing_ok=True)
    result = launch.train(run_dir, _reporter(lab))
    remember_speed(lab.settings, spec, result.tokens_per_second)
    return result


def adapter_directory(run_dir: Path) -> Path:
    """Where the trainer leaves the adapter."""
    return run_dir / ADAPTER_DIR


def curve(run_dir: Path) -> tuple[StepMetrics, ...]:
    """The metrics of every step."""
    lines = (run_dir / EVENTS_FILE).read_bytes().splitlines()
    return tuple(event.data for event in map(RunEvent.model_validate_json, lines) if event.data is not None)


def known_speed(settings: Settings, spec: TrainSpec) -> float | None:
    """Tokens per second of the last run with this base model and number format on this machine."""
    return _speeds(settings).get(_speed_key(spec))


def remember_speed(settings: Settings, spec: TrainSpec, tokens_per_second: float) -> None:
    """Keep it for the next estimate."""
    speeds = _speeds(settings) | {_speed_key(spec): tokens_per_second}
    write_whole(_speed_file(settings), json.dumps(speeds, indent=1))


def _data_file(check: CheckReport, split: Split) -> DataFile:
    report: FileReport = next(file for file in check.files if file.split == split)
    return DataFile(path=report.path.resolve(), sha256=report.sha256, rows=report.rows)


def _finished(run_dir: Path) -> RunResult | None:
    """A run that failed is no result: it is tried again, from its last checkpoint."""
    path = run_dir / RESULT_FILE
    if not path.exists():
        return None
    result = RunResult.model_validate_json(path.read_bytes())
    return result if result.status == "succeeded" else None


def _reporter(lab: Lab) -> Callable[[RunEvent], None]:
    def on_event(event: RunEvent) -> None:
        metrics = event.data
        if metrics is None:
            lab.watcher.note(event.message)
            return
        speed = metrics.tokens / metrics.seconds if metrics.seconds else 0.0
        detail = f"step {metrics.step}/{metrics.total_steps}, loss {metrics.train_loss:.3f}, {speed:.0f} tok/s"
        lab.watcher.progress(metrics.step, metrics.total_steps, detail)

    return on_event


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
