"""The playground: one question to up to three models at once, and what each answer took."""

import asyncio
from contextlib import aclosing
from functools import partial

from nicegui import context, ui

from tunewise.contracts.jobs import Caller
from tunewise.errors import TunewiseError
from tunewise.jobs import few_shot
from tunewise.jobs.inventory import Inventory, inventory
from tunewise.jobs.names import short_name
from tunewise.web import chat
from tunewise.web.chat import Json, Piece, Sampling, Took
from tunewise.web.parts import button, card, copy_button, empty, markup, number_field, select_field
from tunewise.web.visit import Visit
from tunewise.web.words import number, t

MOST_COLUMNS = 3
MOST_EXAMPLES = 32
EXAMPLES = 4
FEW_SHOT = "examples of "
REDRAW_SECONDS = 0.05


async def draw(visit: Visit) -> None:
    """The settings, the columns, the question."""
    found = await visit.ask(inventory)
    choices = _choices(found)
    if not choices:
        empty(t("There is no model here yet"), t("Install a base model: tunewise models list shows how."))
        return
    asked = visit.request.query_params.get("model")
    if asked is not None and asked not in choices:
        markup('<p role="alert">{}</p>', t("There is no model {name} here; choose another.", name=asked))
    playground = Playground(visit, choices)
    await playground.begin(_first_models(found, asked if asked in choices else None))


def _choices(found: Inventory) -> dict[str, str]:
    """Every model that can be asked, by what it is called, and what the list says of it."""
    deployed = {one.name: t("Deployment · {name}", name=one.name) for one in found.deployments}
    final = {model.name: short_name(model) for model in found.tuned if model.is_final}
    tuned = {name: t("Tuned · {name}", name=short) for name, short in final.items()}
    shown = {FEW_SHOT + name: t("With examples · {name}", name=short) for name, short in final.items()}
    rest = [model for model in found.tuned if not model.is_final]
    steps = {model.name: t("Checkpoint · {name}", name=short_name(model)) for model in rest}
    bases = {one.name: t("Base · {name}", name=one.name) for one in found.bases if one.state != "absent"}
    aliases = {name: t("Alias · {name}", name=name) for name in found.aliases}
    return bases | tuned | shown | steps | deployed | aliases


def _first_models(found: Inventory, asked: str | None) -> list[str]:
    """What the columns begin with: a tuned model beside its base, and beside the same base with examples."""
    final = next((model for model in found.tuned if model.is_final and asked in (None, model.name)), None)
    bases = [one.name for one in found.bases if one.state != "absent"]
    if final is None:
        return [asked or bases[0]]
    beside = [final.base] if final.base in bases else []
    return [*beside, final.name, FEW_SHOT + final.name]


