"""An experiment's models on an engine that is not ours, for as long as they are asked.

An experiment waits for one thing after the other, and engines live on an event loop: here one runs beside it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from anyio.from_thread import start_blocking_portal

from tunewise.evaluate.client import Server
from tunewise.jobs.engines import Yard, engine, local_client
from tunewise.jobs.model_server import Wanted
from tunewise.settings import OpenAIEngine, Settings, secret


class ToHost(NamedTuple):
    """A base model by its name, or a whole tuned one in `directory`; `adapters` on it; the name that is `asked`."""

    name: str
    directory: Path | None
    adapters: Mapping[str, Path]
    asked: str


@contextmanager
def hosted(wanted: ToHost, settings: Settings, directory: Path) -> Iterator[Server]:
    """Host on the engine of the settings; `directory`: for logs.

    Raises:
        RequestError: model_unavailable: the engine cannot host it.
        ServingError: it did not start, or is not there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with start_blocking_portal() as portal, ExitStack() as held:
        client = local_client()
        held.callback(portal.call, client.aclose)
        start = engine(Yard(settings, directory, client))
        server = portal.call(start, Wanted(wanted.name, wanted.directory))
        held.callback(portal.call, server.stop)
        for name, path in wanted.adapters.items():
            portal.call(partial(server.load, name, path.absolute(), keep=len(wanted.adapters)))
        config = settings.engine
        env = config.api_key_env if isinstance(config, OpenAIEngine) else None
        asked = server.calls if wanted.asked == wanted.name else wanted.asked
        yield Server(server.base_url, asked, secret(env) if env else None)
