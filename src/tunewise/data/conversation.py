"""Messages as a chat template wants them: plain dictionaries, with whatever the template cannot express put into text.

OpenAI's rows and chat templates differ. What is done about it, once, here:

* `developer` becomes `system`; `function_call`, `functions` and the role `function` become their `tools` successors;
  a `refusal` without content is the content; content parts are joined by a newline, as vLLM joins them; no content
  is the empty string, since templates concatenate it.
* Call arguments are given as objects, not as JSON in a string: templates print them with `tojson`, which would quote
  a string a second time (vLLM does the same).
* A template that ignores `tools` or `tool_calls` (SmolLM2's does; `apply_chat_template` then drops them without a
  word, and the calls would never be trained on) gets them as text in the form of Hermes and Qwen: the tools in the
  system message between `<tools>` tags, each call in the assistant's content as `<tool_call>{json}</tool_call>`.
* A template that refuses or ignores the role `tool` gets the answers of one turn's calls as a user turn, each in
  `<tool_response>` tags.
* A template that refuses or ignores the role `system` gets its text before that of the next user turn.
* A template that asks for call ids of nine letters and digits (Mistral's) gets such, made from the ids given.

What a template can do is found by rendering probes, not by reading its source. Knows nothing of tokenizers.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, assert_never

import jinja2
import msgspec

from tunewise.contracts.chat import (
    AssistantMessage,
    Content,
    DeveloperMessage,
    FunctionCall,
    FunctionMessage,
    FunctionSpec,
    Json,
    Message,
    SystemMessage,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from tunewise.data.sandbox import Renderer

Turn: TypeAlias = dict[str, Any]

TOOLS_PROMPT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class Abilities(NamedTuple):
    """What a template prints by itself."""

    tools: bool
    tool_calls: bool
    tool_role: bool
    system: bool
    any_call_id: bool


def probe(render: Renderer) -> Abilities:
    """Find out what a template prints, by looking for marks that only the part in question carries."""
    user, system = {"role": "user", "content": "q"}, {"role": "system", "content": "mark_system"}
    tool = {"type": "function", "function": {"name": "mark_tool", "description": "d", "parameters": {}}}
    short, long = (_attempt(render, [user, *_called(call_id)], [tool]) for call_id in ("call00001", "call_00000001"))
    return Abilities(
        tools="mark_tool" in _attempt(render, [user], [tool]),
        tool_calls="mark_value" in short,
        tool_role="mark_answer" in short,
        system="mark_system" in _attempt(render, [system, user], None),
        any_call_id=bool(long) or not short,
    )


def _called(call_id: str) -> list[Turn]:
    call = {"id": call_id, "type": "function", "function": {"name": "mark_call", "arguments": {"a": "mark_value"}}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    return [calling, {"role": "tool", "content": "mark_answer", "tool_call_id": call_id, "name": "mark_call"}]


def _attempt(render: Renderer, turns: list[Turn], tools: list[dict[str, Any]] | None) -> str:
    try:
        return render(turns, tools, False)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError):
        # A template that stumbles over the probe cannot express it.
        return ""


def to_turns(messages: Sequence[Message], tools: Sequence[Tool] | None, abilities: Abilities) -> list[Turn]:
    """The messages as the template's input: one turn for each, but for what the template cannot express.

    The assistant's turns are those of the assistant's messages, in their order; no other turn has that role.
    """
    turns: list[Turn] = []
    answered = False
    for message in messages:
        turn = _turn(message, abilities)
        answers = isinstance(message, ToolMessage | FunctionMessage) and not abilities.tool_role
        if answers and answered:
            turns[-1]["content"] += "\n" + turn["content"]
        else:
            turns.append(turn)
        answered = answers
    if tools and not abilities.tools:
        turns = _with_tools_in_system(turns, tools)
    return turns if abilities.system else _with_system_in_user(turns)


def tools_of(tools: Sequence[Tool] | None, functions: Sequence[FunctionSpec] | None) -> list[Tool]:
    """`tools`, and the deprecated `functions` as tools."""
    return [*(tools or ()), *(Tool(function=function) for function in functions or ())]


def tool_dicts(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools as plain JSON, without the fields that were not given."""
    return [
        {"type": "function", "function": {k: v for k, v in msgspec.to_builtins(t.function).items() if v is not None}}
        for t in tools
    ]


