"""A completion request on its way to the server that hosts its model, and the answer on its way back.

Of the request, only the top level is read, and only what has to change is changed: the model's name, and that a stream
tells its usage at the end. The rest is passed on byte for byte, so the model server is the one judge of its fields.
The answer's `model` is the name of what answered: an alias or a deployment is told by what stands behind it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import httpx
import msgspec
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from msgspec import Raw
from starlette.types import Receive, Scope, Send

from tunewise.api.texts import ID_CHARS
from tunewise.contracts.jobs import Caller
from tunewise.errors import RequestError, ServingError
from tunewise.jobs.hosting import Hosted, Hosting, find_model
from tunewise.jobs.names import Resolved
from tunewise.jobs.platform import Platform
from tunewise.jobs.usage import UsageLog, Used

Endpoint: TypeAlias = Literal["chat/completions", "completions"]
Fields: TypeAlias = dict[str, Raw]
Result = TypeVar("Result")
NOTHING, TRUE = b"null", b"true"
BOOLEANS = {b"true", b"false", NOTHING}
DATA, END, DONE = b"data: ", b"\n\n", b"data: [DONE]"
JSON_TYPE, STREAM_TYPE = "application/json", "text/event-stream"
# A killed process still takes connections for a moment. What fails this fast had not been worked on, and is sent again;
# later, the request itself may be what ended the server, and the client decides.
DYING_SECONDS = 0.5
CLIENT_CLOSED = 499  # nginx's code; nobody is there to read it


class Relay(NamedTuple):
    """What relaying needs, for as long as the application lives."""

    platform: Platform
    hosting: Hosting
    usage: UsageLog


class Asked(NamedTuple):
    """A request, its top level read. `wants_usage`: whether the client asked for a stream's usage."""

    endpoint: Endpoint
    fields: Fields
    model: str
    wants_usage: bool


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


async def relay(
    request: Request, relaying: Relay, caller: Caller, endpoint: Endpoint, model: str | None = None
) -> Response:
    """Answer a completion request. `model`: where the URL names it, as Azure's does.

    Raises:
        RequestError: the body is not a JSON object, names no model, or one that is not there.
        ServingError: the model's server did not start, or stopped at this request.
    """
    asked = read_request(endpoint, await request.body(), model)
    found = await run_in_threadpool(find_model, relaying.platform, caller, asked.model)
    answer = await _unless_gone(request, _Exchange(relaying, caller, asked, found).answer())
    return Response(status_code=CLIENT_CLOSED) if answer is None else answer


def read_request(endpoint: Endpoint, body: bytes, model: str | None = None) -> Asked:
    """Read the top level of a request, and ask for usage where it is to be streamed.

    Raises:
        RequestError: invalid_json, invalid_value or missing_required_parameter.
    """
    fields = _decoded(body, Fields)
    name = model or _decoded(fields.get("model", Raw(NOTHING)), object)
    if name is None:
        raise RequestError("missing_required_parameter", "Missing required parameter: 'model'", param="model")
    if not isinstance(name, str) or "\0" in name or len(name) > ID_CHARS:
        raise RequestError("invalid_value", f"model: must be a model's name (got {name!r:.80})", param="model")
    stream = bytes(fields.get("stream", Raw(NOTHING)))
    if stream not in BOOLEANS:
        raise RequestError("invalid_value", "stream: must be true or false", param="stream")
    wants_usage = False
    if stream == TRUE:
        wants_usage, fields["stream_options"] = _with_usage(fields.get("stream_options", Raw(NOTHING)))
    return Asked(endpoint, fields, name, wants_usage)


def _with_usage(options: Raw) -> tuple[bool, Raw]:
    """Whether the client wants usage, and options that ask for it; wrong ones stay as they are, to be refused."""
    given = _decoded(options, object)
    if not (given is None or isinstance(given, dict)):
        return False, options
    kept: dict[object, object] = given or {}
    wanted = kept.get("include_usage")
    if not (wanted is None or isinstance(wanted, bool)):
        return False, options
    return wanted is True, Raw(msgspec.json.encode(kept | {"include_usage": True}))


def _decoded(content: bytes | Raw, kind: type[Result]) -> Result:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError("invalid_json", f"The request body is not a JSON object: {error}") from error


class _Exchange(NamedTuple):
    """One request and where it goes."""

    relaying: Relay
    caller: Caller
    asked: Asked
    found: Resolved

    async def answer(self) -> Response:
        async with AsyncExitStack() as held:
            upstream = await self._send(held)
            if upstream.headers["content-type"].startswith(STREAM_TYPE):
                return _HeldStream(self._events(upstream), held.pop_all())
            content = await self._read(upstream)
        if upstream.is_success:
            return Response(self._told(content), upstream.status_code, media_type=JSON_TYPE)
        kept = {name: upstream.headers[name] for name in ("retry-after",) if name in upstream.headers}
        return Response(content, upstream.status_code, kept, media_type=JSON_TYPE)

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
        hosting = self.relaying.hosting
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
        return self.relaying.hosting.client.build_request("POST", url, content=body)

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
        usage = msgspec.json.decode(fields.get("usage", Raw(NOTHING)), type=_Usage | None)
        if usage is not None:
            model = self.found.tuned.name if self.found.tuned else self.found.base
            cached = (usage.prompt_tokens_details or _Details()).cached_tokens or 0
            self.relaying.usage.note(
                Used(self.caller.project, model, usage.prompt_tokens, cached, usage.completion_tokens)
            )

    def _gone(self) -> ServingError:
        return ServingError(
            "model_server_stopped",
            f"The server that hosts {self.asked.model!r} stopped while it answered; send the request again",
        )


class _HeldStream(StreamingResponse):
    """A stream that holds its model's server for as long as it is sent, however it ends."""

    def __init__(self, events: AsyncIterator[bytes], held: AsyncExitStack) -> None:
        super().__init__(events, media_type=STREAM_TYPE, headers={"cache-control": "no-cache"})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of `work`; None when the client goes away first, and `work` is cancelled."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_client_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
