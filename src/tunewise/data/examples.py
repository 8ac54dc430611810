"""Rows of a table to examples, through a column mapping: chats, labelled answers, and OpenAI's preference pairs.

Knows one row at a time. Every example that comes out has passed the decoder and the rules of `data check`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, assert_never

import msgspec

from tunewise.contracts.importing import ColumnMapping
from tunewise.data import rules
from tunewise.data.answers import decode_labelled, decode_preference
from tunewise.data.explain import explain_row
from tunewise.data.formats import CHAT
from tunewise.data.pairs import problems_of
from tunewise.data.problems import Problem, problem_of, shorten
from tunewise.data.turns import Manner, Message, as_json, is_message, is_messages, to_messages, to_tools
from tunewise.errors import DataError

# Anthropic's hh-rlhf and its kin: whole conversations as text.
SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")
TRUE_WORDS, FALSE_WORDS = {"true", "1", "yes", "t", "y"}, {"false", "0", "no", "f", "n"}
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class Made(NamedTuple):
    """One row's example as JSON, or None with what stands against it."""

    line: bytes | None
    problems: tuple[Problem, ...] = ()


def make_example(fields: Mapping[str, Any], mapping: ColumnMapping, ignored: set[str]) -> Made:
    """The example that a row becomes. `mapping` is complete; names of fields not carried over go into `ignored`."""
    try:
        match mapping.to:
            case "preference":
                return _proved_answers(_pair(fields, mapping, ignored), "preference")
            case "labelled":
                label = _label(fields.get(mapping.label or ""), mapping.label or "")
                return _proved_answers({**_chat(fields, mapping, ignored), "label": label}, "labelled")
            case "chat" | None:
                return _proved(_chat(fields, mapping, ignored))
            case _:
                assert_never(mapping.to)
    except DataError as error:
        return Made(None, (problem_of(error),))
    except (UnicodeEncodeError, TypeError, RecursionError) as error:
        return Made(None, (Problem("error", "not_text", f"the row cannot be written: {error}", "look at the row"),))


def _label(value: Any, column: str) -> bool:  # noqa: ANN401
    """Whether an answer is wanted, as JSON and tables of text say it."""
    said = value.strip().lower() if isinstance(value, str) else value
    if said in TRUE_WORDS or said is True or said == 1:
        return True
    if said in FALSE_WORDS or said is False or said == 0:
        return False
    raise DataError(
        "wrong_type",
        f"column {column!r} holds {shorten(repr(value))}; true or false is expected: leave the row out, or label it",
        param=column,
    )


def _chat(fields: Mapping[str, Any], mapping: ColumnMapping, ignored: set[str]) -> dict[str, Any]:
    manner = Manner(mapping.reasoning, mapping.strip, ignored)
    if mapping.messages:
        messages = _conversation(fields.get(mapping.messages), manner, mapping.messages)
    else:
        messages = _asked(fields, mapping, manner)
        messages += _spoken(fields.get(mapping.completion or ""), "assistant", manner, mapping.completion or "")
    return _with_tools({"messages": _with_system(messages, fields, mapping)}, fields, mapping, ignored)


def _asked(fields: Mapping[str, Any], mapping: ColumnMapping, manner: Manner) -> list[Message]:
    """The prompt's messages; with the input after a blank line, as Alpaca's prompt has it."""
    name = mapping.prompt or ""
    value = fields.get(name)
    more = _text(fields.get(mapping.input), mapping.input) if mapping.input else ""
    if more and not more.isspace():
        value = f"{_text(value, name)}\n\n{more}"
    return _spoken(value, "user", manner, name)


def _spoken(value: Any, role: str, manner: Manner, column: str) -> list[Message]:  # noqa: ANN401
    """A cell as messages: a conversation, a message, `{"messages": …}`, or a text that `role` says."""
    if isinstance(value, str):
        found = as_json(value) if value.startswith(("[{", "{")) else value
        value = found if is_messages(found) or is_message(found) else value
    if isinstance(value, dict) and is_messages(value.get("messages")):
        value = value["messages"]
    if is_messages(value):
        return to_messages(value, manner)
    if is_message(value):
        return to_messages([value], manner)
    text = _text(value, column)
    return [{"role": role, "content": text.strip() if manner.strip else text}]


def _text(value: Any, column: str) -> str:  # noqa: ANN401
    match value:
        case None:
            return ""
        case str():
            return value
        case bool() | int() | float():
            return msgspec.json.encode(value).decode()
        case _:
            raise DataError(
                "wrong_type", f"column {column!r} holds {shorten(repr(value))}; a text is expected", param=column
            )


def _conversation(value: Any, manner: Manner, column: str) -> list[Message]:  # noqa: ANN401
    found = as_json(value)
    if not isinstance(found, list) or not found:
        raise DataError(
            "wrong_type",
            f"column {column!r} holds {shorten(repr(value))}; a list of messages is expected",
            param=column,
        )
    return to_messages(found, manner)


