"""Where rows come from: a file, a directory that `datasets` saved, a directory of files, each perhaps with a split.

Knows names, directories and how files begin that are no text; opens nothing but indices. `NAME:SPLIT` is how a person
writes both in one.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from tunewise.errors import DataError

PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
SUFFIXES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow"}
# The words of the hub's file names, and what their split is called.
SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


def parse_source(text: str) -> tuple[str, str | None]:
    """`NAME:SPLIT` as both; a path that exists keeps its colon."""
    if Path(text).exists() or ":" not in text:
        return text, None
    name, _, split = text.rpartition(":")
    return name, split or None


def is_columnar(head: bytes) -> bool:
    """Whether a file that begins so is Parquet or Arrow."""
    return head.startswith((PARQUET, ARROW_FILE, ARROW_STREAM))


def find_files(path: Path, split: str | None) -> tuple[Path, ...]:
    """The files that hold the rows of a split, in order.

    Raises:
        DataError: file_not_found, no_such_split, or ambiguous_split, which names the choices.
    """
    if not path.exists():
        raise DataError("file_not_found", f"{path}: no such file or directory; check the path", param=str(path))
    if path.is_file():
        if split is not None:
            raise DataError("no_such_split", f"{path}: a file has no splits; leave {split!r} out", param="split")
        return (path,)
    if (path / "dataset_dict.json").is_file():
        names = [str(name) for name in _index(path / "dataset_dict.json").get("splits", [])]
        return _saved(path / _chosen(path, names, split))
    if (path / "state.json").is_file():
        if split is not None and split != _index(path / "state.json").get("_split"):
            raise DataError("no_such_split", f"{path}: holds one split, and it is not {split!r}", param="split")
        return _saved(path)
    return _loose(path, split)


def split_of(path: Path) -> str | None:
    """The split that a file's path names, by its last word that does."""
    words = re.split(r"[^a-z]+", str(path).lower())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), None)


def _saved(directory: Path) -> tuple[Path, ...]:
    """The shards of a data set that `save_to_disk` wrote."""
    listed = _index(directory / "state.json").get("_data_files", [])
    files = tuple(directory / str(entry["filename"]) for entry in listed)
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None or not files:
        raise DataError(
            "file_not_found", f"{missing or directory}: the data set's index names it, and it is not there; copy all"
        )
    return files


def _loose(directory: Path, split: str | None) -> tuple[Path, ...]:
    """The files of a directory whose names say the split, as a copy of a hub's repository has them."""
    files = sorted(path for path in directory.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise DataError("file_not_found", f"{directory}: holds no {', '.join(sorted(SUFFIXES))} file", param="path")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of(file.relative_to(directory)) or "all", []).append(file)
    wanted = split if split is None else SPLITS.get(split, split)
    chosen = tuple(by_split[_chosen(directory, list(by_split), wanted)])
    kinds = sorted({f"{file.parent.relative_to(directory)}/*{file.suffix}" for file in chosen})
    if len(kinds) > 1:
        raise DataError(
            "ambiguous_files", f"{directory}: holds several tables: {', '.join(kinds)}; name one file or directory"
        )
    return chosen


def _chosen(path: Path, names: list[str], split: str | None) -> str:
    if split is not None and split in names:
        return split
    if split is None and len(names) == 1:
        return names[0]
    choices = " or ".join(f"{path}:{name}" for name in names)
    if split is None:
        raise DataError(
            "ambiguous_split", f"{path}: has the splits {', '.join(names)}; name one: {choices}", param="split"
        )
    raise DataError("no_such_split", f"{path}: has no split {split!r}; name one: {choices}", param="split")


def _index(path: Path) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise DataError("unreadable_table", f"{path}: cannot be read: {error}; copy the data set again") from error
    return found if isinstance(found, dict) else {}
