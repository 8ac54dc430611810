"""Starting the compute plane: one child process per training run and per hosted base model.

A child runs in a session of its own, so that Ctrl-C reaches it only through us, as SIGTERM, and it can stop cleanly.
Where we are killed with -9, a trainer goes on and is adopted by the next run, and a model server ends by itself.
Knows the run directory and the ready file; nothing of what happens inside a child.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewise.contracts.fine_tuning import Dtype
from tunewise.contracts.run import EVENTS_FILE, LOCK_FILE, RESULT_FILE, BaseModelRef, RunEvent, RunResult
from tunewise.errors import EvaluationError, ServingError, TrainingError

_POLL_SECONDS = 0.2
_STOP_SECONDS = 30.0
_SERVE_START_SECONDS = 180.0
_LOG_TAIL_LINES = 15
MAX_RESTARTS = 3


def train(run_dir: Path, on_event: Callable[[RunEvent], None]) -> RunResult:
    """Run training to its end; a child that is killed is started again from its last checkpoint, three times at most.

    Raises:
        TrainingError: the run failed, with the cause that the trainer names.
    """
    tail = _EventTail(run_dir / EVENTS_FILE, on_event)
    _adopt(run_dir, tail)
    for _attempt in range(1 + MAX_RESTARTS):
        result = _result(run_dir)
        if result is not None:
            return _checked(result)
        tail.rewind()
        with _child(["tunewise.train", str(run_dir)], run_dir / "log.txt") as process:
            while process.poll() is None:
                tail.advance()
                time.sleep(_POLL_SECONDS)
        tail.advance()
    result = _result(run_dir)
    if result is not None:
        return _checked(result)
    raise TrainingError(
        "training_killed",
        f"training in {run_dir} ended {1 + MAX_RESTARTS} times without a result; its log ends:\n"
        f"{_log_tail(run_dir / 'log.txt')}\nFree memory or lower max_tokens, then run again: it goes on where it was.",
    )


def _result(run_dir: Path) -> RunResult | None:
    path = run_dir / RESULT_FILE
    return RunResult.model_validate_json(path.read_bytes()) if path.exists() else None


def _checked(result: RunResult) -> RunResult:
    if result.error is not None:
        raise TrainingError(result.error.code, result.error.message, param=result.error.param)
    return result


def _adopt(run_dir: Path, tail: "_EventTail") -> None:
    """Follow a trainer that a killed run has left behind, until it ends."""
    while _is_held(run_dir / LOCK_FILE):
        tail.advance()
        time.sleep(_POLL_SECONDS)
    tail.advance()


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class _EventTail:
    """Follows `events.jsonl`, which grows, and which a restart may cut back to the last checkpoint."""

    def __init__(self, path: Path, on_event: Callable[[RunEvent], None]) -> None:
        self._path = path
        self._on_event = on_event
        self._offset = 0
        self._seen = 0

    def rewind(self) -> None:
        """Read from the start again: a trainer about to start cuts the file back to its last checkpoint."""
        self._offset = 0

    def advance(self) -> None:
        """Pass on each whole line that is new; an event that a restart repeats is not told twice."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            event = RunEvent.model_validate_json(line)
            if event.seq > self._seen:
                self._seen = event.seq
                self._on_event(event)


@contextmanager
def serving(model: BaseModelRef, *, dtype: Dtype, directory: Path, adapters: dict[str, Path]) -> Iterator[str]:
    """Host `model` with `adapters` (name to directory) while the context lasts; gives the base URL, ending in /v1.

    Raises:
        ServingError: the server did not come up, or stopped while it was needed.
    """
    ready, log = directory / "serve.json", directory / "serve.log"
    directory.mkdir(parents=True, exist_ok=True)
    ready.unlink(missing_ok=True)
    arguments = ["tunewise.serve", "--model", str(model.path), "--name", model.name, "--dtype", dtype]
    # The pid is ours to give: a server that asked for its parent's only once it runs might get another one's.
    arguments += ["--ready-file", str(ready), "--exit-with-parent", str(os.getpid())]
    for name, path in adapters.items():
        arguments += ["--adapter", f"{name}={path}"]
    with _child(arguments, log) as process:
        _wait_until_ready(process, ready, log)
        try:
            yield str(json.loads(ready.read_bytes())["base_url"])
        except EvaluationError as lost:
            if process.poll() is None:
                raise
            raise ServingError("serve_died", f"the model server stopped; its log ends:\n{_log_tail(log)}") from lost


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    deadline = time.monotonic() + _SERVE_START_SECONDS
    while not ready.exists():
        if process.poll() is not None:
            raise ServingError("serve_failed", f"the model server stopped at once; its log ends:\n{_log_tail(log)}")
        if time.monotonic() > deadline:
            raise ServingError(
                "serve_timeout", f"the model server did not answer in {_SERVE_START_SECONDS:.0f} s; see {log}"
            )
        time.sleep(0.05)


@contextmanager
def _child(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m arguments`, its output appended to `log`; asked to stop, then made to, when the context ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
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


def _log_tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(empty)"
