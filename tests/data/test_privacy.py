"""Secrets and personal data are seen where they stand, masked, and look-alikes are left alone."""

import json

import pytest

from tunewise.contracts.chat import AssistantMessage, ChatExample, UserMessage
from tunewise.data.privacy import mask, problem_of, sightings


def found(text: str) -> list[tuple[str, str]]:
    example = ChatExample(messages=[UserMessage(content="hello"), AssistantMessage(content=text)])
    line = json.dumps({"messages": [{"content": "hello"}, {"content": text}]}).encode()
    problems = [problem_of(sighting, example) for sighting in sightings(line + b"\n", [line])]
    assert all(problem.param == "messages[1].content" for problem in problems)
    return [(problem.code, problem.value or "") for problem in problems]


KEY = "sk-" + "proj-" + "a1B2" * 8


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"use {KEY}", "secret"),
        (f"line\n{KEY}", "secret"),
        ("AKIA" + "ABCDEFGHIJKLMNOP", "secret"),
        ("ghp_" + "a1" * 18, "secret"),
        ("-----BEGIN RSA PRIVATE KEY-----", "secret"),
        ("write to jane.doe@company.co.uk please", "personal_data"),
        ("\njane@company.com", "personal_data"),
        ("card 4111 1111 1111 1111.", "personal_data"),
        ("IBAN GB82 WEST 1234 5698 7654 32", "personal_data"),
        ("ssn 123-45-6789", "personal_data"),
        ("call +44 20 7946 0958", "personal_data"),
        ("call (555) 123-4567", "personal_data"),
        ("call 415-555-0132", "personal_data"),
        ("I am {{name}}", "placeholder"),
        ("I am {{ user.name }}", "placeholder"),
    ],
)
def test_a_value_is_seen_at_its_message(text: str, code: str) -> None:
    assert [kind for kind, _ in found(text)] == [code]


@pytest.mark.parametrize(
    "text",
    [
        "a task-oriented approach to risk-management-of-everything-here",
        "jane@example.com",
        "4111 1111 1111 1112",
        "1234567890123456789012",
        "2024-01-02 10:11:12",
        "GB82 WEST 1234 5698 7654 33",
        "{{}} and {% x %}",
        "price 12.50, 3-4 weeks",
        "000-12-3456",
        "f(x) = {{1, 2}, {3, 4}}",
    ],
)
def test_a_look_alike_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_what_is_shown_is_masked() -> None:
    assert found(f"use {KEY}") == [("secret", "sk-************")]
    assert mask("jane@company.com") == "jan************"


def test_each_kind_is_reported_once_a_row_at_the_right_line() -> None:
    lines = [b'{"a": "x@y.org z@y.org"}', b"{}", b'{"a": "q@y.org"}']
    data = b"\n".join(lines) + b"\n"
    assert [sighting.line for sighting in sightings(data, lines)] == [0, 2]
