"""Files of a run directory that must survive a kill: events, and anything replaced whole. Knows nothing of torch."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tunewise.contracts.run import RunEvent, StepMetrics


class Journal:
    """`events.jsonl`, open for appending. `seq` counts from 1 without gaps, `size` is the file's length in bytes.

    The file is the truth up to the newest checkpoint and a preview after it: opening cuts off what came later, and a
    half-written last line with it.
    """

    def __init__(self, path: Path, *, size: int, seq: int) -> None:
        self._file = path.open("ab", buffering=0)
        self._file.truncate(size)
        self.size, self.seq = size, seq
        self.sync()

    def write(
        self,
        message: str,
        *,
        level: Literal["info", "warn", "error"] = "info",
        metrics: StepMetrics | None = None,
        checkpoint: str | None = None,
    ) -> None:
        """Append one event and hand it to the system, so that a reader sees whole lines only."""
        event = RunEvent(
            seq=self.seq + 1,
            created_at=time.time(),
            level=level,
            type="checkpoint" if checkpoint else "metrics" if metrics else "message",
            message=message,
            data=metrics,
            checkpoint=checkpoint,
        )
        line = event.model_dump_json().encode() + b"\n"
        written = 0
        while written < len(line):
            written += self._file.write(line[written:])
        self.seq += 1
        self.size += len(line)

    def sync(self) -> None:
        """Return when every event is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


class Silence:
    """The journal of a process whose steps another one tells of."""

    size = seq = 0

    def write(
        self,
        message: str,
        *,
        level: Literal["info", "warn", "error"] = "info",
        metrics: StepMetrics | None = None,
        checkpoint: str | None = None,
    ) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing is to be waited for."""

    def close(self) -> None:
        """Nothing is to be given back."""


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file so that it is the old one or the new one at every moment, also after a power cut."""
    aside = path.with_name(f".{path.name}.aside")
    write_synced(aside, data)
    aside.replace(path)
    sync_directory(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and return when it is on the disk. Raises OSError where it does not fit."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_directory_whole(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a directory that is there with all its files or not at all: filled aside, synced, renamed."""
    aside = path.with_name(f".{path.name}.aside")
    remove_directory(aside)
    aside.mkdir(parents=True)
    fill(aside)
    for file in aside.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_directory(aside)
    remove_directory(path)
    aside.rename(path)
    sync_directory(path.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory of plain files; its name goes first, so that no half of it is ever found."""
    if not path.exists():
        return
    gone = path if path.name.startswith(".") else path.rename(path.with_name(f".{path.name}.gone"))
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()


def sync_directory(path: Path) -> None:
    """Return when the directory's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
