"""What the Responses API says of an answer's form, in its words and in chat's: text formats, functions, the choice.

Knows both wires; whether a schema can be enforced is for the model server to say.
"""

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field

from tunewise.contracts.frozen import Frozen

ToolChoice: TypeAlias = Literal["none", "auto", "required"]
PARAMS = (
    (re.compile(r"^messages\b"), "input"),
    (re.compile(r"^max_completion_tokens$"), "max_output_tokens"),
    (re.compile(r"^response_format(\.json_schema)?"), "text.format"),
    (re.compile(r"^(tools\[\d+\]|tool_choice)\.function\b"), r"\1"),
)
"""How chat's fields are called here."""


class PlainText(Frozen):
    """Any text."""

    type: Literal["text"] = "text"


class JsonObject(Frozen):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Frozen):
    """JSON that a schema allows; it is enforced whatever `strict` says."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    def chat(self) -> dict[str, Any]:
        """As chat has it."""
        named = {"name": self.name, "schema": self.schema_, "description": self.description, "strict": self.strict}
        return {"type": "json_schema", "json_schema": named}


class TextConfig(Frozen):
    """How the text is formed."""

    format: Annotated[PlainText | JsonObject | JsonSchema, Field(discriminator="type")] = PlainText()

    def chat(self) -> dict[str, Any]:
        """As chat's `response_format`."""
        return self.format.chat() if isinstance(self.format, JsonSchema) else self.format.model_dump()


class FunctionTool(Frozen):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None

    def chat(self) -> dict[str, Any]:
        """As chat has it."""
        return {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_none=True)}


class FunctionChoice(Frozen):
    """The function that must be called."""

    type: Literal["function"]
    name: str

    def chat(self) -> dict[str, Any]:
        """As chat has it."""
        return {"type": "function", "function": {"name": self.name}}


def renamed(param: str | None) -> str | None:
    """A field of chat's by its name here."""
    if param is None:
        return None
    for pattern, name in PARAMS:
        param = pattern.sub(name, param)
    return param
