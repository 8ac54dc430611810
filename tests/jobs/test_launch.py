"""Child processes and what becomes of them when one side is killed: real processes, the tiny model."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from evaluate.finished_run import RECIPES, training_run
from jobs.nursery import Nursery, spawner
from train.making import events_of, make_run, make_spec, row, write_rows
from tunewise.contracts.run import BaseModelRef, RunEvent
from tunewise.errors import TrainingError
from tunewise.jobs import trainer
from tunewise.jobs.launch import MAX_RESTARTS, train
from tunewise.jobs.trainer import Spawn

WAIT_SECONDS = 120.0

TRAINING_PARENT = """
import sys
from pathlib import Path
from jobs.nursery import spawner
from tunewise.jobs.launch import train

train(Path(sys.argv[1]), lambda event: None, spawner(Path(sys.argv[2])))
"""
SERVING_PARENT = """
import sys, time
from pathlib import Path
from tunewise.contracts.run import BaseModelRef
from tunewise.jobs.launch import serving

model = BaseModelRef.model_validate_json(sys.argv[1])
with serving(model, dtype="float32", directory=Path(sys.argv[2]), adapters={}):
    print("serving", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """Let each child compute in one thread: beside other busy processes, two wait for each other most of the time."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(usable)})
    yield
    os.sched_setaffinity(0, usable)


@pytest.fixture
def run(tiny_model: BaseModelRef, tmp_path: Path) -> Path:
    """A run of 40 steps, a checkpoint after each: a second or two, so that there is time to kill it."""
    rows = write_rows(tmp_path / "train.jsonl", [row(number) for number in range(40)])
    return make_run(tmp_path / "run", make_spec(tiny_model, rows, n_epochs=4, checkpoint_minutes=1e-9))


@pytest.fixture
def parents() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test has started; none outlives it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture
def spawn(nursery: Nursery) -> Spawn:
    """Trainers are forked here; tests/e2e starts them as users do."""
    return spawner(nursery.address)


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more; an orphan that no one has waited for yet is a zombie."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def wait_until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def starts_in(run: Path) -> int:
    """How often a trainer began, by its log."""
    return (run / "log.txt").read_text().count(" of 40\n")


def test_a_killed_trainer_is_started_again_and_each_event_is_told_once(run: Path, spawn: Spawn) -> None:
    heard: list[RunEvent] = []

    def kill_at_first(event: RunEvent) -> None:
        heard.append(event)
        if len(heard) == 1:
            assert trainer.send(run, signal.SIGKILL)

    result = train(run, kill_at_first, spawn)
    assert (result.status, result.steps) == ("succeeded", 40)
    assert starts_in(run) == 2
    assert [event.seq for event in heard] == [event.seq for event in events_of(run)]


@contextmanager
def killing(run: Path, killed: set[int]) -> Iterator[None]:
    """While it lasts, kill -9 every trainer of the run as soon as it appears."""
    over = threading.Event()

    def hunt() -> None:
        while not over.wait(0.02):
            pid = trainer.pid_of(run)
            if pid is not None and trainer.send(run, signal.SIGKILL):
                killed.add(pid)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield
    finally:
        over.set()
        hunter.join()


def test_a_trainer_that_is_killed_again_and_again_is_given_up(run: Path, spawn: Spawn) -> None:
    killed: set[int] = set()
    with killing(run, killed), pytest.raises(TrainingError, match="ended 4 times without a result") as raised:
        train(run, lambda _: None, spawn)
    assert raised.value.code == "training_killed"
    assert "it goes on where it was" in raised.value.message
    assert len(killed) == 1 + MAX_RESTARTS == 4


def test_a_trainer_that_a_killed_run_left_is_followed_to_its_end(
    run: Path, nursery: Nursery, parents: list[subprocess.Popen[str]]
) -> None:
    parents.append(start(TRAINING_PARENT, str(run), str(nursery.address)))
    wait_until(lambda: (run / "events.jsonl").exists() and events_of(run), "the first event")
    parents[0].send_signal(signal.SIGKILL)
    parents[0].wait()
    assert trainer.is_running(run)
    heard: list[RunEvent] = []
    result = train(run, heard.append)
    wait_until(lambda: not trainer.is_running(run), "the trainer's end")
    assert (result.status, result.steps) == ("succeeded", 40)
    assert starts_in(run) == 1, "no second trainer was started"
    assert [event.seq for event in heard] == [event.seq for event in events_of(run)]


def test_the_last_words_of_an_adopted_trainer_are_heard(tmp_path: Path) -> None:
    """It writes them and lets go of its lock between two looks of ours."""
    lock = (tmp_path / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    last = RunEvent(seq=1, created_at=0.0, level="info", type="message", message="done")

    def end() -> None:
        (tmp_path / "events.jsonl").write_text(f"{last.model_dump_json()}\n")
        (tmp_path / "result.json").write_text(training_run(RECIPES)[1].model_dump_json())
        lock.close()

    ending = threading.Timer(0.5, end)
    ending.start()
    heard: list[RunEvent] = []
    train(tmp_path, heard.append)
    ending.join()
    assert heard == [last]


def test_a_model_server_ends_with_the_process_that_started_it(
    tiny_model: BaseModelRef, tmp_path: Path, parents: list[subprocess.Popen[str]]
) -> None:
    parents.append(start(SERVING_PARENT, tiny_model.model_dump_json(), str(tmp_path / "serve")))
    assert parents[0].stdout is not None
    assert parents[0].stdout.readline() == "serving\n"
    (ready,) = (tmp_path / "serve").glob("serve.*.json")
    server = psutil.Process(json.loads(ready.read_text())["pid"])
    assert not has_ended(server)
    parents[0].send_signal(signal.SIGKILL)
    parents[0].wait()
    wait_until(lambda: has_ended(server), "the server's end")
    log = (tmp_path / "serve" / "serve.log").read_text()
    assert f"process {parents[0].pid}, which started this one, is gone" in log
    assert "Traceback" not in log
