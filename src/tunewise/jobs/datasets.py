"""Use cases of data: bring a file of any kind, say what its columns are, and make mended copies of a file of rows.

What was brought is kept as it came; whatever is made of it is a file of its own. Nothing is changed in place.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

from tunewise.contracts.importing import ColumnMapping, Conversion, Converted, Detected
from tunewise.contracts.jobs import Caller, StoredFile
from tunewise.data import convert as importing
from tunewise.data import remedies
from tunewise.data.formats import detect_format
from tunewise.errors import RequestError
from tunewise.jobs import files
from tunewise.jobs.incoming import Incoming, Receiver
from tunewise.jobs.platform import Platform

CHAT_ROWS = ColumnMapping(to="chat", messages="messages")
ORIGINAL: Literal["user_data"] = "user_data"
PARTS = ("train", "valid", "test")


class Mended(NamedTuple):
    """A copy, and how many rows or values it differs in."""

    file: StoredFile
    changed: int


def keep(platform: Platform, caller: Caller, incoming: Incoming) -> StoredFile:
    """Keep a file that was brought: as rows to train on where it is JSON lines of chats, of texts or, in OpenAI's form,
    of pairs of answers; else to be converted.

    Raises:
        RequestError: empty_file.
        StoreError: disk_full.
    """
    try:
        files.check_json_lines(incoming.path, incoming.bytes)
        is_rows = (
            detect_format(incoming.path) in {"text", "preference"}
            or importing.detect(incoming.path).mapping == CHAT_ROWS
        )
    except RequestError:
        is_rows = False
    return files.create(platform, caller, incoming, purpose="fine-tune" if is_rows else ORIGINAL)


def look(platform: Platform, caller: Caller, file_id: str, said: ColumnMapping) -> Detected:
    """What a kept file holds, and what has to be asked.

    Raises:
        RequestError: file_not_found.
        DataError: it cannot be read, or a named column is not there.
    """
    return importing.detect(_path(platform, caller, file_id), said)


def preview(
    platform: Platform, caller: Caller, file_id: str, mapping: ColumnMapping, rows: int
) -> tuple[Converted, ...]:
    """The first rows as they would be converted.

    Raises:
        RequestError: file_not_found.
        DataError: the mapping does not fit.
    """
    return importing.preview(_path(platform, caller, file_id), mapping, rows)


def convert(platform: Platform, caller: Caller, file_id: str, mapping: ColumnMapping) -> tuple[StoredFile, Conversion]:
    """Make a file of rows to train on out of a kept one.

    Raises:
        RequestError: file_not_found; empty_file where no row could be converted.
        DataError: the mapping does not fit.
        StoreError: disk_full.
    """
    original = files.retrieve(platform, caller, file_id)
    path = _path(platform, caller, file_id)
    conversions: list[Conversion] = []

    def write(outs: Sequence[Receiver]) -> None:
        aside = outs[0].path.with_suffix(".converted")
        try:
            conversions.append(importing.convert(path, mapping, aside))
            with aside.open("rb") as made:
                while piece := made.read(1024 * 1024):
                    outs[0].write(piece)
        finally:
            aside.unlink(missing_ok=True)

    made = _make(platform, caller, [_renamed(original, "")], write)
    return made[0], conversions[0]


def drop_lines(platform: Platform, caller: Caller, file_id: str, lines: Sequence[int]) -> Mended:
    """A copy without these lines.

    Raises:
        RequestError: file_not_found; empty_file where nothing would be left.
        StoreError: disk_full.
    """
    return _mended(platform, caller, file_id, "mended", lambda path, out: remedies.without_lines(path, set(lines), out))


def mask(platform: Platform, caller: Caller, file_id: str) -> Mended:
    """A copy with secrets and personal data masked.

    Raises:
        RequestError: file_not_found.
        StoreError: disk_full.
    """
    return _mended(platform, caller, file_id, "masked", remedies.masked)


def split(platform: Platform, caller: Caller, file_id: str, shares: Sequence[float]) -> list[StoredFile]:
    """Files to train on, to validate on and to test with, by their shares; a part whose share is 0 is not made.

    Raises:
        RequestError: file_not_found; invalid_value where the shares do not sum to 1; empty_file for a part of no rows.
        StoreError: disk_full.
    """
    if abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise RequestError("invalid_value", f"shares: {list(shares)} must be 0 or more, and sum to 1", param="shares")
    original, path = files.retrieve(platform, caller, file_id), platform.rows_of(file_id)
    wanted = [(name, share) for name, share in zip(PARTS, shares, strict=True) if share]

    def write(outs: Sequence[Receiver]) -> None:
        remedies.dealt(path, [share for _, share in wanted], [out.write for out in outs])

    return _make(platform, caller, [_renamed(original, name) for name, _ in wanted], write)


def _mended(
    platform: Platform,
    caller: Caller,
    file_id: str,
    word: str,
    copy: Callable[[Path, Callable[[bytes], None]], int],
) -> Mended:
    original, path = files.retrieve(platform, caller, file_id), platform.rows_of(file_id)
    changed = 0

    def write(outs: Sequence[Receiver]) -> None:
        nonlocal changed
        changed = copy(path, outs[0].write)

    return Mended(_make(platform, caller, [_renamed(original, word)], write)[0], changed)


def _make(
    platform: Platform, caller: Caller, names: Sequence[str], write: Callable[[Sequence[Receiver]], None]
) -> list[StoredFile]:
    """New files of those names with what `write` writes into them; all, or none."""
    with ExitStack() as stack:
        outs = [Receiver(platform, name) for name in names]
        for out in outs:
            stack.callback(out.discard)
        write(outs)
        incoming = [out.finish() for out in outs]
        for one in incoming:
            files.checked(platform, caller, one, purpose="fine-tune", seconds=None)
        return [files.create(platform, caller, one, purpose="fine-tune") for one in incoming]


def _path(platform: Platform, caller: Caller, file_id: str) -> Path:
    return platform.files_dir / files.retrieve(platform, caller, file_id).id


def _renamed(original: StoredFile, word: str) -> str:
    """`recipes.csv` becomes `recipes.mended.jsonl`."""
    stem = original.filename.rpartition(".")[0] or original.filename
    return ".".join(part for part in (stem, word, "jsonl") if part)
