"""Use cases of uploads: a file that arrives in parts, which become one file when the upload is completed."""

import shutil
from pathlib import Path
from typing import NamedTuple

from tunewise.contracts.jobs import Caller, Purpose, StoredFile, Upload, UploadPart
from tunewise.errors import RequestError
from tunewise.jobs import files as file_cases
from tunewise.jobs.incoming import Incoming, Receiver, move_into_place, safe_name
from tunewise.jobs.platform import Platform
from tunewise.store import files
from tunewise.store.rows import new_id, now

LIFE_SECONDS = 3600
MAX_BYTES = 8 * 1024**3
PART_BYTES = 64 * 1024**2
COPY_BYTES = 1024 * 1024


class UploadAsked(NamedTuple):
    """An upload as it is announced."""

    filename: str
    purpose: Purpose
    bytes: int
    mime_type: str
    seconds: int | None


class UploadState(NamedTuple):
    """An upload, and the file that it became."""

    upload: Upload
    file: StoredFile | None = None


def create(platform: Platform, caller: Caller, asked: UploadAsked) -> UploadState:
    """Announce a file; it has to be completed within the hour."""
    created_at = now()
    upload = Upload(
        id=new_id("upload_"),
        project=caller.project,
        filename=safe_name(asked.filename),
        purpose=asked.purpose,
        bytes=asked.bytes,
        mime_type=asked.mime_type,
        created_at=created_at,
        expires_at=created_at + LIFE_SECONDS,
        status="pending",
        file_seconds=asked.seconds,
    )
    (platform.uploads_dir / upload.id).mkdir()
    with platform.database.write() as session:
        files.add_upload(session, upload)
    return UploadState(upload)


def add_part(platform: Platform, caller: Caller, upload_id: str, incoming: Incoming) -> UploadPart:
    """Keep one part.

    Raises:
        RequestError: upload_not_found, invalid_upload_state, empty_file, or part_too_large.
    """
    pending(platform, caller, upload_id)
    if incoming.bytes == 0:
        raise RequestError("empty_file", "data: the part is empty; send its bytes", param="data")
    if incoming.bytes > PART_BYTES:
        raise RequestError(
            "part_too_large", f"data: the part has {incoming.bytes:,} bytes; {PART_BYTES:,} are allowed", param="data"
        )
    part = UploadPart(id=new_id("part_"), upload_id=upload_id, bytes=incoming.bytes, created_at=now())
    try:
        move_into_place(incoming.path, platform.uploads_dir / upload_id / part.id)
    except FileNotFoundError:  # ended while the part came in
        raise _ended(upload_id) from None
    with platform.database.write() as session:
        files.add_part(session, part)
    return part


def complete(
    platform: Platform, caller: Caller, upload_id: str, part_ids: list[str], md5: str | None = None
) -> UploadState:
    """Put the parts together in the order given, and keep them as a file.

    Raises:
        RequestError: upload_not_found, invalid_upload_state, invalid_part, size_mismatch, checksum_mismatch, or what
            `jobs.files.create` refuses.
    """
    upload = pending(platform, caller, upload_id)
    _check_parts(platform, upload, part_ids)
    receiver = Receiver(platform, upload.filename)
    try:
        try:
            incoming = _joined(receiver, [platform.uploads_dir / upload.id / part_id for part_id in part_ids])
        except FileNotFoundError:  # ended while its parts were put together
            raise _ended(upload.id) from None
        if md5 is not None and md5.lower() != incoming.md5:
            raise RequestError(
                "checksum_mismatch", f"md5: the parts give {incoming.md5}, not {md5!r}; upload them again", param="md5"
            )
        file = _keep(platform, caller, upload, incoming)
    finally:
        receiver.discard()
    shutil.rmtree(platform.uploads_dir / upload.id, ignore_errors=True)
    return UploadState(upload.model_copy(update={"status": "completed", "file_id": file.id}), file)


def cancel(platform: Platform, caller: Caller, upload_id: str) -> UploadState:
    """Give an upload up; no part can be added any more.

    Raises:
        RequestError: upload_not_found or invalid_upload_state.
    """
    upload = pending(platform, caller, upload_id)
    with platform.database.write() as session:
        if not files.end_upload(session, upload.id, "cancelled"):
            raise _ended(upload.id)
    shutil.rmtree(platform.uploads_dir / upload.id, ignore_errors=True)
    return UploadState(upload.model_copy(update={"status": "cancelled"}))


def pending(platform: Platform, caller: Caller, upload_id: str) -> Upload:
    """One of the caller's uploads that parts can still be added to.

    Raises:
        RequestError: upload_not_found or invalid_upload_state.
    """
    with platform.database.read() as session:
        upload = files.get_upload(session, caller.project, upload_id)
    if upload is None:
        raise RequestError("upload_not_found", f"There is no upload {upload_id!r}", param="upload_id")
    if upload.status != "pending" or upload.expires_at <= now():
        raise _ended(upload_id)
    return upload


def _ended(upload_id: str) -> RequestError:
    return RequestError(
        "invalid_upload_state",
        f"Upload {upload_id} is not pending any more: completed, cancelled or older than {LIFE_SECONDS} seconds; "
        "start a new one",
        param="upload_id",
    )


def _check_parts(platform: Platform, upload: Upload, part_ids: list[str]) -> None:
    with platform.database.read() as session:
        parts = files.parts(session, upload.id)
    for part_id in part_ids:
        if part_id not in parts:
            raise RequestError("invalid_part", f"part_ids: {part_id!r} is no part of this upload", param="part_ids")
    if len(set(part_ids)) < len(part_ids):
        raise RequestError("invalid_part", "part_ids: one part is named twice; name each once", param="part_ids")
    total = sum(parts[part_id].bytes for part_id in part_ids)
    if total != upload.bytes:
        raise RequestError(
            "size_mismatch",
            f"part_ids: these parts have {total:,} bytes together, and the upload was announced with {upload.bytes:,}",
            param="part_ids",
        )


def _joined(receiver: Receiver, parts: list[Path]) -> Incoming:
    for part in parts:
        with part.open("rb") as file:
            while piece := file.read(COPY_BYTES):
                receiver.write(piece)
    return receiver.finish()


def _keep(platform: Platform, caller: Caller, upload: Upload, incoming: Incoming) -> StoredFile:
    """The file's row and the upload's end are one transaction, so that of two racing completions one makes a file."""
    file = file_cases.checked(platform, caller, incoming, purpose=upload.purpose, seconds=upload.file_seconds)
    move_into_place(incoming.path, platform.files_dir / file.id)
    with platform.database.write() as session:
        if not files.end_upload(session, upload.id, "completed", file.id):
            file_cases.remove_bytes(platform, file.id)
            raise _ended(upload.id)
        files.add(session, file)
    return file
