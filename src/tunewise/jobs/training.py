"""The train stage: a complete spec, a run directory named by it, and a child process that fills the directory."""

from collections.abc import Callable
from pathlib import Path

from tunewise.contracts.check import CheckReport
from tunewise.contracts.run import (
    EVENTS_FILE,
    RESULT_FILE,
    SPEC_FILE,
    RunEvent,
    RunResult,
    StepMetrics,
    TrainSpec,
)
from tunewise.jobs import launch
from tunewise.jobs.lab import Lab
from tunewise.jobs.plan import make_spec, remember_speed
from tunewise.jobs.stages import input_key, write_whole
from tunewise.settings import Settings


def resolved_spec(lab: Lab, check: CheckReport) -> TrainSpec:
    """The experiment's config with every "auto" resolved for its files and this machine."""
    return make_spec(
        lab.config.training,
        check,
        base=lab.base,
        max_tokens=lab.max_tokens,
        overlong=lab.config.data.overlong,
        machine=lab.machine,
        versions=lab.versions,
    )


def run_directory(lab: Lab, spec: TrainSpec) -> Path:
    """Named by everything that goes into the adapter."""
    return lab.directory / f"train-{input_key(spec)}"


def train(lab: Lab, spec: TrainSpec, settings: Settings) -> RunResult:
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
    remember_speed(settings, spec, result.tokens_per_second)
    return result


def curve(run_dir: Path) -> tuple[StepMetrics, ...]:
    """The metrics of every step."""
    lines = (run_dir / EVENTS_FILE).read_bytes().splitlines()
    events = map(RunEvent.model_validate_json, lines)
    return tuple(event.data for event in events if event.type == "metrics" and event.data is not None)


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
        if event.type != "metrics" or metrics is None:
            lab.watcher.note(event.message)
            return
        speed = metrics.tokens / metrics.seconds if metrics.seconds else 0.0
        share = metrics.train_reward_accuracy
        better = "" if share is None else f", better answer preferred {share:.0%}"
        detail = f"step {metrics.step}/{metrics.total_steps}, loss {metrics.train_loss:.3f}{better}, {speed:.0f} tok/s"
        lab.watcher.progress(metrics.step, metrics.total_steps, detail)

    return on_event
