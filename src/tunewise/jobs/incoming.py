"""Bytes on their way in: written aside, hashed as they come, and made whole by a rename. Knows no database.

An incoming file lies in `Platform.incoming_dir` until a use case keeps it. Who writes it holds a lock on it, which ends
with the process, however that ends; what nobody holds is swept away.
"""

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tunewise.errors import StoreError
from tunewise.jobs.platform import Platform

NAME_CHARS = 255


class Incoming(NamedTuple):
    """A file that has come in whole and is not kept yet."""

    path: Path
    filename: str
    bytes: int
    sha256: str
    md5: str


class Receiver:
    """One file that is being written; `finish` or `discard` ends it."""

    def __init__(self, platform: Platform, filename: str) -> None:
        self.path = platform.incoming_dir / secrets.token_hex(16)
        self._filename = safe_name(filename)
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.received_bytes = 0
        with disk_errors():
            self._file = self.path.open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            StoreError: disk_full.
        """
        with disk_errors():
            self._file.write(data)
        self._sha256.update(data)
        self._md5.update(data)
        self.received_bytes += len(data)

    def finish(self) -> Incoming:
        """The whole file, on the disk, and still held.

        Raises:
            StoreError: disk_full.
        """
        with disk_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
        return Incoming(self.path, self._filename, self.received_bytes, self._sha256.hexdigest(), self._md5.hexdigest())

    def discard(self) -> None:
        """Remove what was written, unless it has been moved away."""
        with suppress(OSError):  # a full disk refuses again what it refused before, and was told of then
            self._file.close()
        self.path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether somebody is at work on an incoming file, or has just moved it away."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return True
    return False


def safe_name(filename: str) -> str:
    """The name that is kept: the last component, printable; bytes are stored under the file's id, never under it."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in last if character.isprintable())[:NAME_CHARS] or "file"


def move_into_place(incoming: Path, place: Path) -> None:
    """Make a file whole under its name, on the disk too."""
    with disk_errors():
        incoming.replace(place)
        directory = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Tell a full disk from other failures.

    Raises:
        StoreError: disk_full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreError(
                "disk_full", "the server's disk is full; nothing was kept. Free space on it, then try again"
            ) from error
        raise
