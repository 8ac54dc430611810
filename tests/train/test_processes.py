"""A run in several processes is a run in one: same losses and weights, same files, same ways to stop and go on."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from train.making import events_of, log_of, make_run, make_spec, result_of, row, start, told, train, write_rows
from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, BaseModelRef, LoraSpec, TrainSpec
from tunewise.jobs import trainer


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    """12 steps; the last of each epoch has one row, which leaves one of two processes without any."""
    files = tmp_path_factory.mktemp("data")
    rows = write_rows(files / "train.jsonl", [row(number) for number in range(13)])
    valid = write_rows(files / "valid.jsonl", [row(number) for number in range(100, 107)])
    return make_spec(tiny_model, rows, valid, checkpoint_minutes=1e-9)


@pytest.fixture(scope="module")
def alone(spec: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("alone") / "run", spec)
    assert train(run) == 0
    return run


def losses(run: Path) -> list[float]:
    steps = [event.data for event in events_of(run) if event.type == "metrics" and event.data]
    return [loss for step in steps for loss in (step.train_loss, step.valid_loss, step.full_valid_loss) if loss]


def counts(run: Path) -> list[tuple[object, ...]]:
    return [(e.seq, e.type, e.checkpoint, e.data and (e.data.step, e.data.tokens)) for e in events_of(run)]


def weights(run: Path) -> torch.Tensor:
    tensors = load_file(run / "adapter" / ADAPTER_WEIGHTS_FILE)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize(("sharding", "activation_checkpointing"), [("ddp", False), ("fsdp", False), ("fsdp", True)])
def test_two_processes_give_the_losses_and_weights_of_one(
    sharding: str, activation_checkpointing: bool, spec: TrainSpec, alone: Path, tmp_path: Path
) -> None:
    several = {"processes": 2, "sharding": sharding, "activation_checkpointing": activation_checkpointing}
    run = make_run(tmp_path / "run", spec.model_copy(update=several))
    assert train(run) == 0
    assert len(losses(run)) == 12 + 6 + 3
    assert losses(run) == pytest.approx(losses(alone), rel=1e-6)
    assert (weights(run) - weights(alone)).norm() < 1e-6 * weights(alone).norm()
    assert counts(run) == counts(alone)
    one, two = result_of(alone), result_of(run)
    assert (two.trained_tokens, two.supervised_tokens, two.rows) == (
        one.trained_tokens,
        one.supervised_tokens,
        one.rows,
    )
    assert two.peak_memory_bytes > 1.5 * one.peak_memory_bytes


@pytest.fixture(scope="module")
def noisy(spec: TrainSpec) -> TrainSpec:
    """Two processes that draw their dropout apart."""
    lora = LoraSpec(rank=4, alpha=8.0, dropout=0.1, targets="all-linear")
    return spec.model_copy(update={"processes": 2, "lora": lora})


@pytest.fixture(scope="module")
def straight(noisy: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("straight") / "run", noisy)
    assert train(run) == 0
    return run


def started(run: Path, steps: int) -> tuple[ForkServerProcess, psutil.Process]:
    """A run that has told so many steps, and its second process."""
    first = start(run)
    wait_until(lambda: (run / "events.jsonl").exists() and len(events_of(run)) >= steps)
    (second,) = psutil.Process(first.pid).children()
    return first, second


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_run_of_two_pauses_at_one_step_and_ends_as_a_straight_one(
    noisy: TrainSpec, straight: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", noisy)
    first, _ = started(run, 5)
    assert trainer.pid_of(run) == first.pid
    assert trainer.send(run, signal.SIGTERM)
    first.join()
    assert first.exitcode == 128 + signal.SIGTERM
    assert not (run / "result.json").exists()
    assert not trainer.is_running(run)
    assert log_of(run).count("paused at step") == 2
    assert train(run) == 0
    assert result_of(run).adapter_sha256 == result_of(straight).adapter_sha256
    assert told(run) == told(straight)


@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_run_of_two_of_which_one_is_killed_ends_as_a_straight_one(
    victim: str, noisy: TrainSpec, straight: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", noisy)
    first, second = started(run, 5)
    os.kill(second.pid if victim == "second" else trainer.pid_of(run) or 0, signal.SIGKILL)
    first.join()
    assert first.exitcode == (75 if victim == "second" else -signal.SIGKILL)
    wait_until(lambda: not trainer.is_running(run))
    assert not (run / "result.json").exists(), "the run has not failed: whoever started it goes on with it"
    assert ("rank 1" in log_of(run) and "killed by signal 9" in log_of(run)) == (victim == "second")
    assert train(run) == 0
    assert result_of(run).adapter_sha256 == result_of(straight).adapter_sha256
    assert told(run) == told(straight)


def test_a_run_goes_on_in_another_number_of_processes(spec: TrainSpec, alone: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update={"processes": 2}))
    first, _ = started(run, 5)
    assert trainer.send(run, signal.SIGTERM)
    first.join()
    (run / "spec.json").write_text(spec.model_dump_json())
    assert train(run) == 0
    assert losses(run) == pytest.approx(losses(alone), rel=1e-6)


def test_what_goes_wrong_in_the_second_process_is_written_down_by_the_first(noisy: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", noisy)
    assert train(run, fail_in_the_second) == 5
    error = result_of(run).error
    assert error is not None
    assert error.code == "out_of_memory"
    assert events_of(run)[-1].level == "error"
    assert not trainer.is_running(run)


def fail_in_the_second() -> None:
    """Let memory run out at the fourth step of every process but the first."""
    from tunewise.train import run
    from tunewise.train.session import Session

    one_step = run._one_step

    def failing(session: Session, started: float) -> None:
        if session.progress.step == 3 and not session.world.is_first:
            raise MemoryError
        one_step(session, started)

    run._one_step = failing


def test_a_run_of_two_that_diverges_fails_as_one_does(spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update={"processes": 2, "learning_rate": 1e30}))
    assert train(run) == 5
    error = result_of(run).error
    assert error is not None
    assert error.code == "loss_not_finite"
    assert [event.level for event in events_of(run)].count("error") == 1
