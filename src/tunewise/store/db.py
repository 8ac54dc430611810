"""The database: SQLite in WAL mode in the state directory, or PostgreSQL by URL. Knows no table.

Both give those above the same two transactions. One that writes is alone: it waits for the writer before it, and what
it has read stays true until it commits. One that only reads sees a single moment, and waits for nobody. On SQLite that
is `BEGIN IMMEDIATE` and a snapshot; on PostgreSQL an advisory lock and REPEATABLE READ (docs/adr/0014).
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.orm import Session

from tunewise.errors import StoreError

WAIT_SECONDS = 15
"""How long a transaction waits for its turn, or for a connection of the pool."""
IDLE_SECONDS = 10
"""How long a writer may do nothing before PostgreSQL ends it: a process that was stopped, or cut off, holds up all."""

WRITERS = int.from_bytes(b"tunewise")
"""The advisory lock that PostgreSQL's writers take, one after the other."""
SNAPSHOT: Mapping[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
# libpq waits for ever by itself, for a machine that is gone as well. What the URL says comes first.
PATIENCE = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


class Database:
    """Open connections to one database. `read` and `write` each give a session that is one transaction."""

    def __init__(self, url: str) -> None:
        self.shown_url = _without_password(url)
        try:
            self.engine = _engine(make_url(url))
        except (exc.ArgumentError, ModuleNotFoundError, ValueError) as error:
            raise StoreError(
                "invalid_database_url",
                f"database URL {self.shown_url!r} cannot be used: {error}; use sqlite:///PATH, or "
                "postgresql+psycopg://… with the `postgres` extra installed",
                param="TUNEWISE_DATABASE_URL",
            ) from error
        self._is_postgres = self.engine.dialect.name == "postgresql"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end of the block, undone by an error.

        Raises:
            StoreError: database_unavailable, when it cannot be reached or stays locked.
        """
        with self._session(tunewise_writes=True) as session:
            yield session
            _commit(session)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads, and never waits for a writer.

        Raises:
            StoreError: database_unavailable, when it cannot be reached.
        """
        with self._session(tunewise_writes=False, **(SNAPSHOT if self._is_postgres else {})) as session:
            yield session

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def _session(self, **options: object) -> Iterator[Session]:
        try:
            with (
                self._connect().execution_options(**options) as connection,
                Session(connection, expire_on_commit=False) as session,
            ):
                yield session
        except (exc.OperationalError, exc.InterfaceError, exc.InternalError) as error:
            raise _unavailable(error.orig) from error

    def _connect(self) -> Connection:
        try:
            return self.engine.connect()
        except exc.TimeoutError as error:
            raise _unavailable(f"all its connections were in use for {WAIT_SECONDS} seconds") from error
        except exc.DBAPIError as error:
            raise _unavailable(error.orig) from error
        except sqlite3.Error as error:  # from `_prepare_sqlite`, where SQLAlchemy does not look
            raise _unavailable(error) from error


def _commit(session: Session) -> None:
    try:
        session.commit()
    except exc.DBAPIError as error:
        if error.connection_invalidated:
            raise _unavailable(
                error.orig, "whether the change was made is not known, look before you repeat it"
            ) from error
        raise


def _unavailable(reason: object, outcome: str = "nothing was changed") -> StoreError:
    words = " ".join(str(reason).split())
    return StoreError("database_unavailable", f"the database cannot be used now: {words}; {outcome}")


def _engine(url: URL) -> Engine:
    name = url.get_backend_name()
    if name not in {"sqlite", "postgresql"}:
        raise ValueError(f"{name} is neither SQLite nor PostgreSQL")
    if name == "sqlite" and url.database in {None, "", ":memory:"}:
        raise ValueError("workers cannot see a database in memory")
    is_postgres = name == "postgresql"
    engine = create_engine(
        url.set(query=PATIENCE | url.query) if is_postgres else url,
        pool_pre_ping=is_postgres,
        pool_timeout=WAIT_SECONDS,
        hide_parameters=True,  # an error is logged, and what users sent is not
    )
    (_prepare_postgres if is_postgres else _prepare_sqlite)(engine)
    return engine


def _without_password(url: str) -> str:
    return re.sub(r"://[^/]*@", "://***@", url)


def _prepare_postgres(engine: Engine) -> None:
    """Let writers wait for each other as SQLite's do."""
    # For this transaction only, so that a pooler may stand in between.
    alone = (
        f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'; "
        f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'; "
        f"SELECT pg_advisory_xact_lock({WRITERS})"
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("tunewise_writes", True):
            connection.exec_driver_sql(alone)


def _prepare_sqlite(engine: Engine) -> None:
    """Take the transactions into our own hands: sqlite3's own begin is deferred, so that writers may deadlock."""

    @event.listens_for(engine, "connect")
    def _configure(raw: sqlite3.Connection, _record: object) -> None:
        raw.isolation_level = None
        for setting in (
            f"busy_timeout = {WAIT_SECONDS * 1000}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            raw.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("tunewise_writes", True):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.execute("BEGIN")  # takes no lock, so it cannot fail; through SQLAlchemy it takes ten times as long
