r"""Mended copies of a file of rows: without certain lines, with secrets masked, or dealt into parts. Never in place.

Lines are copied as they stand, byte for byte, but for what is masked. Knows files and lines; what is wrong with a line
is `check`'s to say.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from tunewise.data.formats import detect_format
from tunewise.data.leakage import kindred
from tunewise.data.privacy import redact
from tunewise.data.reader import is_blank, lines_of, open_checked, read_span, spans
from tunewise.data.survey import first_frame, survey

SPLIT_SEED = 42
Group: TypeAlias = int | bytes


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

    Rows that would leak into one another (`leakage.kindred`) go to the same part, and so do lines that are no rows and
    equal. Which part is drawn with a fixed seed; the rows keep their order.

    Raises:
        DataError: the file cannot be read.
    """
    group_of: dict[int, Group] = _kindred_lines(path)
    groups = Counter(group_of.get(number, _print(line)) for number, line in _rows(path))
    part_of = _drawn(groups, shares)
    counts = [0] * len(shares)
    for number, line in _rows(path):
        part = part_of[group_of.get(number, _print(line))]
        counts[part] += 1
        outs[part](line + b"\n")
    return counts


def _kindred_lines(path: Path) -> dict[int, Group]:
    """The group of each line that is a row."""
    row_format = detect_format(path)
    frame = first_frame(path, row_format)
    found = survey(path, row_format, frame)
    return dict(zip(found.fingerprints.lines.tolist(), kindred(found, frame), strict=True))


def _drawn(groups: Counter[Group], shares: Sequence[float]) -> dict[Group, int]:
    """A part for each group, so that the parts come as near to their shares as whole groups allow."""
    order = list(groups)
    random.Random(SPLIT_SEED).shuffle(order)  # no secret
    total = sum(groups.values())
    # A group that would fill the smallest part has its place in the largest.
    largest, least = max(range(len(shares)), key=lambda part: shares[part]), min(shares) * total / 2
    part_of = {group: largest for group in order if groups[group] > max(1, least)}
    placed = sum(groups[group] for group in part_of)
    left = [max(0, total * share - placed * (part == largest)) for part, share in enumerate(shares)]
    left = [rows * (total - placed) / sum(left) for rows in left]
    part = 0
    for group in order:
        if group in part_of:
            continue
        while part < len(shares) - 1 and left[part] < groups[group] / 2:
            part += 1
        part_of[group] = part
        left[part] -= groups[group]
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
