"""Completions: a request whose top level was read goes to the server that hosts its model, and the answer comes back.

What is passed on differs from what was asked in the model's name alone. The answer's `model` is the name of what
answered: an alias or a deployment is told by what stands behind it. Usage is noted on the way. Knows no framework: the
API and the studio complete through here alike.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Literal, NamedTuple, TypeAlias

import httpx
import msgspec
from msgspec import Raw

from tunewise import embedding_models
from tunewise.contracts.jobs import Caller
from tunewise.errors import RequestError, ServingError
from tunewise.jobs.hosting import Hosting, find_model
from tunewise.jobs.names import Resolved
from tunewise.jobs.platform import Platform
from tunewise.jobs.usage import UsageLog, Used
from tunewise.settings import Settings

Endpoint: TypeAlias = Literal["chat/completions", "completions", "embeddings"]
Fields: TypeAlias = dict[str, Raw]
Asker: TypeAlias = Callable[[], Caller]
NOTHING = b"null"
DATA, END, DONE = b"data: ", b"\n\n", b"data: [DONE]"
JSON_TYPE, STREAM_TYPE = "application/json", "text/event-stream"
# A killed process still takes connections for a moment. What fails this fast had not been worked on, and is sent again;
# later, the request itself may be what ended the server, and the client decides.
DYING_SECONDS = 0.5
SHOWN_BYTES = 300


class Relay(NamedTuple):
    """What completing needs, for as long as the application lives."""

    platform: Platform
    hosting: Hosting
    usage: UsageLog


class Asked(NamedTuple):
    """A request, its top level read. `wants_usage`: whether the client asked for a stream's usage.

    Where `stream` is true, `stream_options` must include usage, as it is noted in any case.
    """

    endpoint: Endpoint
    fields: Fields
    model: str
    wants_usage: bool


class Whole(NamedTuple):
    """An answer in one piece: JSON, with the model server's status and what it says of coming back."""

    status: int
    content: bytes
    retry_after: str | None


