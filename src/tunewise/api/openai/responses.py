"""/v1/responses: the Responses API for text, without state: each request is a chat request, answered in other words.

What would need state, or a tool of the vendor's, is refused by its name, unless its value asks for nothing.
"""

import json
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from tunewise.api.dependencies import AskerDep, RelayDep
from tunewise.api.openai.completion_schemas import BUSY, STREAM
from tunewise.api.openai.response_objects import Echoed, ResponseObject, events, response
from tunewise.api.relay import read_request, relay_asked
from tunewise.api.route import Route
from tunewise.api.texts import Id, Line, Metadata
from tunewise.contracts.frozen import Frozen
from tunewise.errors import RequestError
from tunewise.jobs.completions import Stream, Whole

router = APIRouter(prefix="/responses", tags=["responses"], route_class=Route)

NO_STATE = "this server keeps no responses; send the messages so far in `input`"
NO_TOOLS = "no model here calls tools"
REFUSED: dict[str, tuple[tuple[JsonValue, ...], str]] = {
    "store": ((None, False), "this server keeps no responses; send false, or leave it out"),
    "previous_response_id": ((None,), NO_STATE),
    "conversation": ((None,), NO_STATE),
    "context_management": ((None, []), NO_STATE),
    "background": ((None, False), "this server keeps no responses to ask for later; wait for the answer"),
    "prompt": ((None,), "this server keeps no prompts; send `instructions` and `input`"),
    "tools": ((None, []), NO_TOOLS),
    "tool_choice": ((None, "none", "auto"), NO_TOOLS),
    "max_tool_calls": ((None,), NO_TOOLS),
    "include": ((None, []), "there is nothing to include"),
    "text": ((None, {}, {"format": {"type": "text"}}), "this server answers in plain text"),
    "reasoning": ((None, {}, {"effort": "none"}), "no model here reasons apart from its answer"),
    "truncation": ((None, "disabled"), "this server drops no input; shorten it"),
    "top_logprobs": ((None, 0), "/v1/chat/completions tells log-probabilities"),
    "stream_options": ((None, {}, {"include_obfuscation": False}), "streams are never padded here"),
    "moderation": ((None,), "this server moderates nothing"),
    "service_tier": ((None, "auto", "default"), "this server has one tier"),
}
"""What is not honoured: the values that ask for nothing, and why any other is refused."""
FIELDS = {"messages": "input", "max_completion_tokens": "max_output_tokens"}
"""Chat's fields that are called otherwise here."""


def _describe_refused(schema: dict[str, Any]) -> None:
    for name, (values, why) in REFUSED.items():
        schema["properties"][name] = {"enum": list(values), "description": f"Of no effect here: {why}."}


def _text_or_list(value: object) -> str:
    """Which of the two is meant, so that an error is told of that one."""
    return "text" if isinstance(value, str) else "list"


class TextPart(Frozen):
    """A part of a message. `annotations` and `logprobs` stand in an earlier answer that is sent back, and are empty."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[JsonValue], Field(max_length=0)] | None = None
    logprobs: Annotated[list[JsonValue], Field(max_length=0)] | None = None


class InputMessage(Frozen):
    """A message. `id`, `status` and `phase` stand in an earlier answer that is sent back, and are of no effect."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[TextPart], Field(min_length=1), Tag("list")],
        Discriminator(_text_or_list),
    ]
    id: Id | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    def chat(self) -> dict[str, Any]:
        """The message as chat has it."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        return {"role": self.role, "content": [{"type": "text", "text": part.text} for part in self.content]}


class CreateResponse(Frozen):
    """POST /v1/responses."""

    model_config = ConfigDict(json_schema_extra=_describe_refused)

    model: Id = Field(
        description="A base model, an alias, a tuned model, a checkpoint or a deployment.",
        examples=["smollm2-135m-instruct"],
    )
    input: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[InputMessage], Field(min_length=1), Tag("list")],
        Discriminator(_text_or_list),
    ] = Field(description="What the user says, or the messages so far.", examples=["Hello"])
    instructions: str | None = Field(default=None, description="A system message before the input.")
    max_output_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The most tokens to write.", examples=[16]
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(default=None, description="0 takes the likeliest.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Sample among the likeliest tokens that have this share together."
    )
    stream: bool | None = Field(default=None, description="Send the answer as server-sent events.")
    metadata: Metadata | None = Field(default=None, description="Told again in the answer.")
    user: Line | None = Field(default=None, description="Told again in the answer.")
    safety_identifier: Line | None = Field(default=None, description="Of no effect here.")
    prompt_cache_key: Line | None = Field(default=None, description="Of no effect here: every prefix is cached.")
    prompt_cache_retention: Line | None = Field(default=None, description="Of no effect here.")
    parallel_tool_calls: bool | None = Field(default=None, description="Of no effect here: no model calls tools.")

    @model_validator(mode="before")
    @classmethod
    def _without_refused(cls, body: object) -> object:
        if not isinstance(body, dict):
            return body
        for name, (values, why) in REFUSED.items():
            if name in body and body[name] not in values:
                shown = json.dumps(body[name], default=str)[:80]
                raise RequestError("unsupported_parameter", f"{name}={shown} is not supported: {why}", param=name)
        return {name: value for name, value in body.items() if name not in REFUSED}

    def chat(self) -> bytes:
        """The chat request that is answered instead."""
        system = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        said = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": [*system, *(message.chat() for message in said)],
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        if self.stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(asked).encode()

    def echoed(self) -> Echoed:
        """What the answer tells again."""
        return Echoed(
            instructions=self.instructions,
            max_output_tokens=self.max_output_tokens,
            metadata=self.metadata or {},
            temperature=self.temperature,
            top_p=self.top_p,
            user=self.user,
        )


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": ResponseObject, "description": "The answer.", "content": {"text/event-stream": {"schema": STREAM}}},
    429: BUSY,
}


@router.post("", summary="Create a response", response_class=Response, responses=ANSWERS)
async def create_response(asked: CreateResponse, request: Request, relaying: RelayDep, asker: AskerDep) -> Response:
    """A chat completion in the words of the Responses API. Nothing of it is kept."""
    chat = read_request("chat/completions", asked.chat())
    return await relay_asked(request, relaying, asker, chat, partial(_retold, asked.echoed()))


def _retold(echoed: Echoed, chat: Whole | Stream) -> Whole | Stream:
    if isinstance(chat, Stream):
        return Stream(events(echoed, chat.events))
    if chat.status == 200:
        return chat._replace(content=response(echoed, chat.content).model_dump_json().encode())
    error: dict[str, Any] = json.loads(chat.content)["error"]
    named = error | {"param": FIELDS.get(error["param"], error["param"])}
    return chat._replace(content=json.dumps({"error": named}).encode())
