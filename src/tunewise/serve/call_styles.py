"""How a base model writes tool calls: found by rendering a call with its template, and told as a grammar.

Knows templates and the three styles that are read back; knows nothing of requests, and reads no model's text:
`call_reader` does. What a template prints is what training taught, so a grammar asks for the same, blank for blank.
"""

import json
import re
from typing import Literal, NamedTuple, TypeAlias, assert_never

from tunewise.contracts.chat import (
    AssistantMessage,
    ChatExample,
    FunctionCall,
    FunctionSpec,
    Tool,
    ToolCall,
    UserMessage,
)
from tunewise.data.template import Template
from tunewise.errors import DataError
from tunewise.serve.grammars import json_rule
from tunewise.serve.wire_forms import Form

Style: TypeAlias = Literal["tags", "list", "bare"]
"""Hermes, Qwen and what training puts where a template has no calls: `<tool_call>{"name", "arguments"}</tool_call>`;
Mistral: `[TOOL_CALLS] [{"name", "arguments", "id"}]`; Llama 3: `{"name", "parameters"}`, or `<|python_tag|>` before it.
"""

OPEN, CLOSE = "<tool_call>", "</tool_call>"
LIST, PYTHON = "[TOOL_CALLS]", "<|python_tag|>"
CONTROL = (OPEN, CLOSE, LIST, PYTHON)
PATTERNS: dict[Style, str] = {
    "list": r"\[TOOL_CALLS\]\s*\[\s*\{\s*\"name\"",
    "tags": r"<tool_call>\s*\{\s*\"name\"",
    "bare": r"^\s*\{\s*\"name\": \"probe\", \"parameters\"",
}
MORE_CALLS = ' (", " call)*'
NO_PARAMETERS: dict[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}


class CallWriter(NamedTuple):
    """How a model writes calls. `control`: the parts of it that are control tokens, whose text is not shown otherwise.

    `blank`: its answers begin with a blank, which its decoder takes away.
    """

    style: Style | None
    control: dict[str, int]
    blank: bool


def call_writer(template: Template) -> CallWriter:
    """Find out how a template prints a call; `style` None where it prints none that could be read back."""
    added = template.tokenizer.get_added_tokens_decoder()
    control = {token.content: i for i, token in added.items() if token.special and token.content in CONTROL}
    text = _printed(template)
    style = next((style for style, pattern in PATTERNS.items() if re.search(pattern, text)), None)
    return CallWriter(style, control, template.adds_blanks)


def _printed(template: Template) -> str:
    call = ToolCall(id="call00001", function=FunctionCall(name="probe", arguments='{"a": 1}'))
    example = ChatExample(
        messages=[UserMessage(content="q"), AssistantMessage(tool_calls=[call])],
        tools=[Tool(function=FunctionSpec(name="probe", description="d", parameters=NO_PARAMETERS))],
    )
    try:
        rendered = template.render(example)
    except DataError:
        return ""
    return template.decode([i for i, on in zip(*rendered, strict=True) if on], skip_special=False)


def lark(form: Form, writer: CallWriter) -> str | None:
    """The grammar of what `form` asks for, None where any text will do.

    Calls are enforced where one must be made, where the answer is JSON otherwise, and where a function is `strict`.
    """
    blank = '" "? ' if writer.blank else ""
    rules = _call_rules(form, writer)
    if form.schema is not None:
        rules["answer"] = json_rule(form.schema)
    match form.choice:
        case "none":
            return None if form.schema is None else _text(f"{blank}answer", rules)
        case "required":
            return _text(f"{blank}calls", rules)
        case "auto" if form.schema is not None:
            return _text(f"{blank}(answer | calls)", rules)
        case "auto":
            strict = any(tool.function.strict for tool in form.tools)
            return _text(_text_or_calls(form, writer, rules), rules) if strict else None
        case _:
            assert_never(form.choice)


def _text(start: str, rules: dict[str, str]) -> str:
    return "\n".join([f"start: {start}", *(f"{name}: {rule}" for name, rule in rules.items())])


def _call_rules(form: Form, writer: CallWriter) -> dict[str, str]:
    """`calls`, and what it is made of: `body` is what follows the trigger, `one` a trigger and its body."""
    if form.choice == "none" or writer.style is None:
        return {}
    key = "parameters" if writer.style == "bare" else "arguments"
    call_id = ' (", \\"id\\": \\"" /[a-zA-Z0-9]{9}/ "\\"")?' if writer.style == "list" else ""
    rules = {}
    for at, tool in form.callable_tools():
        begin = json.dumps('{"name": ' + json.dumps(tool.function.name) + f', "{key}": ')
        rules[f"f{at}"] = f'{begin} {json_rule(tool.function.parameters or NO_PARAMETERS)}{call_id} "}}"'
    rules["call"] = " | ".join(rules)
    many = form.parallel and form.name is None
    match writer.style:
        case "tags":
            rules["body"] = f"{_literal(chr(10), writer)} call {_literal(chr(10) + CLOSE, writer)}"
            rules["one"] = f"{_literal(OPEN, writer)} body"
            rules["calls"] = 'one ("\\n" one)*' if many else "one"
        case "list":
            rules["body"] = f'" [" call{MORE_CALLS if many else ""} "]"'
            rules["calls"] = f"{_literal(LIST, writer)} body"
        case "bare":
            rules["calls"] = f"<[{writer.control[PYTHON]}]>? call" if PYTHON in writer.control else "call"
        case _:
            assert_never(writer.style)
    return rules


def _text_or_calls(form: Form, writer: CallWriter, rules: dict[str, str]) -> str:
    """Any text, and from where a call begins, nothing but a call; gives the rule to start from."""
    if writer.style == "bare":
        rules["TEXT"] = r"/[^{](.|\n)*/"
        return "TEXT | calls"
    rules["TEXT"] = r"/(.|\n)*/"
    trigger = OPEN if writer.style == "tags" else LIST
    if trigger in writer.control:
        rules["later"] = f"TEXT {_literal(trigger, writer)} body"
    else:
        # A lazy rule ends where its text first ends in the trigger: from there on, only a call goes on.
        rules["until[lazy]"] = f"TEXT {json.dumps(trigger)}"
        rules["later"] = "until body"
    return f"{'later*' if form.parallel and writer.style == 'tags' else 'later?'} TEXT"


def _literal(text: str, writer: CallWriter) -> str:
    """A text in a rule; control tokens in it by their ids, since no other tokens make their text."""
    pattern = "|".join(map(re.escape, writer.control)) or r"(?!)"
    parts = re.split(f"({pattern})", text)
    return " ".join(
        f"<[{writer.control[part]}]>" if part in writer.control else json.dumps(part) for part in parts if part
    )
