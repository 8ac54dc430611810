"""Formats of strings in JSON schemas, as narrow as those who read the answers take them.

llguidance's dates may be 29 February of any year, its times may have a second 60, and its mail addresses parts of any
length; Python's `datetime`, pydantic and JSON schema validators refuse those. Knows schemas; knows nothing of grammars.
"""

from typing import Any, TypeAlias

Json: TypeAlias = Any

LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
REAL_DAY = f"^([0-9]{{4}}-(0[13-9]|1[0-2])-|[0-9]{{4}}-02-(0[0-9]|1[0-9]|2[0-8])|{LEAP_YEAR}-02-29)"
FROM_YEAR_1 = "^(000[1-9]|00[1-9]|0[1-9]|[1-9])"
NARROWER: dict[str, tuple[str, ...]] = {
    "date": (REAL_DAY, FROM_YEAR_1),
    "time": ("^[0-9]{2}:[0-9]{2}:[0-5]",),
    "date-time": (REAL_DAY, FROM_YEAR_1, "^.{11}[0-9]{2}:[0-9]{2}:[0-5]"),
    "email": ("^[^@]{1,64}@([^.@]{1,63}[.])*[^.@]{1,63}$", "^.{3,254}$"),
}
DATA = frozenset({"const", "enum", "default", "examples"})
SCHEMAS_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


def narrowed(schema: Json) -> Json:
    """The schema with patterns added to its formats, wherever in it they stand."""
    if isinstance(schema, list):
        return [narrowed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _value(key, value) for key, value in schema.items()}
    kind = schema.get("format")
    patterns = NARROWER.get(kind, ()) if isinstance(kind, str) else ()
    others = made.get("allOf", [])
    if patterns and isinstance(others, list):
        made["allOf"] = [*others, *({"pattern": pattern} for pattern in patterns)]
    return made


def _value(key: str, value: Json) -> Json:
    if key in DATA:
        return value
    if key in SCHEMAS_BY_NAME and isinstance(value, dict):
        return {name: narrowed(one) for name, one in value.items()}
    return narrowed(value)
