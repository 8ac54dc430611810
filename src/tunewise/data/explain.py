"""Why a row was refused: every problem in it, with field path, value and remedy.

The slow path. The decoder stops at its first error and says it in a decoder's words; this module walks the row along
the very types that the decoder used (`msgspec.inspect`), so the two cannot disagree about what a row may hold. Knows
nothing of files.
"""

import json

import msgspec
from msgspec import inspect

from tunewise.contracts.chat import (
    ChatExample,
    Json,
    LabelledCompletion,
    LabelledConversation,
    OlderPreferencePair,
    PlainText,
    PreferencePair,
    PromptCompletion,
)
from tunewise.contracts.check import RowFormat
from tunewise.data.problems import Problem, shorten

# Of each format its forms, each with a field that only it has; the last is taken where none of these is there.
FORMATS: dict[RowFormat, tuple[tuple[str, inspect.Type], ...]] = {
    "chat": (("messages", inspect.type_info(ChatExample)),),
    "prompt_completion": (("prompt", inspect.type_info(PromptCompletion)),),
    "preference": (
        ("preferred_completion", inspect.type_info(OlderPreferencePair)),
        ("non_preferred_completion", inspect.type_info(OlderPreferencePair)),
        ("preferred_output", inspect.type_info(PreferencePair)),
    ),
    "labelled": (
        ("prompt", inspect.type_info(LabelledCompletion)),
        ("completion", inspect.type_info(LabelledCompletion)),
        ("messages", inspect.type_info(LabelledConversation)),
    ),
    "text": (("text", inspect.type_info(PlainText)),),
}

LEAVES: dict[type[inspect.Type], str] = {
    inspect.StrType: "string",
    inspect.BoolType: "true or false",
    inspect.FloatType: "number",
    inspect.NoneType: "null",
}
REMEDIES = {
    "from": 'this is the ShareGPT form; rename it to "role" (human → user, gpt → assistant)',
    "value": 'OpenAI\'s name is "content", and "text" in a content part',
    "conversations": 'this is the ShareGPT form; rename it to "messages"',
    "loss_weight": 'OpenAI\'s name is "weight", 0 or 1, on assistant messages only',
    "instruction": "this is the Alpaca form; make it a user message, with the input after it",
    "output": "this is the Alpaca form; put it into an assistant message",
    "text": "plain text has no roles; supervised fine-tuning needs messages, and pretraining a file of nothing else",
    "weight": "weight may stand on assistant messages, and beside messages for the whole row",
    "tool_calls": "tool_calls may stand on assistant messages only",
    "prompt": "the file's other rows are chat rows; make it a user message",
    "completion": "the file's other rows are chat rows; make it an assistant message",
    "messages": "the file's other rows are of another format; use one in a file",
    "label": "the file's first row has none; rows for KTO have a label each, other rows none",
    "kto_tag": 'the name is "label"; `tunewise data convert FILE --to labelled` renames it',
}


def explain_row(line: bytes, row_format: RowFormat) -> list[Problem]:
    """Every problem of a line that `formats.decode_row` refused; never empty for such a line."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return [_invalid_utf8(line, error)]
    try:
        value = msgspec.json.decode(line)
    except RecursionError:
        return [_too_deep()]
    except msgspec.DecodeError as error:
        return [_invalid_json(text, error)]
    problems = _walk(_form_of(row_format, value), value, "")
    if not problems:
        # Decodes alone and not with its types: a key given twice, the first of which was refused.
        return [Problem("error", "duplicate_key", "a key is given twice in one object", "keep one of the two")]
    return problems


def _form_of(row_format: RowFormat, value: Json) -> inspect.Type:
    """Which form of a format a row is meant to have."""
    forms = FORMATS[row_format]
    named = [form for field, form in forms if isinstance(value, dict) and field in value]
    return named[0] if named else forms[-1][1]


def _invalid_utf8(line: bytes, error: UnicodeDecodeError) -> Problem:
    return Problem(
        "error",
        "invalid_utf8",
        f"byte {error.start + 1} of the line (0x{line[error.start]:02X}) is not UTF-8",
        "save the file as UTF-8; from Latin-1: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW",
        value=shorten(line[max(0, error.start - 20) : error.start + 20].decode("cp1252", errors="replace")),
    )


def _too_deep() -> Problem:
    return Problem("error", "too_deep", "the row nests hundreds of levels deep", "a row needs six levels; look at it")


def _invalid_json(text: str, error: msgspec.DecodeError) -> Problem:
    """Python's parser says it best; where it is laxer than JSON, the stricter decoder's word stands."""
    reason, column = str(error), None
    try:
        json.loads(text)
    except json.JSONDecodeError as plain:
        reason, column = plain.msg, plain.colno
    except (RecursionError, ValueError):
        return _too_deep()
    else:
        reason = _laxness(text, reason)
    where = "" if column is None else f" at column {column}"
    around = text if column is None else text[max(0, column - 21) : column + 19]
    return Problem(
        "error",
        "invalid_json",
        f"not valid JSON{where}: {reason}",
        "a row is one JSON object on one line; write it with json.dumps, not by hand",
        value=shorten(around),
    )


def _laxness(text: str, reason: str) -> str:
    """What Python's parser takes and JSON does not."""
    if "\\ud" in text.lower():
        return "half of a surrogate pair stands alone (\\ud800 to \\udfff)"
    return "NaN and Infinity are not JSON" if "NaN" in text or "Infinity" in text else reason


