"""What clients may send: the requests of OpenAI's chat and completions endpoints that this engine honours.

Knows fields and their limits; knows nothing of the engine. A field of OpenAI's that is not honoured is refused by name,
unless its value asks for nothing; a field that nobody knows is refused too. Nothing is ignored silently.
"""

import json
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

import msgspec
from pydantic import Field, ValidationError, field_validator, model_validator

from tunewise.contracts.chat import Message
from tunewise.contracts.frozen import Frozen
from tunewise.errors import ConfigError
from tunewise.serve.wire_forms import Form, converted, read_form

Json: TypeAlias = dict[str, Any]
Request = TypeVar("Request", bound=Frozen)
STOP_MAX = 4
MESSAGES = Annotated[list[Message], msgspec.Meta(min_length=1)]
TOP_LOGPROBS_MAX = 20
LOGIT_BIAS_MAX = 1024  # OpenAI names no limit for it; vLLM takes as many as these
TokenId: TypeAlias = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias: TypeAlias = Annotated[float, Field(ge=-100, le=100)]
Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]

ANYTHING: tuple[Any, ...] = ()
NO_EFFECT: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None,),
    "user": ANYTHING,
    "metadata": ANYTHING,
    "safety_identifier": ANYTHING,
    "prompt_cache_key": ANYTHING,
    "prompt_cache_retention": ANYTHING,
}
"""OpenAI's fields that are not honoured, and their values that ask for nothing; with no values listed, any does."""


NO_ECHO: tuple[tuple[str, Any], ...] = (
    ("annotations", None),
    ("annotations", []),
    ("audio", None),
    ("tool_calls", None),
)
"""Fields of an answer that hold nothing; `model_dump()` of a message writes them out."""


class StreamOptions(Frozen):
    """`include_obfuscation` pads OpenAI's chunks against eavesdropping; padding is never sent here."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class Sampled(Frozen):
    """What both endpoints share."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Bias] | None = Field(default=None, max_length=LOGIT_BIAS_MAX)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = Field(default=False, description="vLLM's: go on past the end token, for measurements.")

    @field_validator("stop")
    @classmethod
    def _stop_is_usable(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > STOP_MAX or not all(stops):
            raise ValueError(f"{STOP_MAX} stop strings at most, none of them empty")
        return value

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is allowed only when stream is true")
        return self

    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def bias(self) -> tuple[tuple[int, float], ...]:
        """What is added to logits, by token id."""
        return tuple((int(token), value) for token, value in (self.logit_bias or {}).items() if value)

    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Sampled):
    """POST /v1/chat/completions. Messages and forms are checked by msgspec, not here."""

    messages: list[Json]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _logprobs_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    def parsed_messages(self) -> list[Message]:
        """The messages, typed.

        Raises:
            ConfigError: `invalid_messages`, with the path of the field at fault.
        """
        sent = [_without_echoes(message) for message in self.messages]
        messages: list[Message] = converted(sent, MESSAGES, "messages", "invalid_messages")
        return messages

    def form(self) -> Form:
        """What the answer is to be.

        Raises:
            ConfigError: `invalid_value`, with the path of the field at fault.
        """
        return read_form(self.response_format, self.tools, self.tool_choice, self.parallel_tool_calls)


class CompletionRequest(Sampled):
    """POST /v1/completions; a prompt is text, token ids, or a list of either."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None


class EmbeddingRequest(Frozen):
    """POST /v1/embeddings. `input` is checked by `serve.embeddings`, which knows the model's token ids."""

    model: str
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = Field(default=None, description="OpenAI's, for its watch on abuse; it changes nothing.")


class LoadAdapter(Frozen):
    """POST /v1/load_lora_adapter, as vLLM has it."""

    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: Annotated[str, Field(min_length=1)]


class UnloadAdapter(Frozen):
    """POST /v1/unload_lora_adapter, as vLLM has it."""

    lora_name: Annotated[str, Field(min_length=1)]


def read_chat(body: bytes) -> ChatRequest:
    """Parse a chat request.

    Raises:
        ConfigError: naming the field at fault.
    """
    return _checked(ChatRequest, _without_no_effect(_object(body)))


def read_completion(body: bytes) -> CompletionRequest:
    """Parse a completion request.

    Raises:
        ConfigError: naming the field at fault.
    """
    return _checked(CompletionRequest, _without_no_effect(_object(body)))


def read_embeddings(body: bytes) -> EmbeddingRequest:
    """Parse a request for embeddings; raises ConfigError naming the field at fault."""
    return _checked(EmbeddingRequest, _object(body))


def read_load(body: bytes) -> LoadAdapter:
    """Parse a request to load an adapter; raises ConfigError naming the field at fault."""
    return _checked(LoadAdapter, _object(body))


def read_unload(body: bytes) -> UnloadAdapter:
    """Parse a request to unload an adapter; raises ConfigError naming the field at fault."""
    return _checked(UnloadAdapter, _object(body))


def _without_echoes(message: Json) -> Json:
    """A message as it was once answered, without what the SDK put beside it: it is sent back with the next question."""
    kept = {name: value for name, value in message.items() if name != "parsed" and (name, value) not in NO_ECHO}
    if isinstance(calls := kept.get("tool_calls"), list):
        kept["tool_calls"] = [_without_parsed_arguments(call) for call in calls]
    return kept


def _without_parsed_arguments(call: Any) -> Any:  # noqa: ANN401  # what is no call is refused later, with its path
    if not (isinstance(call, dict) and isinstance(function := call.get("function"), dict)):
        return call
    return call | {"function": {name: value for name, value in function.items() if name != "parsed_arguments"}}


def _object(body: bytes) -> Json:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise ConfigError("invalid_json", f"the request body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError("invalid_json", f"the request body is a JSON {type(value).__name__}, not an object")
    return value


def _without_no_effect(body: Json) -> Json:
    kept = {}
    for name, value in body.items():
        if name not in NO_EFFECT:
            kept[name] = value
        elif NO_EFFECT[name] and value not in NO_EFFECT[name]:
            message = f"{name}={json.dumps(value)[:80]} is not supported by this server; leave {name!r} out"
            raise ConfigError("unsupported_parameter", message, param=name)
    return kept


def _checked(kind: type[Request], body: Json) -> Request:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _first(error) from error


def _first(error: ValidationError) -> ConfigError:
    detail = error.errors()[0]
    param = ".".join(str(part) for part in detail["loc"] if part != "[key]") or None
    if detail["type"] == "extra_forbidden":
        return ConfigError("unknown_parameter", f"Unrecognized request argument supplied: {param}", param=param)
    if detail["type"] == "missing":
        return ConfigError("missing_required_parameter", f"Missing required parameter: {param!r}", param=param)
    message = f"{param or 'request'}: {detail['msg'].removeprefix('Value error, ')}"
    if param:
        message += f" (got {json.dumps(detail['input'], default=str)[:80]})"
    return ConfigError("invalid_value", message, param=param)
