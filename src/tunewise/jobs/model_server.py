"""One server that hosts a base model: asked to answer, to load and unload adapters, stopped.

Knows processes, and vLLM's adapter endpoints, which ours has too; knows nothing of how a server comes up, which is its
engine's (`jobs.engines`), of tuned models' records or of what clients ask.
"""

import asyncio
import json
import signal
import subprocess
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import httpx

from tunewise.errors import RequestError, ServingError

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


class Wanted(NamedTuple):
    """A model to be hosted under `name`. `directory`: of a tuned one; None where it is a base model by its name."""

    name: str
    directory: Path | None = None


class Elsewhere:
    """The process of a server that somebody else runs: there as long as it is wanted, and never touched."""

    pid = 0

    def poll(self) -> int | None:
        """Whether it has ended is seen when it is asked."""
        return None

    def send_signal(self, number: int, /) -> None:
        """It is not ours to signal."""

    def kill(self) -> None:
        """It is not ours to kill."""

    def wait(self, timeout: float | None = None) -> int:
        """It goes on; nobody waits."""
        return 0


class Door(NamedTuple):
    """Where and how a server is asked. `calls`: its name for the base model; `patience`: seconds for coming back.

    The client of a server that is not ours is the server's own, and closed with it.
    """

    base_url: str
    client: httpx.AsyncClient
    calls: str
    headers: Mapping[str, str] = {}
    patience: float = DEATH_SECONDS


class ModelServer:
    """A server and what was asked of it. `adapters`: requests under way of each loaded one, by last use."""

    def __init__(self, process: Process, door: Door) -> None:
        self.base_url = door.base_url
        self.calls = door.calls
        self.adapters: OrderedDict[str, int] = OrderedDict()
        self._process = process
        self._door = door
        self._under_way = 0
        self._idle_since = time.monotonic()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def is_ours(self) -> bool:
        """Whether it was started here."""
        return not isinstance(self._process, Elsewhere)

    async def send(self, endpoint: str, content: bytes) -> httpx.Response:
        """The answer to a request, its body not yet read.

        Raises:
            httpx.TransportError: the server is not there, or has gone.
        """
        url, headers = f"{self.base_url}/{endpoint}", {"content-type": "application/json", **self._door.headers}
        request = self._door.client.build_request("POST", url, content=content, headers=headers)
        return await self._door.client.send(request, stream=True)

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
        refusal = await self._ask("load_lora_adapter", lora_name=name, lora_path=str(directory))
        if refusal is not None and not refusal.is_loaded:
            message = f"The model {name!r} cannot be hosted: {refusal.message}"
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
        deadline = time.monotonic() + self._door.patience
        while self.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        return not self.is_alive()

    async def stop(self) -> None:
        """Ask the process to finish what is under way and end; make it end when it does not.

        A server that is not ours goes on, without our adapters.
        """
        if not self.is_ours:
            for name in list(self.adapters):
                with suppress(ServingError):
                    await self.unload(name)
            await self._door.client.aclose()
        if self.is_alive():
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def _ask(self, endpoint: str, **wanted: str) -> "_Refusal | None":
        """Why the server did not do as asked; None when it did."""
        try:
            answer = await self.send(endpoint, json.dumps(wanted).encode())
            await answer.aread()
        except httpx.TransportError as lost:
            raise self.gone(wanted["lora_name"]) from lost
        await answer.aclose()
        return None if answer.is_success else _refusal(answer, self.base_url)

    def gone(self, model: str) -> ServingError:
        """What those are told who asked a server that is not there any more."""
        if self.is_ours:
            message = f"The server that hosts {model!r} stopped while it answered; send the request again"
        else:
            message = (
                f"{self.base_url}, which hosts {model!r}, is not there, broke off or was silent for too long; see "
            )
            message += "whether that server runs (TUNEWISE_ENGINE), and send the request again"
        return ServingError("model_server_stopped", message)


class _Refusal(NamedTuple):
    message: str
    is_loaded: bool
    """Whether all that is wrong is that the adapter is there already."""


def _refusal(answer: httpx.Response, base_url: str) -> _Refusal:
    """What a server says of why it loads no adapter: ours, vLLM's, or one that knows no adapters."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    told = body.get("error") if isinstance(body, dict) else None
    error: dict[str, object] = told if isinstance(told, dict) else {}
    message = str(error.get("message", ""))
    if answer.status_code in {404, 405} and (not message or "/load_lora_adapter" in message):
        return _Refusal(
            f"{base_url} cannot load adapters: it has no /load_lora_adapter. Start vLLM with --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True there; or, where that server has the model already, say under which "
            "name in the engine's `models`",
            is_loaded=False,
        )
    if not message:
        return _Refusal(f"{base_url} answered {answer.status_code}: {answer.text[:200]}", is_loaded=False)
    is_loaded = error.get("code") == "adapter_exists" or "already been loaded" in message
    return _Refusal(message, is_loaded)
