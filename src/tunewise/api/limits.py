"""What a request may be, whatever it asks for: its size, its nesting, its encoding, its patience.

Pure ASGI, in front of the routes: an oversized body is refused before it is read, and while it is read.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewise.api.errors import error_response
from tunewise.errors import RequestError

MEGABYTE = 1024 * 1024
JSON_BYTES = 10 * MEGABYTE
FORM_OVERHEAD_BYTES = MEGABYTE
MAX_DEPTH = 200
READ_SECONDS = 30.0
"""The longest silence in the middle of a body, and the longest time for a whole JSON body."""

LINGER_SECONDS = 2.0

UPLOADS = re.compile(r"/(files|uploads/[^/]+/parts)/?$|^/_nicegui/client/[^/]+/upload/")
# Possessive, so that neither a long string nor one without an end costs more than one pass.
STRING = re.compile(rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?', re.DOTALL)
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class RequestLimits:
    """Refuses what is too large, too deep, too slow, compressed, or holds a NUL where a name stands."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int, read_seconds: float = READ_SECONDS) -> None:
        self.app = app
        self.upload_bytes = upload_bytes
        self.read_seconds = read_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request that keeps the limits; answer any other."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = scope["method"] == "POST" and UPLOADS.search(scope["path"]) is not None
        limit = self.upload_bytes + FORM_OVERHEAD_BYTES if is_upload else JSON_BYTES
        bounded = _Bounded(receive, limit, self.read_seconds)
        if _has_body(scope) and "expect" not in Headers(scope=scope):
            send = _lingering(send, receive, lambda: bounded.is_over)
        try:
            _check_head(scope, limit)
            if not is_upload and _has_body(scope):
                async with asyncio.timeout(self.read_seconds):
                    await bounded.read_ahead()
                refuse_depth(bounded.held)
            await self.app(scope, bounded, send)
        except RequestError as error:
            await _refuse(error, scope, receive, send)
        except TimeoutError:
            bounded.is_over = True
            await _refuse(_too_slow(self.read_seconds), scope, receive, send)


class _Bounded:
    """A request's body, counted and timed; or, once read ahead, replayed.

    `is_over`: nothing more of it is waited for, as it is whole or came too slowly.
    """

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._seen = 0
        self.is_over = False
        self._replay: Message | None = None
        self.held = b""

    async def __call__(self) -> Message:
        """The next piece, as ASGI hands it on."""
        if self._replay is not None:
            message, self._replay = self._replay, None
            return message
        if self.is_over:
            return await self._receive()
        try:
            # Not `wait_for`: before Python 3.12 it may swallow the end of the time for the whole body.
            async with asyncio.timeout(self._seconds):
                message = await self._receive()
        except TimeoutError:
            self.is_over = True
            raise _too_slow(self._seconds) from None
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise _too_large(self._limit)
        self.is_over = not message.get("more_body", False)
        return message

    async def read_ahead(self) -> None:
        """Read the whole body now."""
        pieces = []
        while not self.is_over:
            message = await self()
            if message["type"] == "http.disconnect":
                self._replay = message
                return
            pieces.append(message.get("body", b""))
        self.held = b"".join(pieces)
        self._replay = {"type": "http.request", "body": self.held, "more_body": False}


def refuse_depth(body: bytes) -> None:
    """Refuse JSON whose arrays and objects stand too deep in each other for a parser's stack.

    Raises:
        RequestError: invalid_json.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in STRING.sub(b"", body).translate(None, NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise RequestError(
                "invalid_json", f"The request body is nested more than {MAX_DEPTH} levels deep; flatten it"
            )


def _check_head(scope: Scope, limit: int) -> None:
    headers = Headers(scope=scope)
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise RequestError(
            "unsupported_encoding", f"Content-Encoding {encoding[:40]!r} is not taken; send the body as it is"
        )
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length[:20]) > limit:
        raise _too_large(limit)
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise RequestError("invalid_value", "The URL holds a NUL character; leave it out")


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _too_large(limit: int) -> RequestError:
    return RequestError(
        "body_too_large",
        f"The request body is larger than {limit // MEGABYTE} MB; send files to /v1/files, and large ones in parts to "
        "/v1/uploads",
    )


def _too_slow(seconds: float) -> RequestError:
    return RequestError("request_timeout", f"The request body did not arrive within {seconds:g} seconds")


async def _refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    await error_response(error.code, error.message, param=error.param)(scope, receive, send)


def _lingering(send: Send, receive: Receive, is_over: Callable[[], bool]) -> Send:
    """`send`, which reads on for a moment before it ends an answer to a request that was not read to its end.

    A connection that is closed on unread bytes is reset, and the answer is lost on its way to the client.
    """

    async def sending(message: Message) -> None:
        is_end = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_end and not is_over():
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while (await receive()).get("more_body", False):
                        pass
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return sending