def _walk(kind: inspect.Type, value: Json, path: str) -> list[Problem]:
    """The problems of `value` as a `kind`."""
    match kind:
        case inspect.StructType():
            # The decoder lets the tag be missing where there is one type only.
            if isinstance(value, dict) and kind.tag_field in value:
                return _walk_tagged([kind], value, path)
            return _walk_struct(kind, value, path)
        case inspect.ListType():
            return _walk_list(kind, value, path)
        case inspect.UnionType():
            return _walk_union(kind, value, path)
        case _:
            return _walk_leaf(kind, value, path)


def _walk_leaf(kind: inspect.Type, value: Json, path: str) -> list[Problem]:
    if isinstance(kind, inspect.AnyType):
        return []
    if isinstance(kind, inspect.LiteralType):
        # In Python True equals 1; in JSON it does not.
        fits = value in kind.values and type(value) in {type(allowed) for allowed in kind.values}
        return [] if fits else [_wrong_value(kind, value, path)]
    if not _is_plain(kind, value):
        return [_wrong_type(name_of(kind), value, path)]
    if isinstance(kind, inspect.FloatType) and kind.gt is not None and value <= kind.gt:
        return [_too_small(kind.gt, value, path)]
    return []


def _is_plain(kind: inspect.Type, value: Json) -> bool:
    match kind:
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case inspect.NoneType():
            return value is None
        case inspect.DictType():
            return isinstance(value, dict)
        case _:
            raise AssertionError(f"a type that no row has: {kind}")


def _walk_struct(kind: inspect.StructType, value: Json, path: str) -> list[Problem]:
    if not isinstance(value, dict):
        return [_wrong_type("object", value, path) if path else _not_an_object(value)]
    known = {field.encode_name: field for field in kind.fields}
    problems = [
        _unknown_field(name, value[name], path, known) for name in value if name not in known and name != kind.tag_field
    ]
    for name, field in known.items():
        if name in value:
            problems += _walk(field.type, value[name], f"{path}.{name}" if path else name)
        elif field.required:
            problems.append(_missing_field(name, path))
    return problems


def _walk_list(kind: inspect.ListType, value: Json, path: str) -> list[Problem]:
    if not isinstance(value, list):
        return [_wrong_type("array", value, path)]
    least, most = kind.min_length or 0, kind.max_length
    if len(value) < least:
        return [
            Problem(
                "error", "empty_list", f"{path} is empty", "put at least one element in, or leave it out", path, "[]"
            )
        ]
    if most is not None and len(value) > most:
        return [
            Problem(
                "error", "too_long", f"{path} has {len(value)} elements, at most {most} are allowed", "shorten it", path
            )
        ]
    return [p for n, item in enumerate(value) for p in _walk(kind.item_type, item, f"{path}[{n}]")]


def _walk_union(kind: inspect.UnionType, value: Json, path: str) -> list[Problem]:
    structs = [t for t in kind.types if isinstance(t, inspect.StructType)]
    if isinstance(value, dict) and len(structs) > 1:
        return _walk_tagged(structs, value, path)
    fitting = [t for t in kind.types if _same_kind(t, value)]
    if not fitting:
        return [_wrong_type(" or ".join(name_of(t) for t in kind.types), value, path)]
    return _walk(fitting[0], value, path)


