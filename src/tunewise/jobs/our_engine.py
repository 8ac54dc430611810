"""Our engine: `python -m tunewise.serve` as a child of this process.

Knows its arguments and its ready file; what a running server is asked stands in `jobs.model_server`.
"""

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeAlias

import httpx

from tunewise.errors import ServingError
from tunewise.jobs.child import start_child
from tunewise.jobs.model_server import POLL_SECONDS, Door, ModelServer, Process

START_SECONDS = 300.0

Spawn: TypeAlias = Callable[[list[str], Path], Process]
"""Starts `python -m tunewise.serve` with these arguments; what it says is appended to the log."""


def spawn(arguments: list[str], log: Path) -> Process:
    """`python -m tunewise.serve` as a child of this process."""
    return start_child("tunewise.serve", arguments, log)


class Place(NamedTuple):
    """Where logs and ready files lie, how servers are asked, and how many requests may wait for each."""

    directory: Path
    client: httpx.AsyncClient
    waiting: int


async def start(name: str, model: Path, place: Place, spawn: Spawn = spawn, flags: Sequence[str] = ()) -> ModelServer:
    """Host the directory `model` under `name`, with further `flags`. Returns once it answers.

    Raises:
        ServingError: serve_failed or serve_timeout, naming the log.
    """
    stem = file_name(name)
    ready, log = place.directory / f"{stem}.{os.getpid()}.json", place.directory / f"{stem}.log"
    ready.unlink(missing_ok=True)
    arguments = ["--model", str(model), "--name", name, "--max-waiting", str(place.waiting)]
    arguments += ["--ready-file", str(ready), "--exit-with-parent", str(os.getpid())]
    process = spawn([*arguments, *flags], log)
    with ExitStack() as undo:
        undo.callback(kill, process)
        await _until_ready(process, ready, log)
        base_url = json.loads(ready.read_bytes())["base_url"]
        undo.pop_all()
    ready.unlink()
    return ModelServer(process, Door(base_url, place.client, name))


def file_name(model: str) -> str:
    """A file name of its own for each model name."""
    readable = re.sub(r"[^\w.-]+", "-", model)[-64:]
    return f"{readable}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


async def _until_ready(process: Process, ready: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        if process.poll() is not None:
            raise ServingError("serve_failed", f"the model server stopped at its start; its log is serve/{log.name}")
        if time.monotonic() > deadline:
            raise ServingError(
                "serve_timeout",
                f"the model server did not answer in {START_SECONDS:.0f} s; its log is serve/{log.name}",
            )
        await asyncio.sleep(POLL_SECONDS)


def kill(process: Process) -> None:
    """End it at once."""
    process.kill()
    process.wait()
