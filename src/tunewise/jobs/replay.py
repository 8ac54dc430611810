"""Replaying a run: its manifest in an empty directory, and what came out differently. Knows run directories only."""

import json
from pathlib import Path
from typing import NamedTuple

from tunewise.contracts.run import SPEC_FILE, RunEvent, RunResult, StepMetrics, TrainSpec
from tunewise.errors import TrainingError
from tunewise.jobs import launch, trainer
from tunewise.jobs.progress import Watcher
from tunewise.jobs.stages import write_whole

_TIMED = {"seconds"}


class Replay(NamedTuple):
    """Both sides of a comparison. `differing_steps`: those whose metrics are not the same."""

    original: RunResult
    repeated: RunResult
    steps: int
    differing_steps: tuple[int, ...]
    changed_versions: dict[str, tuple[str, str]]

    @property
    def is_equal(self) -> bool:
        """Whether weights and metrics are the same, bit for bit."""
        return self.original.weights_sha256 == self.repeated.weights_sha256 and not self.differing_steps


def replay(run_dir: Path, directory: Path, versions: dict[str, str], watcher: Watcher) -> Replay:
    """Train again what `run_dir` has trained, in `directory`; an interrupted replay goes on.

    `versions`: what is installed now, to be named where it is not what the run was made with. Equal bits also need the
    same number of cores: sums are rounded in the order in which threads share them.

    Raises:
        TrainingError: nothing_to_replay, or what training itself raises.
    """
    manifest, original = run_dir / SPEC_FILE, trainer.result_of(run_dir)
    if not manifest.is_file() or original is None or original.status != "succeeded":
        raise TrainingError("nothing_to_replay", f"{run_dir} holds no run that has succeeded; name another")
    watcher.stage("replay", run_dir.name)
    write_whole(directory / SPEC_FILE, manifest.read_text())
    repeated = launch.train(directory, lambda event: _tell(watcher, event))
    then = TrainSpec.model_validate_json(manifest.read_bytes()).versions
    before, after = _metrics(run_dir), _metrics(directory)
    steps = sorted(before.keys() | after.keys())
    return Replay(
        original=original,
        repeated=repeated,
        steps=len(steps),
        differing_steps=tuple(step for step in steps if before.get(step) != after.get(step)),
        changed_versions={name: (then[name], now) for name, now in versions.items() if then.get(name, now) != now},
    )


def _metrics(run_dir: Path) -> dict[int, str]:
    """What was measured at each step, without what a clock decides."""
    events = trainer.EventTail(run_dir).read()
    return {event.data.step: _comparable(event.data) for event in events if event.data and event.type == "metrics"}


def _comparable(metrics: StepMetrics) -> str:
    return json.dumps(metrics.model_dump(exclude=_TIMED), sort_keys=True)


def _tell(watcher: Watcher, event: RunEvent) -> None:
    if event.type == "metrics" and event.data is not None:
        watcher.progress(event.data.step, event.data.total_steps, event.message)
    else:
        watcher.note(event.message)
