"""`tunewise up`: the API on one port, and a worker beside it. Knows processes; what they do is theirs.

The worker is a child that is started again when it dies. SIGTERM and Ctrl-C stop the server first, then ask the
worker to drain; trainers go on by themselves and are adopted at the next start.
"""

import gc
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Annotated

import typer
import uvicorn

from tunewise.addresses import is_loopback
from tunewise.app import create_app
from tunewise.errors import ConfigError
from tunewise.jobs.access import keys_exist
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings, get_settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
STEADY_SECONDS = 60.0
DRAIN_SECONDS = 30.0
GRACE_SECONDS = 10


@app.command()
def up(
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs a key to exist.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8321,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Also run what trains.")] = True,
    studio: Annotated[bool, typer.Option("--studio/--no-studio", help="Also serve the pages of the studio.")] = True,
    alias: Annotated[
        list[str] | None, typer.Option(help="NAME=MODEL: a model name that stands for another; repeatable.")
    ] = None,
) -> None:
    """Start the API and the worker on one port, with all state in one directory."""
    settings = with_aliases(get_settings(), alias or [])
    platform = open_platform(settings)
    is_local = is_loopback(host)
    if not is_local:
        require_keys(platform, host)
    listening = listen(host, port)
    server = uvicorn.Server(_config(platform, keys_required=not is_local, has_studio=studio))
    signal.signal(signal.SIGTERM, _interrupt)  # uvicorn raises the signal again when it has stopped
    with worker_beside() if worker else nullcontext():
        typer.echo(f"Tunewise answers at {base_url(listening)}")
        gc.freeze()  # what is here stays: to look through it takes 85 ms, in the middle of somebody's request
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def with_aliases(settings: Settings, aliases: list[str]) -> Settings:
    """The settings with the aliases of the command line added.

    Raises:
        ConfigError: invalid_alias.
    """
    pairs = [alias.partition("=") for alias in aliases]
    for name, sign, model in pairs:
        if not (name and sign and model):
            raise ConfigError("invalid_alias", f"--alias {name + sign + model!r}: write NAME=MODEL", param="--alias")
    added = {name: model for name, _, model in pairs}
    return settings.model_copy(update={"aliases": settings.aliases | added})


def require_keys(platform: Platform, host: str) -> None:
    """Refuse to be reachable from elsewhere while everyone would be let in.

    Raises:
        ConfigError: keys_needed.
    """
    if not keys_exist(platform):
        raise ConfigError(
            "keys_needed",
            f"--host {host} can be reached from other machines, and there is no API key yet; "
            "run `tunewise keys create --role admin` first, or listen on 127.0.0.1",
            param="--host",
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port that is taken is told before anything is started.

    Raises:
        ConfigError: port_taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle's algorithm off; without, each answer waits 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            "port_taken",
            f"--host {host} --port {port} cannot be listened on: {error.strerror}; give another",
            param="--port",
        ) from error
    listening.listen(128)
    return listening


def base_url(listening: socket.socket) -> str:
    """What clients are told as OPENAI_BASE_URL."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _config(platform: Platform, *, keys_required: bool, has_studio: bool) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Config(
        create_app(platform, keys_required=keys_required, has_studio=has_studio),
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


@contextmanager
def worker_beside() -> Iterator[None]:
    """A worker process that is started again when it dies; asked to drain at the end, and made to if it does not."""
    stopping = threading.Event()
    thread = threading.Thread(target=_keep_worker, args=(stopping,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _keep_worker(stopping: threading.Event) -> None:
    """Start it again, later and later if it keeps dying."""
    failures = 0
    while not stopping.is_set():
        started = time.monotonic()
        process = _start_worker()
        while process.poll() is None and not stopping.wait(0.2):
            pass
        if stopping.is_set():
            _drain(process)
            return
        failures = 0 if time.monotonic() - started > STEADY_SECONDS else failures + 1
        pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] if failures else 0.0
        told = {"level": "error", "worker_exit": process.returncode, "again_in_seconds": pause}
        typer.echo(json.dumps(told), err=True)
        stopping.wait(pause)


def _start_worker() -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C in the terminal reaches it only through us.
    return subprocess.Popen(
        [sys.executable, "-m", "tunewise.cli", "worker", "--exit-with-parent"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _drain(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
