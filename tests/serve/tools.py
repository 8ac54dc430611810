"""Two tools, one of which takes arguments that refer to a definition, and whether a call fits them."""

from typing import Any

import jsonschema_rs

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"$ref": "#/$defs/Days"}},
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"Days": {"type": "integer", "minimum": 1, "maximum": 14}},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]
NOTHING: dict[str, Any] = {"type": "object", "maxProperties": 0}


def assert_callable(name: str, arguments: object) -> None:
    jsonschema_rs.validate({"weather": CITY, "now": NOTHING}[name], arguments)
