"""A whole file, block by block: its totals, its problems by line, and its rows' fingerprints.

Memory does not grow with the file but for 296 bytes a row and at most 10,000 problems of each kind (all are counted).
Knows nothing of other files, tokens or models.
"""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import file_digest
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tunewise.contracts.check import Finding, RowFormat
from tunewise.data.problems import Problem, finding
from tunewise.data.reader import open_checked, read_span, spans
from tunewise.data.scan import Block, Fingerprints, Frame, frame_of, scan, validate

KEPT_PER_CODE = 10_000
# Below this, a second process costs more to start than it saves (0.4 s against 60 MB/s of full survey).
CHUNK_BLOCKS = 16  # handed to a process at a time
PARALLEL_BYTES = 48 * 1024 * 1024


class Survey(NamedTuple):
    """One file. `found` counts all problems by code; `problems` holds the first of each kind, by line from 1.

    `weighted`: rows with a weight of their own; `labels`: how many answers are wanted, and how many not, of rows that
    are judged by them.
    """

    path: Path
    row_format: RowFormat
    sha256: str
    bytes: int
    lines: int
    roles: Counter[str]
    lengths: Counter[int]
    weighted: int
    labels: Counter[bool]
    found: Counter[str]
    problems: list[tuple[int, Problem]]
    fingerprints: Fingerprints


def survey(path: Path, row_format: RowFormat, frame: Frame) -> Survey:
    """Look at every row of a file.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    size = open_checked(path)
    lines, weighted, roles, lengths = 0, 0, Counter[str](), Counter[int]()
    labels, found = Counter[bool](), Counter[str]()
    problems: list[tuple[int, Problem]] = []
    prints: list[Fingerprints] = []
    for block in _blocks(path, size, row_format, frame):
        for index, problem in block.problems:
            found[problem.code] += 1
            if found[problem.code] <= KEPT_PER_CODE:
                problems.append((lines + index + 1, problem))
        prints.append(block.fingerprints._replace(lines=block.fingerprints.lines + lines + 1))
        roles += block.roles
        lengths += block.lengths
        lines += block.lines
        weighted += block.weighted
        labels += block.labels
    with path.open("rb") as file:
        sha256 = file_digest(file, "sha256").hexdigest()
    return Survey(
        path, row_format, sha256, size, lines, roles, lengths, weighted, labels, found, problems, _joined(prints)
    )


def _blocks(path: Path, size: int, row_format: RowFormat, frame: Frame) -> Iterator[Block]:
    """The blocks in the file's order; of large files several at once."""
    look = partial(scan, path)
    processes = min(os.cpu_count() or 1, 8)
    if size < PARALLEL_BYTES or processes == 1:
        yield from map(look, spans(path, size), repeat(row_format), repeat(frame))
        return
    # Spawned, not forked: the caller may hold threads (tokenizers, numpy).
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(look, spans(path, size), repeat(row_format), repeat(frame), chunksize=CHUNK_BLOCKS)


def _joined(prints: list[Fingerprints]) -> Fingerprints:
    """All blocks' fingerprints as one; column by column, so that no more than one stands twice in memory."""
    columns = [list(column) for column in zip(*prints, strict=True)]
    prints.clear()
    joined = []
    for column in columns:
        joined.append(np.concatenate(column))
        column.clear()
    return Fingerprints(*joined)


def first_frame(path: Path, row_format: RowFormat) -> Frame:
    """What the questions of a file's first block share."""
    first = next(spans(path, open_checked(path)))
    return frame_of(validate(read_span(path, first), row_format).rows)


def findings_of(found: Survey) -> list[Finding]:
    """The problems of a file, and for each kind that was too frequent to keep, how many more there are."""
    kept = [finding(found.path, line, problem) for line, problem in found.problems]
    return kept + [_more(found, code, n) for code, n in found.found.items() if n > KEPT_PER_CODE]


def _more(found: Survey, code: str, count: int) -> Finding:
    first = next(problem for _, problem in found.problems if problem.code == code)
    return Finding(
        severity=first.severity,
        code=code,
        file=found.path.name,
        line=None,
        message=f"{count - KEPT_PER_CODE} further rows with this problem are counted but not listed",
        remedy="mend the listed ones, which are likely of one cause, and check again",
    )
