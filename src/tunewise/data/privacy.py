"""What should not be taught to a model unawares: secrets, personal data, and placeholders that nobody filled in.

Looks for shapes in a row's raw bytes, so it may err both ways: all of it warns and nothing of it stops a job. What it
finds is masked before it leaves this module. The patterns of keys are those that their issuers publish.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from tunewise.contracts.chat import AssistantMessage, ChatExample
from tunewise.data.conversation import calls_of, text_of
from tunewise.data.problems import Problem, shorten


class Pattern(NamedTuple):
    """A shape to look for; every match has one of `signs` in it, which are looked for first because that is fast."""

    code: str
    what: str
    signs: tuple[bytes, ...]
    regex: re.Pattern[bytes]
    accept: Callable[[str], bool]


def _always(_: str) -> bool:
    return True


def luhn(text: str) -> bool:
    """Whether the digits pass the check of payment card numbers (ISO/IEC 7812-1)."""
    digits = [int(c) for c in reversed(text) if c.isdigit()]
    doubled = [d if n % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for n, d in enumerate(digits)]
    return sum(doubled) % 10 == 0 and len(set(digits)) > 1


def iban(text: str) -> bool:
    """Whether the check digits of an account number are right (ISO 13616: remainder 1 modulo 97)."""
    moved = (text[4:] + text[:4]).replace(" ", "")
    return moved.isalnum() and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


EXAMPLE_DOMAINS = ("example.com", "example.org", "example.net", ".test", ".invalid", ".example")


def _real_address(text: str) -> bool:
    return not text.lower().endswith(EXAMPLE_DOMAINS)


# Rows are looked at as they stand in the file, where a line feed is a backslash and an n.
START = rb"(?:(?<![\w.+\\-])|(?<=\\[nrt]))"

PATTERNS = (
    Pattern(
        "secret",
        "an OpenAI or Anthropic key",
        (b"sk-",),
        re.compile(START + rb"sk-(?:[A-Za-z]+-)*[A-Za-z0-9_-]{20,200}"),
        _always,
    ),
    Pattern(
        "secret", "an AWS access key", (b"AKIA", b"ASIA"), re.compile(START + rb"(?:AKIA|ASIA)[A-Z0-9]{16}\b"), _always
    ),
    Pattern(
        "secret",
        "a GitHub token",
        (b"ghp_", b"gho_", b"ghs_", b"github_pat_"),
        re.compile(START + rb"(?:gh[pos]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,90})"),
        _always,
    ),
    Pattern("secret", "a Slack token", (b"xox",), re.compile(START + rb"xox[abprs]-[A-Za-z0-9-]{10,200}"), _always),
    Pattern("secret", "a Google API key", (b"AIza",), re.compile(START + rb"AIza[A-Za-z0-9_-]{35}"), _always),
    Pattern("secret", "a Hugging Face token", (b"hf_",), re.compile(START + rb"hf_[A-Za-z0-9]{30,60}\b"), _always),
    Pattern(
        "secret",
        "a private key",
        (b"PRIVATE KEY-----",),
        re.compile(rb"-----BEGIN (?:[A-Z]+ ){0,2}PRIVATE KEY-----"),
        _always,
    ),
    Pattern(
        "secret",
        "a signed token (JWT)",
        (b"eyJ",),
        re.compile(START + rb"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"),
        _always,
    ),
    Pattern(
        "personal_data",
        "an e-mail address",
        (b"@",),
        re.compile(START + rb"[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}\b"),
        _real_address,
    ),
    Pattern(
        "personal_data",
        "a payment card number",
        (),
        re.compile(rb"(?<![\d.,/-])[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{3,4}(?![\d.,/-]|\w)"),
        luhn,
    ),
    Pattern(
        "personal_data",
        "a US social security number",
        (),
        re.compile(rb"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
        _always,
    ),
    Pattern(
        "personal_data",
        "a bank account number (IBAN)",
        (),
        re.compile(START + rb"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
        iban,
    ),
    Pattern(
        "personal_data",
        "a telephone number",
        (),
        re.compile(
            START + rb"(?:\+\d{1,3}[ .-]\(?\d{1,4}\)?(?:[ .-]\d{2,4}){2,4}|"
            rb"\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4})(?![\w-]|\.\d)"
        ),
        _always,
    ),
    Pattern(
        "placeholder", "an unfilled placeholder", (b"{{",), re.compile(rb"\{\{ ?[A-Za-z_][\w.-]{0,40} ?\}\}"), _always
    ),
)

REMEDIES = {
    "secret": "revoke it, and put a made-up one in its place: a model repeats what it was taught",
    "personal_data": "leave it out or put a made-up one in its place, unless you may train on it",
    "placeholder": "fill it in, as serving will: the model learns to write it as it stands",
}


class Sighting(NamedTuple):
    """A match in a block: the row's index among the block's lines, the pattern and the text."""

    line: int
    pattern: Pattern
    text: str


def sightings(data: bytes, lines: Sequence[bytes]) -> Iterator[Sighting]:
    """All matches in a block of whole lines, each kind at most once a row."""
    ends: list[int] = []
    for pattern in PATTERNS:
        if pattern.signs and not any(sign in data for sign in pattern.signs):
            continue
        seen = -1
        for match in pattern.regex.finditer(data):
            ends = ends or list(accumulate(len(line) + 1 for line in lines))
            index = bisect_right(ends, match.start())
            text = match[0].decode("utf-8", errors="replace")
            if index != seen and pattern.accept(text):
                seen = index
                yield Sighting(index, pattern, text)


def problem_of(sighting: Sighting, example: ChatExample) -> Problem:
    """The warning for a match, with its message found and its value masked."""
    pattern, text = sighting.pattern, sighting.text
    shown = shorten(text) if pattern.code == "placeholder" else mask(text)
    return Problem(
        "warning", pattern.code, f"{pattern.what}: {shown}", REMEDIES[pattern.code], _where(text, example), shown
    )


def mask(text: str) -> str:
    """The first three characters and stars: enough to find it again, too little to use it."""
    return text[:3] + "*" * min(len(text) - 3, 12)


def _where(text: str, example: ChatExample) -> str | None:
    for index, message in enumerate(example.messages):
        if text in text_of(message.content):
            return f"messages[{index}].content"
        if isinstance(message, AssistantMessage) and any(text in c.function.arguments for c in calls_of(message)):
            return f"messages[{index}].tool_calls"
    return None
