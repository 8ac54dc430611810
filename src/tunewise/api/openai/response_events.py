"""A chat's stream in the words of the Responses API: items that open, grow and close, numbered from 0.

Knows both wires; knows no route and no model.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from tunewise.api.openai.response_objects import (
    Called,
    Chat,
    Echoed,
    FunctionCall,
    OutputItem,
    OutputMessage,
    OutputText,
    Status,
    Story,
    begin,
    function_call,
    message,
    status_of,
)
from tunewise.jobs.completions import DATA, END, Usage


async def events(echoed: Echoed, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A chat's stream as this API's events: created, in progress, text and calls as they come, and how it ended."""
    teller = _Teller(echoed)
    async for piece in pieces:
        told = [event for chunk in _chunks(piece) for event in teller.tell(chunk)]
        yield b"".join(told)


def _chunks(piece: bytes) -> Iterator[Chat]:
    for event in piece.split(END):
        content = event.removeprefix(DATA)
        if content.startswith(b"{"):
            yield msgspec.json.decode(content, type=Chat)


class _Teller:
    """Tells a stream, event by event. `_open`: the item that is growing, and what it has grown to in `_text`."""

    def __init__(self, echoed: Echoed) -> None:
        self._echoed = echoed
        self._story: Story | None = None
        self._number = 0
        self._done: list[OutputItem] = []
        self._open: OutputItem | None = None
        self._text: list[str] = []
        self._finish_reason: str | None = None

    def tell(self, chunk: Chat) -> Iterator[bytes]:
        """The events of one chunk."""
        if self._story is None:
            self._story = begin(self._echoed, chunk.model)
            begun = self._story.begun().model_dump()
            yield self._event("created", response=begun)
            yield self._event("in_progress", response=begun)
        for choice in chunk.choices:
            self._finish_reason = choice.finish_reason
            if choice.delta.content:
                yield from self._say(choice.delta.content)
            for call in choice.delta.tool_calls or []:
                yield from self._call(call)
        if chunk.usage is not None:
            yield from self._closing(self._story, chunk.usage)
        if chunk.error is not None:
            failed = self._story.failed(chunk.error.message).model_dump()
            yield self._event("failed", response=failed)

    def _say(self, text: str) -> Iterator[bytes]:
        if not isinstance(self._open, OutputMessage):
            yield from self._open_item(message("in_progress", None))
            yield self._on_item("content_part.added", content_index=0, part=OutputText(text="").model_dump())
        if text:
            self._text.append(text)
            yield self._on_item("output_text.delta", content_index=0, delta=text, logprobs=[])

    def _call(self, call: Called) -> Iterator[bytes]:
        if call.id:
            yield from self._open_item(function_call("in_progress", call))
        if call.function.arguments:
            self._text.append(call.function.arguments)
            yield self._on_item("function_call_arguments.delta", delta=call.function.arguments)

    def _open_item(self, item: OutputItem) -> Iterator[bytes]:
        yield from self._close_item("completed")
        self._open = item
        yield self._event("output_item.added", output_index=len(self._done), item=item.model_dump())

    def _close_item(self, status: Status) -> Iterator[bytes]:
        item, text = self._open, "".join(self._text)
        match item:
            case None:
                return
            case OutputMessage():
                item = message(status, text, item.id)
                yield self._on_item("output_text.done", content_index=0, text=text, logprobs=[])
                part = OutputText(text=text).model_dump()
                yield self._on_item("content_part.done", content_index=0, part=part)
            case FunctionCall():
                item = item.model_copy(update={"status": status, "arguments": text})
                yield self._on_item("function_call_arguments.done", name=item.name, arguments=text)
        yield self._event("output_item.done", output_index=len(self._done), item=item.model_dump())
        self._done.append(item)
        self._open, self._text = None, []

    def _closing(self, story: Story, used: Usage) -> Iterator[bytes]:
        if self._open is None and not self._done:
            yield from self._say("")
        status = status_of(self._finish_reason)
        yield from self._close_item(status)
        ended = story.ended(self._done, self._finish_reason, used)
        yield self._event(status, response=ended.model_dump())

    def _on_item(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - JSON
        assert self._open
        return self._event(kind, item_id=self._open.id, output_index=len(self._done), **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - JSON
        name = f"response.{kind}"
        body = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + name.encode() + b"\n" + DATA + msgspec.json.encode(body) + END
