"""The trainer of one run directory: started, followed, asked to stop, and adopted by whoever comes after its starter.

A trainer lives as long as the lock of its run directory is held: the starter takes the lock and the child inherits it,
so that there is no moment at which a second one could be started or a living one be overlooked. Its process id stands
in the lock file. Knows the run directory; nothing of jobs or of what training is.
"""

import fcntl
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

from pydantic import ValidationError

from tunewise.contracts.run import EVENTS_FILE, LOCK_FILE, PID_WIDTH, RESULT_FILE, RunEvent, RunResult
from tunewise.errors import TrainingError
from tunewise.jobs.child import start_child

LOG_FILE = "log.txt"
_LOG_TAIL_LINES = 15
_POLL_SECONDS = 0.05


class Child(Protocol):
    """A process that was started here."""

    @property
    def pid(self) -> int | None:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit code once it has ended; asking for it lets the system forget the process."""

    def wait(self) -> int:
        """Its exit code, when it has ended."""


Spawn: TypeAlias = Callable[[Path, int], Child]
"""Starts the trainer of a run directory, which inherits the lock's file descriptor."""


def spawn(run_dir: Path, lock: int) -> Child:
    """`python -m tunewise.train RUN_DIR`."""
    return spawn_module("tunewise.train", run_dir, lock)


def spawn_module(module: str, directory: Path, lock: int) -> Child:
    """`python -m MODULE DIRECTORY`; what it says is appended to its log."""
    return start_child(module, [str(directory), "--lock", str(lock)], directory / LOG_FILE, files=[lock])


def start(run_dir: Path, spawn: Spawn = spawn) -> Child | None:
    """Start training; None where a trainer is at work already.

    Raises:
        OSError: no process can be started, or the disk is full.
    """
    lock = _take(run_dir)
    if lock is None:
        return None
    try:
        _write_pid(lock, None)
        child = spawn(run_dir, lock)
        _write_pid(lock, child.pid)
        return child
    finally:
        os.close(lock)


def hold(directory: Path, inherited: int | None) -> bool:
    """Hold the directory for as long as this process lives; False where another does. `inherited`: its lock, if the
    starter has taken it.
    """
    lock = _take(directory) if inherited is None else inherited
    if lock is None:
        return False
    _write_pid(lock, os.getpid())
    return True


def _take(directory: Path) -> int | None:
    lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def is_running(run_dir: Path) -> bool:
    """Whether a trainer is at work, whoever started it."""
    try:
        lock = os.open(run_dir / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def send(run_dir: Path, number: signal.Signals) -> bool:
    """Send a signal to the trainer; whether there was one to send it to.

    The process is held by a descriptor before the lock is looked at, so that a number that was given away meanwhile
    is never signalled.
    """
    pid = pid_of(run_dir)
    if pid is None:
        return False
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_running(run_dir) or pid_of(run_dir) != pid:
            return False
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


def stop(run_dir: Path, grace_seconds: float) -> None:
    """Ask the trainer to write a checkpoint and end; after `grace_seconds` make it end. Returns when it has."""
    deadline = time.monotonic() + grace_seconds
    asked = False
    while is_running(run_dir):
        asked = asked or send(run_dir, signal.SIGTERM)
        if time.monotonic() > deadline:
            send(run_dir, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def pid_of(run_dir: Path) -> int | None:
    """The process that holds, or last held, the run directory; None before it is written down."""
    with suppress(FileNotFoundError):
        written = (run_dir / LOCK_FILE).read_bytes().strip()
        return int(written) if written.isdigit() else None
    return None


def result_of(run_dir: Path) -> RunResult | None:
    """How the run ended, if it did."""
    path = run_dir / RESULT_FILE
    return RunResult.model_validate_json(path.read_bytes()) if path.exists() else None


def log_tail(log: Path) -> str:
    """The last lines of what a child said."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(empty)"


def killed(run_dir: Path, times: int) -> TrainingError:
    """What to say of a trainer that ends again and again without a result."""
    return TrainingError(
        "training_killed",
        f"training in {run_dir} ended {times} times without a result; its log ends:\n"
        f"{log_tail(run_dir / LOG_FILE)}\nFree memory or lower max_tokens, then run again: it goes on where it was.",
    )


class EventTail:
    """Follows a run's `events.jsonl`, which grows, and which a restarted trainer cuts back to its last checkpoint.

    What stands before `_offset` is known by its last line: when that line is not where it was, the file was cut, and
    is read again from its start. An event may therefore come twice, under the same `seq`.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / EVENTS_FILE
        self._offset = 0
        self._last_line = b""

    def read(self) -> list[RunEvent]:
        """The events in the whole lines that are new. A line that was spoilt by a full disk ends what is read."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    file.seek(0)
                    self._offset, self._last_line = 0, b""
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        events: list[RunEvent] = []
        for line in lines:
            event = _parsed(line)
            if event is None:
                break
            events.append(event)
            self._offset += len(line)
            self._last_line = line
        return events


def _parsed(line: bytes) -> RunEvent | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return RunEvent.model_validate_json(line)
    except ValidationError:
        return None


def _write_pid(lock: int, pid: int | None) -> None:
    """In place and of fixed width, so that a full disk cannot refuse it once the file is there."""
    os.pwrite(lock, f"{'' if pid is None else pid:<{PID_WIDTH}}".encode(), 0)
