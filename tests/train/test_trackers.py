"""Trackers are told of each step once, below the run directory; one that fails leaves the run as it is."""

import json
import signal
import sqlite3
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from train.making import events_of, make_run, make_spec, result_of, row, start, told, train, write_rows
from tunewise.contracts.run import BaseModelRef, StepMetrics, TrainSpec
from tunewise.jobs import trainer


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    files = tmp_path_factory.mktemp("data")
    rows = write_rows(files / "train.jsonl", [row(number) for number in range(24)])
    valid = write_rows(files / "valid.jsonl", [row(number) for number in range(100, 104)])
    return make_spec(tiny_model, rows, valid, batch_size=2)


def steps_of(run: Path) -> list[StepMetrics]:
    return [event.data for event in events_of(run) if event.type == "metrics" and event.data]


def tensorboard_losses(run: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "trackers" / "tensorboard"))
    read.Reload()
    return [(scalar.step, scalar.value) for scalar in read.Scalars("train_loss")]


def trackio_losses(run: Path) -> list[tuple[int, float]]:
    (path,) = (run / "trackers" / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    return [(step, json.loads(metrics)["train_loss"]) for step, metrics in rows]


def same(found: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> None:
    """Each step once, in order, with its loss (event files hold float32)."""
    assert [step for step, _ in found] == [step for step, _ in wanted if step in dict(found)]
    assert [loss for _, loss in found] == pytest.approx(
        [loss for step, loss in wanted if step in dict(found)], rel=1e-6
    )


def interrupted(run: Path, number: signal.Signals, steps: int) -> None:
    process = start(run)
    deadline = time.monotonic() + 60
    events = run / "events.jsonl"
    while not events.exists() or events.read_bytes().count(b"\n") < steps:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert trainer.send(run, number)
    process.join()
    assert not (run / "result.json").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*", "ignore::DeprecationWarning:google.*")
def test_a_run_that_was_paused_and_killed_has_each_step_once(spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update={"trackers": ("tensorboard", "trackio", "wandb")}))
    interrupted(run, signal.SIGTERM, 4)
    interrupted(run, signal.SIGKILL, 9)
    assert train(run) == 0
    wanted = [(step.step, step.train_loss) for step in steps_of(run)]
    assert [step for step, _ in wanted] == list(range(1, 37))
    found = tensorboard_losses(run)
    assert len(found) >= 35, "at most the step at which the process was killed is left out"
    same(found, wanted)
    kept = trackio_losses(run)
    same(kept, wanted)
    assert kept[-1][0] == 36
    assert len(list((run / "trackers" / "wandb" / "wandb").glob("offline-run-*"))) == 3
    assert [event.level for event in events_of(run)].count("warn") == 0


def test_a_tracker_changes_no_weight(spec: TrainSpec, tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", spec)
    tracked = make_run(tmp_path / "tracked", spec.model_copy(update={"trackers": ("tensorboard",)}))
    assert train(plain) == train(tracked) == 0
    assert result_of(plain).adapter_sha256 == result_of(tracked).adapter_sha256


def test_a_tracker_that_fails_is_told_of_at_one_step_and_left_out(spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update={"trackers": ("tensorboard", "trackio")}))
    (run / "trackers").mkdir()
    (run / "trackers" / "tensorboard").write_text("no directory can be made here")
    interrupted(run, signal.SIGKILL, 6)
    before = told(run)
    assert train(run) == 0
    warnings = [event for event in events_of(run) if event.level == "warn"]
    assert ["tensorboard failed and is left out: FileExistsError" in event.message for event in warnings] == [True]
    assert told(run)[: len(before) - 1] == before[:-1], "the same events under the same numbers"
    assert trackio_losses(run)[-1][0] == 36


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_tracker_without_its_package_is_refused_before_anything_is_loaded(
    name: str, spec: TrainSpec, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update={"trackers": (name,)}))
    assert train(run, partial(hide, name)) == 5
    error = result_of(run).error
    assert error is not None
    assert (error.code, error.param) == ("tracker_unavailable", "training.trackers")
    assert f"pip install 'tunewise[{name}]'" in error.message


def hide(name: str) -> None:
    """Let a package be missing."""
    sys.modules[name] = None  # type: ignore[assignment]
