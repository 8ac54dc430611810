"""What should not be taught to a model unawares: secrets, personal data, and placeholders that nobody filled in.

Looks for shapes in a row's raw bytes, so it may err both ways: all of it warns and nothing of it stops a job. What it
finds is masked before it leaves this module. The patterns of keys are those that their issuers publish.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from tunewise.contracts.chat import AssistantMessage, ChatExample, PlainText
from tunewise.data.conversation import calls_of, text_of
from tunewise.data.problems import Problem, shorten

WORD = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


def _always(_: str) -> bool:
    return True


class Pattern(NamedTuple):
    """A shape to look for.

    Each expression begins with a literal or a set of characters, which lets `re` skip ahead (looking behind first made
    the search ten times slower); what may not stand before a match is checked afterwards, from `not_after`. `head` is
    what must stand before it, as a part of the value. Every match has one of `signs` in it.
    """

    code: str
    what: str
    regex: re.Pattern[bytes]
    signs: tuple[bytes, ...] = ()
    accept: Callable[[str], bool] = _always
    not_after: bytes = WORD
    head: re.Pattern[bytes] | None = None


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


NUMBER = WORD + b".,/+-"
PERSONAL = "personal_data"

PATTERNS = (
    Pattern("secret", "an API key (sk-…)", re.compile(rb"sk-(?:[A-Za-z]+-)*[A-Za-z0-9_-]{20,200}"), (b"sk-",)),
    Pattern("secret", "an AWS access key", re.compile(rb"A(?:KIA|SIA)[A-Z0-9]{16}\b"), (b"AKIA", b"ASIA")),
    Pattern("secret", "a GitHub token", re.compile(rb"gh[pos]_[A-Za-z0-9]{36}"), (b"ghp_", b"gho_", b"ghs_")),
    Pattern("secret", "a GitHub token", re.compile(rb"github_pat_[A-Za-z0-9_]{50,90}"), (b"github_pat_",)),
    Pattern("secret", "a Slack token", re.compile(rb"xox[abprs]-[A-Za-z0-9-]{10,200}"), (b"xox",)),
    Pattern("secret", "a Google API key", re.compile(rb"AIza[A-Za-z0-9_-]{35}"), (b"AIza",)),
    Pattern("secret", "a Hugging Face token", re.compile(rb"hf_[A-Za-z0-9]{30,60}\b"), (b"hf_",)),
    Pattern("secret", "a private key", re.compile(rb"-----BEGIN (?:[A-Z]+ ){0,2}PRIVATE KEY-----"), (b"PRIVATE KEY-",)),
    Pattern(
        "secret",
        "a signed token (JWT)",
        re.compile(rb"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"),
        (b"eyJ",),
    ),
    Pattern(
        PERSONAL,
        "an e-mail address",
        re.compile(rb"@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}\b"),
        (b"@",),
        _real_address,
        head=re.compile(rb"(?:(?<=\\[nrt])|(?<![\w.+\\-]))[A-Za-z0-9][\w.+-]{0,63}\Z"),
        not_after=b"",
    ),
    Pattern(
        PERSONAL,
        "a payment card number",
        re.compile(rb"[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{3,4}(?![.,/-]?\w)"),
        accept=luhn,
        not_after=NUMBER,
    ),
    Pattern(
        PERSONAL,
        "a US social security number",
        re.compile(rb"[0-8](?!00-|66-)\d\d-(?!00)\d\d-(?!0000)\d{4}(?![\w-])"),
        not_after=NUMBER,
        accept=lambda text: not text.startswith(("000", "666")),
    ),
    Pattern(
        PERSONAL,
        "a bank account number (IBAN)",
        re.compile(rb"[A-Z][A-Z]\d\d(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
        accept=iban,
    ),
    Pattern(
        PERSONAL,
        "a telephone number",
        re.compile(rb"\+\d{1,3}[ .-]\(?\d{1,4}\)?(?:[ .-]\d{2,4}){2,4}(?![\w-])"),
        (b"+",),
        not_after=NUMBER,
    ),
    Pattern(PERSONAL, "a telephone number", re.compile(rb"\(\d{3}\) ?\d{3}-\d{4}(?![\w-])"), (b"(",)),
    Pattern(PERSONAL, "a telephone number", re.compile(rb"[2-9]\d\d-[2-9]\d\d-\d{4}(?![\w-])"), not_after=NUMBER),
    Pattern(
        "placeholder",
        "an unfilled placeholder",
        re.compile(rb"\{\{ ?[A-Za-z_][\w.-]{0,40} ?\}\}"),
        (b"{{",),
        not_after=b"",
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
            text = _whole(pattern, data, match)
            if text is None or not pattern.accept(text):
                continue
            ends = ends or list(accumulate(len(line) + 1 for line in lines))
            index = bisect_right(ends, match.start())
            if index != seen:
                seen = index
                yield Sighting(index, pattern, text)


def _whole(pattern: Pattern, data: bytes, match: re.Match[bytes]) -> str | None:
    """The value at a match, or None where the match is the middle of something else."""
    start = match.start()
    if pattern.head is not None:
        head = pattern.head.search(data[max(0, start - 80) : start])
        return None if head is None else (head[0] + match[0]).decode("utf-8", errors="replace")
    # Rows are looked at as they stand in the file, where a line feed is a backslash and an n.
    escaped = data[start - 2 : start] in (b"\\n", b"\\r", b"\\t")
    if not escaped and start and data[start - 1] in pattern.not_after:
        return None
    return match[0].decode("utf-8", errors="replace")


def problem_of(sighting: Sighting, example: ChatExample | PlainText) -> Problem:
    """The warning for a match, with its message found and its value masked."""
    pattern, text = sighting.pattern, sighting.text
    shown = shorten(text) if pattern.code == "placeholder" else mask(text)
    return Problem(
        "warning", pattern.code, f"{pattern.what}: {shown}", REMEDIES[pattern.code], _where(text, example), shown
    )


REMOVED = b"[removed]"


def redact(line: bytes) -> tuple[bytes, int]:
    """A row with every secret and every piece of personal data replaced, and how many there were.

    What is found lies within a text, and what takes its place needs no escape: the row stays valid JSON.
    """
    found: list[tuple[int, int]] = []
    for pattern in PATTERNS:
        if pattern.code == "placeholder" or (pattern.signs and not any(sign in line for sign in pattern.signs)):
            continue
        for match in pattern.regex.finditer(line):
            text = _whole(pattern, line, match)
            if text is not None and pattern.accept(text):
                found.append((match.end() - len(text.encode()), match.end()))
    clean, end = b"", len(line)
    count = 0
    for start, stop in sorted(found, reverse=True):
        if stop <= end:
            clean, end = REMOVED + line[stop:end] + clean, start
            count += 1
    return line[:end] + clean, count


def mask(text: str) -> str:
    """The first three characters and stars: enough to find it again, too little to use it."""
    return text[:3] + "*" * min(len(text) - 3, 12)


def _where(text: str, example: ChatExample | PlainText) -> str | None:
    if isinstance(example, PlainText):
        return "text"
    for index, message in enumerate(example.messages):
        if text in text_of(message.content):
            return f"messages[{index}].content"
        if isinstance(message, AssistantMessage) and any(text in c.function.arguments for c in calls_of(message)):
            return f"messages[{index}].tool_calls"
    return None