def _with_system(messages: list[Message], fields: Mapping[str, Any], mapping: ColumnMapping) -> list[Message]:
    own = _text(fields.get(mapping.system), mapping.system) if mapping.system else ""
    has_one = bool(messages) and messages[0]["role"] in {"system", "developer"}
    if own.strip() and has_one:
        raise DataError(
            "two_system_messages",
            f"column {mapping.system!r} and the conversation both hold a system message; leave one of the two out, as "
            "in --map system=",
            param=mapping.system,
        )
    text = own if own.strip() else mapping.system_text
    return messages if has_one or text is None else [{"role": "system", "content": text}, *messages]


def _with_tools(
    target: dict[str, Any], fields: Mapping[str, Any], mapping: ColumnMapping, ignored: set[str]
) -> dict[str, Any]:
    tools = to_tools(fields.get(mapping.tools), ignored) if mapping.tools else []
    return {**target, "tools": tools} if tools else target


def _proved(example: dict[str, Any]) -> Made:
    """The example as JSON, once the decoder and the rules have nothing against it."""
    line = msgspec.json.encode(example)
    problems = _problems(line)
    return Made(None, problems) if problems else Made(line)


def _problems(line: bytes) -> tuple[Problem, ...]:
    try:
        decoded = CHAT.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return tuple(explain_row(line, "chat"))
    if not rules.sweep([decoded])[1]:
        return tuple(problem for problem in rules.row_problems(decoded) if problem.severity == "error")
    return ()


def _pair(fields: Mapping[str, Any], mapping: ColumnMapping, ignored: set[str]) -> dict[str, Any]:
    manner = Manner(mapping.reasoning, mapping.strip, ignored)
    chosen, rejected = (
        _answer(fields.get(name), manner, name) for name in (mapping.chosen or "", mapping.rejected or "")
    )
    before = _before(fields, mapping, manner)
    shared = _shared_start(chosen, rejected)
    if (
        shared
        and before
        and [m for m in shared if m["role"] != "system"] != [m for m in before if m["role"] != "system"]
    ):
        raise DataError(
            "prompts_differ",
            f"{mapping.chosen} and {mapping.rejected} begin with another conversation than the prompt column holds; "
            "leave that column out, as in --map prompt=",
            param=mapping.prompt,
        )
    asked = shared if len(shared) >= len(before) else before
    better, worse = chosen[len(shared) :], rejected[len(shared) :]
    if [m["role"] for m in better] != ["assistant"] or [m["role"] for m in worse] != ["assistant"]:
        raise DataError(
            "no_single_answer",
            f"{mapping.chosen} and {mapping.rejected} part in more than one answer each ({len(better)} and "
            f"{len(worse)} messages); cut both after the first answer that differs",
            param=mapping.chosen,
        )
    if not asked:
        raise DataError("no_prompt", "there is nothing that is answered; name the column: --map prompt=COLUMN")
    wrapped = _with_tools({"messages": _with_system(asked, fields, mapping)}, fields, mapping, ignored)
    native = fields.get(mapping.prompt or "")
    if "tools" not in wrapped and isinstance(native, dict) and native.get("tools"):
        wrapped["tools"] = to_tools(native["tools"], ignored)
    return {"input": wrapped, "preferred_output": better, "non_preferred_output": worse}


def _before(fields: Mapping[str, Any], mapping: ColumnMapping, manner: Manner) -> list[Message]:
    if mapping.messages:
        return _conversation(fields.get(mapping.messages), manner, mapping.messages)
    return _asked(fields, mapping, manner) if mapping.prompt else []


def _answer(value: Any, manner: Manner, column: str) -> list[Message]:  # noqa: ANN401
    if not isinstance(value, str) or not value.startswith("\n\nHuman:"):
        return _spoken(value, "assistant", manner, column)
    pieces = SPEAKER.split(value)[1:]
    return [
        {"role": SPEAKERS[who], "content": text.strip() if manner.strip else text}
        for who, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def _shared_start(one: Sequence[Message], other: Sequence[Message]) -> list[Message]:
    same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    # Equal answers are no prompt: the pair is refused as such.
    return list(one[: min(same, len(one) - 1, len(other) - 1)])


def _proved_answers(row: dict[str, Any], row_format: Literal["preference", "labelled"]) -> Made:
    """The row as JSON, once the decoder and the rules have nothing against any of its answers."""
    line = msgspec.json.encode(row)
    try:
        found = problems_of(decode_preference(line) if row_format == "preference" else decode_labelled(line))
    except (msgspec.DecodeError, RecursionError):
        return Made(None, tuple(explain_row(line, row_format)))
    problems = tuple(problem for problem in found if problem.severity == "error" or problem.code == "no_user_message")
    return Made(None, problems) if problems else Made(line)
