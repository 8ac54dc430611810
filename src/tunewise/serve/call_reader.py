"""Tool calls read back from a model's text, as it comes: what is text is told at once, what may become a call is held.

Knows the styles of `call_styles` and the names of the tools; knows no tokens and no wire. How the text is cut into
pieces makes no difference to what is read. Text that begins like a call and is none, or calls what is no tool, is told
as text. A call whose arguments have begun stays one, whatever comes of them, as its beginning has been sent.
"""

import json
import secrets
from collections.abc import Set
from enum import Enum, auto
from typing import Any, NamedTuple, TypeAlias, assert_never

from tunewise.serve.call_styles import CLOSE, LIST, OPEN, PYTHON, Style
from tunewise.serve.json_scan import ObjectScan
from tunewise.serve.text import overlap

BLANKS = " \n\r\t"
ARGUMENTS = ("arguments", "parameters")


class Said(NamedTuple):
    """A piece of the answer's text."""

    text: str


class CallBegun(NamedTuple):
    """A call, by its number in the answer."""

    number: int
    id: str
    name: str


class CallArguments(NamedTuple):
    """A further piece of a call's arguments: JSON in a string, as OpenAI sends it."""

    number: int
    text: str


Told: TypeAlias = Said | CallBegun | CallArguments


class _Place(Enum):
    """Where the reader stands. `held` begins there."""

    TEXT = auto()
    TRIGGER = auto()
    OBJECT = auto()
    AFTER = auto()


class CallReader:
    """Reads one answer. `calls`: how many have begun; no more than `most` are told."""

    def __init__(self, style: Style, names: Set[str], most: int | None = None) -> None:
        self.calls = 0
        self._style = style
        self._names = names
        self._most = most
        self._place = _Place.TEXT
        self._held = ""
        self._before = ""  # what stands before the object that is being read, to be told if it is no call
        self._scan = ObjectScan()
        self._sent: int | None = None  # characters told of its arguments, once it is a call
        self._said = False
        self._told: list[Told] = []

    def push(self, text: str, *, final: bool = False) -> list[Told]:
        """Take a further piece of text; `final` where none follows. Gives what is certain by now."""
        self._held += text
        self._told = []
        while self._step(final=final):
            pass
        return self._told

    def _step(self, *, final: bool) -> bool:
        """Read on from where the reader stands; says whether it came to another place."""
        match self._place:
            case _Place.TEXT:
                return self._read_text(final=final)
            case _Place.TRIGGER:
                return self._read_trigger(final=final)
            case _Place.OBJECT:
                return self._read_object(final=final)
            case _Place.AFTER:
                return self._read_after(final=final)
            case _:
                assert_never(self._place)

    def _read_text(self, *, final: bool) -> bool:
        if self._style == "bare":
            return self._read_bare(final=final)
        trigger = self._trigger()
        found = self._held.find(trigger)
        if found >= 0:
            text = self._held[:found].rstrip(BLANKS)
            self._say(text)
            self._held = self._held[len(text) :]
            self._place = _Place.TRIGGER
            return True
        self._say_certain(len(self._held) - (0 if final else overlap(self._held, trigger)), final=final)
        return False

    def _read_bare(self, *, final: bool) -> bool:
        """Llama's calls stand at the beginning, or nowhere."""
        body = self._held.lstrip(BLANKS)
        if not self._said and not self.calls:
            if body.startswith(("{", PYTHON)):
                self._place = _Place.TRIGGER
                return True
            if not final and PYTHON.startswith(body):
                return False
        self._say_certain(len(self._held), final=final)
        return False

    def _say_certain(self, certain: int, *, final: bool) -> None:
        """Tell what is text; blanks at its end only once they turn out to stand before no call."""
        text = self._held[:certain]
        if not final or self.calls:
            text = text.rstrip(BLANKS)
        self._say(text)
        self._held = "" if final else self._held[len(text) :]

    def _read_trigger(self, *, final: bool) -> bool:
        trigger = self._trigger()
        body = self._held.lstrip(BLANKS).removeprefix(trigger)
        before = len(self._held) - len(body)
        body = body.lstrip(BLANKS + ("[" if self._style == "list" else ""))
        if body.startswith("{"):
            self._begin_object(body)
            return True
        if not body and not final:
            return False
        self._say(self._held[:before])
        self._held = self._held[before:]
        self._place = _Place.TEXT
        return True

    def _begin_object(self, body: str) -> None:
        self._before = self._held[: len(self._held) - len(body)]
        self._held = body
        self._scan, self._sent = ObjectScan(), None
        self._place = _Place.OBJECT

    def _read_object(self, *, final: bool) -> bool:
        self._held = self._scan.take(self._held)
        if self._sent is None and (name := _begun(self._scan)) in self._names:
            self._begin_call(name)
        if self._sent is not None:
            self._tell_arguments(_arguments(self._scan))
        elif self._scan.ended and (call := whole_call(self._scan.text)) is not None and call[0] in self._names:
            self._begin_call(call[0])
            self._tell_arguments(call[1])
        elif self._scan.ended or final:
            self._say(self._before + self._scan.text)
            self._place = _Place.TEXT
            return True
        if self._scan.ended:
            self._place = _Place.AFTER
        return self._scan.ended

    def _read_after(self, *, final: bool) -> bool:
        """What ends a call, or stands between two."""
        body = self._held.lstrip(BLANKS)
        end = {"tags": CLOSE, "list": "]", "bare": ""}[self._style]
        between = {"tags": "", "list": ",", "bare": ";"}[self._style]
        if end and body.startswith(end):
            self._held = body.removeprefix(end)
        elif between and body.startswith(between):
            following = body.removeprefix(between).lstrip(BLANKS)
            if following.startswith("{"):
                self._begin_object(following)
                return True
            if not following and not final:
                return False
        elif not final and (not body or end.startswith(body)):
            return False
        self._place = _Place.TEXT
        return True

    def _trigger(self) -> str:
        return {"tags": OPEN, "list": LIST, "bare": PYTHON}[self._style]

    def _begin_call(self, name: str) -> None:
        self.calls += 1
        self._sent = 0
        if self._most is None or self.calls <= self._most:
            self._told.append(CallBegun(self.calls - 1, f"call_{secrets.token_hex(12)}", name))

    def _tell_arguments(self, text: str) -> None:
        more = text[self._sent :]
        if more and (self._most is None or self.calls <= self._most):
            self._told.append(CallArguments(self.calls - 1, more))
        self._sent = len(text)

    def _say(self, text: str) -> None:
        if text:
            self._said = True
            self._told.append(Said(text))


def whole_call(text: str) -> tuple[str, str] | None:
    """A call's name and arguments from its whole object, whatever their order; None where it is no call."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        return None
    name = value.get("name")
    arguments: Any = next((value[key] for key in ARGUMENTS if value.get(key) is not None), {})
    if not isinstance(name, str):
        return None
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _begun(scan: ObjectScan) -> str:
    """The name that is called, once arguments have begun after it; empty before."""
    if not (_arguments(scan).startswith("{") and scan.is_whole("name")):
        return ""
    name = scan.value("name") or ""
    return name.strip('"')


def _arguments(scan: ObjectScan) -> str:
    return next((text for key in ARGUMENTS if (text := scan.value(key)) is not None), "")
