"""A JSON object read character by character: where its members' values begin and end, long before it is whole.

Knows JSON's brackets and strings, and looks no further: whether a number is one is for a parser to say, at the end.
"""

from dataclasses import dataclass


@dataclass
class Span:
    """Where a value stands in the object's text; `end` is None while it is being written."""

    start: int
    end: int | None = None


class ObjectScan:
    """One object; its text begins with `{`. `members`: its own, not those of objects within."""

    def __init__(self) -> None:
        self.text = ""
        self.ended = False
        self.members: dict[str, Span] = {}
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._key_start: int | None = None
        self._key: str | None = None  # whose value comes next, or is being written
        self._value: Span | None = None

    def take(self, text: str) -> str:
        """Read on; gives what stands after the object's end."""
        for at, character in enumerate(text):
            if self.ended:
                return text[at:]
            self.text += character
            if self._in_string:
                self._string(character)
            else:
                self._plain(character)
        return ""

    def value(self, name: str) -> str | None:
        """The text of a member's value, as far as it is written; None before it begins."""
        span = self.members.get(name)
        return None if span is None else self.text[span.start : span.end]

    def is_whole(self, name: str) -> bool:
        """Whether a member's value has ended."""
        return name in self.members and self.members[name].end is not None

    def _string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
            if self._key_start is not None:
                self._key, self._key_start = self.text[self._key_start : -1], None
            elif self._depth == 1:
                self._end_value(len(self.text))

    def _plain(self, character: str) -> None:
        if self._depth == 1 and self._key is None and character == '"':
            self._key_start = len(self.text)
        elif self._depth == 1 and self._value is None and self._key is not None and character not in ": \n\r\t,}":
            self._value = self.members[self._key] = Span(len(self.text) - 1)
        if character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            if self._depth == 1:
                self._end_value(len(self.text))
        if self._depth == 0 or (self._depth == 1 and character == ","):
            self._end_value(len(self.text) - 1)
            self._key = self._value = None
            self.ended = self._depth == 0

    def _end_value(self, end: int) -> None:
        if self._value is not None and self._value.end is None:
            self._value.end = end
