"""Messages of any dialect to OpenAI's: ShareGPT's from/value, content parts, calls of functions, tools, weights.

Knows one conversation at a time; knows no files and no columns. What has no place in OpenAI's form is either refused
with its reason or named in `ignored`; nothing is dropped without a word.
"""

import ast
import json
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from tunewise.contracts.importing import Reasoning
from tunewise.data.problems import shorten
from tunewise.errors import DataError

Message: TypeAlias = dict[str, Any]

CALL = "function_call"
ROLES = {
    "system": "system", "developer": "developer",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant",
    "function_call": CALL, "tool_call": CALL,
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
WEIGHTS = ("weight", "loss_weight", "train")
SAID = {"role", "from", "content", "value", *WEIGHTS}
NOTHING: tuple[object, ...] = (None, "", [], {})
REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")
CARRIED: dict[str, tuple[str, ...]] = {
    "system": ("name",),
    "developer": ("name",),
    "user": ("name",),
    "assistant": ("name", "refusal", "function_call"),
    "tool": ("name",),
}


class Manner(NamedTuple):
    """How messages are to be taken over; `ignored` gathers the names of fields that were not."""

    reasoning: Reasoning | None
    strip: bool
    ignored: set[str]


class _Said(NamedTuple):
    """A message's content: its text, its reasoning, and the calls that stand in its parts."""

    texts: list[str]
    reasoning: list[str]
    calls: list[Any]


def as_json(value: Any) -> Any:  # noqa: ANN401
    """A cell as the list or object that its text is of, in JSON or as Python prints it; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        pass
    try:
        # What pandas writes into a CSV file for a list.
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def is_messages(value: object) -> bool:
    """Whether a value is a list of messages, as far as its first entry shows."""
    return isinstance(value, list) and bool(value) and is_message(value[0])


def is_message(value: object) -> bool:
    """Whether a value is one message: who speaks, and what is said."""
    if not isinstance(value, dict):
        return False
    role = value.get("role", value.get("from"))
    return isinstance(role, str) and role.lower() in ROLES and bool(value.keys() & {"content", "value", "tool_calls"})


def has_reasoning(value: object) -> bool:
    """Whether a conversation holds reasoning beside its answers."""
    return is_messages(value) and any(_reasons(entry) for entry in value if isinstance(entry, dict))  # type: ignore[attr-defined]


def _reasons(entry: Message) -> bool:
    content = entry.get("content", entry.get("value"))
    parts = content if isinstance(content, list) else []
    of_kind = any(isinstance(part, dict) and part.get("type") in REASONING_KEYS for part in parts)
    return of_kind or any(entry.get(key) for key in REASONING_KEYS)


def to_messages(entries: Sequence[Any], manner: Manner) -> list[Message]:
    """A conversation in OpenAI's form.

    Raises:
        DataError: an entry has no place in it; `param` names the entry.
    """
    messages: list[Message] = []
    waiting: deque[str] = deque()
    for index, entry in enumerate(entries):
        where = f"messages[{index}]"
        if not isinstance(entry, dict):
            raise DataError("wrong_type", f"{where} is {shorten(repr(entry))}; make it a message object", param=where)
        role = _role(entry, where)
        if role == "tool":
            messages += _answers(entry, waiting, manner, where)
            continue
        if waiting and messages[-1]["role"] == "tool":
            raise DataError(
                "missing_tool_answer",
                f"{where}: {len(waiting)} call(s) before it have no answer; give each call one, in their order",
                param=where,
            )
        made = _calling(entry, messages, where) if role == CALL else _message(entry, role, messages, manner, where)
        waiting.extend(call["id"] for call in made.get("tool_calls", ()))
        messages.append(made)
    return messages


def _role(entry: Message, where: str) -> str:
    told = entry.get("role", entry.get("from"))
    role = ROLES.get(told.lower()) if isinstance(told, str) else None
    if role is None:
        raise DataError(
            "invalid_role",
            f"{where}: the role is {shorten(repr(told))}; use one of system, user, assistant, tool or "
            "ShareGPT's human, gpt, function_call, observation",
            param=f"{where}.role",
        )
    # OpenAI's deprecated role has a name, and answers `function_call`; it is taken over as it is.
    return "function" if role == "tool" and told == "function" and "role" in entry and entry.get("name") else role


def _content(entry: Message) -> Any:  # noqa: ANN401
    return entry.get("content", entry.get("value"))


def _message(entry: Message, role: str, before: Sequence[Message], manner: Manner, where: str) -> Message:
    if role == "function":
        return {"role": role, "name": entry["name"], "content": _content(entry)}
    said = _read(_content(entry), where)
    said.reasoning.extend(str(entry[key]) for key in REASONING_KEYS if entry.get(key))
    content = _joined(said, manner, where)
    message: Message = {"role": role}
    calls = [*(entry.get("tool_calls") or ()), *said.calls]
    if content is not None or not calls:
        message["content"] = content if content is not None or role == "assistant" else ""
    message |= {key: entry[key] for key in CARRIED[role] if entry.get(key) is not None}
    if calls:
        message["tool_calls"] = _calls(calls, before, where)
    weight = _weight(entry, role, where)
    if weight is not None:
        message["weight"] = weight
    _note_ignored(entry, {*SAID, *CARRIED[role], "tool_calls", *REASONING_KEYS}, manner)
    return message


def _read(content: Any, where: str) -> _Said:  # noqa: ANN401
    said = _Said([], [], [])
    if isinstance(content, str):
        said.texts.append(content)
        return said
    if content is None:
        return said
    if not isinstance(content, list):
        shown = shorten(repr(content))
        raise DataError("wrong_type", f"{where}.content is {shown}; make it a text", param=f"{where}.content")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        value = None if kind is None else part.get("text", part.get("value"))
        if kind == "text" and isinstance(value, str):
            said.texts.append(value)
        elif kind in REASONING_KEYS:
            said.reasoning.append(str(value if value is not None else part.get(kind, "")))
        elif kind == "tool_call" and value is not None:
            said.calls.append(as_json(value))
        else:
            raise DataError(
                "unsupported_part",
                f"{where}.content has a part {shorten(repr(kind or part))}; only text is trained on: remove the row",
                param=f"{where}.content",
            )
    return said


def _joined(said: _Said, manner: Manner, where: str) -> str | list[Message] | None:
    """The content: a text, or text parts where there are several; None where there is none."""
    texts = [text.strip() for text in said.texts] if manner.strip else list(said.texts)
    if said.reasoning:
        match manner.reasoning:
            case None:
                raise DataError(
                    "reasoning_undecided",
                    f"{where} holds reasoning beside the answer; say --reasoning drop or --reasoning think",
                    param="reasoning",
                )
            case "think":
                texts = [f"<think>\n{chr(10).join(said.reasoning)}\n</think>\n\n" + "\n".join(texts)]
            case "drop":
                pass
    if len(texts) > 1:
        return [{"type": "text", "text": text} for text in texts]
    return texts[0] if texts else None


def _weight(entry: Message, role: str, where: str) -> int | None:
    """The loss weight of an assistant's message; others are never trained on, so that nothing else may be asked."""
    key = next((key for key in WEIGHTS if entry.get(key) is not None), None)
    if key is None:
        return None
    weight = entry[key]
    if weight not in (0, 1):
        raise DataError(
            "unsupported_weight",
            f"{where}.{key} is {weight!r}; only 0 and 1 can be trained with",
            param=f"{where}.{key}",
        )
    if role == "assistant":
        return int(weight)
    if weight == 1:
        raise DataError(
            "unsupported_weight",
            f"{where}.{key} is {weight!r} on a {role} message, and only answers are trained on; make it 0",
            param=f"{where}.{key}",
        )
    return None


def _calling(entry: Message, before: Sequence[Message], where: str) -> Message:
    """ShareGPT's function_call turn: one call, or a list of them, as JSON."""
    value = as_json(_content(entry))
    return {"role": "assistant", "tool_calls": _calls(value if isinstance(value, list) else [value], before, where)}


def _calls(calls: Sequence[Any], before: Sequence[Message], where: str) -> list[Message]:
    number = sum(len(message.get("tool_calls", ())) for message in before)
    return [_call(call, f"call_{number + n}", where) for n, call in enumerate(calls, start=1)]


def _call(call: Any, new_id: str, where: str) -> Message:  # noqa: ANN401
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(
            "invalid_tool_call",
            f'{where}: a call is {shorten(repr(call))}; write it as {{"name": …, "arguments": {{…}}}}',
            param=where,
        )
    arguments = function.get("arguments", function.get("parameters"))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return {
        "id": call.get("id") or new_id,
        "type": "function",
        "function": {"name": function["name"], "arguments": text},
    }


def _answers(entry: Message, waiting: deque[str], manner: Manner, where: str) -> list[Message]:
    """A tool's answer, to the call that it names or the first that waits; a list of answers, to all that wait."""
    content = _joined(_read(_content(entry), where), manner._replace(strip=False), where) or ""
    name = {"name": entry["name"]} if entry.get("name") else {}
    _note_ignored(entry, {*SAID, "name", "tool_call_id"}, manner)
    if entry.get("tool_call_id"):
        if entry["tool_call_id"] in waiting:
            waiting.remove(entry["tool_call_id"])
        return [_answer(entry["tool_call_id"], content, name)]
    if not waiting:
        raise DataError(
            "unknown_tool_call_id",
            f"{where}: a tool answers, and no call waits for it; remove it, or add the call",
            param=where,
        )
    listed = as_json(content)
    if len(waiting) == 1 or not isinstance(listed, list) or len(listed) != len(waiting):
        return [_answer(waiting.popleft(), content, name)]
    return [_answer(waiting.popleft(), _own_content(one), {}) for one in listed]


def _answer(call_id: str, content: str | list[Message], name: Message) -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **name}


