"""`python -m tunewise.train RUN_DIR`: train a run, or go on with it.

`--lock FD` names an inherited file descriptor that holds the run directory's lock already, so that whoever starts a
trainer leaves no moment in which the directory is free. A run of several processes is started in the same way, or as
`torchrun --nproc-per-node N -m tunewise.train RUN_DIR`.

Exit codes: 0 the run succeeded (now or before); 128 + n paused by signal n with a checkpoint written, start it again to
go on; 2 to 5 it failed, and `result.json` says why; 75 one of its processes was killed, start it again to go on; 1 a
fault in this program.
"""

import argparse
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

from torch.distributed import is_torchelastic_launched

from tunewise.contracts.run import LOCK_FILE, PID_WIDTH, RESULT_FILE, RowCounts, RunFailure, RunResult
from tunewise.errors import TrainingError, TunewiseError
from tunewise.train.checkpoint import remove_leftovers
from tunewise.train.failures import named
from tunewise.train.ranks import run_in_processes, run_under_torchrun
from tunewise.train.run import finish, peak_memory_bytes, result, run_steps, write_result
from tunewise.train.session import Session, open_session, read_spec
from tunewise.train.world import ALONE, LostProcessError, World

log = logging.getLogger("tunewise.train")

# Freed before a failure is written down, so that `result.json` has room on a full disk.
RESERVE_FILE = ".reserve"
RESERVE_BYTES = 64 * 1024
USAGE_EXIT = 64


class PauseSignal:
    """Remembers that a signal asked the process to pause."""

    def __init__(self) -> None:
        self.number: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    def is_set(self) -> bool:
        """Whether to stop after this step."""
        return self.number is not None


def main(arguments: list[str]) -> int:
    """Run the directory that is named; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    asked = _parsed(arguments)
    if asked is None:
        log.error("usage: python -m tunewise.train RUN_DIR (a directory with spec.json); got %s", arguments)
        return USAGE_EXIT
    pause = PauseSignal()
    directory = asked.directory.resolve()
    try:
        if is_torchelastic_launched():
            return run_under_torchrun(partial(_train_as_rank, directory, pause))
        with lock(directory, asked.lock):
            processes = _processes(directory)
            if processes == 1:
                return train(directory, pause, ALONE)
            return run_in_processes(directory, processes, partial(train, directory, pause))
    except TunewiseError as error:
        log.error("%s", error.message)
        return error.exit_code


def _processes(directory: Path) -> int:
    """How many the run is to be; one where that cannot be read, which then says why and writes it down."""
    try:
        return read_spec(directory).processes
    except TunewiseError:
        return 1


def _train_as_rank(directory: Path, pause: PauseSignal, world: World) -> int:
    if not world.is_first:
        return train(directory, pause, world)
    with lock(directory):
        return train(directory, pause, world)


def _parsed(arguments: list[str]) -> argparse.Namespace | None:
    """The directory and the inherited lock; None where no directory is named."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lock", type=int)
    try:
        asked, unknown = parser.parse_known_args(arguments)
    except (argparse.ArgumentError, SystemExit):
        return None
    return None if unknown or not asked.directory.is_dir() else asked


@contextmanager
def lock(directory: Path, inherited: int | None = None) -> Iterator[None]:
    """Hold the run directory, with this process's id in the lock file.

    Raises:
        TrainingError: already_running.
    """
    file = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644) if inherited is None else inherited
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(file, f"{os.getpid():<{PID_WIDTH}}".encode(), 0)
        yield
    except BlockingIOError as error:
        raise TrainingError(
            "already_running", f"{directory}: another process is training this run; wait for it or stop it"
        ) from error
    finally:
        os.close(file)


def train(directory: Path, pause: PauseSignal, world: World) -> int:
    """Train the run in `directory` to its end, to a pause, or to a failure, which the first process writes down."""
    if has_succeeded(directory):
        log.info("%s: this run has succeeded already", directory)
        return 0
    session: Session | None = None
    try:
        if world.is_first:
            (directory / RESULT_FILE).unlink(missing_ok=True)
            (directory / RESERVE_FILE).write_bytes(os.urandom(RESERVE_BYTES))
        session = open_session(directory, read_spec(directory), world)
        log.info("step %d of %d", session.progress.step, session.total_steps)
        run_steps(session, pause.is_set)
        if not session.is_finished:
            log.info("paused at step %d", session.progress.step)
            return 128 + (pause.number or signal.SIGTERM)
        finish(session)
    except BaseException as error:
        known = named(error) or world.cause(error)
        told = known or TrainingError("internal_error", f"{type(error).__name__}: {error}")
        if not world.is_first:
            world.tell_failure(told)
        elif not isinstance(known, LostProcessError):
            record_failure(directory, session, told)
        if known is None:
            raise
        log.error("%s", known.message)
        return known.exit_code
    finally:
        if session is not None and session.trackers is not None:
            session.trackers.close()
        if world.is_first:
            (directory / RESERVE_FILE).unlink(missing_ok=True)
    return 0


def has_succeeded(directory: Path) -> bool:
    """Whether a result of a run that succeeded lies there."""
    path = directory / RESULT_FILE
    return path.is_file() and RunResult.model_validate_json(path.read_bytes()).status == "succeeded"


def record_failure(directory: Path, session: Session | None, error: TunewiseError) -> None:
    """Write the error event and the result; what was half-written goes first, to make room."""
    (directory / RESERVE_FILE).unlink(missing_ok=True)
    remove_leftovers(directory / "checkpoints")
    remove_leftovers(directory)
    failure = RunFailure(code=error.code, message=error.message, param=error.param)
    with suppress(OSError):
        if session is not None:
            session.journal.write(error.message, level="error")
    write_result(directory, result(session, session.progress, failure) if session else _unstarted(failure))


def _unstarted(failure: RunFailure) -> RunResult:
    """The result of a run that failed while it was loading."""
    return RunResult(
        status="failed",
        error=failure,
        steps=0,
        epochs=0.0,
        trained_tokens=0,
        supervised_tokens=0,
        rows=RowCounts(rows=0, trained=0, truncated=0, dropped=0, nothing_to_train_on=0),
        train_loss=None,
        valid_loss=None,
        valid_mean_token_accuracy=None,
        seconds=0.0,
        tokens_per_second=0.0,
        peak_memory_bytes=peak_memory_bytes(),
        adapter=None,
        adapter_sha256=None,
        adapter_step=None,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
