"""The studio's door in the application: pages beside the API, on the same port.

What draws the pages takes longer to load than the API takes to start. So it is loaded in a thread once the server
answers, and a page that is asked for meanwhile waits a moment. Knows ASGI; knows nothing of pages.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from tunewise.jobs.completions import Relay
from tunewise.jobs.hosting import Hosting
from tunewise.jobs.platform import Platform
from tunewise.jobs.provisioning import Provisioner

if TYPE_CHECKING:
    from fastapi import FastAPI

# Every other path is the API's, and answered in its words.
PATHS = re.compile(
    r"/((data|runs|compare|playground|models|settings|sign-in|sign-out)(/.*)?|favicon\.ico|_nicegui(_ws)?/.*)?"
)


class Studio(NamedTuple):
    """What the pages are drawn over, for as long as the server runs."""

    relay: Relay
    provisioner: Provisioner
    keys_required: bool

    @property
    def platform(self) -> Platform:
        """The state that use cases work on."""
        return self.relay.platform

    @property
    def hosting(self) -> Hosting:
        """The models that are up."""
        return self.relay.hosting


class StudioRoute(BaseRoute):
    """Answers the studio's paths, once `running()` has loaded it."""

    path = "studio"

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._site: asyncio.Future[ASGIApp] | None = None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the path is a page's, or of what pages load."""
        is_ours = scope["type"] in ("http", "websocket") and PATHS.fullmatch(scope["path"]) is not None
        return (Match.FULL, {"route": self}) if is_ours else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on to the site. What pages of other origins send, `api.origins` has refused."""
        if self._site is None:
            await PlainTextResponse("The studio does not run", 503)(scope, receive, send)
        else:
            site = await asyncio.shield(self._site)
            await site(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the studio, and keep its own tasks running, while the context lasts."""
        loop = asyncio.get_running_loop()
        self._site = loop.create_future()
        closing = asyncio.Event()
        task = asyncio.create_task(self._live(self._site, closing))
        yield
        closing.set()
        with suppress(asyncio.CancelledError):
            await task

    async def _live(self, site: "asyncio.Future[ASGIApp]", closing: asyncio.Event) -> None:
        try:
            host = await asyncio.to_thread(_load, self._studio)
            async with host.router.lifespan_context(host):
                site.set_result(host)
                await closing.wait()
        except Exception as error:
            if site.done():
                raise
            site.set_exception(error)


def _load(studio: Studio) -> "FastAPI":
    # Here and not above, as everything above is loaded before the server answers.
    from tunewise.web.site import build

    return build(studio)
