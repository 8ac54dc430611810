"""What a row of plain text must hold, and the signs of a text that was read with the wrong encoding. Knows one text."""

import re
from collections.abc import Iterator

from tunewise.data.problems import Problem, shorten

REPLACEMENT = "�"
AROUND_CHARS = 20
# UTF-8's bytes read as Windows-1252 or Latin-1: a lead byte's letter before the signs of the bytes that follow one.
FOLLOWING = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
MOJIBAKE = re.compile(f"[ÃÂ][{FOLLOWING}]|â[€‚„†‰™˜œž][{FOLLOWING}]|ð[Ÿ\x9f][{FOLLOWING}]{{2}}")


def text_problems(text: str) -> Iterator[Problem]:
    """Every problem of one document."""
    if not text or text.isspace():
        yield Problem("error", "empty_text", "the text is empty", "remove the row", "text", shorten(repr(text)))
        return
    count = text.count(REPLACEMENT)
    if count:
        yield Problem(
            "warning",
            "replacement_character",
            f"U+FFFD stands in the text {count} time(s): what was there was lost when it was decoded",
            "decode the source anew with its own encoding, or remove the characters",
            "text",
            shorten(_around(text, text.index(REPLACEMENT))),
        )
    found = [match.start() for match in MOJIBAKE.finditer(text)]
    if found:
        yield Problem(
            "warning",
            "mojibake",
            f"UTF-8 read as Windows-1252, {len(found)} time(s)",
            "decode the source anew as UTF-8; the model learns to write it as it stands",
            "text",
            shorten(_around(text, found[0])),
        )


def _around(text: str, at: int) -> str:
    return text[max(0, at - AROUND_CHARS) : at + AROUND_CHARS]
