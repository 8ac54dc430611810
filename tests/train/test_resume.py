"""A run that is killed and started again ends as one that was never interrupted: weights, result and events."""

import os
import random
import signal
import time
from hashlib import sha256
from pathlib import Path
from statistics import mean

import pytest

from train.making import events_of, log_of, make_run, make_spec, result_of, row, start, told, train, write_rows
from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, BaseModelRef, LoraSpec, ParentAdapter, TrainSpec

KILLS = int(os.environ.get("TUNEWISE_TEST_KILLS", "10"))


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    files = tmp_path_factory.mktemp("data")
    rows = write_rows(files / "train.jsonl", [row(number) for number in range(40)])
    valid = write_rows(files / "valid.jsonl", [row(number) for number in range(100, 107)])
    lora = LoraSpec(rank=4, alpha=8.0, dropout=0.1, targets="all-linear")
    # A checkpoint after nearly every step, so that kills also fall into the writing of one.
    return make_spec(tiny_model, rows, valid, lora=lora, checkpoint_minutes=1e-9)


@pytest.fixture(scope="module")
def straight(spec: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    run = make_run(tmp_path_factory.mktemp("straight") / "run", spec)
    began = time.monotonic()
    assert train(run) == 0
    return run, time.monotonic() - began


def test_a_straight_run_tells_every_step_and_each_epoch(straight: tuple[Path, float]) -> None:
    run, _ = straight
    events = events_of(run)
    steps = [event for event in events if event.type == "metrics"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.data.step for event in steps if event.data] == list(range(1, 31))
    assert [event.checkpoint for event in events if event.checkpoint] == [f"checkpoints/step-{n}" for n in (10, 20, 30)]
    assert steps[-1].message.startswith("Step 30/30: training loss=")
    assert ", full validation loss=" in steps[-1].message


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_killed_run_ends_in_the_same_weights(
    kill: int, spec: TrainSpec, straight: tuple[Path, float], tmp_path: Path
) -> None:
    reference, _ = straight
    run = make_run(tmp_path / "run", spec)
    killed_at = kill_somewhere(run, random.Random(kill))
    assert not (run / "result.json").exists()
    assert train(run) == 0
    assert result_of(run).adapter_sha256 == result_of(reference).adapter_sha256, f"killed after {killed_at} events"
    assert told(run) == told(reference)
    assert without_clock(run) == without_clock(reference)


def kill_somewhere(run: Path, chance: random.Random, most: int = 33) -> int:
    """Kill -9 after a random number of events and a random bit later; how many lines there were."""
    process = start(run)
    wanted, later = chance.randrange(most), chance.random() * 0.03
    while process.is_alive() and lines_in(run) < wanted:
        time.sleep(0.001)
    time.sleep(later)
    process.kill()
    process.join()
    return lines_in(run)


def lines_in(run: Path) -> int:
    events = run / "events.jsonl"
    return events.read_bytes().count(b"\n") if events.exists() else 0


def without_clock(run: Path) -> dict[str, object]:
    timed = {"seconds", "tokens_per_second", "peak_memory_bytes"}
    return result_of(run).model_dump(exclude=timed)


@pytest.fixture(scope="module")
def continued(
    spec: TrainSpec, straight: tuple[Path, float], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainSpec]:
    """A straight run that begins from the adapter of another, and what it was made from."""
    parent = straight[0] / "adapter"
    digest = sha256((parent / ADAPTER_WEIGHTS_FILE).read_bytes()).hexdigest()
    further = spec.model_copy(update={"parent": ParentAdapter(path=parent, sha256=digest), "seed": 11, "n_epochs": 2})
    run = make_run(tmp_path_factory.mktemp("continued") / "run", further)
    assert train(run) == 0
    return run, further


@pytest.mark.parametrize("kill", range(3))
def test_a_killed_run_that_tunes_another_further_ends_in_the_same_weights(
    kill: int, continued: tuple[Path, TrainSpec], straight: tuple[Path, float], tmp_path: Path
) -> None:
    reference, further = continued
    assert result_of(reference).adapter_sha256 != result_of(straight[0]).adapter_sha256
    run = make_run(tmp_path / "run", further)
    killed_at = kill_somewhere(run, random.Random(100 + kill), most=20)
    assert not (run / "result.json").exists()
    assert train(run) == 0
    assert result_of(run).adapter_sha256 == result_of(reference).adapter_sha256, f"killed after {killed_at} events"
    assert told(run) == told(reference)
    assert without_clock(run) == without_clock(reference)


def test_a_run_that_tunes_another_further_begins_below_where_that_began(
    continued: tuple[Path, TrainSpec], straight: tuple[Path, float]
) -> None:
    further, parent = (
        [event.data.train_loss for event in events_of(run) if event.type == "metrics" and event.data]
        for run in (continued[0], straight[0])
    )
    assert further[0] < mean(parent[:10])


def test_a_half_written_event_is_cut_off(spec: TrainSpec, straight: tuple[Path, float], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec)
    process = start(run)
    while lines_in(run) < 5:
        time.sleep(0.001)
    process.kill()
    process.join()
    with (run / "events.jsonl").open("ab") as events:
        events.write(b'{"seq": 99, "created_at": 17')
    assert train(run) == 0
    assert told(run) == told(straight[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_pauses_and_a_second_start_goes_on(
    number: signal.Signals, spec: TrainSpec, straight: tuple[Path, float], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update={"checkpoint_minutes": 60.0}))
    process = start(run)
    while lines_in(run) < 3:
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    assert not (run / "result.json").exists()
    assert len(list((run / "checkpoints").glob("step-*"))) >= 1
    assert train(run) == 0
    assert result_of(run).adapter_sha256 == result_of(straight[0]).adapter_sha256
    assert told(run) == told(straight[0])


def test_a_finished_run_is_left_as_it_is(straight: tuple[Path, float]) -> None:
    run, _ = straight
    before = (run / "result.json").stat().st_mtime_ns
    assert train(run) == 0
    assert (run / "result.json").stat().st_mtime_ns == before


def test_two_processes_do_not_train_one_run(spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec)
    first = start(run)
    while lines_in(run) < 1:
        time.sleep(0.001)
    assert train(run) == 5
    first.kill()
    first.join()
    assert "another process is training this run" in log_of(run)


def test_only_the_last_three_epochs_are_kept(straight: tuple[Path, float], spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update={"n_epochs": 5, "valid_file": None}))
    assert train(run) == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-30", "step-40", "step-50"]