def text_of(content: Content | None) -> str:
    """The text of a message's content."""
    if content is None:
        return ""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _turn(message: Message, abilities: Abilities) -> Turn:
    match message:
        case SystemMessage() | DeveloperMessage():
            return _named({"role": "system", "content": text_of(message.content)}, message.name)
        case UserMessage():
            return _named({"role": "user", "content": text_of(message.content)}, message.name)
        case AssistantMessage():
            return _assistant_turn(message, abilities)
        case ToolMessage():
            return _tool_turn(text_of(message.content), message.name, message.tool_call_id, abilities)
        case FunctionMessage():
            return _tool_turn(message.content or "", message.name, f"call_{message.name}", abilities)
        case _:
            assert_never(message)


def _named(turn: Turn, name: str | None) -> Turn:
    return turn if name is None else {**turn, "name": name}


def _assistant_turn(message: AssistantMessage, abilities: Abilities) -> Turn:
    text = text_of(message.content) or message.refusal or ""
    calls = calls_of(message)
    if not calls:
        return _named({"role": "assistant", "content": text}, message.name)
    if abilities.tool_calls:
        dicts = [
            {
                "id": _call_id(call.id, abilities),
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call.function)},
            }
            for call in calls
        ]
        return _named({"role": "assistant", "content": text, "tool_calls": dicts}, message.name)
    pieces = ([text] if text else []) + [call_text(call.function) for call in calls]
    return _named({"role": "assistant", "content": "\n".join(pieces)}, message.name)


def calls_of(message: AssistantMessage) -> list[ToolCall]:
    """`tool_calls`, and the deprecated `function_call` as one more."""
    calls = list(message.tool_calls or ())
    if message.function_call is not None:
        calls.append(ToolCall(id=f"call_{message.function_call.name}", function=message.function_call))
    return calls


def call_text(function: FunctionCall) -> str:
    """A call as text, for templates without calls: what the model is taught to write and the server reads back."""
    body = json.dumps({"name": function.name, "arguments": _arguments(function)}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def _arguments(function: FunctionCall) -> Json:
    # Arguments that are no JSON object are kept as they stand; `data check` reports them.
    try:
        arguments = msgspec.json.decode(function.arguments)
    except msgspec.DecodeError:
        return function.arguments
    return arguments if isinstance(arguments, dict) else function.arguments


def _tool_turn(content: str, name: str | None, call_id: str, abilities: Abilities) -> Turn:
    if abilities.tool_role:
        return _named({"role": "tool", "content": content, "tool_call_id": _call_id(call_id, abilities)}, name)
    return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}


def _with_tools_in_system(turns: list[Turn], tools: Sequence[Tool]) -> list[Turn]:
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tool_dicts(tools))
    prompt = TOOLS_PROMPT.format(tools=listed)
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{prompt}"}, *turns[1:]]
    return [{"role": "system", "content": prompt}, *turns]


def _with_system_in_user(turns: list[Turn]) -> list[Turn]:
    folded: list[Turn] = []
    texts: list[str] = []
    for turn in turns:
        if turn["role"] == "system":
            texts.append(turn["content"])
            continue
        if turn["role"] == "user":
            folded.append({**turn, "content": "\n\n".join([*texts, turn["content"]])})
        else:
            folded += [*_as_user(texts), turn]
        texts = []
    return [*folded, *_as_user(texts)]


def _as_user(texts: list[str]) -> list[Turn]:
    return [{"role": "user", "content": "\n\n".join(texts)}] if texts else []


def _call_id(call_id: str, abilities: Abilities) -> str:
    return call_id if abilities.any_call_id else hashlib.sha256(call_id.encode()).hexdigest()[:9]
