"""The Responses API's objects, made from a chat's answer. Knows both wires; knows no route and no model."""

import secrets
import time
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from pydantic import Field

from tunewise.api.openai.response_forms import FunctionChoice, FunctionTool, TextConfig, ToolChoice
from tunewise.api.openai.wire import Identified, Wire
from tunewise.jobs.completions import Usage

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


class FunctionCall(Identified):
    """A call that the model makes; what comes of it is sent back under `call_id`."""

    type: Literal["function_call"] = "function_call"
    status: Status
    call_id: str
    name: str
    arguments: str = Field(description="A JSON object in a string.")


OutputItem: TypeAlias = OutputMessage | FunctionCall


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


class Echoed(Wire):
    """What an answer tells again of its request; null where it was left out."""

    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    temperature: float | None
    top_p: float | None
    user: str | None
    parallel_tool_calls: bool = True
    tool_choice: ToolChoice | FunctionChoice = "auto"
    tools: list[FunctionTool] = Field(default=[])
    text: TextConfig = TextConfig()


class ResponseObject(Echoed, Identified):
    """An answer. Nothing of it is kept."""

    id: str = Field(examples=["resp_6f1d8d1f8b0a4b6f9c4e7a3b2d1c0e9f"])
    object: Literal["response"] = "response"
    created_at: int = Field(description="Unix time in seconds.")
    completed_at: int | None = None
    status: Status
    model: str = Field(description="What answered; an alias is told by its model.")
    output: list[OutputItem]
    usage: ResponseUsage | None = None
    error: Failure | None = None
    incomplete_details: Incomplete | None = None
    store: Literal[False] = False
    previous_response_id: None = None
    truncation: Literal["disabled"] = "disabled"


class CalledFunction(msgspec.Struct):
    """What chat says of a called function; in a chunk, as much of it as is new."""

    name: str = ""
    arguments: str = ""


class Called(msgspec.Struct):
    """A call in chat's words. `id` and `name` stand in a call's first chunk only."""

    function: CalledFunction
    id: str = ""
    index: int = 0


class Spoken(msgspec.Struct):
    """A message or a delta of one."""

    content: str | None = None
    tool_calls: list[Called] | None = None


class ChatChoice(msgspec.Struct):
    """One answer; only one is asked for."""

    message: Spoken = msgspec.field(default_factory=Spoken)
    delta: Spoken = msgspec.field(default_factory=Spoken)
    finish_reason: str | None = None


class Failed(msgspec.Struct):
    """Why a stream has no end."""

    message: str


class Chat(msgspec.Struct):
    """A chat completion or a chunk of one, as far as it is looked at."""

    model: str = ""
    choices: list[ChatChoice] = []
    usage: Usage | None = None
    error: Failed | None = None


class Story(NamedTuple):
    """What is the same in every state of an answer."""

    echoed: Echoed
    id: str
    created_at: int
    model: str

    def begun(self) -> ResponseObject:
        """The answer before its first word."""
        return self._response("in_progress", [])

    def ended(self, output: list[OutputItem], finish_reason: str | None, used: Usage | None) -> ResponseObject:
        """The whole answer."""
        status = status_of(finish_reason)
        response = self._response(status, output)
        told = {"usage": None if used is None else usage(used)}
        if status == "incomplete":
            return response.model_copy(update=told | {"incomplete_details": Incomplete()})
        return response.model_copy(update=told | {"completed_at": int(time.time())})

    def failed(self, message: str) -> ResponseObject:
        """What is left of an answer whose model's server stopped."""
        return self._response("failed", []).model_copy(update={"error": Failure(message=message)})

    def _response(self, status: Status, output: list[OutputItem]) -> ResponseObject:
        told = self.echoed.model_dump()
        return ResponseObject(
            **told, id=self.id, created_at=self.created_at, model=self.model, status=status, output=output
        )


def begin(echoed: Echoed, model: str) -> Story:
    """A new answer."""
    return Story(echoed, f"resp_{secrets.token_hex(16)}", int(time.time()), model)


def message(status: Status, text: str | None, id: str | None = None) -> OutputMessage:
    """The model's message as it stands; `text` None: not begun."""
    content = [] if text is None else [OutputText(text=text)]
    return OutputMessage(id=id or f"msg_{secrets.token_hex(16)}", status=status, content=content)


def function_call(status: Status, call: Called, id: str | None = None) -> FunctionCall:
    """A call as it stands."""
    name, arguments = call.function.name, call.function.arguments
    made = id or f"fc_{secrets.token_hex(16)}"
    return FunctionCall(id=made, status=status, call_id=call.id, name=name, arguments=arguments)


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
    answer = msgspec.json.decode(chat, type=Chat)
    (choice,) = answer.choices
    status, calls = status_of(choice.finish_reason), choice.message.tool_calls or []
    output: list[OutputItem] = []
    if choice.message.content or not calls:
        output.append(message(status, choice.message.content or ""))
    output += [function_call(status, call) for call in calls]
    return begin(echoed, answer.model).ended(output, choice.finish_reason, answer.usage)
