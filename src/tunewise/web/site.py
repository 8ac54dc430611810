"""The studio as an application of its own: pages, session, style. Loaded late, by `mount`.

The pages' library keeps one application per process, so there is one studio per process as well.
"""

import os
import secrets
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from nicegui import app, ui
from nicegui.storage import Storage
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewise.errors import TunewiseError
from tunewise.web import downloads, pages, sessions
from tunewise.web.frame import lost
from tunewise.web.mount import Studio

COOKIE, COOKIE_SECONDS = "tunewise_studio", 14 * 24 * 3600
# Vue compiles the pages' templates in the browser: hence `unsafe-eval`. Nothing is loaded from anywhere else.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
ICON = (
    '<svg viewBox="0 0 32 32" xmlns="http://www.w3.org/2000/svg"><rect width="32" height="32" rx="7" fill="#0f5c56"/>'
    '<path d="M6 22 L12 14 L17 18 L26 8" fill="none" stroke="#fff" stroke-width="3" stroke-linecap="round" '
    'stroke-linejoin="round"/><circle cx="26" cy="8" r="2.6" fill="#ffc861"/></svg>'
)


def build(studio: Studio) -> FastAPI:
    """The application that answers the studio's paths."""
    host = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.studio = studio
    Storage.path = studio.platform.settings.state_dir / "studio"
    Storage.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    sessions.add_routes()
    downloads.add_routes()
    pages.add_pages()
    for field in (ui.input, ui.number, ui.select, ui.textarea):
        field.default_props("outlined dense")
    ui.add_css(_styles(), shared=True)
    app.add_middleware(Guarded)
    app.add_exception_handler(TunewiseError, _refused)
    ui.run_with(
        host,
        root=lost,
        language="en-US",
        title="Tunewise",
        favicon=ICON,
        tailwind=False,
        reconnect_timeout=10.0,
        show_welcome_message=False,
        storage_secret=_secret(Storage.path / "secret"),
        session_middleware_kwargs={"session_cookie": COOKIE, "max_age": COOKIE_SECONDS, "same_site": "lax"},
    )
    return host


def _styles() -> str:
    """The studio's own, and the report's for what stands in an element of the class `tw-report`."""
    report = resources.files("tunewise.evaluate").joinpath("templates/report_body.css").read_text(encoding="utf-8")
    own = resources.files("tunewise.web").joinpath("studio.css").read_text(encoding="utf-8")
    return f"{own}\n.tw-report {{\n{report}\n}}"


def _refused(_: Request, error: Exception) -> Response:
    """A form that was not taken."""
    return PlainTextResponse(error.message if isinstance(error, TunewiseError) else str(error), 403)


class Guarded:
    """Tells browsers to load nothing from elsewhere, and to let no other page frame these."""

    def __init__(self, inner: ASGIApp) -> None:
        self.app = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the headers added."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = POLICY
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"
            await send(message)

        await self.app(scope, receive, guarded)


def _secret(path: Path) -> str:
    """What cookies are signed with; made once, so that a restart signs nobody out."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(descriptor, "w") as file:
        made = secrets.token_hex(32)
        file.write(made)
    return made
