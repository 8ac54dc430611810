"""The answers collected so far, as an append-only JSONL file that survives a kill at any point.

One line per answer, with the stretch and the seconds since it began, so that a resumed arm knows its wall time.
"""

import time
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from pydantic import ValidationError

from tunewise.contracts.evaluation import Answer
from tunewise.contracts.frozen import Frozen
from tunewise.errors import EvaluationError


class Line(Frozen):
    """One line of the file. A stretch is one run of collecting, without interruption."""

    stretch: int
    elapsed: float
    answer: Answer


class Collected(NamedTuple):
    """What earlier stretches left: the last answer of each row, and the wall seconds of all stretches."""

    answers: list[Answer]
    seconds: float
    stretches: int


NOTHING_COLLECTED = Collected([], 0.0, 0)


def read_answers(path: Path) -> Collected:
    """Read what is there; a half-written last line is left out, a missing file holds nothing.

    Raises:
        EvaluationError: a whole line that is no answer.
    """
    raw = path.read_bytes() if path.exists() else b""
    whole = raw[: raw.rfind(b"\n") + 1]
    lines = [_parse(path, number, line) for number, line in enumerate(whole.splitlines(), start=1)]
    ends = {line.stretch: line.elapsed for line in lines}
    answers = {line.answer.row: line.answer for line in lines}
    return Collected(list(answers.values()), sum(ends.values()), len(ends))


class AnswerLog:
    """Appends answers to the file; open it with `with`, hand `write` to `collect` as `on_answer`.

    `collected` is what was there before.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, cut off a half-written last line, and begin a stretch."""
        self.collected = read_answers(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(_whole_bytes(path))
        self._started = time.perf_counter()

    def write(self, answer: Answer) -> None:
        """Append one answer; it is in the file when this returns."""
        elapsed = time.perf_counter() - self._started
        line = Line(stretch=self.collected.stretches, elapsed=elapsed, answer=answer)
        self._file.write(line.model_dump_json().encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._file.close()


def _whole_bytes(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1


def _parse(path: Path, number: int, line: bytes) -> Line:
    try:
        return Line.model_validate_json(line)
    except ValidationError as error:
        raise EvaluationError(
            "damaged_answers", f"{path}, line {number} is no answer; delete the file to collect the answers anew"
        ) from error
