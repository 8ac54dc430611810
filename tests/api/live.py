"""A live application on a port of its own, in a thread of the test's process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import uvicorn

from tunewise.api.relay import Relay
from tunewise.app import create_app
from tunewise.jobs.platform import Platform

START_SECONDS = 30


class Live(NamedTuple):
    platform: Platform
    relay: Relay
    url: str


@contextmanager
def live(platform: Platform) -> Iterator[Live]:
    """The application over `platform`, answering until the context ends."""
    app = create_app(platform)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        assert thread.is_alive(), "the application did not start"
        assert time.monotonic() < deadline, "the application did not start in time"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Live(platform, app.state.relay, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(timeout=180)
        assert not thread.is_alive(), "the application did not end"
