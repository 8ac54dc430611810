"""A completion request's way through HTTP: its top level is read, and what `jobs.completions` gives is sent back.

Of the request, only the top level is read, and only what has to change is changed: that a stream tells its usage at the
end. The rest is passed on byte for byte, so the model server is the one judge of its fields.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeAlias, TypeVar

import msgspec
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from msgspec import Raw
from starlette.types import Receive, Scope, Send

from tunewise.api.texts import ID_CHARS
from tunewise.errors import RequestError
from tunewise.jobs.completions import (
    JSON_TYPE,
    NOTHING,
    STREAM_TYPE,
    Asked,
    Asker,
    Endpoint,
    Fields,
    Relay,
    Stream,
    Whole,
    complete,
)

Result = TypeVar("Result")
Retell: TypeAlias = Callable[[Whole | Stream], Whole | Stream]
TRUE = b"true"
BOOLEANS = {b"true", b"false", NOTHING}
CLIENT_CLOSED = 499  # nginx's code; nobody is there to read it


async def relay(
    request: Request, relaying: Relay, asker: Asker, endpoint: Endpoint, model: str | None = None
) -> Response:
    """Answer a completion request. `model`: where the URL names it, as Azure's does.

    Raises:
        RequestError: who asks may not; the body is not a JSON object, names no model, or one that is not there.
        ServingError: the model's server did not start, or stopped at this request.
    """
    return await relay_asked(request, relaying, asker, read_request(endpoint, await request.body(), model))


async def relay_asked(
    request: Request, relaying: Relay, asker: Asker, asked: Asked, retell: Retell | None = None
) -> Response:
    """Answer a completion request that was read. `retell` puts the answer in other words, errors too.

    Raises:
        RequestError: who asks may not; its model is not there.
        ServingError: the model's server did not start, or stopped at this request.
    """
    async with AsyncExitStack() as held:
        answer = await _unless_gone(request, complete(relaying, asker, asked, held))
        if answer is None:
            return Response(status_code=CLIENT_CLOSED)
        if retell is not None:
            answer = retell(answer)
        if isinstance(answer, Stream):
            return _HeldStream(answer.events, held.pop_all())
    headers = {} if answer.retry_after is None else {"retry-after": answer.retry_after}
    return Response(answer.content, answer.status, headers, media_type=JSON_TYPE)


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
