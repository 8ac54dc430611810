"""JSON schemas at random, of everything that the hosting engine claims to enforce."""

import random
from typing import Any

Schema = dict[str, Any]
PATTERNS = (r"^[A-Z]{2}-[0-9]{3}$", r"^(low|middle|high)$", r"^[a-f0-9]{4,8}$", r"^\p{L}+( \p{L}+)?$")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email", "duration")
VALUES: tuple[object, ...] = (None, True, False, 0, -7, 12.5, "", 'a\n"b"', "été", [], [1, "two"], {"k": 1})


def schema(numbers: random.Random, depth: int = 3) -> Schema:
    """A schema that objects, arrays and unions in it may nest `depth` deep."""
    kinds = [string, number, constant, nullable] + ([record, record, array, union, mapping] if depth else [])
    return numbers.choice(kinds)(numbers, depth)


def string(numbers: random.Random, _: int) -> Schema:
    match numbers.randrange(4):
        case 0:
            return {"type": "string", "pattern": numbers.choice(PATTERNS)}
        case 1:
            return {"type": "string", "format": numbers.choice(FORMATS)}
        case 2:
            low = numbers.randrange(4)
            return {"type": "string", "minLength": low, "maxLength": low + numbers.randrange(12)}
        case _:
            return {"type": "string", "maxLength": 30}


def number(numbers: random.Random, _: int) -> Schema:
    low = numbers.randrange(-1000, 1000)
    kind = numbers.choice(["integer", "number"])
    made: Schema = {"type": kind, "minimum": low, "maximum": low + numbers.randrange(1, 5000)}
    if numbers.random() < 0.3:
        made["exclusiveMinimum"] = made.pop("minimum")
    if kind == "integer" and numbers.random() < 0.2:
        made = {"type": kind, "multipleOf": numbers.choice([2, 5, 10]), "minimum": 0, "maximum": 10_000}
    return made


def constant(numbers: random.Random, _: int) -> Schema:
    if numbers.random() < 0.3:
        return {"const": numbers.choice(VALUES)}
    return {"enum": numbers.sample(VALUES, numbers.randint(1, 5))}


def nullable(numbers: random.Random, _: int) -> Schema:
    return {"type": ["string", "null"], "maxLength": 10} if numbers.random() < 0.5 else {"type": "boolean"}


def record(numbers: random.Random, depth: int) -> Schema:
    names = numbers.sample(["name", "age", "tags", "été", "a b", 'q"uote', "x", "$id_", "_"], numbers.randint(1, 4))
    made: Schema = {"type": "object", "properties": {name: schema(numbers, depth - 1) for name in names}}
    made["required"] = numbers.sample(names, numbers.randint(0, len(names)))
    made["additionalProperties"] = False
    return made


def array(numbers: random.Random, depth: int) -> Schema:
    low = numbers.randrange(3)
    made: Schema = {"type": "array", "items": schema(numbers, depth - 1), "minItems": low, "maxItems": low + 2}
    if numbers.random() < 0.3:
        made["prefixItems"] = [schema(numbers, depth - 1)]
    return made


def union(numbers: random.Random, depth: int) -> Schema:
    return {"anyOf": [schema(numbers, depth - 1) for _ in range(numbers.randint(2, 3))]}


def mapping(numbers: random.Random, depth: int) -> Schema:
    return {"type": "object", "additionalProperties": schema(numbers, depth - 1), "maxProperties": 2}


def root(numbers: random.Random) -> Schema:
    """A record as requests have it; some refer to a definition, or to themselves."""
    made = record(numbers, 3)
    if numbers.random() < 0.5:
        made["properties"]["defined"] = {"$ref": "#/$defs/Defined"}
        made["$defs"] = {"Defined": schema(numbers, 2)}
    if numbers.random() < 0.3:
        made["properties"]["next"] = {"anyOf": [{"type": "null"}, {"$ref": "#"}]}
    return made
