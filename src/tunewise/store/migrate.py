"""Bringing a database to this version's tables. Knows Alembic; imports it only where there is something to do."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from tunewise.errors import StoreError
from tunewise.store.db import Database

NEWEST = "0003"
MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> str | None:
    """Run what migrations are missing, in one transaction; gives the revision that it started from, or None.

    Of servers that start at once one runs them, and the others wait for it, as all that write do.

    Raises:
        StoreError: the database cannot be reached, or was written by a newer Tunewise.
    """
    try:
        with database.write() as session:
            return _upgrade(session.connection())
    except StoreError as error:
        if error.code != "database_unavailable":
            raise
        words = f"{error.message} ({database.shown_url}). Start it, or correct TUNEWISE_DATABASE_URL"
        raise StoreError(error.code, words, param="TUNEWISE_DATABASE_URL") from error


def _upgrade(connection: Connection) -> str | None:
    before = revision(connection)
    if before == NEWEST:
        return None
    if before is not None and before > NEWEST:
        raise StoreError(
            "database_is_newer",
            f"the database is at revision {before}, and this Tunewise knows {NEWEST} at most; install the newer "
            "version that wrote it, or give another state directory",
        )
    _run(connection)
    return before or "empty"


def revision(connection: Connection) -> str | None:
    """Where the database stands; None if it has no tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def _run(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
