"""`tunewise up` as a process: when it is ready, what it refuses, how it stops; and the keys that it asks for."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from store.cluster import Cluster
from tunewise.addresses import is_loopback
from tunewise.cli.up import listen, with_aliases
from tunewise.errors import ConfigError, StoreError
from tunewise.jobs.platform import open_platform
from tunewise.jobs.sweep import Sweeper
from tunewise.settings import Settings


def tunewise(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunewise.cli", *arguments],
        env={**os.environ, "TUNEWISE_STATE": str(state)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def up(state: Path, *arguments: str, worker: bool = False) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its base URL, once it says that it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tunewise.cli", "up", f"--{'' if worker else 'no-'}worker", "--port", "0", *arguments],
        env={**os.environ, "TUNEWISE_STATE": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    try:
        yield process, re.sub(r".* at ", "", process.stdout.readline()).strip()
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def test_it_prints_its_address_answers_there_and_stops_when_asked(tmp_path: Path) -> None:
    with up(tmp_path, "--alias", "gpt-4o-mini=smollm2-135m-instruct") as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", url)
        assert "gpt-4o-mini" in {model["id"] for model in httpx.get(f"{url}/models").json()["data"]}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_it_listens_elsewhere_only_with_a_key(tmp_path: Path) -> None:
    refused = tunewise(tmp_path, "up", "--no-worker", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "tunewise keys create" in refused.stderr
    made = tunewise(tmp_path, "keys", "create", "--role", "admin", "--project", "p")
    with up(tmp_path, "--host", "0.0.0.0") as (_, url):
        assert httpx.get(f"{url}/models").status_code == 401
        headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
        assert httpx.get(f"{url}/models", headers=headers).status_code == 200
        listed = tunewise(tmp_path, "keys", "list").stdout
        key_id = re.findall(r"key_[0-9a-f]{32}", listed)[0]
        assert made.stdout.strip() not in listed
        assert tunewise(tmp_path, "keys", "revoke", key_id).returncode == 0
        assert httpx.get(f"{url}/models", headers=headers).status_code == 401


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    with up(tmp_path) as (_, url):
        port = url.rpartition(":")[2].removesuffix("/v1")
        refused = tunewise(tmp_path / "other", "up", "--no-worker", "--port", port)
    assert refused.returncode == 2
    assert "port_taken" in refused.stderr


def test_the_database_is_upgraded_by_hand(tmp_path: Path) -> None:
    assert "it was at empty" in tunewise(tmp_path, "db", "upgrade").stdout
    assert "already" in tunewise(tmp_path, "db", "upgrade").stdout


def test_two_servers_start_at_once_on_an_empty_postgresql(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWISE_DATABASE_URL", cluster.new_database())
    with ThreadPoolExecutor() as pool, ExitStack() as running:
        started = list(pool.map(lambda _: running.enter_context(up(tmp_path)), range(2)))
        assert [httpx.get(f"{url.removesuffix('/v1')}/readyz").status_code for _, url in started] == [200, 200]
    assert "already" in tunewise(tmp_path, "db", "upgrade").stdout


@pytest.mark.parametrize("command", [["up", "--port", "0"], ["worker"], ["db", "upgrade"], ["keys", "list"]])
def test_a_database_that_is_not_there_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("TUNEWISE_DATABASE_URL", "postgresql+psycopg://tw:secret@127.0.0.1:1/tw")
    refused = tunewise(tmp_path, *command)
    assert refused.returncode == StoreError.exit_code
    assert "database_unavailable" in refused.stderr
    assert "Connection refused" in refused.stderr
    assert "TUNEWISE_DATABASE_URL" in refused.stderr
    assert "secret" not in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_what_counts_as_this_machine(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@pytest.mark.parametrize("alias", ["a", "a=", "=b"])
def test_a_half_alias_is_refused(settings: Settings, alias: str) -> None:
    with pytest.raises(ConfigError, match="NAME=MODEL"):
        with_aliases(settings, [alias])


def test_answers_do_not_wait_for_nagles_algorithm() -> None:
    """asyncio switches it off only where the listening socket names its protocol."""
    with listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The server's children that live."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


def test_a_worker_that_is_killed_is_started_again_and_ends_with_the_server(tmp_path: Path) -> None:
    with up(tmp_path, worker=True) as (process, _):
        until(lambda: len(workers_of(process)) == 1)
        (first,) = workers_of(process)
        first.kill()
        # The killed one may stand there a moment longer, and then none.
        until(lambda: bool([worker for worker in workers_of(process) if worker != first]))
        (second,) = workers_of(process)
        process.terminate()
        assert process.wait(60) == 0
    assert not second.is_running()


def until(fact: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_upload_that_is_killed_with_its_server_leaves_nothing(tmp_path: Path) -> None:
    size = 512 * 1024 * 1024
    incoming = tmp_path / "files" / ".incoming"
    with up(tmp_path) as (process, url):
        host, port = re.findall(r"//(.*):(\d+)", url)[0]
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {size}\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        )
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b"x" * (size // 8))
            until(lambda: sum(path.stat().st_size for path in incoming.iterdir()) > size // 16)
            process.kill()
            process.wait()
    with up(tmp_path) as (_, url):
        assert httpx.get(f"{url}/files").json()["data"] == []
        platform = open_platform(Settings(state=tmp_path))
        (left,) = incoming.iterdir()
        sweeper = Sweeper(platform, abandoned_seconds=0)
        sweeper.sweep()
        assert not left.exists()
        assert [path.name for path in (tmp_path / "files").iterdir()] == [".incoming"]
        platform.database.close()
