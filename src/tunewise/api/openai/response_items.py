"""What is sent to the Responses API as input: messages, the calls that were made, and what came of them.

Knows this wire and chat's; knows no route.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, JsonValue, Tag

from tunewise.api.texts import Id
from tunewise.contracts.frozen import Frozen

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


def text_or_list(value: object) -> str:
    """Which of the two is meant, so that an error is told of that one."""
    return "text" if isinstance(value, str) else "list"


class TextPart(Frozen):
    """A part of a message. `annotations` and `logprobs` stand in an earlier answer that is sent back, and are empty."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[JsonValue], Field(max_length=0)] | None = None
    logprobs: Annotated[list[JsonValue], Field(max_length=0)] | None = None


Text: TypeAlias = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Field(min_length=1), Tag("list")],
    Discriminator(text_or_list),
]


class InputMessage(Frozen):
    """A message. `id`, `status` and `phase` stand in an earlier answer that is sent back, and are of no effect."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Text
    id: Id | None = None
    status: ItemStatus | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class InputCall(Frozen):
    """A call that the model made, sent back."""

    type: Literal["function_call"]
    call_id: Id
    name: str
    arguments: str
    id: Id | None = None
    status: ItemStatus | None = None


class CallOutput(Frozen):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: Id
    output: Text
    id: Id | None = None
    status: ItemStatus | None = None


def _kind(value: object) -> str:
    """A message says what it is, or does not."""
    kind = value.get("type") if isinstance(value, dict) else None
    return str(kind or "message")


InputItem: TypeAlias = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[CallOutput, Tag("function_call_output")],
    Discriminator(_kind),
]


def chat_messages(items: Sequence[InputMessage | InputCall | CallOutput]) -> list[dict[str, Any]]:
    """The items as chat's messages; calls belong to the assistant's message before them, or to one without text."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case InputMessage():
                messages.append({"role": item.role, "content": _text(item.content)})
            case CallOutput():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
            case InputCall():
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                messages[-1].setdefault("tool_calls", []).append(call)
    return messages


def _text(content: str | list[TextPart]) -> str | list[dict[str, str]]:
    return content if isinstance(content, str) else [{"type": "text", "text": part.text} for part in content]
