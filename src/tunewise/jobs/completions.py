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

from tunewise.contracts.jobs import Caller
from tunewise.errors import ServingError
from tunewise.jobs.hosting import Hosted, Hosting, find_model
from tunewise.jobs.names import Resolved
from tunewise.jobs.platform import Platform
from tunewise.jobs.usage import UsageLog, Used

Endpoint: TypeAlias = Literal["chat/completions", "completions"]
Fields: TypeAlias = dict[str, Raw]
Asker: TypeAlias = Callable[[], Caller]
NOTHING = b"null"
DATA, END, DONE = b"data: ", b"\n\n", b"data: [DONE]"
JSON_TYPE, STREAM_TYPE = "application/json", "text/event-stream"
# A killed process still takes connections for a moment. What fails this fast had not been worked on, and is sent again;
# later, the request itself may be what ended the server, and the client decides.
DYING_SECONDS = 0.5


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
        RequestError: what `asker` raises; model_not_found, or model_unavailable when its files are not there.
        ServingError: the model's server did not start, or stopped at this request.
    """

    def looked_up() -> tuple[Caller, Resolved]:
        caller = asker()
        return caller, find_model(relay.platform, caller, asked.model)

    caller, found = await asyncio.to_thread(looked_up)
    return await _Exchange(relay, caller, asked, found).answer(held)


class _Exchange(NamedTuple):
    """One request and where it goes."""

    relay: Relay
    caller: Caller
    asked: Asked
    found: Resolved

    async def answer(self, held: AsyncExitStack) -> Whole | Stream:
        upstream = await self._send(held)
        if upstream.headers["content-type"].startswith(STREAM_TYPE):
            return Stream(self._events(upstream))
        content = await self._read(upstream)
        told = self._told(content) if upstream.is_success else content
        return Whole(upstream.status_code, told, upstream.headers.get("retry-after"))

    async def _send(self, held: AsyncExitStack) -> httpx.Response:
        """The server's answer, its body not yet read. A server that is not there any more is replaced, once."""
        upstream = await self._try(held)
        if upstream is None:
            await held.aclose()
            upstream = await self._try(held)
        if upstream is None:
            raise self._gone()
        return upstream

    async def _try(self, held: AsyncExitStack) -> httpx.Response | None:
        """None where nothing was reached, or where an adapter was not there any more."""
        hosting = self.relay.hosting
        hosted = await held.enter_async_context(hosting.hosted(self.found))
        began = time.monotonic()
        try:
            upstream = await hosting.client.send(self._request(hosted), stream=True)
        except httpx.TransportError as error:
            was_reached = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            if was_reached and time.monotonic() - began > DYING_SECONDS:
                raise self._gone() from error
            await hosted.server.has_died()
            return None
        held.push_async_callback(upstream.aclose)
        if upstream.status_code == 404:
            hosted.server.adapters.pop(hosted.name, None)
            return None
        return upstream

    def _request(self, hosted: Hosted) -> httpx.Request:
        body = msgspec.json.encode(self.asked.fields | {"model": Raw(msgspec.json.encode(hosted.name))})
        url = f"{hosted.server.base_url}/{self.asked.endpoint}"
        return self.relay.hosting.client.build_request("POST", url, content=body)

    async def _read(self, upstream: httpx.Response) -> bytes:
        try:
            content = await upstream.aread()
        except httpx.TransportError as error:
            raise self._gone() from error
        if not upstream.headers["content-type"].startswith(JSON_TYPE):
            raise ServingError("server_error", f"The model server answered {upstream.status_code}; its log says why")
        return content

    async def _events(self, upstream: httpx.Response) -> AsyncIterator[bytes]:
        """The stream, event by event; when the server stops, the last event is an error."""
        rest = b""
        try:
            async for piece in upstream.aiter_bytes():
                *events, rest = (rest + piece).split(END)
                yield b"".join(self._event(event) for event in events)
        except httpx.TransportError:
            gone = self._gone()
            body = {"message": gone.message, "type": "server_error", "param": None, "code": gone.code}
            yield DATA + msgspec.json.encode({"error": body}) + END

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
        name = self._name()
        if name is None or "model" not in fields:
            return content
        return msgspec.json.encode(fields | {"model": Raw(msgspec.json.encode(name))})

    def _name(self) -> str | None:
        """What the answer is to call the model, where it is not what the server calls it."""
        tuned = self.found.tuned
        return tuned.azure_name if tuned and self.asked.model == tuned.azure_name else None

    def _note(self, fields: Fields) -> None:
        usage = msgspec.json.decode(fields.get("usage", Raw(NOTHING)), type=Usage | None)
        if usage is not None:
            model = self.found.tuned.name if self.found.tuned else self.found.base
            self.relay.usage.note(
                Used(self.caller.project, model, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
            )

    def _gone(self) -> ServingError:
        return ServingError(
            "model_server_stopped",
            f"The server that hosts {self.asked.model!r} stopped while it answered; send the request again",
        )