class Playground:
    """The page's state: its columns, and what is under way."""

    def __init__(self, visit: Visit, choices: dict[str, str]) -> None:
        self.visit = visit
        self.choices = choices
        self._columns: list[Column] = []
        self._under_way: list[asyncio.Task[None]] = []
        self._draw_settings()
        self._talks = ui.element("div").classes("tw-talks")
        self._draw_question()
        context.client.on_delete(self.stop)

    async def begin(self, models: list[str]) -> None:
        """Open a column for each of these models."""
        for model in models:
            self.add(model)
        tuned = next((model.removeprefix(FEW_SHOT) for model in models if model.startswith(FEW_SHOT)), None)
        if tuned is not None:
            await self._take_system(tuned)

    def add(self, model: str) -> None:
        """Open a column."""
        with self._talks:
            self._columns.append(Column(self, model))
        self._show_columns()

    def close(self, column: "Column") -> None:
        """Take a column away."""
        self._columns.remove(column)
        with self._talks:  # the button that was pressed goes with its column
            column.card.delete()
            self._show_columns()

    async def send(self) -> None:
        """Ask every column's model what stands in the field."""
        text = (self._question.value or "").strip()
        if not text or self._under_way:
            return
        caller = await asyncio.to_thread(self.visit.caller)
        self._question.value = ""
        self._show_work(True)
        turns = [column.ask(text, caller) for column in self._columns]
        self._under_way = [asyncio.create_task(turn) for turn in turns]
        try:
            await asyncio.gather(*self._under_way, return_exceptions=True)
        finally:
            self._under_way = []
            self._show_work(False)

    def stop(self) -> None:
        """End the answers that are under way; what has come of them stays."""
        for task in self._under_way:
            task.cancel()

    def sampling(self) -> Sampling:
        """What the fields say."""
        seed, limit = self._seed.value, self._limit.value
        return Sampling(
            temperature=self._temperature.value,
            top_p=self._top_p.value,
            max_tokens=None if limit is None else int(limit),
            seed=None if seed is None else int(seed),
        )

    def system(self) -> str:
        """The system prompt, or nothing."""
        return (self._system.value or "").strip()

    def base_url(self) -> str:
        """Where clients reach this server's API."""
        url = self.visit.request.url
        return f"{url.scheme}://{url.netloc}/v1"

    def _draw_settings(self) -> None:
        with card(t("Sampling")):
            self._system = ui.textarea(t("System prompt")).props("autogrow").classes("tw-wide")
            with ui.element("div").classes("tw-numbers"):
                self._temperature = number_field(t("Temperature"), 0, least=0, most=2, step=0.1)
                self._top_p = number_field(t("Top p"), 1, least=0.01, most=1, step=0.05)
                self._limit = number_field(t("Max tokens"), 256, least=1, most=None, step=1)
                self._seed = number_field(t("Seed"), None, least=0, most=None, step=1)

    def _draw_question(self) -> None:
        with ui.element("form").classes("tw-card tw-ask").on("submit.prevent", self.send):
            self._question = ui.textarea(t("Your question")).props("autogrow").classes("tw-wide")
            # Enter sends, but not the one that ends the choice of characters in an input method.
            self._question.on(
                "keydown.enter",
                self.send,
                js_handler="(e) => { if (!e.shiftKey && !e.isComposing) { e.preventDefault(); emit(); } }",
            )
            with ui.element("div").classes("tw-actions"):
                self._send = button(t("Send"), self.send, kind="first")
                self._stop = button(t("Stop"), self.stop)
                button(t("New conversation"), self._clear)
                self._more = button(t("Add a column"), lambda: self.add(next(iter(self.choices))))
        self._show_work(False)

    def _show_work(self, is_busy: bool) -> None:
        self._send.set_enabled(not is_busy)
        self._stop.set_enabled(is_busy)

    def _show_columns(self) -> None:
        self._more.set_visibility(len(self._columns) < MOST_COLUMNS)
        for number_, column in enumerate(self._columns, start=1):
            column.name_it(number_, is_alone=len(self._columns) == 1)

    def _clear(self) -> None:
        self.stop()
        for column in self._columns:
            column.clear()

    async def _take_system(self, tuned: str) -> None:
        """Begin with the system prompt that the model was tuned with; it answers best to that."""
        try:
            rows = await self.visit.ask(few_shot.training_rows, tuned, 1)
        except TunewiseError:
            return  # the file was deleted: there is nothing to begin with
        self._system.value = rows.system or ""


