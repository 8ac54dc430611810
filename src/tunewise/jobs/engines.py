"""Engines: three ways in which a model comes to be hosted, behind one function (docs/adr/0024).

`engine()` gives the `Start` of the engine that the settings name; whoever hosts calls it and gets a `ModelServer`.
Knows which engines there are; how each comes up, and what it cannot host, stands in a module of its own.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar, assert_never

import httpx

from tunewise import catalogue, embedding_models
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError, RequestError
from tunewise.jobs import our_engine, remote_engine, vllm_engine
from tunewise.jobs.model_server import ModelServer, Wanted
from tunewise.jobs.our_engine import Spawn, spawn
from tunewise.jobs.vllm_engine import SpawnVllm, spawn_vllm
from tunewise.settings import EngineConfig, OpenAIEngine, Settings, TorchEngine, VllmEngine

Model = TypeVar("Model")
CONNECT_SECONDS = 5.0
# Less than the 5 s after which a server closes a quiet connection: none is used that is being closed.
KEEP_ALIVE_SECONDS = 2.0


class Yard(NamedTuple):
    """What engines need besides: `directory` for logs and ready files, a client for servers on this machine."""

    settings: Settings
    directory: Path
    client: httpx.AsyncClient


Start: TypeAlias = Callable[[Wanted], Awaitable[ModelServer]]
"""Hosts a model, and returns once it answers.

Raises:
    RequestError: model_unavailable, when its files are not there, or this engine cannot host it.
    ServingError: the server did not start, or is not there.
"""


def engine(yard: Yard, spawn: Spawn = spawn, spawn_vllm: SpawnVllm = spawn_vllm) -> Start:
    """The engine that the settings name. Embeddings are ours everywhere, but where another server is said to have them.

    `spawn`, `spawn_vllm`: how processes are started.
    """
    config: EngineConfig = yard.settings.engine
    ours = partial(_start_ours, yard, config if isinstance(config, TorchEngine) else TorchEngine(), spawn)
    match config:
        case TorchEngine():
            start: Start = ours
        case OpenAIEngine():
            start = partial(remote_engine.start, config)
        case VllmEngine():
            start = partial(_start_vllm, yard, config, spawn_vllm)
        case _:
            assert_never(config)

    def chosen(wanted: Wanted) -> Awaitable[ModelServer]:
        is_ours = embedding_models.knows(wanted.name) and wanted.name not in yard.settings.models_elsewhere
        return (ours if is_ours else start)(wanted)

    return chosen


def local_client() -> httpx.AsyncClient:
    """For servers on this machine."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS),
        headers={"Accept-Encoding": "identity"},
        trust_env=False,
        # They answer on loopback without TLS, and reading the machine's certificates takes 0.1 s.
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )


async def _start_ours(yard: Yard, config: TorchEngine, spawn: Spawn, wanted: Wanted) -> ModelServer:
    place = our_engine.Place(yard.directory, yard.client, yard.settings.hosted_waiting)
    if wanted.directory is None and embedding_models.knows(wanted.name):
        model = await _unless_missing(wanted, lambda: embedding_models.find(wanted.name))
        return await our_engine.start(wanted.name, model.path, place, spawn, ["--embeddings"])
    found = await _found(yard, wanted)
    memory = config.adapter_memory_mb
    flags = ["--dtype", config.dtype, *([] if memory is None else ["--adapter-memory-mb", str(memory)])]
    return await our_engine.start(wanted.name, found.path, place, spawn, flags)


async def _start_vllm(yard: Yard, config: VllmEngine, spawn: SpawnVllm, wanted: Wanted) -> ModelServer:
    found = await _found(yard, wanted)
    place = vllm_engine.Place(yard.directory, yard.client, yard.settings.hosted_adapters)
    return await vllm_engine.start(config, wanted.name, found.path, place, spawn)


async def _unless_missing(wanted: Wanted, find: Callable[[], Model]) -> Model:
    """What `find` gives, in a thread.

    Raises:
        RequestError: model_unavailable, with its words.
    """
    try:
        return await asyncio.to_thread(find)
    except ModelError as error:
        raise RequestError(
            "model_unavailable", f"The model {wanted.name!r} cannot be hosted: {error.message}", param="model"
        ) from error


async def _found(yard: Yard, wanted: Wanted) -> BaseModelRef:
    return await _unless_missing(wanted, lambda: catalogue.find(str(wanted.directory or wanted.name), yard.settings))
