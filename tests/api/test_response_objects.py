"""A chat's answers in the words of the Responses API, held against the SDK's own types; no model is needed."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tunewise.api.openai.response_events import events
from tunewise.api.openai.response_objects import Echoed, response

ECHOED = Echoed(instructions="Be brief.", max_output_tokens=3, metadata={"a": "b"}, temperature=0, top_p=None, user="u")
CHAT: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 1},
}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def whole(finish_reason: str) -> Response:
    message = {"role": "assistant", "content": "hé", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    chat = CHAT | {"choices": [choice], "usage": USAGE}
    return Response.model_validate_json(response(ECHOED, json.dumps(chat).encode()).model_dump_json())


def chunk(text: str = "", finish_reason: str | None = None, **fields: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish_reason}
    return b"data: " + json.dumps(CHAT | {"choices": [choice]} | fields).encode() + b"\n\n"


def told(*pieces: bytes) -> list[Any]:
    """The events, each checked against the SDK's type and its own name."""

    async def chat() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def gathered() -> bytes:
        return b"".join([piece async for piece in events(ECHOED, chat())])

    found = []
    for event in asyncio.run(gathered()).decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append(EVENTS.validate_json(data.removeprefix("data: ")))
        assert name == f"event: {found[-1].type}"
    return found


def test_an_answer_that_ended_by_itself_is_completed() -> None:
    ended = whole("stop")
    assert (ended.output_text, ended.status, ended.incomplete_details) == ("hé", "completed", None)
    assert ended.completed_at is not None
    assert ended.usage
    assert (ended.usage.total_tokens, ended.usage.input_tokens_details.cached_tokens) == (5, 1)


def test_an_answer_that_was_cut_is_incomplete() -> None:
    ended = whole("length")
    assert ended.incomplete_details
    assert (ended.status, ended.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert ended.completed_at is None


def test_a_stream_is_told_whole_however_its_pieces_fall() -> None:
    usage = chunk(choices=[], usage=USAGE) + b"data: [DONE]\n\n"
    pieces = (chunk() + chunk("h"), b"", chunk("i") + chunk(finish_reason="stop"), usage)
    for found in (told(*pieces), told(b"".join(pieces))):
        assert [event.sequence_number for event in found] == list(range(len(found)))
        assert [event.delta for event in found if event.type.endswith("text.delta")] == ["h", "i"]
        assert (found[-1].type, found[-1].response.output_text) == ("response.completed", "hi")


def test_a_model_server_that_stops_ends_the_stream_with_a_failure() -> None:
    *_, last = told(chunk("h"), b'data: {"error":{"message":"stopped"}}\n\n')
    assert (last.type, last.response.status, last.response.error.message) == ("response.failed", "failed", "stopped")


def call(index: int, arguments: str, name: str = "", call_id: str = "") -> bytes:
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    made = {"index": index, "function": function} | ({"id": call_id, "type": "function"} if call_id else {})
    choice = {"index": 0, "delta": {"tool_calls": [made]}, "logprobs": None, "finish_reason": None}
    return b"data: " + json.dumps(CHAT | {"choices": [choice]}).encode() + b"\n\n"


def test_calls_are_items_of_their_own_after_the_text() -> None:
    calls = [
        {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")
    ]
    for text, kinds in (("Well.", ["message", "function_call", "function_call"]), (None, ["function_call"] * 2)):
        message = {"role": "assistant", "content": text, "refusal": None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}
        made = response(ECHOED, json.dumps(CHAT | {"choices": [choice], "usage": USAGE}).encode())
        ended = Response.model_validate_json(made.model_dump_json())
        assert ended.status == "completed"
        assert [item.type for item in ended.output] == kinds
        found = [(item.call_id, item.name) for item in ended.output if item.type == "function_call"]
        assert found == [("call_a", "a"), ("call_b", "b")]


def test_a_stream_opens_and_closes_an_item_for_the_text_and_for_each_call() -> None:
    found = told(
        chunk("Well."),
        call(0, "", "a", "call_a"),
        call(0, '{"x"'),
        call(0, ": 1}"),
        call(1, "{}", "b", "call_b"),
        chunk(finish_reason="tool_calls"),
        chunk(choices=[], usage=USAGE),
    )
    kinds = [event.type.removeprefix("response.") for event in found]
    text = ["content_part.added", "output_text.delta", "output_text.done", "content_part.done"]
    grown = ["function_call_arguments.delta"]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", *text, "output_item.done"),
        *("output_item.added", *grown, *grown, "function_call_arguments.done", "output_item.done"),
        *("output_item.added", *grown, "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert [event.output_index for event in found if event.type.endswith("output_item.added")] == [0, 1, 2]
    output = found[-1].response.output
    assert [item.type for item in output] == ["message", "function_call", "function_call"]
    assert [(item.name, item.arguments) for item in output[1:]] == [("a", '{"x": 1}'), ("b", "{}")]
    done = [event.arguments for event in found if event.type.endswith("arguments.done")]
    assert done == ['{"x": 1}', "{}"]


def test_a_call_that_was_cut_leaves_its_item_incomplete() -> None:
    found = told(call(0, '{"x', "a", "call_a"), chunk(finish_reason="length"), chunk(choices=[], usage=USAGE))
    last = found[-1]
    assert (last.type, last.response.output[0].status) == ("response.incomplete", "incomplete")
