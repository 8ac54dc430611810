"""Saying what the columns of a brought file are, with a preview of the chats that its rows become."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import get_args

from markupsafe import Markup
from nicegui import ui

from tunewise.contracts.importing import ColumnMapping, Conversion, Converted, Detected, Question, Role, Target
from tunewise.contracts.jobs import StoredFile
from tunewise.errors import DataError, TunewiseError
from tunewise.jobs import datasets
from tunewise.web.parts import button, card, facts, markup, select_field, table
from tunewise.web.visit import Visit
from tunewise.web.words import number, t

PREVIEWED = 5
SAMPLE_CHARS = 60
OPEN_ENCODING = ("ambiguous_encoding", "unknown_encoding", "wrong_encoding")
ENCODINGS = (
    "utf-8", "cp1252", "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr", "cp1250", "cp1251", "cp1253", "cp1254",
    "cp1255", "cp1256", "utf-16", "cp437", "mac_roman",
)  # fmt: skip
UNUSED: dict[Target, tuple[Role, ...]] = {
    "chat": ("chosen", "rejected", "label"),
    "preference": ("completion", "label", "keep"),
    "labelled": ("chosen", "rejected", "keep"),
}
COLUMNS: tuple[Role, ...] = (
    "messages",
    "prompt",
    "input",
    "completion",
    "system",
    "tools",
    "chosen",
    "rejected",
    "label",
    "keep",
)


class Importing:
    """One file on its way to rows."""

    def __init__(self, visit: Visit, file: StoredFile) -> None:
        self._visit = visit
        self._file = file
        self._said = ColumnMapping()

    async def draw(self) -> None:
        """What was detected, the columns, the preview, the button."""
        self._all = ui.element("div").classes("tw-fields")
        with self._all:
            await self._draw_all()

    async def _draw_all(self) -> None:
        try:
            found = await self._visit.ask(datasets.look, self._file.id, self._said)
        except DataError as error:
            self._ask_reading(error)
            return
        self._draw_detected(found)
        self._draw_mapping(found)
        with card(t("What the first rows become")):
            self._preview = ui.element("div").props('aria-live="polite"')
            self._convert = button(t("Convert"), self._go, kind="first")
        self._result = ui.element("div")
        await self._show(found)

    def _draw_detected(self, found: Detected) -> None:
        with card(t("What the file is")):
            about = t("about {count}", count=number(found.rows)) if found.rows_are_estimated else number(found.rows)
            pairs = [
                (t("Form"), found.format),
                (t("Rows"), about),
                (t("Encoding"), (found.encoding or "–").replace("_", "-")),
            ]
            markup("{}", facts(pairs))
            if found.sheet is not None and len(found.sheets) > 1:
                choices = {name: name for name in found.sheets}
                sheet = select_field(t("Sheet"), choices, found.sheet)
                sheet.on_value_change(lambda: self._read_as(split=sheet.value))
            for note in found.notes:
                markup("<p>{}</p>", note)
            rows = [[column.name, column.kind, _samples(column.samples)] for column in found.columns]
            markup("{}", table([t("Column"), t("Kind"), t("First values")], rows, caption=t("Columns")))

    def _ask_reading(self, error: DataError) -> None:
        """Ask for the encoding or the delimiter, where the file leaves it open.

        Raises:
            DataError: as given, where it is about something else.
        """
        choices: dict[str, str]
        if error.code in OPEN_ENCODING:
            field, title, choices = "encoding", t("Encoding"), {name: name for name in ENCODINGS}
        elif error.code == "unknown_delimiter":
            signs = {",": t("comma"), ";": t("semicolon"), "\t": t("tab"), "|": t("bar")}
            field, title, choices = "delimiter", t("What parts the cells"), signs
        else:
            raise error
        with card(t("How is the file to be read?")):
            markup('<pre tabindex="0" lang="en">{}</pre>', error.message)
            asked = select_field(title, choices, None)
            asked.on_value_change(lambda: self._read_as(**{field: asked.value}))

    async def _read_as(self, **said: str) -> None:
        """Read otherwise: that is another table, and its columns are found anew."""
        self._said = ColumnMapping(encoding=self._said.encoding).model_copy(update=said)
        self._all.clear()
        with self._all:
            await self._draw_all()

    def _draw_mapping(self, found: Detected) -> None:
        titles = _titles()
        names = {"": t("(none)")} | {column.name: column.name for column in found.columns}
        with card(t("Which column is what")):
            self._questions = ui.element("div")
            targets = {
                "chat": t("Chats to train on"),
                "preference": t("Pairs of a better and a worse answer"),
                "labelled": t("Answers with a label: wanted or not"),
            }
            self._to = ui.radio(targets, value="chat").props("inline")
            with ui.element("div").classes("tw-columns"):
                self._columns = {role: ui.select(names, value="", label=titles[role]) for role in COLUMNS}
            self._system = ui.textarea(t("System message of rows that bring none")).props("autogrow")
        for field in (self._to, *self._columns.values()):
            field.on_value_change(self._changed)
        self._system.on("blur", self._changed)

    async def _changed(self) -> None:
        """What the person says goes before every guess."""
        target = self._target()
        chosen = {role: field.value or "" for role, field in self._columns.items()}
        system = {"system_text": self._system.value.strip() or None}
        said = self._said.model_copy(update={"to": target} | system | chosen)
        if said == self._said:  # the form was filled in from here
            return
        self._said = said
        await self._show(await self._visit.ask(datasets.look, self._file.id, self._said))

    def _target(self) -> Target:
        target: Target = get_args(Target)[list(get_args(Target)).index(self._to.value)]
        return target

    async def _show(self, found: Detected) -> None:
        """Fill in what was found, ask what is open, and show the first rows where nothing is."""
        self._mapping = found.mapping
        to = (found.mapping and found.mapping.to) or self._target()
        for role, field in self._columns.items():
            field.set_visibility(role not in UNUSED[to])
        if found.mapping is not None:
            self._fill(found.mapping)
        self._questions.clear()
        with self._questions:
            for question in found.questions:
                self._draw_question(question)
            if not found.questions:
                markup('<p class="tw-quiet" lang="en">{}</p>', found.reason)
        self._convert.set_enabled(found.mapping is not None)
        self._preview.clear()
        with self._preview:
            await self._draw_preview(found.mapping)

    def _draw_question(self, question: Question) -> None:
        """What the file leaves open, and each answer as a button."""
        markup('<p class="tw-warn-text" lang="en">{}</p>', question.asks)
        with ui.element("ul").classes("tw-answers"):
            for choice in question.choices:
                with ui.element("li"):
                    button(choice.value or t("(none)"), self._answering(question.role, choice.value))
                    markup('<span class="tw-quiet" lang="en">{}</span>', choice.meaning)

    def _answering(self, role: str, value: str) -> Callable[[], Awaitable[None]]:
        async def answered() -> None:
            self._said = self._said.model_copy(update={role: value})
            await self._show(await self._visit.ask(datasets.look, self._file.id, self._said))

        return answered

    async def _draw_preview(self, mapping: ColumnMapping | None) -> None:
        if mapping is None:
            markup("<p>{}</p>", t("Say first which column is what."))
            return
        try:
            rows = await self._visit.ask(datasets.preview, self._file.id, mapping, PREVIEWED)
        except TunewiseError as error:
            self._convert.set_enabled(False)
            markup('<p class="tw-bad-text">{}</p>', error.message)
            return
        for row in rows:
            markup("{}", _row(row))

    def _fill(self, mapping: ColumnMapping) -> None:
        named: dict[str, str] = {role: getattr(mapping, role) or "" for role in self._columns}
        self._said = mapping.model_copy(update=named)
        self._to.set_value(mapping.to or "chat")
        for role, field in self._columns.items():
            field.set_value(named[role])

    async def _go(self) -> None:
        if self._mapping is None:
            return
        file, done = await self._visit.ask(datasets.convert, self._file.id, self._mapping)
        self._result.clear()
        with self._result:
            _draw_conversion(file, done)
        if not done.findings:
            ui.navigate.to(f"/data/{file.id}")


def _draw_conversion(file: StoredFile, done: Conversion) -> None:
    with card(t("Converted")):
        markup(
            '<p>{}</p><p><a class="tw-button tw-first" href="/data/{}">{}</a></p>',
            t("{written} of {rows} rows became examples.", written=number(done.written), rows=number(done.rows)),
            file.id,
            t("Go on with {name}", name=file.filename),
        )
        rows = [[str(one.line or ""), one.message, one.remedy] for one in done.findings[:50]]
        headers = [t("Line"), t("Why not"), t("What to do")]
        markup("{}", table(headers, rows, caption=t("Rows that could not be converted")))


def _row(row: Converted) -> Markup:
    """A row as a chat, or why it is none."""
    if row.example is None:
        problems = "; ".join(f"{problem.message}: {problem.remedy}" for problem in row.problems)
        return Markup('<article class="tw-finding"><h3>{}</h3><p class="tw-bad-text">{}</p></article>').format(
            t("Line {line}", line=row.line), problems
        )
    messages = row.example.get("messages")
    if messages is None:
        said = Markup("<pre tabindex='0'>{}</pre>").format(json.dumps(row.example, ensure_ascii=False, indent=1))
    else:
        said = Markup().join(
            Markup("<dt>{}</dt><dd>{}</dd>").format(
                message["role"], message.get("content") or json.dumps(message.get("tool_calls"), ensure_ascii=False)
            )
            for message in messages
        )
        said = Markup('<dl class="tw-chat">{}</dl>').format(said)
    return Markup('<article class="tw-finding"><h3>{}</h3>{}</article>').format(t("Line {line}", line=row.line), said)


def _samples(values: Sequence[str]) -> str:
    return " · ".join(value if len(value) <= SAMPLE_CHARS else f"{value[:SAMPLE_CHARS]}…" for value in values)


def _titles() -> dict[str, str]:
    return {
        "messages": t("Conversation"),
        "prompt": t("What the user says"),
        "input": t("What follows it, after a blank line"),
        "completion": t("What the assistant answers"),
        "system": t("System message"),
        "tools": t("Functions that may be called"),
        "chosen": t("The better answer"),
        "rejected": t("The worse answer"),
        "label": t("Whether the answer is wanted"),
        "keep": t("Take only rows where this is true"),
    }
