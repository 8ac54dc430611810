"""Multipart bodies, written to disk as they come: one file part, and a few short text fields.

FastAPI's own forms are read before anyone asks who is calling, and lie twice on the disk; here the key comes first,
the bytes go where they will be renamed from, and memory stays the same whatever the size.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tunewise.errors import RequestError
from tunewise.jobs.incoming import Incoming, Receiver
from tunewise.jobs.platform import Platform

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # which is there for type checkers only

FIELD_BYTES = 64 * 1024
MAX_FIELDS = 32
BATCH_BYTES = 1024 * 1024


class Form(NamedTuple):
    """What came in: the file, and the text of every other field, by name."""

    file: Incoming
    fields: dict[str, str]


@asynccontextmanager
async def received(
    request: Request, platform: Platform, file_field: str, *, limit: int | None = None
) -> AsyncIterator[Form]:
    """The request's form; what it wrote is removed at the end, unless a use case has moved it away.

    `limit`: the most bytes that the file may have, where it is less than the request may have.

    Raises:
        RequestError: invalid_multipart, missing_required_parameter, or what the limits refuse.
        StoreError: disk_full.
    """
    reader = _Reader(platform, file_field, _boundary(request))
    try:
        batch = bytearray()
        async for chunk in request.stream():
            batch += chunk
            if limit is not None and reader.received_bytes > limit:
                raise RequestError("body_too_large", f"{file_field}: larger than {limit:,} bytes", param=file_field)
            if len(batch) >= BATCH_BYTES:
                await asyncio.to_thread(reader.feed, bytes(batch))
                batch.clear()
        await asyncio.to_thread(reader.feed, bytes(batch))
        yield await asyncio.to_thread(reader.finish)
    finally:
        reader.discard()


class _Reader:
    """The parser's callbacks, and what they have gathered so far."""

    def __init__(self, platform: Platform, file_field: str, boundary: bytes) -> None:
        self._platform = platform
        self._file_field = file_field
        self._receiver: Receiver | None = None
        self._fields: dict[str, bytearray] = {}
        self._header_name = self._header_value = b""
        self._disposition = b""
        self._write: Callable[[bytes], object] = bytearray().extend
        self._is_whole = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._header_field,
            "on_header_value": self._header_text,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    @property
    def received_bytes(self) -> int:
        """How many bytes of the file have come."""
        return self._receiver.received_bytes if self._receiver else 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def finish(self) -> Form:
        """The whole form."""
        if not self._is_whole:
            raise _malformed("the body ends before its last boundary")
        if self._receiver is None:
            name = self._file_field
            raise RequestError(
                "missing_required_parameter", f"Missing required parameter: {name!r}, a file", param=name
            )
        try:
            fields = {name: bytes(value).decode() for name, value in self._fields.items()}
        except UnicodeDecodeError as error:
            raise _malformed("a field is not UTF-8 text") from error
        return Form(self._receiver.finish(), fields)

    def discard(self) -> None:
        """Remove what was written."""
        if self._receiver is not None:
            self._receiver.discard()

    def _begin_part(self) -> None:
        self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_text(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        if not name:
            raise _malformed("a part has no name")
        if name == self._file_field:
            self._begin_file(options.get(b"filename", b"file").decode(errors="replace"))
        else:
            self._begin_field(name)

    def _begin_file(self, filename: str) -> None:
        if self._receiver is not None:
            raise _malformed(f"{self._file_field} is sent twice")
        self._receiver = Receiver(self._platform, filename)
        self._write = self._receiver.write

    def _begin_field(self, name: str) -> None:
        if name in self._fields or len(self._fields) == MAX_FIELDS:
            raise _malformed(f"{name[:80]!r} is sent twice, or there are more than {MAX_FIELDS} fields")
        value = self._fields[name] = bytearray()

        def write(data: bytes) -> None:
            if len(value) + len(data) > FIELD_BYTES:
                raise _malformed(f"{name[:80]!r} is longer than {FIELD_BYTES} bytes")
            value.extend(data)

        self._write = write

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._write(data[start:end])

    def _end(self) -> None:
        self._is_whole = True


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise _malformed("Content-Type must be multipart/form-data with a boundary")
    return boundary


def _malformed(what: str) -> RequestError:
    return RequestError("invalid_multipart", f"The request body is no multipart form: {what}")
