"""What the use cases of the server share: the settings, the database, and where things lie in the state directory.

STATE/
  tunewise.db          unless another database is named
  files/FILE_ID        the bytes of each file; written aside in files/.incoming, then renamed
  files/FILE_ID.rows   its rows as JSON lines, where it is a table of another kind
  uploads/UPLOAD_ID/   parts, until the upload is completed, cancelled or overdue
  runs/JOB_ID/         the job's run directory (`contracts.run`)
  adapters/            the weights of checkpoints that are models
  serve/               logs and ready files of hosted base models
"""

from pathlib import Path
from typing import NamedTuple

from tunewise.settings import Settings
from tunewise.store.db import Database
from tunewise.store.migrate import upgrade

ROWS_SUFFIX = ".rows"


class Platform(NamedTuple):
    """One server's or worker's view of the state."""

    settings: Settings
    database: Database

    @property
    def files_dir(self) -> Path:
        """The bytes of every file, by id."""
        return self.settings.state_dir / "files"

    def rows_copy(self, file_id: str) -> Path:
        """Where the rows of a file lie that is a table of another kind; beside the file itself."""
        return self.files_dir / f"{file_id}{ROWS_SUFFIX}"

    def rows_of(self, file_id: str) -> Path:
        """The file's rows: the copy that was made of it, or the file."""
        copy = self.rows_copy(file_id)
        return copy if copy.exists() else self.files_dir / file_id

    @property
    def incoming_dir(self) -> Path:
        """Files that are still being written; on the same disk as `files_dir`, so that a rename makes them whole."""
        return self.files_dir / ".incoming"

    @property
    def uploads_dir(self) -> Path:
        """One directory of parts per upload."""
        return self.settings.state_dir / "uploads"

    @property
    def runs_dir(self) -> Path:
        """One run directory per job."""
        return self.settings.state_dir / "runs"

    @property
    def adapters_dir(self) -> Path:
        """The weights of checkpoints that are models, taken out of the run directories."""
        return self.settings.state_dir / "adapters"

    @property
    def serve_dir(self) -> Path:
        """Logs and ready files of hosted models."""
        return self.settings.state_dir / "serve"


def open_platform(settings: Settings) -> Platform:
    """Make the state directory and bring the database to this version.

    Raises:
        StoreError: the database cannot be used, or is newer than this program.
    """
    # Training data and models lie here: where it is made now, nobody else on the machine may look in.
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    platform = Platform(settings, Database(settings.database))
    for directory in (
        platform.incoming_dir,
        platform.uploads_dir,
        platform.runs_dir,
        platform.adapters_dir,
        platform.serve_dir,
    ):
        directory.mkdir(parents=True, exist_ok=True)
    upgrade(platform.database)
    return platform
