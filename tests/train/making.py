"""Runs to test with: rows, a spec, a child process that trains, and what it left behind."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tunewise.contracts.run import (
    BaseModelRef,
    DataFile,
    LoraSpec,
    RunEvent,
    RunResult,
    SupervisedObjective,
    TrainSpec,
)

SUPERVISED = SupervisedObjective()
WORDS = ("apple", "bread", "carrot", "dill", "egg", "flour", "garlic", "honey", "ice", "jam", "kale", "lemon")


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tunewise.train.__main__"])


def row(number: int, *, answers: int = 1, weight: int | None = None, row_weight: float | None = None) -> str:
    """A chat row of its own length and content, as a line of JSON; `weight` is its answers', `row_weight` its own."""
    words = [WORDS[(number * 7 + place * (number + 3)) % len(WORDS)] for place in range(3 + number % 11)]
    messages: list[dict[str, object]] = []
    for _ in range(answers):
        messages.append({"role": "user", "content": f"List {number}: {' '.join(words)}"})
        answer: dict[str, object] = {"role": "assistant", "content": ", ".join(sorted(set(words)))}
        messages.append(answer if weight is None else answer | {"weight": weight})
    return json.dumps({"messages": messages} | ({} if row_weight is None else {"weight": row_weight}))


def write_rows(path: Path, rows: Sequence[str]) -> DataFile:
    """Write a data file and freeze it."""
    path.write_text("".join(f"{line}\n" for line in rows))
    return DataFile(path=path, sha256=sha256(path.read_bytes()).hexdigest(), rows=len(rows))


def make_spec(model: BaseModelRef, train: DataFile, valid: DataFile | None = None, **changes: object) -> TrainSpec:
    """A small complete spec; `changes` replace fields."""
    spec = TrainSpec(
        base_model=model,
        train_file=train,
        valid_file=valid,
        n_epochs=3,
        batch_size=4,
        learning_rate=5e-3,
        schedule="cosine",
        warmup_ratio=0.1,
        weight_decay=0.01,
        max_grad_norm=1.0,
        lora=LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear"),
        max_tokens=512,
        overlong="error",
        dtype="float32",
        seed=3,
        valid_every_steps=2,
        valid_sample_rows=3,
        checkpoint_minutes=60.0,
        early_stopping_patience=None,
        versions={"tunewise": "test"},
    )
    return spec.model_copy(update=changes)


def make_run(directory: Path, spec: TrainSpec) -> Path:
    """A run directory that has not begun."""
    directory.mkdir(parents=True)
    (directory / "spec.json").write_text(spec.model_dump_json())
    return directory


def start(run: Path, before: Callable[[], None] | None = None) -> ForkServerProcess:
    """Begin training in a process of its own; `before` runs in it first. What it says goes to RUN.log.

    The process is forked from one that has imported torch already: thirty starts take seconds, not minutes.
    """
    process = _context.Process(target=_be_trainer, args=(run, before))
    process.start()
    return process


def train(run: Path, before: Callable[[], None] | None = None) -> int:
    """Train in a process of its own to its end; the exit code."""
    process = start(run, before)
    process.join(timeout=300)
    print(log_of(run))  # noqa: T201  # pytest shows it where the test fails
    assert process.exitcode is not None
    return process.exitcode


def pause_and_go_on(run: Path) -> None:
    """Stop a run at about its third event, and let it go on to its end."""
    process = start(run)
    while not (run / "events.jsonl").exists() or (run / "events.jsonl").read_bytes().count(b"\n") < 3:
        assert process.is_alive(), log_of(run)
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert train(run) == 0


def log_of(run: Path) -> str:
    """What the trainer said."""
    return run.with_suffix(".log").read_text()


def _be_trainer(run: Path, before: Callable[[], None] | None) -> None:
    with run.with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from tunewise.train.__main__ import main

    # One thread: where several processes share the cores, waiting at barriers costs a tiny model most of its time.
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[os.getpid() % len(os.sched_getaffinity(0))]})
    if before is not None:
        before()
    sys.exit(main([str(run)]))


def result_of(run: Path) -> RunResult:
    """The result that a run has left."""
    return RunResult.model_validate_json((run / "result.json").read_bytes())


def events_of(run: Path) -> list[RunEvent]:
    """Every event that a run has left."""
    return [RunEvent.model_validate_json(line) for line in (run / "events.jsonl").read_bytes().splitlines()]


def told(run: Path) -> list[tuple[object, ...]]:
    """The events without what a clock decides."""
    return [
        (event.seq, event.level, event.type, event.message, event.checkpoint)
        + (tuple((event.data.model_copy(update={"seconds": 0.0}).model_dump()).items()) if event.data else ())
        for event in events_of(run)
    ]
