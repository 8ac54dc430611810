"""Who looks at a page, and how the page asks use cases on their behalf.

A visitor signs in with a key. The signed cookie keeps the key's id, never the key; what the id is worth is asked anew
at every use case, so that a revoked key ends a visit at once.
"""

import asyncio
import re
import secrets
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from nicegui import app, context
from starlette.requests import Request

from tunewise.contracts.jobs import Caller
from tunewise.jobs import access
from tunewise.jobs.platform import Platform
from tunewise.web.mount import Studio

P = ParamSpec("P")
Result = TypeVar("Result")
KEY_ID, PROJECT, SESSION = "key_id", "project", "id"


class Visit:
    """One page in one browser."""

    def __init__(self, studio: Studio, request: Request) -> None:
        self.studio = studio
        self.request = request

    @property
    def platform(self) -> Platform:
        """The state that use cases work on."""
        return self.studio.platform

    def caller(self) -> Caller:
        """Who asks now. Reads the database: `ask` calls it off the event loop.

        Raises:
            RequestError: there is no key in use behind this visit, where one is needed.
        """
        session = self.request.session
        key_id, project = session.get(KEY_ID), session.get(PROJECT)
        if key_id is not None:
            return access.identify_key(self.platform, key_id, project=project)
        return access.identify(
            self.platform,
            None,
            organization=None,
            project=project,
            keys_required=self.studio.keys_required,
            host=host_of(self.request),
        )

    async def ask(
        self, use_case: Callable[Concatenate[Platform, Caller, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """What the use case gives this visitor; it runs in a thread, so that no other page waits for it.

        Raises:
            TunewiseError: as the use case says; RequestError where the visit's key is not in use any more.
        """
        return await asyncio.to_thread(lambda: use_case(self.platform, self.caller(), *args, **kwargs))

    def part(self, name: str) -> str:
        """A part of the page's path, such as the `job_id` of `/runs/{job_id}`."""
        return str(self.request.path_params[name])


def this_visit() -> Visit:
    """The visit whose page is being drawn, or whose event is being answered."""
    return Visit(the_studio(), context.client.request)


def the_studio() -> Studio:
    """What `site.build` was given."""
    studio: Studio = app.state.studio
    return studio


def sign_in(studio: Studio, request: Request, secret: str) -> None:
    """Begin a visit with a key; what the cookie held before is forgotten.

    Raises:
        RequestError: missing_api_key or invalid_api_key.
    """
    key = access.find_key(studio.platform, secret)
    kept = {name: value for name, value in request.session.items() if name in ("language", "theme")}
    request.session.clear()
    request.session.update(kept | {SESSION: secrets.token_hex(16), KEY_ID: key.id})


def sign_out(request: Request) -> None:
    """End the visit in this browser."""
    request.session.pop(KEY_ID, None)
    request.session.pop(PROJECT, None)


def host_of(request: Request) -> str | None:
    """What the request calls this server, without a port."""
    named = request.headers.get("host")
    return None if named is None else re.sub(r":\d*$", "", named).strip("[]")
