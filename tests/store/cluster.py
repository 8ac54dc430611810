"""A PostgreSQL server of the tests' own, in a temporary directory, reached by a socket in it, gone at the end."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from signal import SIGINT, SIGQUIT

import psycopg
from psycopg import sql
from sqlalchemy import URL

# Debian keeps the server's programs out of PATH, by version.
DEBIAN = Path("/usr/lib/postgresql")
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}
USER = "tunewise"


def binaries() -> Path | None:
    """Where the newest PostgreSQL server on this machine has its programs."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = [path.parent for path in DEBIAN.glob("*/bin/initdb")]
    return max(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], default=None)


class Cluster:
    """A running server; `stop` and `start` are an outage."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Not below pytest's directory: a socket's path has 107 characters at most, and root's is closed to others.
        self._directory = Path(tempfile.mkdtemp(prefix="tw-pg-"))
        # The server refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self._directory, account.pw_uid, account.pw_gid)
        self._numbers = count(1)
        self._run("initdb", "--username", USER, "--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C")
        self.start()

    def url(self, name: str) -> str:
        """The URL of one of its databases."""
        place = URL.create("postgresql+psycopg", USER, database=name, query={"host": str(self._directory)})
        return place.render_as_string(hide_password=False)

    def new_database(self) -> str:
        """Make an empty database; its URL."""
        name = f"t{next(self._numbers)}"
        with self._connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def start(self) -> None:
        """Start the server, and return when it answers."""
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (self._directory / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, "-k", self._directory, *settings],
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                cwd=self._directory,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._server.poll() is None, (self._directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        """Break every connection and end the server."""
        self._server.send_signal(SIGINT)
        self._server.wait(30)

    def remove(self) -> None:
        """End it without keeping anything."""
        self._server.send_signal(SIGQUIT)
        self._server.wait(30)
        shutil.rmtree(self._directory)

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(host=str(self._directory), user=USER, dbname="postgres", autocommit=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, "-D", self._data, *arguments],
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            cwd=self._directory,
            check=True,
            capture_output=True,
        )
