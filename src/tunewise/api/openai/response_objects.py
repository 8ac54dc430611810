"""The Responses API's objects and events, made from a chat's answer. Knows both wires; knows no route and no model."""

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from pydantic import Field

from tunewise.api.openai.wire import Identified, Wire
from tunewise.jobs.completions import DATA, END, Usage

Status: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(Wire):
    """What the model says."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[None] = Field(default=[], description="Of the vendor's own tools; always empty here.")
    logprobs: list[None] = Field(default=[], description="Always empty here.")


class OutputMessage(Identified):
    """The model's message."""

    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Status
    content: list[OutputText]


class InputDetails(Wire):
    """Of the input's tokens, those that came from the prefix cache."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Wire):
    """Of the output's tokens, those that were not said."""

    reasoning_tokens: int = 0


class ResponseUsage(Wire):
    """Tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class Incomplete(Wire):
    """Why an answer ends before its end."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Failure(Wire):
    """Why there is no answer."""

    code: Literal["server_error"] = "server_error"
    message: str


class PlainText(Wire):
    """The one format there is."""

    type: Literal["text"] = "text"


class TextConfig(Wire):
    """How the text is formed."""

    format: PlainText = PlainText()


class Echoed(Wire):
    """What an answer tells again of its request; null where it was left out."""

    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    temperature: float | None
    top_p: float | None
    user: str | None


class ResponseObject(Echoed, Identified):
    """An answer. Nothing of it is kept."""

    id: str = Field(examples=["resp_6f1d8d1f8b0a4b6f9c4e7a3b2d1c0e9f"])
    object: Literal["response"] = "response"
    created_at: int = Field(description="Unix time in seconds.")
    completed_at: int | None = None
    status: Status
    model: str = Field(description="What answered; an alias is told by its model.")
    output: list[OutputMessage]
    usage: ResponseUsage | None = None
    error: Failure | None = None
    incomplete_details: Incomplete | None = None
    store: Literal[False] = False
    previous_response_id: None = None
    parallel_tool_calls: bool = True
    tool_choice: Literal["auto"] = "auto"
    tools: list[None] = Field(default=[], description="Always empty here.")
    text: TextConfig = TextConfig()
    truncation: Literal["disabled"] = "disabled"


class _Said(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Said = msgspec.field(default_factory=_Said)
    delta: _Said = msgspec.field(default_factory=_Said)
    finish_reason: str | None = None


class _Failed(msgspec.Struct):
    message: str


class _Chat(msgspec.Struct):
    """A chat completion or a chunk of one, as far as it is looked at."""

    model: str = ""
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: _Failed | None = None


class Story(NamedTuple):
    """What is the same in every state of an answer."""

    echoed: Echoed
    id: str
    message_id: str
    created_at: int
    model: str

    def message(self, status: Status, text: str | None) -> OutputMessage:
        """The model's message as it stands; `text` None: not begun."""
        content = [] if text is None else [OutputText(text=text)]
        return OutputMessage(id=self.message_id, status=status, content=content)

    def begun(self) -> ResponseObject:
        """The answer before its first word."""
        return self._response("in_progress", [])

    def ended(self, text: str, finish_reason: str | None, used: Usage | None) -> ResponseObject:
        """The whole answer."""
        status = status_of(finish_reason)
        response = self._response(status, [self.message(status, text)])
        told = {"usage": None if used is None else usage(used)}
        if status == "incomplete":
            return response.model_copy(update=told | {"incomplete_details": Incomplete()})
        return response.model_copy(update=told | {"completed_at": int(time.time())})

    def failed(self, message: str) -> ResponseObject:
        """What is left of an answer whose model's server stopped."""
        return self._response("failed", []).model_copy(update={"error": Failure(message=message)})

    def _response(self, status: Status, output: list[OutputMessage]) -> ResponseObject:
        told = self.echoed.model_dump()
        return ResponseObject(
            **told, id=self.id, created_at=self.created_at, model=self.model, status=status, output=output
        )


def begin(echoed: Echoed, model: str) -> Story:
    """A new answer."""
    digits = secrets.token_hex(16)
    return Story(echoed, f"resp_{digits}", f"msg_{digits}", int(time.time()), model)


def status_of(finish_reason: str | None) -> Status:
    """How an answer ended, by the reason that chat gives."""
    return "incomplete" if finish_reason == "length" else "completed"


def usage(used: Usage) -> ResponseUsage:
    """Tokens in this API's words."""
    return ResponseUsage(
        input_tokens=used.prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=used.cached_tokens),
        output_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
    )


def response(echoed: Echoed, chat: bytes) -> ResponseObject:
    """A whole chat completion as a response."""
    answer = msgspec.json.decode(chat, type=_Chat)
    (choice,) = answer.choices
    return begin(echoed, answer.model).ended(choice.message.content or "", choice.finish_reason, answer.usage)


async def events(echoed: Echoed, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A chat's stream as this API's events: created, in progress, the text as it comes, and how it ended."""
    teller = _Teller(echoed)
    async for piece in pieces:
        told = [event for chunk in _chunks(piece) for event in teller.tell(chunk)]
        yield b"".join(told)


def _chunks(piece: bytes) -> Iterator[_Chat]:
    for event in piece.split(END):
        content = event.removeprefix(DATA)
        if content.startswith(b"{"):
            yield msgspec.json.decode(content, type=_Chat)


class _Teller:
    """Tells a stream, event by event, numbered from 0."""

    def __init__(self, echoed: Echoed) -> None:
        self._echoed = echoed
        self._story: Story | None = None
        self._number = 0
        self._text: list[str] = []
        self._finish_reason: str | None = None

    def tell(self, chunk: _Chat) -> Iterator[bytes]:
        """The events of one chunk."""
        if self._story is None:
            self._story = begin(self._echoed, chunk.model)
            yield from self._opening(self._story)
        for choice in chunk.choices:
            self._finish_reason = choice.finish_reason
            if choice.delta.content:
                self._text.append(choice.delta.content)
                yield self._on_part("output_text.delta", delta=choice.delta.content, logprobs=[])
        if chunk.usage is not None:
            yield from self._closing(self._story, chunk.usage)
        if chunk.error is not None:
            yield self._event("failed", response=self._story.failed(chunk.error.message).model_dump())

    def _opening(self, story: Story) -> Iterator[bytes]:
        begun = story.begun().model_dump()
        yield self._event("created", response=begun)
        yield self._event("in_progress", response=begun)
        item = story.message("in_progress", None).model_dump()
        yield self._event("output_item.added", output_index=0, item=item)
        yield self._on_part("content_part.added", part=OutputText(text="").model_dump())

    def _closing(self, story: Story, used: Usage) -> Iterator[bytes]:
        text, status = "".join(self._text), status_of(self._finish_reason)
        yield self._on_part("output_text.done", text=text, logprobs=[])
        yield self._on_part("content_part.done", part=OutputText(text=text).model_dump())
        yield self._event("output_item.done", output_index=0, item=story.message(status, text).model_dump())
        ended = story.ended(text, self._finish_reason, used)
        yield self._event(status, response=ended.model_dump())

    def _on_part(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - JSON
        assert self._story
        return self._event(kind, item_id=self._story.message_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - JSON
        name = f"response.{kind}"
        body = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + name.encode() + b"\n" + DATA + msgspec.json.encode(body) + END
