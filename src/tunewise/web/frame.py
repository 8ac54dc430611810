"""What every page has: its address, who may see it, the way to the other pages, and how errors are told.

`@page(path, title)` makes a page of a function that draws the inside.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias, get_args
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup
from nicegui import context, ui
from nicegui.language import Language as PageLanguage
from nicegui.storage import request_contextvar

from tunewise.errors import RequestError, TunewiseError
from tunewise.web import words
from tunewise.web.parts import markup
from tunewise.web.sessions import SEE_OTHER, THEMES, theme_name, theme_of
from tunewise.web.visit import KEY_ID, Visit, the_studio
from tunewise.web.words import LANGUAGES, NAMES, language_of, t

Draw: TypeAlias = Callable[[Visit], Awaitable[None]]
UNKNOWN_KEY = ("missing_api_key", "invalid_api_key")
_log = logging.getLogger("tunewise.web")


class Place(NamedTuple):
    """One entry of the navigation."""

    path: str
    title: str
    icon: str


PLACES = (
    Place("/", "Home", "home"),
    Place("/data", "Data", "table_rows"),
    Place("/runs", "Runs", "timeline"),
    Place("/compare", "Compare", "compare_arrows"),
    Place("/playground", "Playground", "forum"),
    Place("/models", "Models", "hub"),
    Place("/settings", "Settings", "settings"),
)


def page(path: str, title: str, *, is_open: bool = False) -> Callable[[Draw], Draw]:
    """Make a page of `path`. `is_open`: shown to visitors who have not signed in, too.

    The visitor gets the page in their language; `title` and all that the page says go through `t`.
    """

    def register(draw: Draw) -> Draw:
        @StudioPage(path)
        async def drawn(request: Request) -> Response | None:
            visit = Visit(the_studio(), request)
            ui.page_title(f"{t(title)} · Tunewise")
            ui.on_exception(tell)
            if not is_open:
                try:
                    await asyncio.to_thread(visit.caller)
                except RequestError as error:
                    if error.code not in UNKNOWN_KEY:
                        raise
                    return RedirectResponse(f"/sign-in?to={quote(str(request.url.path), safe='')}", SEE_OTHER)
            with _frame(visit, title, has_ways=not is_open):
                await _draw(draw, visit)
            return None

        return draw

    return register


def tell(error: Exception) -> None:
    """Say in a corner of the page what went wrong; what nobody expected goes to the log as well."""
    if isinstance(error, TunewiseError):
        message = error.message
    else:
        _log.error("a page failed", exc_info=error)
        message = t("The server failed here; its log says why.")
    ui.notify(message, type="negative", multi_line=True, close_button=t("Close"), timeout=0)


def lost() -> None:
    """The page for an address that no page has."""
    context.client.status_code = 404
    visit = Visit(the_studio(), context.client.request)
    ui.page_title(f"{t('Not found')} · Tunewise")
    with _frame(visit, "Not found", has_ways=True):
        markup("<p>{}</p>", t("There is no page at this address. It may have moved, or what it showed was deleted."))


async def _draw(draw: Draw, visit: Visit) -> None:
    try:
        await draw(visit)
    except TunewiseError as error:
        with ui.element("section").classes("tw-card tw-alert").props('role="alert"'):
            markup("<h2>{}</h2><p>{}</p>", t("This cannot be shown"), error.message)


class StudioPage(ui.page):
    """A page in the visitor's language and theme."""

    def resolve_language(self) -> PageLanguage | None:
        """The visitor's, by Quasar's name."""
        request = request_contextvar.get()
        language = "en-US" if request is None or language_of(request) == "en" else language_of(request)
        known: tuple[PageLanguage, ...] = get_args(PageLanguage)
        return known[known.index(language)]

    def resolve_dark(self) -> bool | None:
        """As the visitor chose; None: as the system does."""
        request = request_contextvar.get()
        return None if request is None else theme_of(request)


@contextmanager
def _frame(visit: Visit, title: str, *, has_ways: bool) -> Iterator[None]:
    ui.colors(primary="#0f766e", secondary="#475569", accent="#b45309", negative="#b3261e", positive="#166534")
    with context.client.layout:
        header = ui.element("header").classes("tw-top")
    header.move(target_index=0)  # the library's own content, which is the main landmark, comes after it
    with header:
        markup('<a class="tw-brand" href="/">{}<span>Tunewise</span></a>', _MARK)
        if has_ways:
            _ways(visit.request.url.path)
        _look(visit)
    with ui.element("div").classes("tw-main") as content:
        markup("<h1>{}</h1>", t(title))
        yield
    ui.skip_link(t("Skip to the content"), target=content)


def _ways(here: str) -> None:
    entries = Markup().join(
        Markup('<a href="{}"{}><i class="material-icons" aria-hidden="true">{}</i><span>{}</span></a>').format(
            place.path, Markup(' aria-current="page"') if _is_here(place, here) else "", place.icon, t(place.title)
        )
        for place in PLACES
    )
    markup('<nav class="tw-nav" aria-label="{}">{}</nav>', t("Pages"), entries)


def _is_here(place: Place, here: str) -> bool:
    return here == place.path or (place.path != "/" and here.startswith(place.path + "/"))


def _look(visit: Visit) -> None:
    """Language and theme, and the way out: a form that works before anything else is loaded."""
    request = visit.request
    languages = Markup().join(_option(tag, NAMES[tag], words.language_of(request)) for tag in LANGUAGES)
    titles = {"auto": t("System"), "light": t("Light"), "dark": t("Dark")}
    themes = Markup().join(_option(name, titles[name], theme_name(request)) for name in THEMES)
    markup(
        '<form class="tw-look" method="post" action="/settings/look"><input type="hidden" name="to" value="{to}">'
        '<label><span class="tw-hidden">{language}</span>'
        '<select name="language" onchange="this.form.submit()">{languages}</select></label>'
        '<label><span class="tw-hidden">{theme}</span>'
        '<select name="theme" onchange="this.form.submit()">{themes}</select></label></form>',
        to=request.url.path,
        language=t("Language"),
        languages=languages,
        theme=t("Theme"),
        themes=themes,
    )
    if KEY_ID in request.session:
        markup('<form method="post" action="/sign-out"><button class="tw-plain">{}</button></form>', t("Sign out"))


def _option(value: str, name: str, chosen: str) -> Markup:
    selected = Markup(" selected") if value == chosen else ""
    return Markup('<option value="{}"{}>{}</option>').format(value, selected, name)


_MARK = Markup(
    '<svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true"><rect width="32" height="32" rx="7" '
    'fill="#0f5c56"/><path d="M6 22 L12 14 L17 18 L26 8" fill="none" stroke="#fff" stroke-width="3" '
    'stroke-linecap="round" stroke-linejoin="round"/><circle cx="26" cy="8" r="2.6" fill="#ffc861"/></svg>'
)
