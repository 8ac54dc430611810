"""Use cases of files: keep, look up, list, read, delete; and clearing away what nobody needs any more.

The bytes are whole on the disk before the row says that there is a file, and the row is gone before the bytes are.
"""

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from tunewise.contracts.jobs import Caller, Purpose, StoredFile
from tunewise.data.reader import is_blank, lines_of, read_span, spans
from tunewise.errors import DataError, RequestError
from tunewise.jobs.conversion import convert_upload, is_table
from tunewise.jobs.incoming import Incoming, move_into_place
from tunewise.jobs.platform import Platform
from tunewise.jobs.results import FILENAMES
from tunewise.store import files, jobs
from tunewise.store.rows import Order, Page, new_id, now

FILE_PREFIX = "file-"
OPENAI_RESULT = FILENAMES["openai"]
HINT_CHARS = 3
CHUNK_BYTES = 1024 * 1024
BASE64_CHUNK_BYTES = 3 * 256 * 1024
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Contents(NamedTuple):
    """A file's bytes, piece by piece, and how many there are."""

    file: StoredFile
    length: int
    chunks: Iterator[bytes]


def create(
    platform: Platform, caller: Caller, incoming: Incoming, *, purpose: Purpose, seconds: int | None = None
) -> StoredFile:
    """Keep a file that has come in. Once this returns, it is never lost. `seconds`: how long it is to live.

    Raises:
        RequestError: empty_file, or invalid_file_format for a training file that is neither JSON lines nor a table
            whose columns are clear.
        StoreError: the disk is full, or the database cannot be reached.
    """
    file = checked(platform, caller, incoming, purpose=purpose, seconds=seconds)
    move_into_place(incoming.path, platform.files_dir / file.id)
    with platform.database.write() as session:
        files.add(session, file)
    return file


def checked(
    platform: Platform, caller: Caller, incoming: Incoming, *, purpose: Purpose, seconds: int | None
) -> StoredFile:
    """The row of a file that may be kept; of a table, a copy in rows has been written beside the file's place.

    Raises:
        RequestError: empty_file or invalid_file_format.
    """
    if incoming.bytes == 0:
        raise RequestError("empty_file", f"file: {incoming.filename!r} is empty; upload a file with rows", param="file")
    file_id, details = new_id(FILE_PREFIX), None
    if purpose == "fine-tune":
        if is_table(incoming):
            details = convert_upload(incoming, platform.rows_copy(file_id))
        else:
            check_json_lines(incoming.path, incoming.bytes)
    created_at = now()
    return StoredFile(
        id=file_id,
        project=caller.project,
        filename=incoming.filename,
        purpose=purpose,
        bytes=incoming.bytes,
        sha256=incoming.sha256,
        created_at=created_at,
        expires_at=None if seconds is None else created_at + seconds,
        details=details,
    )


def retrieve(platform: Platform, caller: Caller, file_id: str) -> StoredFile:
    """One of the caller's files.

    Raises:
        RequestError: file_not_found.
    """
    with platform.database.read() as session:
        file = files.get(session, caller.project, file_id)
    if file is None:
        raise RequestError("file_not_found", f"No such File object: {file_id}", param="id")
    return file


def names_of(platform: Platform, caller: Caller, file_ids: Iterable[str]) -> dict[str, str]:
    """What the caller's files are called, by id; a file that was deleted is left out."""
    with platform.database.read() as session:
        found = [files.get(session, caller.project, file_id) for file_id in file_ids]
    return {file.id: file.filename for file in found if file is not None}


def list_files(
    platform: Platform, caller: Caller, *, purpose: Purpose | None, after: str | None, limit: int, order: Order
) -> Page[StoredFile]:
    """A page of the caller's files.

    Raises:
        RequestError: invalid_cursor.
    """
    with platform.database.read() as session:
        found = files.listed(session, caller.project, purpose=purpose, after=after, limit=limit, order=order)
    if found is None:
        raise RequestError("invalid_cursor", f"after: there is no {after!r} in this list", param="after")
    return found


def contents(platform: Platform, caller: Caller, file_id: str) -> Contents:
    """The bytes of a file; OpenAI's result files in base64 where the settings say so, as it sends them.

    Raises:
        RequestError: file_not_found.
    """
    file = retrieve(platform, caller, file_id)
    path = platform.files_dir / file.id
    if platform.settings.result_base64 and (file.purpose, file.filename) == ("fine-tune-results", OPENAI_RESULT):
        return Contents(file, 4 * ((file.bytes + 2) // 3), map(base64.b64encode, _pieces(path, BASE64_CHUNK_BYTES)))
    return Contents(file, file.bytes, _pieces(path, CHUNK_BYTES))


def delete(platform: Platform, caller: Caller, file_id: str) -> None:
    """Delete a file for good.

    Raises:
        RequestError: file_not_found, or file_in_use while a job, or its evaluation, has not ended and reads it.
    """
    retrieve(platform, caller, file_id)
    with platform.database.write() as session:
        job = jobs.using_file(session, caller.project, file_id)
        if job is not None:
            raise RequestError(
                "file_in_use",
                f"File {file_id} is needed by job {job.id}, which is {job.status} and has not ended with all that was "
                "asked of it; cancel that or wait for its end",
                param="id",
            )
        files.remove(session, caller.project, file_id)
    remove_bytes(platform, file_id)


def remove_bytes(platform: Platform, file_id: str) -> None:
    """Remove what lies on the disk of a file that is forgotten."""
    (platform.files_dir / file_id).unlink(missing_ok=True)
    platform.rows_copy(file_id).unlink(missing_ok=True)


def check_json_lines(path: Path, size: int) -> None:
    """Refuse what is not one JSON object a line; a byte order mark and blank lines are let through.

    Raises:
        RequestError: invalid_file_format, in OpenAI's words.
    """
    number = 0
    try:
        for span in spans(path, size):
            for line in lines_of(read_span(path, span)):
                number += 1
                if not is_blank(line) and not _is_object(line):
                    raise _not_a_dictionary(number, line)
    except DataError:
        raise RequestError(
            "invalid_file_format", f"file: the line after line {number} is too long to be a row", param="file"
        ) from None


def _is_object(line: bytes) -> bool:
    try:
        line.decode()
        _OBJECT.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _not_a_dictionary(number: int, line: bytes) -> RequestError:
    hint = line[: 4 * HINT_CHARS].decode(errors="replace")[:HINT_CHARS]
    return RequestError(
        "invalid_file_format",
        "Expected file to have JSONL format, where every line is a JSON dictionary. "
        f'Line {number} is not a dictionary (HINT: line starts with: "{hint}...").',
    )


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """Opened now, so that a file deleted meanwhile is still sent whole."""
    file = path.open("rb")

    def read() -> Iterator[bytes]:
        with file:
            while piece := file.read(size):
                yield piece

    return read()
