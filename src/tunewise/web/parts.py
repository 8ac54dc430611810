"""What pages are put together from: cards, tables, badges, bars, code. Knows how things look, and nothing of jobs.

Text that does not change by itself is one piece of escaped HTML, so that a list of a thousand rows stays light; what
is clicked or changes is an element of the pages' library.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar

from markupsafe import Markup
from nicegui import ui

from tunewise.errors import TunewiseError
from tunewise.web.words import t

Tone: TypeAlias = Literal["neutral", "busy", "good", "bad", "warn"]
Cell: TypeAlias = str | Markup
Value = TypeVar("Value")
_NUMERIC = Markup(' class="tw-number"')
# Browsers have a clipboard for pages of secure origins only; elsewhere an old command does it.
_COPY = """() => {
  const text = %s;
  const old = () => {
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  };
  (navigator.clipboard ? navigator.clipboard.writeText(text) : Promise.resolve(old())).then(() => emit());
}"""


def markup(template: str, *values: object, **named: object) -> ui.html:
    """HTML with each value escaped into its place."""
    return ui.html(Markup(template).format(*values, **named), sanitize=False)


def link(href: str, text: str) -> Markup:
    """A link to a page or to a file."""
    return Markup('<a href="{}">{}</a>').format(href, text)


def badge(text: str, tone: Tone = "neutral") -> Markup:
    """A state in a word; the tone only underlines what the word says."""
    return Markup('<span class="tw-badge tw-{}">{}</span>').format(tone, text)


def code(text: str) -> Markup:
    """An id, a name or a path."""
    return Markup("<code>{}</code>").format(text)


def bar(share: float, label: str) -> Markup:
    """How far something is, from 0 to 1."""
    percent = round(100 * min(1.0, max(0.0, share)))
    return Markup(
        '<div class="tw-bar" role="progressbar" aria-label="{}" aria-valuemin="0" aria-valuemax="100" '
        'aria-valuenow="{}"><span style="width:{}%"></span></div>'
    ).format(label, percent, percent)


def table(
    headers: Sequence[Cell], rows: Sequence[Sequence[Cell]], *, caption: str, numeric: Sequence[int] = ()
) -> Markup:
    """A table; `numeric`: the columns that are set to the right. `caption` tells screen readers what it holds.

    On a phone each row is a block of its own (`studio.css`), for which cells know their header; as that takes a table's
    meaning from it for screen readers, roles say it.
    """
    head = Markup().join(
        Markup('<th scope="col" role="columnheader"{}>{}</th>').format(_NUMERIC if index in numeric else "", text)
        for index, text in enumerate(headers)
    )
    body = Markup().join(
        Markup('<tr role="row">{}</tr>').format(
            Markup().join(
                Markup('<td role="cell" data-label="{}"{}>{}</td>').format(
                    _plain(header), _NUMERIC if index in numeric else "", text
                )
                for index, (header, text) in enumerate(zip(headers, row, strict=True))
            )
        )
        for row in rows
    )
    return Markup(
        '<div class="tw-scroll" tabindex="0" role="region" aria-label="{caption}"><table class="tw-table" role="table">'
        '<caption>{caption}</caption><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        '<tbody role="rowgroup">{body}</tbody></table></div>'
    ).format(caption=caption, head=head, body=body)


def facts(pairs: Sequence[tuple[str, Cell]]) -> Markup:
    """Names and values, one below the other."""
    entries = Markup().join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, value) for name, value in pairs)
    return Markup('<dl class="tw-facts">{}</dl>').format(entries)


@contextmanager
def card(title: str, *, classes: str = "") -> Iterator[ui.element]:
    """A part of a page with a heading of its own."""
    with ui.element("section").classes(f"tw-card {classes}") as section:
        markup("<h2>{}</h2>", title)
        yield section


def empty(title: str, text: str) -> None:
    """What stands where there is nothing yet, and what to do about it."""
    markup("{}", emptiness(title, text))


def emptiness(title: str, text: str) -> Markup:
    """The same as a piece of a page that is drawn anew."""
    return Markup('<div class="tw-empty"><h2>{}</h2><p>{}</p></div>').format(title, text)


def button(
    text: str, on_click: Callable[..., Any] | None, *, kind: Literal["first", "second", "danger"] = "second"
) -> ui.button:
    """A button; of `first` there is one at most on a page."""
    return ui.button(text, on_click=on_click, color=None).props("no-caps flat").classes(f"tw-button tw-{kind}")


def copyable(text: str, language: str) -> None:
    """Code with a button that copies it."""
    with ui.element("div").classes("tw-code"):
        markup('<pre tabindex="0"><code data-language="{}">{}</code></pre>', language, text)
        copy_button(t("Copy"), text)


def copy_button(text: str, copied: str) -> ui.button:
    """A button that puts `copied` on the clipboard, and says so when it is there."""
    return (
        ui.button(text, color=None)
        .props("no-caps flat icon=content_copy")
        .classes("tw-button")
        .on("click", lambda: ui.notify(t("Copied")), js_handler=_COPY % json.dumps(copied))
    )


def number_field(
    label: str, value: float | None, *, least: float | None = None, most: float | None = None, step: float = 1
) -> ui.number:
    """A field for a number, or for none."""
    return ui.number(label, value=value, min=least, max=most, step=step).classes("tw-number")


def select_field(
    label: str, choices: dict[str, str], value: str | None, on_change: Callable[[], object] | None = None
) -> ui.select:
    """One of several values, each shown by its words."""
    return ui.select(choices, label=label, value=value, on_change=on_change).classes("tw-choice")


def hint(field: ui.element, text: str) -> None:
    """Say below a field what belongs into it; unlike a long label, it is never cut."""
    field.props["hint"] = text


def download(path: str, text: str) -> Markup:
    """A link that saves a file."""
    return Markup('<a class="tw-download" href="{}" download>{}</a>').format(path, text)


async def live(seconds: float, look: Callable[[], Awaitable[Value]], show: Callable[[Value], None]) -> None:
    """A part of a page that `show` draws, and draws anew whenever `look` finds something else.

    Where looking fails again and again, that is told once.
    """
    place = ui.element("div").classes("tw-live")
    shown: list[Value] = []
    failures: list[str] = []

    async def refresh() -> None:
        try:
            found = await look()
        except TunewiseError as error:
            if error.code in failures:
                return
            failures.append(error.code)
            raise
        failures.clear()
        if shown != [found]:
            shown[:] = [found]
            place.clear()
            with place:
                show(found)

    await refresh()
    ui.timer(seconds, refresh, immediate=False)


async def confirm(question: str, action: str) -> bool:
    """Ask before something that cannot be taken back."""
    with ui.dialog() as dialog, ui.card().props('role="alertdialog"').classes("tw-dialog") as inner:
        dialog.props["aria-label"] = inner.props["aria-label"] = question
        markup("<p>{}</p>", question)
        with ui.element("div").classes("tw-actions"):
            button(t("Keep"), lambda: dialog.submit(False))
            button(action, lambda: dialog.submit(True), kind="danger")
    agreed = bool(await dialog)
    dialog.delete()
    return agreed


def _plain(text: Cell) -> str:
    return text.striptags() if isinstance(text, Markup) else text