def _own_content(one: Any) -> str:  # noqa: ANN401
    found = one.get("content", one) if isinstance(one, dict) else one
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _note_ignored(entry: Message, known: set[str], manner: Manner) -> None:
    manner.ignored.update(f"messages[].{key}" for key in entry.keys() - known if entry[key] not in NOTHING)


def to_tools(value: Any, ignored: set[str]) -> list[Message]:  # noqa: ANN401
    """A list of functions, or its JSON, as OpenAI's `tools`; empty where there are none.

    Raises:
        DataError: it is no list of functions.
    """
    found = as_json(value)
    if found in NOTHING:
        return []
    if not isinstance(found, list):
        raise DataError("invalid_tools", f"tools is {shorten(repr(value))}; make it a list of functions", param="tools")
    return [_tool(entry, ignored) for entry in found]


def _tool(entry: Any, ignored: set[str]) -> Message:  # noqa: ANN401
    function = as_json(entry.get("function", entry)) if isinstance(entry, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(
            "invalid_tools", f"tools holds {shorten(repr(entry))}; give each function a name", param="tools"
        )
    known = ("name", "description", "parameters", "strict")
    ignored.update(f"tools[].{key}" for key in function.keys() - {*known, "type"} if function[key] is not None)
    spec = {key: as_json(function[key]) for key in known if function.get(key) is not None}
    return {"type": "function", "function": spec}
