"""Trackers: programs of others that are told of each step, through Accelerate, by name.

Each keeps its files below `RUN_DIR/trackers/NAME` and sends nothing, unless the environment names a server in the
package's own variables (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_SERVER_URL). A resumed run computes the same steps
again; a tracker is told of each step once, as `told.json` says how far it has come. A tracker that fails is left out
from then on, and the run goes on. Knows nothing of models or of how a step is computed.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from secrets import token_hex
from typing import assert_never

from accelerate import PartialState
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from pydantic import Field

from tunewise.contracts.fine_tuning import Tracker
from tunewise.contracts.frozen import Frozen
from tunewise.contracts.run import StepMetrics, TrainSpec
from tunewise.errors import TrainingError
from tunewise.settings import missing_packages, set_environment
from tunewise.train.journal import write_whole

log = logging.getLogger(__name__)

TRACKERS_DIR = "trackers"
TOLD_FILE = "told.json"
PROJECT = "tunewise"
# A path on this machine says nothing to others, and `versions` is no number of the run's.
_UNTOLD = {"path", "versions", "trackers"}


class Failed(Frozen):
    """When a tracker failed, and the words that the run's events have for it."""

    step: int
    words: str


class Told(Frozen):
    """How far the trackers have come, over all restarts; `run_id` is ours, `mlflow_run` the one that MLflow gives."""

    run_id: str
    step: int = 0
    failed: dict[Tracker, Failed] = Field(default={})
    mlflow_run: str | None = None


def require_installed(names: tuple[Tracker, ...]) -> None:
    """Refuse a tracker whose package is not here.

    Raises:
        TrainingError: tracker_unavailable.
    """
    for name in missing_packages(*names):
        raise TrainingError(
            "tracker_unavailable",
            f"trackers: {name!r} needs a package that is not installed here; `pip install 'tunewise[{name}]'`, or "
            "leave it out: the run's events.jsonl has every step",
            param="training.trackers",
        )


class Trackers:
    """The trackers of a run: opened at the first step that is told, closed at the end of the process."""

    def __init__(self, run_dir: Path, spec: TrainSpec, warn: Callable[[str], None]) -> None:
        """`warn` is told, once and always at the same step, that a tracker has failed."""
        self._directory, self._run, self._spec, self._warn = run_dir / TRACKERS_DIR, run_dir.name, spec, warn
        path = self._directory / TOLD_FILE
        self._open: dict[Tracker, GeneralTracker] = {}
        if path.exists():
            self._told = Told.model_validate_json(path.read_bytes())
        elif spec.trackers:
            self._directory.mkdir(exist_ok=True)
            self._keep(Told(run_id=token_hex(8)))

    def tell(self, metrics: StepMetrics) -> None:
        """Tell every tracker of a step that was not told before.

        Raises:
            OSError: the disk is full.
        """
        if not self._spec.trackers:
            return
        before = self._told.step
        # Kept first: a kill between the two leaves a step out, and no step stands twice.
        self._keep(self._told.model_copy(update={"step": max(before, metrics.step)}))
        for name in self._spec.trackers:
            if metrics.step > before and name not in self._told.failed:
                self._tell(name, metrics, before)
            failed = self._told.failed.get(name)
            if failed is not None and failed.step == metrics.step:
                self._warn(failed.words)

    def close(self) -> None:
        """Let the trackers write what they hold."""
        for name, tracker in self._open.items():
            try:
                tracker.finish()
            except Exception as error:  # noqa: BLE001  # a program of others
                log.warning("tracker %s did not end well: %s: %s", name, type(error).__name__, error)
        self._open.clear()

    def _tell(self, name: Tracker, metrics: StepMetrics, before: int) -> None:
        try:
            if name not in self._open:
                self._open[name] = self._opened(name, before)
            self._open[name].log(_numbers(metrics), step=metrics.step)
        except Exception as error:  # noqa: BLE001  # a program of others: whatever it raises, the run goes on
            self._open.pop(name, None)
            words = f"The tracker {name} failed and is left out: {type(error).__name__}: {str(error)[:200]}"
            failed = self._told.failed | {name: Failed(step=metrics.step, words=words)}
            self._keep(self._told.model_copy(update={"failed": failed}))

    def _opened(self, name: Tracker, before: int) -> GeneralTracker:
        """`before`: the last step that was told, 0 in a new run."""
        directory = self._directory / name
        directory.mkdir(parents=True, exist_ok=True)
        PartialState(cpu=True)  # Accelerate's trackers log nothing, and fail, before it is there
        tracker = _make(name, directory, self._run, self._told, before)
        tracker.start()
        if isinstance(tracker, MLflowTracker):
            self._keep(self._told.model_copy(update={"mlflow_run": tracker.tracker.info.run_id}))
        if before == 0:
            tracker.store_init_configuration(dict(_flat(self._spec.model_dump(mode="json"))))
        return tracker

    def _keep(self, told: Told) -> None:
        self._told = told
        write_whole(self._directory / TOLD_FILE, told.model_dump_json().encode())


def _make(name: Tracker, directory: Path, run: str, told: Told, before: int) -> GeneralTracker:
    match name:
        case "tensorboard":
            return TensorBoardTracker("", directory, purge_step=before + 1)
        case "wandb":
            set_environment(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_CONSOLE="off")
            set_environment(WANDB_DISABLE_CODE="true", WANDB_DISABLE_GIT="true", WANDB_ERROR_REPORTING="false")
            return WandBTracker(PROJECT, dir=directory, name=run, id=told.run_id)
        case "mlflow":
            set_environment(MLFLOW_TRACKING_URI=directory.as_uri(), MLFLOW_DISABLE_TELEMETRY="true")
            artifacts = (directory / "artifacts").as_uri()
            return MLflowTracker(PROJECT, logging_dir=artifacts, run_id=told.mlflow_run, run_name=run)
        case "trackio":
            set_environment(TRACKIO_DIR=str(directory), GRADIO_ANALYTICS_ENABLED="False")
            only_told = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            return TrackioTracker(PROJECT, name=f"{run}-{told.run_id}", resume="allow", **only_told)
        case _:
            assert_never(name)


def _numbers(metrics: StepMetrics) -> dict[str, float]:
    """What is known of the step, under the events' names."""
    numbers: dict[str, float] = metrics.model_dump(exclude={"step", "total_steps"}, exclude_none=True)
    return numbers


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str | float]]:
    """The manifest as plain values: `lora.rank` and so on."""
    for name, value in values.items():
        if name in _UNTOLD:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float):
            yield f"{prefix}{name}", value
        elif value is not None:
            yield f"{prefix}{name}", str(value)