def _walk_tagged(structs: list[inspect.StructType], value: dict[str, Json], path: str) -> list[Problem]:
    field = structs[0].tag_field or ""
    tags = {str(struct.tag): struct for struct in structs}
    if field not in value:
        return [_missing_field(field, path), *_strange_fields(structs, value, path)]
    tag = value[field]
    if isinstance(tag, str) and tag in tags:
        return _walk_struct(tags[tag], value, path)
    shown = shorten(json.dumps(tag, ensure_ascii=False))
    return [
        Problem(
            "error",
            f"invalid_{field}",
            f"{field} {shown} is not one of {', '.join(tags)}",
            _role_remedy(tag),
            f"{path}.{field}",
            shown,
        ),
        *_strange_fields(structs, value, path),
    ]


def _strange_fields(structs: list[inspect.StructType], value: dict[str, Json], path: str) -> list[Problem]:
    """Fields that none of the structs has: all that can be said while the tag is unknown."""
    known = {field.encode_name: field for struct in structs for field in struct.fields}
    return [_unknown_field(n, value[n], path, known) for n in value if n not in known and n != structs[0].tag_field]


def _same_kind(kind: inspect.Type, value: Json) -> bool:
    match kind:
        case inspect.StructType():
            return isinstance(value, dict)
        case inspect.ListType():
            return isinstance(value, list)
        case inspect.LiteralType():
            return isinstance(value, int | str) and not isinstance(value, bool)
        case _:
            return _is_plain(kind, value)


def _role_remedy(tag: Json) -> str:
    known = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant"}
    better = known.get(tag.lower()) if isinstance(tag, str) else None
    return f'write "{better}"' if better else "use one of these"


def name_of(kind: inspect.Type) -> str:
    """A type in JSON's words."""
    match kind:
        case inspect.StructType() | inspect.DictType():
            return "object"
        case inspect.ListType():
            return "array"
        case inspect.StrType() | inspect.BoolType() | inspect.FloatType() | inspect.NoneType():
            return LEAVES[type(kind)]
        case inspect.LiteralType():
            return " or ".join(json.dumps(v) for v in kind.values)
        case _:
            raise AssertionError(f"a type that no row has: {kind}")


def json_name(value: Json) -> str:
    """The kind of a decoded value in JSON's words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _shown(value: Json) -> str:
    return shorten(json.dumps(value, ensure_ascii=False)) if not isinstance(value, dict | list) else json_name(value)


def _wrong_type(expected: str, value: Json, path: str) -> Problem:
    message = f"{path} is {_shown(value)}, {expected} expected"
    return Problem("error", "wrong_type", message, f"make it {expected}", path, _shown(value))


def _wrong_value(kind: inspect.LiteralType, value: Json, path: str) -> Problem:
    expected = name_of(kind)
    return Problem(
        "error",
        "invalid_value",
        f"{path} is {_shown(value)}, {expected} expected",
        f"write {expected}",
        path,
        _shown(value),
    )


def _too_small(limit: float, value: Json, path: str) -> Problem:
    message = f"{path} is {_shown(value)}, a number above {limit:g} expected"
    remedy = f"write a number above {limit:g}, leave it out (it counts as 1), or remove the row"
    return Problem("error", "invalid_value", message, remedy, path, _shown(value))


def _not_an_object(value: Json) -> Problem:
    message = f"the row is {_article(json_name(value))}, not an object"
    return Problem("error", "not_an_object", message, 'write {"messages": [...]}', None, _shown(value))


def _article(noun: str) -> str:
    return noun if noun in ("null", "true or false") else f"{'an' if noun[0] in 'ao' else 'a'} {noun}"


def _missing_field(name: str, path: str) -> Problem:
    full = f"{path}.{name}" if path else name
    return Problem("error", "missing_field", f"{full} is missing", f'add "{name}"', full)


def _unknown_field(name: str, value: Json, path: str, known: dict[str, inspect.Field]) -> Problem:
    full = f"{path}.{name}" if path else name
    remedy = REMEDIES.get(name, f"remove it; known here: {', '.join(known)}")
    return Problem(
        "error",
        "unknown_field",
        f"{shorten(full)} is not a field of OpenAI's format",
        remedy,
        shorten(full),
        _shown(value),
    )
