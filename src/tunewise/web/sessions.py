"""Signing in and out, and the visitor's language and theme: plain forms, kept in the signed cookie.

A browser sends the cookie with forms of this origin only (SameSite), and a form of another origin is refused.
"""

from typing import Annotated, Literal, TypeAlias, get_args
from urllib.parse import urlencode, urlsplit

from fastapi import Form, Request
from fastapi.responses import RedirectResponse
from nicegui import app

from tunewise.errors import RequestError
from tunewise.web import visit, words

Theme: TypeAlias = Literal["auto", "light", "dark"]
THEMES: tuple[Theme, ...] = get_args(Theme)
_THEME = "theme"
SEE_OTHER = 303


def add_routes() -> None:
    """Add the routes that forms are sent to."""
    app.post("/sign-in/form")(_sign_in)
    app.post("/sign-out")(_sign_out)
    app.post("/settings/look")(_look)


def theme_of(request: Request) -> bool | None:
    """Whether the visitor wants it dark; None: as the system does."""
    return {"light": False, "dark": True}.get(request.session.get(_THEME, "auto"))


def theme_name(request: Request) -> Theme:
    """The visitor's choice."""
    kept = request.session.get(_THEME)
    return THEMES[THEMES.index(kept)] if kept in THEMES else "auto"


def inner(path: str) -> str:
    """A path of this server, so that no link leads a visitor elsewhere after signing in."""
    parts = urlsplit(path)
    is_inner = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc
    return path if is_inner else "/"


def _sign_in(request: Request, key: Annotated[str, Form()] = "", to: Annotated[str, Form()] = "/") -> RedirectResponse:
    try:
        visit.sign_in(visit.the_studio(), request, key.strip())
    except RequestError as error:
        return RedirectResponse(f"/sign-in?{urlencode({'to': inner(to), 'error': error.code})}", SEE_OTHER)
    return RedirectResponse(inner(to), SEE_OTHER)


def _sign_out(request: Request) -> RedirectResponse:
    visit.sign_out(request)
    return RedirectResponse("/sign-in", SEE_OTHER)


def _look(
    request: Request,
    language: Annotated[str, Form()] = "",
    theme: Annotated[str, Form()] = "",
    to: Annotated[str, Form()] = "/",
) -> RedirectResponse:
    words.choose_language(request, language)
    if theme in THEMES:
        request.session[_THEME] = theme
    return RedirectResponse(inner(to), SEE_OTHER)
