"""What clients may ask of an answer's form: `response_format`, `tools`, `tool_choice`, `parallel_tool_calls`.

Knows the fields and how they go together; knows nothing of templates or grammars. Fields are checked by msgspec, which
names the path at fault.
"""

from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct

from tunewise.contracts.chat import Tool
from tunewise.errors import ConfigError

Json: TypeAlias = dict[str, Any]
Choice: TypeAlias = Literal["none", "auto", "required"]
NAME_PATTERN = r"^[a-zA-Z0-9_-]{1,64}$"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
TOOLS_MAX = 128  # OpenAI's
ANY_OBJECT: Json = {"type": "object"}


class TextFormat(Struct, tag_field="type", tag="text", forbid_unknown_fields=True, frozen=True):
    """Any text."""


class JsonObjectFormat(Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True, frozen=True):
    """Any JSON object."""


class NamedSchema(Struct, forbid_unknown_fields=True, frozen=True):
    """A JSON schema. It is enforced whatever `strict` says."""

    name: Name
    schema: Json | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True, frozen=True):
    """JSON that a schema allows."""

    json_schema: NamedSchema


ResponseFormat: TypeAlias = TextFormat | JsonObjectFormat | JsonSchemaFormat


class FunctionName(Struct, forbid_unknown_fields=True, frozen=True):
    """One of the tools, by name."""

    name: str


class FunctionChoice(Struct, forbid_unknown_fields=True, frozen=True):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class Form(NamedTuple):
    """What an answer is to be. `tools` are those that may be called, all of them told to the model.

    `schema`: of a text answer, where it is to be JSON; `name`: the one function that must be called, if it is named.
    """

    schema: Json | None = None
    schema_param: str = ""
    tools: tuple[Tool, ...] = ()
    choice: Choice = "none"
    name: str | None = None
    parallel: bool = True

    def callable_tools(self) -> list[tuple[int, Tool]]:
        """The tools that may be called, with their places in the request."""
        return [(at, tool) for at, tool in enumerate(self.tools) if self.name in {None, tool.function.name}]


def converted(value: object, kind: Any, name: str, code: str = "invalid_value") -> Any:  # noqa: ANN401
    """A field's value as `kind`, which may be a union or annotated; no type of a parameter says that.

    Raises:
        ConfigError: `code`, with the path of what is at fault.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at ")
        param = path.strip("`").replace("$", name) or name
        raise ConfigError(code, f"{param}: {text}", param=param) from error


def read_form(response_format: object, tools: object, tool_choice: object, parallel: bool | None) -> Form:
    """The four fields as one; each may be None.

    Raises:
        ConfigError: `invalid_value`, naming the field at fault.
    """
    schema, param = _schema(converted(response_format, ResponseFormat | None, "response_format"))
    given: list[Tool] = converted(
        [] if tools is None else tools, Annotated[list[Tool], Meta(max_length=TOOLS_MAX)], "tools"
    )
    wanted: Choice | FunctionChoice | None = converted(tool_choice, Choice | FunctionChoice | None, "tool_choice")
    _check_names(given)
    choice, name = _choice(wanted, given)
    if choice == "none":
        return Form(schema, param)
    return Form(schema, param, tuple(given), choice, name, parallel is not False)


def _schema(wanted: ResponseFormat | None) -> tuple[Json | None, str]:
    match wanted:
        case None | TextFormat():
            return None, ""
        case JsonObjectFormat():
            return ANY_OBJECT, "response_format"
        case JsonSchemaFormat(json_schema):
            schema = json_schema.schema
            return ANY_OBJECT if schema is None else schema, "response_format.json_schema.schema"


def _check_names(tools: list[Tool]) -> None:
    seen: set[str] = set()
    for at, tool in enumerate(tools):
        param = f"tools[{at}].function.name"
        converted(tool.function.name, Name, param)
        if tool.function.name in seen:
            message = f"{param}: {tool.function.name!r} is the name of a tool before it; give each its own"
            raise ConfigError("invalid_value", message, param=param)
        seen.add(tool.function.name)


def _choice(wanted: Choice | FunctionChoice | None, tools: list[Tool]) -> tuple[Choice, str | None]:
    if isinstance(wanted, FunctionChoice):
        name, names = wanted.function.name, [tool.function.name for tool in tools]
        if name not in names:
            message = f"tool_choice: {name!r} is no function in tools, which has {', '.join(names) or 'none'}"
            raise ConfigError("invalid_value", message, param="tool_choice.function.name")
        return "required", name
    if wanted == "required" and not tools:
        raise ConfigError("invalid_value", "tool_choice: 'required' needs tools", param="tool_choice")
    return (wanted or "auto" if tools else "none"), None