class Stream(NamedTuple):
    """An answer that comes piece by piece: server-sent events, each whole; the last may be an error."""

    events: AsyncIterator[bytes]


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """The tokens that an answer tells of."""

    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that came from the prefix cache."""
        return (self.prompt_tokens_details or _Details()).cached_tokens or 0


async def complete(relay: Relay, asker: Asker, asked: Asked, held: AsyncExitStack) -> Whole | Stream:
    """Answer a request. Until `held` is closed, the model's server is not let go; a stream is read before that.

    `asker` is called in a thread, with what else is looked up.

    Raises:
        RequestError: what `asker` raises; model_not_found, model_unavailable when its files are not there, or
            unsupported_model.
        ServingError: the model's server did not start, or stopped at this request.
    """

    def looked_up() -> tuple[Caller, Resolved]:
        caller = asker()
        return caller, find_model(relay.platform, caller, asked.model)

    caller, found = await asyncio.to_thread(looked_up)
    _require_fitting(relay.platform.settings, asked, found)
    return await _Exchange(relay, caller, asked, found).answer(held)


def _require_fitting(settings: Settings, asked: Asked, found: Resolved) -> None:
    """Each kind of model is asked at its own place."""
    if found.base in settings.models_elsewhere:
        return  # what it is, only that server knows
    if found.embeds and asked.endpoint != "embeddings":
        message = f"The model {asked.model!r} makes embeddings and writes no text; ask it at /v1/embeddings"
        raise RequestError("unsupported_model", message, param="model")
    if not found.embeds and asked.endpoint == "embeddings":
        there = ", ".join(embedding_models.names_here()) or f"none; {embedding_models.how_to_install()}"
        message = f"The model {asked.model!r} makes no embeddings. Models here that do: {there}"
        raise RequestError("unsupported_model", message, param="model")


class _Exchange(NamedTuple):
    """One request and where it goes."""

    relay: Relay
    caller: Caller
    asked: Asked
    found: Resolved

    async def answer(self, held: AsyncExitStack) -> Whole | Stream:
        upstream = await self._send(held)
        answer = upstream.answer
        if answer.headers.get("content-type", "").startswith(STREAM_TYPE):
            return Stream(self._events(upstream))
        content = await _read(upstream)
        told = self._told(content) if answer.is_success else _failure(answer.status_code, content)
        return Whole(answer.status_code, told, answer.headers.get("retry-after"))

    async def _send(self, held: AsyncExitStack) -> "_Upstream":
        """What answers, its body not yet read. A server that is not there any more is replaced, once."""
        upstream = await self._try(held)
        if isinstance(upstream, ServingError):
            await held.aclose()
            upstream = await self._try(held)
        if isinstance(upstream, ServingError):
            raise upstream
        return upstream

    async def _try(self, held: AsyncExitStack) -> "_Upstream | ServingError":
        """An error where nothing was reached, or where an adapter was not there any more: worth another try."""
        hosted = await held.enter_async_context(self.relay.hosting.hosted(self.found))
        server, began = hosted.server, time.monotonic()
        gone = server.gone(self.asked.model)
        body = msgspec.json.encode(self.asked.fields | {"model": Raw(msgspec.json.encode(hosted.name))})
        try:
            answer = await server.send(self.asked.endpoint, body)
        except httpx.TransportError as error:
            was_reached = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            if was_reached and time.monotonic() - began > DYING_SECONDS:
                raise gone from error
            await server.has_died()
            return gone
        held.push_async_callback(answer.aclose)
        if answer.status_code == 404 and server.adapters.pop(hosted.name, None) is not None:
            return gone
        return _Upstream(answer, gone)

    async def _events(self, upstream: "_Upstream") -> AsyncIterator[bytes]:
        """The stream, event by event; when the server stops, the last event is an error."""
        rest = b""
        try:
            async for piece in upstream.answer.aiter_bytes():
                *events, rest = (rest + piece).split(END)
                yield b"".join(self._event(event) for event in events)
        except httpx.TransportError:
            gone = upstream.gone
            yield DATA + _error(gone.message, "server_error", gone.code) + END

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(DATA) or event == DONE:
            return event + END
        content = event.removeprefix(DATA)
        fields = msgspec.json.decode(content, type=Fields)
        if "usage" in fields and bytes(fields["choices"]) == b"[]" and not self.asked.wants_usage:
            self._note(fields)
            return b""
        return DATA + self._told(content, fields) + END

    def _told(self, content: bytes, fields: Fields | None = None) -> bytes:
        """An answer or a chunk as the client gets it, its usage noted."""
        fields = fields or msgspec.json.decode(content, type=Fields)
        self._note(fields)
        name = msgspec.json.encode(self._name())
        if "model" not in fields or bytes(fields["model"]) == name:
            return content
        return msgspec.json.encode(fields | {"model": Raw(name)})

    def _name(self) -> str:
        """What the answer is to call the model; its server may call it otherwise."""
        tuned = self.found.tuned
        if tuned is None:
            return self.found.base
        return tuned.azure_name if self.asked.model == tuned.azure_name else tuned.name

    def _note(self, fields: Fields) -> None:
        usage = msgspec.json.decode(fields.get("usage", Raw(NOTHING)), type=Usage | None)
        if usage is not None:
            model = self.found.tuned.name if self.found.tuned else self.found.base
            self.relay.usage.note(
                Used(self.caller.project, model, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
            )


class _Upstream(NamedTuple):
    """An answer under way, and what is told should it break off."""

    answer: httpx.Response
    gone: ServingError


async def _read(upstream: _Upstream) -> bytes:
    answer = upstream.answer
    try:
        content = await answer.aread()
    except httpx.TransportError as error:
        raise upstream.gone from error
    if answer.is_success and not answer.headers.get("content-type", "").startswith(JSON_TYPE):
        raise ServingError("server_error", f"The model server answered {answer.status_code} and no JSON")
    return content


def _failure(status: int, content: bytes) -> bytes:
    """A server's error, in OpenAI's envelope where its own is another; a proxy's page is told by its beginning."""
    try:
        if "error" in msgspec.json.decode(content, type=Fields):
            return content
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    beginning = content[:SHOWN_BYTES].decode(errors="replace")
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return _error(f"The model server answered {status}: {beginning}", kind, None)


def _error(message: str, kind: str, code: str | None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})
