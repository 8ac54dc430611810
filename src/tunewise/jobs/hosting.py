"""Hosting: which base models and adapters are up, started when they are first asked for, let go when they are idle.

Knows names, records and the life of model servers; knows nothing of what is asked of a model, or of a wire. All of it
runs on one event loop: what stands between two `await`s needs no lock.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, cast

from tunewise.contracts.jobs import Caller, TunedModel
from tunewise.errors import RequestError
from tunewise.jobs import parents
from tunewise.jobs.engines import Yard, engine, local_client
from tunewise.jobs.model_server import ModelServer, Wanted
from tunewise.jobs.names import Resolved, resolve
from tunewise.jobs.our_engine import Spawn, spawn
from tunewise.jobs.platform import Platform
from tunewise.jobs.weights import kind_in, missing_in

CHECK_SECONDS = 15.0
_log = logging.getLogger("tunewise.hosting")


class Hosted(NamedTuple):
    """Where a model answers: `name` is what its server calls it."""

    server: ModelServer
    name: str


class _Home(NamedTuple):
    """Which server hosts a model, and under which adapter. `directory`: of the server's model, where it is a tuned one;
    None where it is a base model of the catalogue.
    """

    server: str
    adapter: str | None
    directory: Path | None


class _Place:
    """A base model's server, if it has one, and what is being made ready there, by adapter."""

    def __init__(self) -> None:
        self.server: ModelServer | None = None
        self.lock = asyncio.Lock()
        self.preparing: dict[str | None, asyncio.Task[None]] = {}

    def ready(self, adapter: str | None) -> ModelServer | None:
        """The server, if it runs and holds the adapter."""
        server = self.server
        if server is None or not server.is_alive() or (adapter is not None and adapter not in server.adapters):
            return None
        return server


class Hosting:
    """The model servers of one API process. Used with `running()`, which ends them."""

    def __init__(self, platform: Platform, spawn: Spawn = spawn) -> None:
        """`spawn`: how our own servers are started."""
        self._platform = platform
        self._places: dict[str, _Place] = {}
        self.client = local_client()
        self._start = engine(Yard(platform.settings, platform.serve_dir, self.client), spawn)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch for idle servers; at the end, let every server finish what is under way, and end."""
        watching = asyncio.create_task(self._let_idle_ones_go())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await asyncio.gather(*(self._close(place) for place in self._places.values()))
            await self.client.aclose()

    def servers(self) -> dict[str, ModelServer]:
        """The servers that run, by base model."""
        return {name: place.server for name, place in self._places.items() if place.server and place.server.is_alive()}

    @asynccontextmanager
    async def hosted(self, model: Resolved) -> AsyncIterator[Hosted]:
        """A running server that holds the model, and goes on doing so until the context ends.

        A hundred requests at once start one server. A request that is cancelled while it waits does not end the start.

        Raises:
            RequestError: model_unavailable, when its files are not there.
            ServingError: the server did not start, or refuses the adapter.
        """
        home = self._home(model)
        place = self._places.setdefault(home.server, _Place())
        while (server := place.ready(home.adapter)) is None:
            await asyncio.shield(self._preparation(place, home, model))
        server.begin(home.adapter)
        try:
            yield Hosted(server, home.adapter or server.calls)
        finally:
            server.end(home.adapter)

    async def release(self, model: Resolved) -> bool:
        """Let a tuned model go, or a base model with all that it hosts; False while it is being asked something.

        It is hosted again when it is next asked.
        """
        home = self._home(model)
        place = self._places.get(home.server)
        server = None if place is None else place.ready(None)
        if place is None or server is None:
            return True
        async with place.lock:
            if home.adapter is not None:
                return await server.unload(home.adapter)
            if server.under_way or place.server is not server:
                return False
            place.server = None
        await server.stop()
        return True

    def _home(self, model: Resolved) -> _Home:
        """A tuned model is an adapter on its base model's server, or a base of its own where every weight was tuned."""
        if model.tuned is None:
            return _Home(model.base, None, None)
        if model.tuned.name in self._platform.settings.models_elsewhere:
            return _Home(model.tuned.name, None, None)
        directory = self._platform.settings.state_dir / model.tuned.adapter
        if kind_in(directory) == "model":
            return _Home(model.tuned.name, None, directory)
        own_base = parents.own_base(self._platform, model.tuned.job_id)
        return _Home(model.base if own_base is None else str(own_base), model.tuned.name, own_base)

    def _preparation(self, place: _Place, home: _Home, model: Resolved) -> asyncio.Task[None]:
        """The one task that makes this model ready; who waits for it shares its failure."""
        task = place.preparing.get(home.adapter)
        if task is None:
            task = place.preparing[home.adapter] = asyncio.create_task(self._prepare(place, home, model))
            task.add_done_callback(lambda done: _forget(place, home.adapter, done))
        return task

    async def _prepare(self, place: _Place, home: _Home, model: Resolved) -> None:
        needs_files = home.adapter is not None or home.directory is not None
        directory = self._tuned_directory(model.tuned) if model.tuned and needs_files else None
        async with place.lock:
            if place.ready(None) is None:
                place.server = await self._start(Wanted(home.server, home.directory))
                _log.info("hosting %s: process %d at %s", home.server, place.server.pid, place.server.base_url)
            if home.adapter is not None and place.server is not None and home.adapter not in place.server.adapters:
                keep = self._platform.settings.hosted_adapters
                await place.server.load(home.adapter, cast(Path, directory), keep=keep)

    def _tuned_directory(self, model: TunedModel) -> Path:
        directory = (self._platform.settings.state_dir / model.adapter).absolute()
        missing = missing_in(directory)
        if missing:
            raise RequestError(
                "model_unavailable",
                f"The model {model.name!r} cannot be hosted: {', '.join(missing)} is not in {model.adapter} of the "
                "state directory. Restore it from a backup, or delete the model and tune it again.",
                param="model",
            )
        return directory

    async def _let_idle_ones_go(self) -> None:
        seconds = self._platform.settings.idle_seconds
        while True:
            await asyncio.sleep(min(seconds / 4, CHECK_SECONDS))
            for name, place in list(self._places.items()):
                server = place.server
                if server and not place.preparing and server.idle_seconds() > seconds:
                    _log.info("%s was idle for %.0f s: stopping process %d", name, seconds, server.pid)
                    place.server = None
                    await server.stop()

    async def _close(self, place: _Place) -> None:
        for task in list(place.preparing.values()):
            task.cancel()
        await asyncio.gather(*place.preparing.values(), return_exceptions=True)
        if place.server is not None:
            await place.server.stop()


def find_model(platform: Platform, caller: Caller, name: str) -> Resolved:
    """What the caller means by a model name.

    Raises:
        RequestError: model_not_found, with the names that there are.
    """
    with platform.database.read() as session:
        return resolve(session, platform.settings, caller, name)


def _forget(place: _Place, adapter: str | None, done: asyncio.Task[None]) -> None:
    place.preparing.pop(adapter, None)
    if not done.cancelled():
        done.exception()  # seen, even where nobody waits for it any more
