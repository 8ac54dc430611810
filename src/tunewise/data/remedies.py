r"""Mended copies of a file of rows: without certain lines, with secrets masked, or dealt into parts. Never in place.

Lines are copied as they stand, byte for byte, but for what is masked. Knows files and lines; what is wrong with a line
is `check`'s to say.
"""

import hashlib
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from tunewise.data.privacy import redact
from tunewise.data.reader import is_blank, lines_of, open_checked, read_span, spans

SPLIT_SEED = 42


def without_lines(path: Path, dropped: Collection[int], out: Callable[[bytes], None]) -> int:
    """Copy all but the lines of these numbers (from 1); how many rows were left out.

    Raises:
        DataError: the file cannot be read.
    """
    gone = 0
    for number, line in _numbered(path):
        if number in dropped:
            gone += not is_blank(line)
        else:
            out(line + b"\n")
    return gone


def masked(path: Path, out: Callable[[bytes], None]) -> int:
    """Copy every line, secrets and personal data replaced by `[removed]`; how many were replaced.

    Raises:
        DataError: the file cannot be read.
    """
    replaced = 0
    for _, line in _numbered(path):
        clean, count = redact(line)
        replaced += count
        out(clean + b"\n")
    return replaced


def dealt(path: Path, shares: Sequence[float], outs: Sequence[Callable[[bytes], None]]) -> list[int]:
    """Deal the rows into parts by their shares, which sum to 1; how many rows each part got.

    Equal rows go to the same part, so that none stands in two. Which part is drawn with a fixed seed; the rows keep
    their order.

    Raises:
        DataError: the file cannot be read.
    """
    groups: dict[bytes, int] = {}
    for _, line in _rows(path):
        groups.setdefault(_print(line), 0)
        groups[_print(line)] += 1
    part_of = _drawn(groups, shares)
    counts = [0] * len(shares)
    for _, line in _rows(path):
        part = part_of[_print(line)]
        counts[part] += 1
        outs[part](line + b"\n")
    return counts


def _drawn(groups: dict[bytes, int], shares: Sequence[float]) -> dict[bytes, int]:
    """A part for each group, so that the parts come as near to their shares as whole groups allow."""
    order = list(groups)
    random.Random(SPLIT_SEED).shuffle(order)  # no secret
    total = sum(groups.values())
    bounds = [total * sum(shares[: index + 1]) for index in range(len(shares))]
    part_of, dealt_rows, part = {}, 0, 0
    for group in order:
        while part < len(shares) - 1 and dealt_rows + groups[group] / 2 > bounds[part]:
            part += 1
        part_of[group] = part
        dealt_rows += groups[group]
    return part_of


def _print(line: bytes) -> bytes:
    return hashlib.blake2b(line.strip(), digest_size=16).digest()


def _rows(path: Path) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in _numbered(path) if not is_blank(line))


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    for span in spans(path, open_checked(path)):
        for line in lines_of(read_span(path, span)):
            number += 1
            yield number, line
