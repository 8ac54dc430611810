"""The database: SQLite in WAL mode in the state directory, or PostgreSQL by URL. Knows no table.

On SQLite every transaction that writes begins with `BEGIN IMMEDIATE`, so that two writers wait for each other and
neither fails half-way; `synchronous` is FULL, so that what was answered is on the disk.
"""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from tunewise.errors import StoreError

BUSY_MILLISECONDS = 15_000


class Database:
    """Open connections to one database. `read` and `write` each give a session that is one transaction."""

    def __init__(self, url: str) -> None:
        try:
            self.engine = create_engine(
                url,
                pool_pre_ping=not url.startswith("sqlite"),
                hide_parameters=True,  # an error is logged, and what users sent is not
                json_serializer=_json,
            )
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise StoreError(
                "invalid_database_url",
                f"database URL {_without_password(url)!r} cannot be used: {error}; use sqlite:///PATH, or "
                "postgresql+psycopg://… with the `postgres` extra installed",
                param="TUNEWISE_DATABASE_URL",
            ) from error
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end of the block, undone by an error.

        Raises:
            StoreError: database_unavailable, when it cannot be opened or stays locked.
        """
        with self._session(immediate=True) as session:
            yield session
            session.commit()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads, and never waits for a writer.

        Raises:
            StoreError: database_unavailable.
        """
        with self._session(immediate=False) as session:
            yield session

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def _session(self, *, immediate: bool) -> Iterator[Session]:
        try:
            with (
                self.engine.connect().execution_options(tunewise_immediate=immediate) as connection,
                Session(connection, expire_on_commit=False) as session,
            ):
                yield session
        except OperationalError as error:
            raise StoreError(
                "database_unavailable", f"the database cannot be used now: {error.orig}; nothing was changed"
            ) from error


def _json(value: object) -> str:
    """Every letter as itself: SQLite finds no key by its path that is written with escapes."""
    return json.dumps(value, ensure_ascii=False)


def _without_password(url: str) -> str:
    return re.sub(r"://[^/]*@", "://***@", url)


def _prepare_sqlite(engine: Engine) -> None:
    """Take the transactions into our own hands: sqlite3's own begin is deferred, so that writers may deadlock."""

    @event.listens_for(engine, "connect")
    def _configure(raw: sqlite3.Connection, _record: object) -> None:
        raw.isolation_level = None
        for setting in (
            f"busy_timeout = {BUSY_MILLISECONDS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            raw.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("tunewise_immediate", True):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.execute("BEGIN")  # takes no lock, so it cannot fail; through SQLAlchemy it takes ten times as long
