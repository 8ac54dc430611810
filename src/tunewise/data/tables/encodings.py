"""Which encoding a text file is in, and its text in that encoding. Knows bytes and nothing of what they say.

UTF-8 is proved by reading the whole file, since the first foreign letter of an English table may stand in its last
line. Other encodings are told apart by charset-normalizer, which weighs the text that each would give; where two read
equally well, as Windows' code pages for western and central Europe may, the user is asked.
"""

import codecs
import io
from pathlib import Path
from typing import NamedTuple

from tunewise.data.problems import Problem, shorten
from tunewise.data.reader import BOM, wide_encoding
from tunewise.errors import DataError

PIECE_BYTES = 1024 * 1024
SAMPLE_BYTES = 64 * 1024
# What office programs write where they do not write UTF-8; with the rarer ones, too many fit a short text.
LEGACY = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"]
LEGACY += ["cp932", "euc_jp", "gb18030", "big5", "cp949"]
# How much worse another encoding's text may read (charset-normalizer's chaos and coherence) and yet be the right one.
NEAR = 0.05
# A lone surrogate in decoded text stands for a byte that is not UTF-8 (PEP 383).
FIRST_ESCAPE, LAST_ESCAPE = "\udc80", "\udcff"


class Encoding(NamedTuple):
    """A codec's name, and a sentence for the user where it was not plain UTF-8."""

    name: str
    note: str | None = None


def find_encoding(path: Path, asked: str | None) -> Encoding:
    """The encoding as asked for, or as the file's bytes show it.

    Raises:
        DataError: unknown_encoding, where neither the name nor the bytes are of any.
    """
    if asked is not None:
        return _named(path, asked)
    with path.open("rb") as file:
        head = file.read(4096)
    wide = wide_encoding(head)
    if wide is not None:
        return Encoding(wide.replace("-", "_").lower(), f"read as {wide}, by its first bytes")
    name = "utf_8_sig" if head.startswith(BOM) else "utf_8"
    if _is_utf8(path):
        return Encoding(name)
    foreign, valid = _not_utf8(path)
    if valid > len(foreign):
        return Encoding(name, "read as UTF-8, which most of it is; the lines that are not are listed")
    return _guessed(path, b"\n".join(foreign))


def open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    """The file as text, its line ends as they are; bytes of UTF-8 that mean nothing become lone surrogates."""
    errors = "surrogateescape" if encoding.startswith("utf_8") else "strict"
    return io.TextIOWrapper(path.open("rb"), encoding=encoding, errors=errors, newline="")


def foreign_byte(text: str) -> Problem | None:
    """The first byte of a text that was no UTF-8."""
    if text.isascii():
        return None
    place = next((n for n, letter in enumerate(text) if FIRST_ESCAPE <= letter <= LAST_ESCAPE), None)
    if place is None:
        return None
    byte = ord(text[place]) - 0xDC00
    around = text[max(0, place - 20) : place + 20].encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return Problem(
        "error",
        "invalid_utf8",
        f"a byte of the row (0x{byte:02X}) is not UTF-8",
        "write the row anew in UTF-8, or name the file's encoding, as in --encoding cp1252",
        value=shorten(around),
    )


def _named(path: Path, asked: str) -> Encoding:
    try:
        name = codecs.lookup(asked).name.replace("-", "_")
    except LookupError:
        raise DataError(
            "unknown_encoding",
            f"encoding {asked!r}: no such encoding; names are utf-8, cp1252, shift_jis, utf-16, gb18030 and the like",
            param="encoding",
        ) from None
    try:
        with path.open(encoding=name) as file:
            while file.read(PIECE_BYTES):
                pass
    except UnicodeDecodeError as error:
        raise DataError(
            "wrong_encoding", f"{path}: is not {asked}, byte {error.start + 1} of a piece: {error.reason}; name another"
        ) from None
    return Encoding(name, f"read as {name}, as asked")


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _not_utf8(path: Path) -> tuple[list[bytes], int]:
    """The first lines that are not UTF-8 (up to 64 KB), and how many foreign ones up to there are."""
    foreign: list[bytes] = []
    size = valid = 0
    with path.open("rb") as file:
        while size < SAMPLE_BYTES and (line := file.readline(SAMPLE_BYTES)):
            if line.isascii():
                continue
            try:
                line.decode()
                valid += 1
            except UnicodeDecodeError:
                foreign.append(line)
                size += len(line)
    return foreign, valid


def _guessed(path: Path, sample: bytes) -> Encoding:
    """The encoding whose text reads best; asked, where another one reads as well and gives other letters.

    Raises:
        DataError: ambiguous_encoding or unknown_encoding.
    """
    # 0.1 s to import, which only such files need.
    from charset_normalizer import from_bytes

    matches = [match for match in from_bytes(sample, cp_isolation=LEGACY) if _fits(path, match.encoding)]
    if not matches:
        raise DataError(
            "unknown_encoding",
            f"{path}: is no UTF-8, and no other encoding fits; name it, as in --encoding cp1252, or save it as UTF-8",
            param="encoding",
        )
    best = matches[0]
    near = [m for m in matches if m.chaos - best.chaos <= NEAR and best.coherence - m.coherence <= NEAR]
    readings = {str(match): match.encoding for match in reversed(near)}
    if len(readings) == 1:
        shown = shorten(_foreign_line(str(best)))
        told = f"read as {best.encoding}, which fits best: {shown!r}; if letters are wrong, name another"
        return Encoding(best.encoding, told)
    choices = "\n".join(f"    --encoding {name}  {shorten(_foreign_line(text))!r}" for text, name in readings.items())
    raise DataError(
        "ambiguous_encoding",
        f"{path}: is no UTF-8, and more than one encoding fits. Say in which its letters are right:\n{choices}",
        param="encoding",
    )


def _fits(path: Path, encoding: str) -> bool:
    try:
        _named(path, encoding)
    except DataError:
        return False
    return True


def _foreign_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if not line.isascii()), "")
