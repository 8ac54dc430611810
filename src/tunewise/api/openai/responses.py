"""/v1/responses: the Responses API for text and function calls, without state: each request is a chat request.

What would need state, or a tool of the vendor's, is refused by its name, unless its value asks for nothing.
"""

import json
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from tunewise.api.dependencies import AskerDep, RelayDep
from tunewise.api.openai.completion_schemas import BUSY, STREAM
from tunewise.api.openai.response_events import events
from tunewise.api.openai.response_forms import FunctionChoice, FunctionTool, TextConfig, ToolChoice, renamed
from tunewise.api.openai.response_items import InputItem, InputMessage, chat_messages, text_or_list
from tunewise.api.openai.response_objects import Echoed, ResponseObject, response
from tunewise.api.relay import read_request, relay_asked
from tunewise.api.route import Route
from tunewise.api.texts import Id, Line, Metadata
from tunewise.contracts.frozen import Frozen
from tunewise.errors import RequestError
from tunewise.jobs.completions import Stream, Whole

router = APIRouter(prefix="/responses", tags=["responses"], route_class=Route)

NO_STATE = "this server keeps no responses; send the messages so far in `input`"
REFUSED: dict[str, tuple[tuple[JsonValue, ...], str]] = {
    "store": ((None, False), "this server keeps no responses; send false, or leave it out"),
    "previous_response_id": ((None,), NO_STATE),
    "conversation": ((None,), NO_STATE),
    "context_management": ((None, []), NO_STATE),
    "background": ((None, False), "this server keeps no responses to ask for later; wait for the answer"),
    "prompt": ((None,), "this server keeps no prompts; send `instructions` and `input`"),
    "max_tool_calls": ((None,), "it limits the vendor's own tools, of which there are none here"),
    "include": ((None, []), "there is nothing to include"),
    "reasoning": ((None, {}, {"effort": "none"}), "no model here reasons apart from its answer"),
    "truncation": ((None, "disabled"), "this server drops no input; shorten it"),
    "top_logprobs": ((None, 0), "/v1/chat/completions tells log-probabilities"),
    "stream_options": ((None, {}, {"include_obfuscation": False}), "streams are never padded here"),
    "moderation": ((None,), "this server moderates nothing"),
    "service_tier": ((None, "auto", "default"), "this server has one tier"),
}
"""What is not honoured: the values that ask for nothing, and why any other is refused."""


def _describe_refused(schema: dict[str, Any]) -> None:
    for name, (values, why) in REFUSED.items():
        schema["properties"][name] = {"enum": list(values), "description": f"Of no effect here: {why}."}


class CreateResponse(Frozen):
    """POST /v1/responses."""

    model_config = ConfigDict(json_schema_extra=_describe_refused)

    model: Id = Field(
        description="A base model, an alias, a tuned model, a checkpoint or a deployment.",
        examples=["smollm2-135m-instruct"],
    )
    input: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[InputItem], Field(min_length=1), Tag("list")],
        Discriminator(text_or_list),
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
    text: TextConfig | None = Field(default=None, description="The form of the answer; a JSON schema is enforced.")
    tools: list[FunctionTool] | None = Field(default=None, description="Functions that the model may call.")
    tool_choice: ToolChoice | FunctionChoice | None = Field(
        default=None, description="Whether it may call, must call, or must call one of them.", examples=["auto"]
    )
    parallel_tool_calls: bool | None = Field(default=None, description="Whether it may make several calls at once.")

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
            "messages": [*system, *chat_messages(said)],
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "response_format": self.text.chat() if self.text else None,
            "tools": [tool.chat() for tool in self.tools] if self.tools else None,
            "tool_choice": self.tool_choice.chat()
            if isinstance(self.tool_choice, FunctionChoice)
            else self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
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
            parallel_tool_calls=self.parallel_tool_calls is not False,
            tool_choice=self.tool_choice or "auto",
            tools=self.tools or [],
            text=self.text or TextConfig(),
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
    named = error | {"param": renamed(error["param"])}
    return chat._replace(content=json.dumps({"error": named}).encode())
