"""Chat rows: the training format of OpenAI's fine-tuning guide, and the messages of a chat request.

These are msgspec structs, not pydantic models: rows are read by the hundred thousand, and msgspec decodes and checks
one in C in about a microsecond (docs/adr/0003). Each role is a type of its own, so that a field on the wrong role
("weight" on a user message) is refused by the decoder itself. `gc=False`: they cannot form cycles, and the garbage
collector's walks over them would halve the reading speed.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

Json: TypeAlias = Any


class TextPart(Struct, tag_field="type", tag="text", forbid_unknown_fields=True, frozen=True, gc=False):
    """One piece of text in a message whose content is a list of parts."""

    text: str


Content: TypeAlias = str | list[TextPart]


class FunctionCall(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """A call that the assistant makes; `arguments` is a JSON object in a string, as OpenAI sends it."""

    name: str
    arguments: str


class ToolCall(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One tool call of an assistant message."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class FunctionSpec(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Json] | None = None
    strict: bool | None = None


class Tool(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One entry of `tools`."""

    function: FunctionSpec
    type: Literal["function"] = "function"


class SystemMessage(Struct, tag_field="role", tag="system", forbid_unknown_fields=True, frozen=True, gc=False):
    """Instructions for the whole conversation."""

    content: Content
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer", forbid_unknown_fields=True, frozen=True, gc=False):
    """What newer OpenAI code sends instead of a system message; rendered as one."""

    content: Content
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user", forbid_unknown_fields=True, frozen=True, gc=False):
    """What the user says."""

    content: Content
    name: str | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True, frozen=True, gc=False):
    """What the model says; trained on unless `weight` is 0."""

    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(min_length=1)] | None = None
    function_call: FunctionCall | None = None
    weight: Literal[0, 1] | None = None


class ToolMessage(Struct, tag_field="role", tag="tool", forbid_unknown_fields=True, frozen=True, gc=False):
    """What a tool answered."""

    content: Content
    tool_call_id: str
    name: str | None = None


class FunctionMessage(Struct, tag_field="role", tag="function", forbid_unknown_fields=True, frozen=True, gc=False):
    """What a function answered, in the form that OpenAI has deprecated."""

    content: str | None
    name: str


Message: TypeAlias = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


class ChatExample(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One training row: a conversation with at least one assistant message.

    `weight`: how much each of its tokens counts beside those of other rows; 1 where it is left out.
    """

    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: list[Tool] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionSpec], Meta(min_length=1, max_length=128)] | None = None
    weight: Annotated[float, Meta(gt=0)] | None = None


class PromptCompletion(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """The pre-2023 row: read as one user turn and one assistant turn."""

    prompt: str
    completion: str


class PlainText(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """A document of continued pre-training."""

    text: str


class PreferenceInput(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """What both answers of a pair answer."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: list[Tool] | None = None
    parallel_tool_calls: bool | None = None


OneAnswer: TypeAlias = Annotated[list[AssistantMessage], Meta(min_length=1, max_length=1)]


class PreferencePair(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """A row of preference data: two answers to one conversation, the better one first."""

    input: PreferenceInput
    preferred_output: OneAnswer
    non_preferred_output: OneAnswer


class OlderPreferencePair(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """The same under the names of OpenAI's first description of it."""

    input: PreferenceInput
    preferred_completion: OneAnswer
    non_preferred_completion: OneAnswer


class LabelledConversation(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """A conversation, and whether its last answer is wanted."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    label: bool
    tools: list[Tool] | None = None
    parallel_tool_calls: bool | None = None


class LabelledCompletion(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """The same as TRL has it: what is answered, the answer, and whether it is wanted."""

    prompt: str | Annotated[list[Message], Meta(min_length=1)]
    completion: str | OneAnswer
    label: bool
    tools: list[Tool] | None = None
