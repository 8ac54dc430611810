"""Starting the compute plane: one child process per training run and per hosted base model.

A child runs in a session of its own, so that Ctrl-C reaches it only through us, as SIGTERM, and it can stop cleanly.
Where we are killed with -9, a trainer goes on and is adopted by the next run, and a model server ends by itself.
Knows the run directory and the ready file; nothing of what happens inside a child.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewise.contracts.fine_tuning import Dtype
from tunewise.contracts.run import BaseModelRef, RunEvent, RunResult
from tunewise.embedding_models import EmbeddingModel
from tunewise.errors import EvaluationError, ServingError, TrainingError
from tunewise.jobs import trainer
from tunewise.jobs.child import start_child
from tunewise.jobs.trainer import Spawn, log_tail, spawn

_POLL_SECONDS = 0.2
_STOP_SECONDS = 30.0
_SERVE_START_SECONDS = 180.0
MAX_RESTARTS = 3


def train(run_dir: Path, on_event: Callable[[RunEvent], None], spawn: Spawn = spawn) -> RunResult:
    """Run training to its end; a child that is killed is started again from its last checkpoint, three times at most.

    Raises:
        TrainingError: the run failed, with the cause that the trainer names.
    """
    follow = _follower(run_dir, on_event)
    follow()
    for _attempt in range(1 + MAX_RESTARTS):
        result = trainer.result_of(run_dir)
        if result is not None:
            return _checked(result)
        child = trainer.start(run_dir, spawn)
        try:
            follow()
        finally:
            if child is not None:
                trainer.stop(run_dir, _STOP_SECONDS)
                child.wait()
    result = trainer.result_of(run_dir)
    if result is not None:
        return _checked(result)
    raise trainer.killed(run_dir, 1 + MAX_RESTARTS)


def _follower(run_dir: Path, on_event: Callable[[RunEvent], None]) -> Callable[[], None]:
    """Tells events while a trainer is at work, one left behind by a killed run too; each is told once."""
    tail = trainer.EventTail(run_dir)
    seen = 0

    def tell() -> None:
        nonlocal seen
        for event in tail.read():
            if event.seq > seen:
                seen = event.seq
                on_event(event)

    def follow() -> None:
        while trainer.is_running(run_dir):
            tell()
            time.sleep(_POLL_SECONDS)
        tell()

    return follow


def _checked(result: RunResult) -> RunResult:
    if result.error is not None:
        raise TrainingError(result.error.code, result.error.message, param=result.error.param)
    return result


@contextmanager
def serving(model: BaseModelRef, *, dtype: Dtype, directory: Path, adapters: dict[str, Path]) -> Iterator[str]:
    """Host `model` with `adapters` (name to directory) while the context lasts; gives the base URL, ending in /v1.

    Raises:
        ServingError: the server did not come up, or stopped while it was needed.
    """
    arguments = ["--model", str(model.path), "--name", model.name, "--dtype", dtype]
    for name, path in adapters.items():
        arguments += ["--adapter", f"{name}={path}"]
    with _served(arguments, directory, "serve") as base_url:
        yield base_url


@contextmanager
def serving_embeddings(model: EmbeddingModel, *, directory: Path) -> Iterator[str]:
    """Host a model of embeddings while the context lasts; gives the base URL, ending in /v1.

    Raises:
        ServingError: as `serving` does.
    """
    with _served(
        ["--model", str(model.path), "--name", model.name, "--embeddings"], directory, "embeddings"
    ) as base_url:
        yield base_url


@contextmanager
def _served(arguments: list[str], directory: Path, stem: str) -> Iterator[str]:
    # A file of its own: a server that was left behind by another of us that was killed may yet announce itself.
    ready, log = directory / f"{stem}.{os.getpid()}.json", directory / f"{stem}.log"
    directory.mkdir(parents=True, exist_ok=True)
    ready.unlink(missing_ok=True)
    # The pid is ours to give: a server that asked for its parent's only once it runs might get another one's.
    arguments = [*arguments, "--ready-file", str(ready), "--exit-with-parent", str(os.getpid())]
    with _child(arguments, log) as process:
        _wait_until_ready(process, ready, log)
        try:
            yield str(json.loads(ready.read_bytes())["base_url"])
        except EvaluationError as lost:
            if process.poll() is None:
                raise
            raise ServingError("serve_died", f"the model server stopped; its log ends:\n{log_tail(log)}") from lost
        finally:
            ready.unlink(missing_ok=True)


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    deadline = time.monotonic() + _SERVE_START_SECONDS
    while not ready.exists():
        if process.poll() is not None:
            raise ServingError("serve_failed", f"the model server stopped at once; its log ends:\n{log_tail(log)}")
        if time.monotonic() > deadline:
            raise ServingError(
                "serve_timeout", f"the model server did not answer in {_SERVE_START_SECONDS:.0f} s; see {log}"
            )
        time.sleep(0.05)


@contextmanager
def _child(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A model server, its output appended to `log`; asked to stop, then made to, when the context ends."""
    process = start_child("tunewise.serve", arguments, log)
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
