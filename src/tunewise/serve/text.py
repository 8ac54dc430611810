"""From tokens to text, a token at a time: whole characters only, and nothing that may yet become a stop string.

Knows decoding and stop strings; knows nothing of sampling or of the wire.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

Decode: TypeAlias = Callable[[Sequence[int]], str]

BROKEN = "\ufffd"  # what decoding gives for a character whose last bytes are still to come
BROKEN_TOKENS_MAX = 4  # a UTF-8 character has at most four bytes, so after as many tokens it is not coming


class TextStream:
    """The text of one choice. `push` gives what may be shown now; `stopped` is set once a stop string has been met."""

    def __init__(self, decode: Decode, stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._start = 0  # tokens before it only matter for how later ones are decoded, and no longer even for that
        self._read = 0  # tokens before it have been turned into text
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token; give the text that is certain."""
        self._ids.append(token)
        return self._release(self._new_text(final=False), final=False)

    def finish(self) -> str:
        """Give what was held back, once no token follows."""
        return "" if self.stopped else self._release(self._new_text(final=True), final=True)

    def _new_text(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        waiting = after.endswith(BROKEN) and len(self._ids) - self._read < BROKEN_TOKENS_MAX
        if not final and (waiting or len(after) <= len(before)):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def _release(self, text: str, *, final: bool) -> str:
        text = self._held + text
        self._held = ""
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        if final:
            return text
        keep = max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