class Column:
    """One model and its conversation."""

    def __init__(self, playground: Playground, model: str) -> None:
        self._playground = playground
        self._messages: list[Json] = []
        with ui.element("section").classes("tw-card tw-talk") as self.card:
            with ui.element("div").classes("tw-talk-head"):
                self._model = select_field(t("Model"), playground.choices, model, self._change)
                self._close = button(t("Close"), partial(playground.close, self)).props("flat dense")
            self._count = number_field(t("Examples"), EXAMPLES, least=0, most=MOST_EXAMPLES, step=1)
            self._talk = ui.element("div").classes("tw-turns").props('role="log"')
        self._change()

    def name_it(self, place: int, *, is_alone: bool) -> None:
        """Tell readers which column it is."""
        self.card.props(f'aria-label="{t("Column {place}", place=place)}"')
        self._close.set_visibility(not is_alone)

    def clear(self) -> None:
        """Begin anew."""
        self._messages.clear()
        self._talk.clear()

    async def ask(self, text: str, caller: Caller) -> None:
        """Ask, and show the answer as it comes; a question that was not answered is forgotten."""
        with self._talk:
            answer = Answer(text)
            said = [*self._messages, {"role": "user", "content": text}]
            try:
                body = await self._body(said)
                answer.begin(body, self._playground.base_url())
                async with aclosing(chat.ask(self._playground.visit.studio.relay, caller, body)) as pieces:
                    async for piece in pieces:
                        answer.add(piece)
            except TunewiseError as error:
                answer.fail(error)
                return
            finally:
                answer.end()
                if answer.text:
                    self._messages = [*said, {"role": "assistant", "content": answer.text}]

    async def _body(self, said: list[Json]) -> Json:
        playground = self._playground
        system = playground.system()
        messages = [{"role": "system", "content": system}, *said] if system else said
        model = str(self._model.value)
        if not model.startswith(FEW_SHOT):
            return chat.request(model, messages, playground.sampling())
        tuned = model.removeprefix(FEW_SHOT)
        rows = await playground.visit.ask(few_shot.training_rows, tuned, int(self._count.value or 0))
        return chat.request(rows.base, few_shot.with_examples(messages, rows.examples), playground.sampling())

    def _change(self) -> None:
        """Another model begins another conversation."""
        self.clear()
        self._count.set_visibility(str(self._model.value).startswith(FEW_SHOT))


class Answer:
    """One turn on the page. Redrawn at most every 50 ms, however fast tokens come."""

    def __init__(self, question: str) -> None:
        self.text = ""
        self._body: Json | None = None
        self._drawn_at = 0.0
        markup('<div class="tw-said"><span class="tw-hidden">{}</span>{}</div>', t("You:"), question)
        self._shown = ui.label(t("Waiting for the model…")).classes("tw-answer tw-quiet").props('aria-busy="true"')
        self._facts = ui.element("div").classes("tw-took")
        self._took: Took | None = None
        self._reason: str | None = None
        self._is_failed = False

    def begin(self, body: Json, base_url: str) -> None:
        """Offer what is sent as code."""
        with self._facts:
            copy_button(t("Copy as curl"), chat.as_curl(body, base_url))
            copy_button(t("Copy as Python"), chat.as_python(body, base_url))

    def add(self, piece: Piece) -> None:
        """Take a piece of the answer."""
        self.text += piece.text
        self._took = piece.took or self._took
        self._reason = piece.reason or self._reason
        now = asyncio.get_running_loop().time()
        if piece.text and now - self._drawn_at > REDRAW_SECONDS:
            self._drawn_at = now
            self._shown.classes(remove="tw-quiet").set_text(self.text)

    def fail(self, error: TunewiseError) -> None:
        """Say why there is no answer, or no whole one."""
        self._is_failed = True
        self._shown.classes("tw-failed").props('role="alert"').set_text(f"{self.text}\n{error.message}".strip())

    def end(self) -> None:
        """The answer is as whole as it will be."""
        self._shown.props(remove="aria-busy")
        if self._is_failed or self._shown.is_deleted:
            return
        if self.text:
            self._shown.classes(remove="tw-quiet").set_text(self.text)
        else:
            self._shown.set_text(t("(no text)") if self._took else t("Stopped"))
        with self._facts:
            markup('<p class="tw-quiet">{}</p>', _facts(self._took, self._reason))


def _facts(took: Took | None, reason: str | None) -> str:
    if took is None:
        return t("Stopped before its end; what it took is not known.")
    said = [
        t("{count} prompt tokens ({cached} cached)", count=number(took.prompt), cached=number(took.cached)),
        t("{count} completion tokens", count=number(took.completion)),
    ]
    if took.first is not None:
        said.append(t("first after {seconds} s", seconds=number(took.first, 2)))
    said.append(t("all after {seconds} s", seconds=number(took.total, 2)))
    if took.tokens_per_second is not None:
        said.append(t("{speed} tokens/s", speed=number(took.tokens_per_second, 1)))
    if reason == "length":
        said.append(t("cut at max tokens"))
    return " · ".join(said)
