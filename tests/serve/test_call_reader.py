"""Calls are read back from text as it comes, and how it is cut makes no difference."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewise.contracts.chat import FunctionCall
from tunewise.data.conversation import call_text
from tunewise.serve.call_reader import CallArguments, CallBegun, CallReader, Said, Told
from tunewise.serve.call_styles import Style

NAMES = frozenset({"weather", "now"})
Read = tuple[str, list[tuple[str, str]]]

CASES: list[tuple[Style, str, Read]] = [
    ("tags", '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', ("", [("now", "{}")])),
    (
        "tags",
        'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Ro}me\\"", "x": [1, {"a": 2}]}}\n'
        '</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        ("Let me see.", [("weather", '{"city": "Ro}me\\"", "x": [1, {"a": 2}]}'), ("now", "{}")]),
    ),
    (
        "tags",
        '<tool_call>{"arguments": {"city": "Oslo"}, "name": "weather"}</tool_call>',
        ("", [("weather", '{"city": "Oslo"}')]),
    ),
    ("tags", '<tool_call>{"name": "now"}</tool_call>', ("", [("now", "{}")])),
    ("tags", '<tool_call>{"name": "now", "arguments": null}', ("", [("now", "{}")])),
    (
        "tags",
        '<tool_call>{"name": "weather", "arguments": "{\\"a\\": 1}"}</tool_call>',
        ("", [("weather", '{"a": 1}')]),
    ),
    ("tags", '<tool_call>{"name": "now", "arguments": {}}</tool_call>\nDone. ', ("\nDone.", [("now", "{}")])),
    ("tags", '<tool_call>{"name": "weather", "arguments": {"city": "Ro', ("", [("weather", '{"city": "Ro')])),
    ("tags", '<tool_call>{"name": "weather", "argu', ('<tool_call>{"name": "weather", "argu', [])),
    ("tags", "  Use < or <tool_ca", ("  Use < or <tool_ca", [])),
    (
        "tags",
        'Hi \n<tool_call>\n{"name": "gone", "arguments": {}}\n</tool_call> bye \n',
        ('Hi \n<tool_call>\n{"name": "gone", "arguments": {}}\n</tool_call> bye \n', []),
    ),
    ("tags", '<tool_call>\n{"name": now}\n</tool_call>', ('<tool_call>\n{"name": now}\n</tool_call>', [])),
    ("tags", '<tool_call><tool_call>{"name": "now", "arguments": {}}', ("<tool_call>", [("now", "{}")])),
    ("tags", 'Say <tool_call> twice {"name": "now"} ', ('Say <tool_call> twice {"name": "now"} ', [])),
    (
        "list",
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}, "id": "fd29f0382"}, '
        '{"name": "now", "arguments": {}, "id": "fc38831c4"}]',
        ("", [("weather", '{"city": "Rome"}'), ("now", "{}")]),
    ),
    ("list", 'A list: [1, 2] and [{"name": "now"}]', ('A list: [1, 2] and [{"name": "now"}]', [])),
    ("bare", '{"name": "weather", "parameters": {"city": "Rome"}}', ("", [("weather", '{"city": "Rome"}')])),
    (
        "bare",
        '<|python_tag|>{"name": "now", "parameters": {}}; {"name": "weather", "parameters": {"a": 1}}',
        ("", [("now", "{}"), ("weather", '{"a": 1}')]),
    ),
    ("bare", ' {"name": "Bob", "age": 3} is JSON', (' {"name": "Bob", "age": 3} is JSON', [])),
    ("bare", 'As JSON: {"name": "now", "parameters": {}}', ('As JSON: {"name": "now", "parameters": {}}', [])),
    ("bare", "<|python", ("<|python", [])),
]


def gathered(told: list[Told]) -> Read:
    text, calls = "", list[tuple[str, str]]()
    for one in told:
        match one:
            case Said(more):
                text += more
            case CallBegun(number, _, name):
                assert number == len(calls)
                calls.append((name, ""))
            case CallArguments(number, more):
                calls[number] = (calls[number][0], calls[number][1] + more)
    return text, calls


def read(style: Style, pieces: list[str], most: int | None = None) -> Read:
    reader = CallReader(style, NAMES, most)
    told = [one for piece in pieces for one in reader.push(piece)]
    return gathered([*told, *reader.push("", final=True)])


@pytest.mark.parametrize(("style", "text", "expected"), CASES, ids=[str(at) for at in range(len(CASES))])
def test_a_text_is_read_the_same_however_it_is_cut(style: Style, text: str, expected: Read) -> None:
    assert gathered(CallReader(style, NAMES).push(text, final=True)) == expected
    for size in range(1, len(text)):
        assert read(style, [text[at : at + size] for at in range(0, len(text), size)]) == expected
    for cut in range(len(text)):
        assert read(style, [text[:cut], text[cut:]]) == expected


ARGUMENTS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=12),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(st.lists(st.tuples(st.sampled_from(sorted(NAMES)), ARGUMENTS), min_size=1, max_size=3), st.integers(1, 9))
def test_what_training_writes_is_read_back(calls: list[tuple[str, dict[str, object]]], size: int) -> None:
    functions = [FunctionCall(name=name, arguments=json.dumps(arguments)) for name, arguments in calls]
    text = "\n".join(call_text(function) for function in functions)
    said, found = read("tags", [text[at : at + size] for at in range(0, len(text), size)])
    assert said == ""
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


@given(
    st.text(alphabet='<>/tol_ca{}[]",: \nnamew\\', max_size=60),
    st.sampled_from(["tags", "list", "bare"]),
    st.integers(1, 5),
)
def test_no_text_is_lost_or_made_up(text: str, style: Style, size: int) -> None:
    said, calls = read(style, [text[at : at + size] for at in range(0, len(text), size)])
    assert not calls
    assert said == text


def test_text_is_told_as_soon_as_it_can_be_no_call() -> None:
    reader = CallReader("tags", NAMES)
    assert reader.push("Is 3 ") == [Said("Is 3")]
    assert reader.push("<") == []
    assert reader.push("tool") == []
    assert reader.push("s>?") == [Said(" <tools>?")]


def test_arguments_are_told_as_they_come() -> None:
    reader = CallReader("tags", NAMES)
    assert reader.push('<tool_call>\n{"name": "weather"') == []
    begun, first = reader.push(', "arguments": {"ci')
    assert (begun, first) == (
        CallBegun(0, begun.id if isinstance(begun, CallBegun) else "", "weather"),
        CallArguments(0, '{"ci'),
    )
    assert reader.push('ty": "Rome"') == [CallArguments(0, 'ty": "Rome"')]
    assert reader.push("}}\n</tool_") == [CallArguments(0, "}")]
    assert reader.push("call>", final=True) == []


def test_no_more_calls_are_told_than_were_asked_for() -> None:
    text = '<tool_call>{"name": "now", "arguments": {}}</tool_call>\n' * 3
    assert read("tags", [text], most=1) == ("", [("now", "{}")])
