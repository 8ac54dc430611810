"""One process that hosts a base model: started, asked to load and unload adapters, stopped.

Knows `python -m tunewise.serve`, its ready file, and vLLM's adapter endpoints; knows nothing of tuned models' records
or of what clients ask.
"""

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import httpx

from tunewise.contracts.run import BaseModelRef
from tunewise.errors import RequestError, ServingError
from tunewise.jobs.child import start_child

START_SECONDS = 300.0
STOP_SECONDS = 150.0  # serve itself gives the requests under way 120 s
DEATH_SECONDS = 5.0
POLL_SECONDS = 0.02


class Process(Protocol):
    """A process that was started here, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit code once it has ended."""

    def send_signal(self, number: int, /) -> None:
        """Signal it, unless it has ended."""

    def kill(self) -> None:
        """Kill -9."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended; `subprocess.TimeoutExpired` when it has not by then."""


Spawn: TypeAlias = Callable[[list[str], Path], Process]
"""Starts `python -m tunewise.serve` with these arguments; what it says is appended to the log."""


class ModelServer:
    """A server process and what was asked of it. `adapters`: requests under way of each loaded one, by last use."""

    def __init__(self, process: Process, base_url: str, client: httpx.AsyncClient) -> None:
        self.base_url = base_url
        self.adapters: OrderedDict[str, int] = OrderedDict()
        self._process = process
        self._client = client
        self._under_way = 0
        self._idle_since = time.monotonic()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def begin(self, adapter: str | None) -> None:
        """Count a request in: a server or adapter with requests under way is not let go."""
        self._under_way += 1
        if adapter is not None:
            self.adapters[adapter] += 1
            self.adapters.move_to_end(adapter)

    def end(self, adapter: str | None) -> None:
        """Count a request out."""
        self._under_way -= 1
        self._idle_since = time.monotonic()
        if adapter is not None and adapter in self.adapters:
            self.adapters[adapter] -= 1

    @property
    def under_way(self) -> int:
        """How many requests it answers now."""
        return self._under_way

    def idle_seconds(self) -> float:
        """For how long nothing has been asked."""
        return 0.0 if self._under_way else time.monotonic() - self._idle_since

    async def load(self, name: str, directory: Path, *, keep: int) -> None:
        """Load an adapter; of those that are idle, the least recently used go, until there are `keep` of them.

        Raises:
            RequestError: model_unavailable, with the server's words.
        """
        for idle in [name for name, under_way in self.adapters.items() if not under_way]:
            if len(self.adapters) < keep:
                break
            del self.adapters[idle]
            await self._ask("unload_lora_adapter", lora_name=idle)
        answer = await self._ask("load_lora_adapter", lora_name=name, lora_path=str(directory))
        if answer is not None and answer.get("code") != "adapter_exists":
            message = f"The model {name!r} cannot be hosted: {answer['message']}"
            raise RequestError("model_unavailable", message, param="model")
        self.adapters[name] = 0

    async def unload(self, name: str) -> bool:
        """Let an adapter go; False while it has requests under way."""
        if self.adapters.get(name):
            return False
        if self.adapters.pop(name, None) is not None:
            await self._ask("unload_lora_adapter", lora_name=name)
        return True

    async def has_died(self) -> bool:
        """Whether the process has ended or ends within seconds: its connections are closed before it is gone."""
        deadline = time.monotonic() + DEATH_SECONDS
        while self.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        return not self.is_alive()

    async def stop(self) -> None:
        """Ask the process to finish what is under way and end; make it end when it does not."""
        if self.is_alive():
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def _ask(self, endpoint: str, **wanted: str) -> dict[str, Any] | None:
        """The server's error, or None when it did as asked."""
        try:
            answer = await self._client.post(f"{self.base_url}/{endpoint}", json=wanted)
        except httpx.TransportError as lost:
            raise ServingError(
                "model_server_stopped", f"the model server stopped at {endpoint}; send it again"
            ) from lost
        error: dict[str, Any] | None = None if answer.is_success else answer.json()["error"]
        return error


def spawn(arguments: list[str], log: Path) -> Process:
    """`python -m tunewise.serve` as a child of this process."""
    return start_child("tunewise.serve", arguments, log)


async def start(
    model: BaseModelRef, directory: Path, client: httpx.AsyncClient, *, waiting: int, spawn: Spawn = spawn
) -> ModelServer:
    """Host `model`; log and ready file lie in `directory`. Returns once it answers. `waiting`: see the settings.

    Raises:
        ServingError: serve_failed or serve_timeout, naming the log.
    """
    stem = _file_name(model.name)
    ready, log = directory / f"{stem}.{os.getpid()}.json", directory / f"{stem}.log"
    ready.unlink(missing_ok=True)
    process = spawn(_arguments(model, ready, waiting), log)
    with ExitStack() as undo:
        undo.callback(_kill, process)
        await _until_ready(process, ready, log)
        base_url = json.loads(ready.read_bytes())["base_url"]
        undo.pop_all()
    ready.unlink()
    return ModelServer(process, base_url, client)


def _file_name(model: str) -> str:
    """A file name of its own for each model name."""
    readable = re.sub(r"[^\w.-]+", "-", model)[-64:]
    return f"{readable}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def _arguments(model: BaseModelRef, ready: Path, waiting: int) -> list[str]:
    hosted = ["--model", str(model.path), "--name", model.name, "--max-waiting", str(waiting)]
    return [*hosted, "--ready-file", str(ready), "--exit-with-parent", str(os.getpid())]


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


def _kill(process: Process) -> None:
    process.kill()
    process.wait()
