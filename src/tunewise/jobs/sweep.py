"""Sweeping: files whose time is over, uploads that were never finished, and bytes that belong to nothing."""

import shutil
import time
from pathlib import Path

from tunewise.jobs.files import remove_bytes
from tunewise.jobs.incoming import is_held
from tunewise.jobs.platform import ROWS_SUFFIX, Platform
from tunewise.store import files, jobs, models
from tunewise.store.rows import now

LEFTOVER_SECONDS = 3600.0
ABANDONED_SECONDS = 30.0  # a file is there for a moment before it is held


class Sweeper:
    """Remembers since when it has seen what looks left over, on a clock that nobody sets back.

    Bytes come before their row, so what has no row may yet get one; after an hour it will not. What comes in is held by
    who writes it, however long that takes; what nobody holds was left by a process that died.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        leftover_seconds: float = LEFTOVER_SECONDS,
        abandoned_seconds: float = ABANDONED_SECONDS,
    ) -> None:
        self._platform = platform
        self._leftover_seconds = leftover_seconds
        self._abandoned_seconds = abandoned_seconds
        self._seen: dict[Path, float] = {}

    def sweep(self) -> None:
        """Remove what is due now."""
        self._sweep_expired_files()
        self._sweep_overdue_uploads()
        self._sweep_leftovers()

    def _sweep_expired_files(self) -> None:
        with self._platform.database.write() as session:
            due = [
                file
                for file in files.expired(session, now())
                if jobs.using_file(session, file.project, file.id) is None
            ]
            for file in due:
                files.remove(session, file.project, file.id)
        for file in due:
            remove_bytes(self._platform, file.id)

    def _sweep_overdue_uploads(self) -> None:
        with self._platform.database.write() as session:
            due = files.overdue_uploads(session, now())
            for upload in due:
                files.end_upload(session, upload.id, "expired")
        for upload in due:
            shutil.rmtree(self._platform.uploads_dir / upload.id, ignore_errors=True)

    def _sweep_leftovers(self) -> None:
        candidates = {path: self._seen.get(path, time.monotonic()) for path in self._without_row()}
        self._seen = candidates
        for path, since in candidates.items():
            is_incoming = path.parent == self._platform.incoming_dir
            patience = self._abandoned_seconds if is_incoming else self._leftover_seconds
            if time.monotonic() - since >= patience:
                _remove(path)

    def _without_row(self) -> list[Path]:
        lying = [path for path in self._platform.files_dir.iterdir() if path.is_file()]
        lying += [*self._platform.uploads_dir.iterdir(), *self._platform.adapters_dir.iterdir()]
        with self._platform.database.read() as session:
            known = files.ids(session) | files.pending_upload_ids(session)
            known |= {Path(adapter).name for adapter in models.adapters(session)}
        coming = [path for path in self._platform.incoming_dir.iterdir() if not is_held(path)]
        return [path for path in lying if path.name.removesuffix(ROWS_SUFFIX) not in known] + coming


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
