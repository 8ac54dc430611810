r"""Files to blocks of whole lines, in bounded memory: a row ends at a line feed and nowhere else.

Knows bytes and encodings; knows nothing of JSON's contents. Only `\n` ends a row: U+2028, U+0085, a vertical tab and
the other ends that `str.splitlines` sees may stand inside a row.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tunewise.errors import DataError

# Rows of a block this small are still in the processor's cache when they are looked at: 15 % faster than 2 MB.
BLOCK_BYTES = 256 * 1024
MAX_ROW_BYTES = 64 * 1024 * 1024
BOM = b"\xef\xbb\xbf"


class Span(NamedTuple):
    """A stretch of a file that begins and ends at a line's start; `end` in bytes, exclusive."""

    start: int
    end: int


def open_checked(path: Path) -> int:
    """The size of a data file in bytes, after the checks that need no more than its head.

    Raises:
        DataError: file_not_found, not_a_file, empty_file, or an encoding or container other than UTF-8 text.
    """
    if not path.exists():
        raise DataError("file_not_found", f"{path}: no such file; check the path", param=str(path))
    if not path.is_file():
        raise DataError("not_a_file", f"{path}: is no regular file; name a JSONL file", param=str(path))
    with path.open("rb") as file:
        head = file.read(4096)
    size = path.stat().st_size
    if size <= len(head) and not head.removeprefix(BOM).strip():
        raise DataError("empty_file", f"{path}: the file holds no row; write one JSON object a line", param=str(path))
    refuse_container(path, head)
    return size


CONTAINERS = (
    (b"\x1f\x8b", "a gzip file", "unpack it with `gunzip`"),
    (
        b"PK\x03\x04",
        "a zip file or an Office document",
        "unpack it, or convert the sheet: `tunewise data convert FILE`",
    ),
    (b"PAR1", "a Parquet file", "convert it: `pandas.read_parquet(f).to_json(out, orient='records', lines=True)`"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it with `unzstd`"),
)


def refuse_container(path: Path, head: bytes) -> None:
    """Refuse what is not UTF-8 text, by the first bytes.

    Raises:
        DataError: not_text or wrong_encoding, with the command that converts it.
    """
    for magic, what, remedy in CONTAINERS:
        if head.startswith(magic):
            raise DataError("not_text", f"{path}: this is {what}, not JSON lines; {remedy}", param=str(path))
    if re.match(rb"\s*(\[\s*\{|\{\s*\n)", head.removeprefix(BOM)):
        raise DataError(
            "not_json_lines",
            f"{path}, line 1: this is one JSON document over several lines, not JSON lines; write one object a line, "
            "with no brackets around them: jq -c '.[]' FILE > NEW",
            param=str(path),
        )
    encoding = wide_encoding(head)
    if encoding:
        raise DataError(
            "wrong_encoding",
            f"{path}, line 1, byte 1: the file is {encoding}; convert it: iconv -f {encoding} -t UTF-8 FILE > NEW",
            param=str(path),
        )


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the byte order mark or by the zero bytes that ASCII has there."""
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    # JSON begins with two ASCII characters (RFC 4627, section 3).
    if len(head) >= 4 and head[1] == 0 and head[3] == 0 and head[0] and head[2]:
        return "UTF-16LE"
    if len(head) >= 4 and head[0] == 0 and head[2] == 0 and head[1] and head[3]:
        return "UTF-16BE"
    return None


def spans(path: Path, size: int, block_bytes: int = BLOCK_BYTES) -> Iterator[Span]:
    """Cut a file of `size` bytes into spans of whole lines, each about `block_bytes` long.

    Raises:
        DataError: row_too_large, at a line of more than 64 MB.
    """
    with path.open("rb") as file:
        start = len(BOM) if file.read(len(BOM)) == BOM else 0
        while start < size:
            file.seek(min(start + block_bytes, size))
            tail = file.readline(MAX_ROW_BYTES)
            if len(tail) == MAX_ROW_BYTES and not tail.endswith(b"\n"):
                raise DataError(
                    "row_too_large",
                    f"{path}: a row after byte {start} is longer than {MAX_ROW_BYTES} bytes; is a line end missing?",
                    param=str(path),
                )
            end = file.tell()
            yield Span(start, end)
            start = end


def read_span(path: Path, span: Span) -> bytes:
    """The bytes of a span."""
    with path.open("rb") as file:
        file.seek(span.start)
        return file.read(span.end - span.start)


def lines_of(data: bytes) -> list[bytes]:
    r"""The rows of a span, without their `\n`; the last one may lack it."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def is_blank(line: bytes) -> bool:
    """Whether a line holds nothing but blanks as JSON knows them."""
    return not line.strip(b" \t\r")
