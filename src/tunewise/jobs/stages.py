"""The stage cache: a stage's result is kept under the hash of its inputs, and taken from there when they are the same.

Results are written aside and renamed, so that one is whole or absent. Knows nothing of what the stages do.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from tunewise import __version__

Result = TypeVar("Result", bound=BaseModel)


def input_key(*inputs: object) -> str:
    """Sixteen hex digits that change when any input, or this program's version, does."""
    canonical = json.dumps([__version__, *inputs], sort_keys=True, default=_as_json)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _as_json(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)


def cached(path: Path, kind: type[Result], make: Callable[[], Result]) -> tuple[Result, bool]:
    """The result at `path`, made and written there if it is not; and whether it was there."""
    if path.exists():
        return kind.model_validate_json(path.read_bytes()), True
    result = make()
    write_whole(path, result.model_dump_json(indent=1))
    return result, False


def write_whole(path: Path, text: str) -> None:
    """Write aside, flush to the disk, rename: a reader sees the old file or the new one, after a power cut too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    for directory in (path.parent, path.parent.parent):
        sync_directory(directory)


def copy_synced(source: Path, place: Path) -> None:
    """Copy a file; on the disk when this returns, as will be the row or the manifest that names it.

    Raises:
        OSError: `source` is not there, or the disk is full.
    """
    with source.open("rb") as reading, place.open("wb") as writing:
        shutil.copyfileobj(reading, writing)
        writing.flush()
        os.fsync(writing.fileno())


def link_or_copy(source: Path, place: Path) -> None:
    """A second name for a file that is never written again, or a copy where the file system has no such names.

    Raises:
        OSError: `source` is not there, or the disk is full.
    """
    place.unlink(missing_ok=True)  # what lies there may be a second name of the source itself
    try:
        os.link(source, place)
    except FileNotFoundError:
        raise
    except OSError:
        copy_synced(source, place)


def sync_directory(path: Path) -> None:
    """Return when the directory's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
