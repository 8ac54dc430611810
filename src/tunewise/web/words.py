"""The studio's languages: English as it stands in the code, others from `locale/LANGUAGE.po` through Babel.

`t` speaks the language of the page that is being drawn. A text without a translation is shown in English.
"""

from datetime import datetime
from functools import cache
from importlib import resources
from typing import Literal, TypeAlias, get_args

from babel import Locale, dates, numbers
from babel.messages.pofile import read_po
from nicegui import context
from starlette.requests import Request

Language: TypeAlias = Literal["en", "ja"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
NAMES: dict[Language, str] = {"en": "English", "ja": "日本語"}
_KEY = "language"


def t(text: str, **values: object) -> str:
    """`text` in the page's language, with `{name}` replaced by each value."""
    translated = _catalogue(page_language()).get(text, text)
    return translated.format(**values) if values else translated


def said(text: str) -> str:
    """`text` as it stands: marks what `t` is given later, so that its translation is not forgotten."""
    return text


def number(value: float, digits: int = 0) -> str:
    """A number as the page's language writes it."""
    pattern = "#,##0" + ("." + "0" * digits if digits else "")
    return numbers.format_decimal(value, format=pattern, locale=page_language())


def when(seconds: float) -> str:
    """A Unix time as date and time of the server's zone."""
    return dates.format_datetime(datetime.fromtimestamp(seconds).astimezone(), "medium", locale=page_language())


def ago(seconds: float, now: float) -> str:
    """How long ago a Unix time was."""
    return dates.format_timedelta(round(min(0, seconds - now)), add_direction=True, locale=page_language())


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `2 h 05 min`, `1 min 07 s`, `8 s`."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return t("{hours} h {minutes} min", hours=hours, minutes=f"{minutes:02d}")
    return t("{minutes} min {seconds} s", minutes=minutes, seconds=f"{rest:02d}") if minutes else f"{rest} s"


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a number of at least 1."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{number(count, 0 if unit == 'B' else 1)} {unit}"
        count /= 1024
    return f"{number(count, 1)} GiB"


def page_language() -> Language:
    """The language of the page that is being drawn, or whose event is being answered."""
    return language_of(context.client.request)


def language_of(request: Request) -> Language:
    """As the visitor chose it, else the first of the browser's languages that there is."""
    chosen = request.session.get(_KEY)
    if chosen in LANGUAGES:
        return LANGUAGES[LANGUAGES.index(chosen)]
    wanted = [part.split(";")[0].strip() for part in request.headers.get("accept-language", "").split(",")]
    for tag in wanted:
        for language in LANGUAGES:
            if tag.split("-")[0] == language:
                return language
    return "en"


def choose_language(request: Request, language: str) -> None:
    """Keep the visitor's choice; anything but a language that there is changes nothing."""
    if language in LANGUAGES:
        request.session[_KEY] = language


@cache
def _catalogue(language: Language) -> dict[str, str]:
    if language == "en":
        return {}
    source = resources.files("tunewise.web").joinpath(f"locale/{language}.po")
    with source.open("rb") as file:
        catalogue = read_po(file, locale=Locale.parse(language))
    return {
        entry.id: entry.string
        for entry in catalogue
        if isinstance(entry.id, str) and isinstance(entry.string, str) and entry.id and entry.string
    }
