"""Data sets of the model hub: their table files, fetched into the hub client's own cache. Knows the hub, opens no file.

The token is the hub client's own business (`HF_TOKEN`); none passes through here.
"""

import re
from pathlib import Path

from tunewise.data.tables.source import SPLITS, SUFFIXES, split_of
from tunewise.errors import DataError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether a name could be a data set's on the hub: `owner/name`."""
    return HUB_ID.fullmatch(name) is not None


def fetch(name: str, split: str | None, *, offline: bool) -> Path:
    """The directory that holds a data set's tables, fetched now or before; only the split's, where one is named.

    Raises:
        DataError: hub_unreachable, no_such_split or ambiguous_split.
    """
    # 0.7 s to import, which only this needs.
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        if offline:
            return Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
        wanted = _wanted(name, split, HfApi().list_repo_files(name, repo_type="dataset"))
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=wanted))
    except (OSError, HTTPError, HFValidationError) as error:
        raise DataError(
            "hub_unreachable",
            f"{name}: is no file or directory, and cannot be fetched from the hub: {_first_line(error)}; check the "
            "name, or fetch it where there is a network and give the directory",
            param="path",
        ) from error


def _wanted(name: str, split: str | None, files: list[str]) -> list[str]:
    """The table files of a split, or of the only one that there is."""
    by_split: dict[str, list[str]] = {}
    for file in files:
        if Path(file).suffix.lower() in SUFFIXES:
            by_split.setdefault(split_of(Path(file)) or "all", []).append(file)
    asked = SPLITS.get(split, split) if split is not None else None
    if asked is None and len(by_split) == 1:
        return next(iter(by_split.values()))
    if asked in by_split:
        return by_split[asked]
    choices = " or ".join(f"{name}:{known}" for known in by_split) or "none: it holds no table"
    code = "ambiguous_split" if split is None else "no_such_split"
    told = "has several splits" if split is None else f"has no split {split!r}"
    raise DataError(code, f"{name}: {told}; name one: {choices}", param="split")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
