"""Rows that stand twice: within a file, and in a held-out file as well as in one that the model is made from.

That is the training file and, for test rows, the validation file, as it may choose the checkpoint. A held-out row has
leaked when its question stands in the other file letter for letter (case and blanks aside), or when question and
answer both nearly repeat a row of it. An equal question under another system prompt counts too, unless the other file
asks it again and again: "Summarise." identifies nothing. Knows fingerprints, not formats.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tunewise.contracts.check import LeakedRow, RowFormat, Severity, Split
from tunewise.data import similarity
from tunewise.data.formats import decode_row
from tunewise.data.problems import Problem
from tunewise.data.scan import Fingerprints, Frame, Parts, parts_of
from tunewise.data.survey import Survey

# An estimate of 0.7 may be a similarity of 0.8: two standard errors.
CANDIDATE = 0.7
FIXED_QUESTION_ROWS = 3
FIXED_QUESTION_SHARE = 0.01
PARTS_SLACK = 4


def first_equal(keys: similarity.Keys, pool: similarity.Keys) -> npt.NDArray[np.int64]:
    """For each key the first row of the pool that has it, or -1: (keys,)."""
    values, first = np.unique(pool, return_index=True)
    if not len(values):
        return np.full(len(keys), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(values, keys), len(values) - 1)
    result: npt.NDArray[np.int64] = np.where(values[place] == keys, first[place], -1)
    return result


def repeats(prints: Fingerprints) -> Iterator[tuple[int, Problem]]:
    """Rows that repeat an earlier row of their file: exactly, nearly, or with another answer to the same prompt."""
    own = np.arange(len(prints.rows))
    equal = first_equal(prints.rows, prints.rows)
    same_prompt = first_equal(prints.prompts, prints.prompts)
    near, _ = similarity.earliest_like(prints.question_signatures, prints.answer_signatures)
    for row in np.flatnonzero((equal < own) | (same_prompt < own) | (near >= 0)):
        line = int(prints.lines[row])
        if equal[row] < row:
            yield line, _repeat("warning", "duplicate", "repeats line", prints.lines[equal[row]])
        elif near[row] >= 0:
            yield line, _repeat("note", "near_duplicate", "nearly repeats line", prints.lines[near[row]])
        else:
            yield (
                line,
                _repeat(
                    "note",
                    "conflicting_answer",
                    "gives another answer to the prompt of line",
                    prints.lines[same_prompt[row]],
                ),
            )


_REPEAT_REMEDIES = {
    "duplicate": "keep one of them, unless the row is meant to count more",
    "near_duplicate": "keep the better one, unless the variation is meant",
    "conflicting_answer": "keep the right answer, unless several are right",
}


def _repeat(severity: Severity, code: str, words: str, line: np.int64) -> Problem:
    return Problem(severity, code, f"{words} {int(line)}", _REPEAT_REMEDIES[code], value=f"line {int(line)}")


def leaks(split: Split, held_out: Survey, source: Split, other: Survey, frame: Frame) -> list[LeakedRow]:
    """The rows of a held-out file that also stand in another one."""
    ours, theirs = held_out.fingerprints, other.fingerprints
    if not len(ours.rows) or not len(theirs.rows):
        return []
    exact = first_equal(ours.prompts, theirs.prompts)
    question = first_equal(ours.questions, _identifying(theirs.questions))
    exact = np.where(exact >= 0, exact, question)
    near, _ = similarity.earliest_like(
        ours.question_signatures,
        ours.answer_signatures,
        (theirs.question_signatures, theirs.answer_signatures),
        threshold=CANDIDATE,
    )
    found: list[LeakedRow] = []
    for row in np.flatnonzero((exact >= 0) | (near >= 0)):
        match = exact[row] if exact[row] >= 0 else near[row]
        score = 1.0 if exact[row] >= 0 else _measured(held_out, other, int(row), int(match), frame)
        if score >= similarity.THRESHOLD:
            line, source_line = int(ours.lines[row]), int(theirs.lines[match])
            leaked = LeakedRow(split=split, line=line, source=source, source_line=source_line, similarity=score)
            found.append(leaked)
    return found


def kindred(found: Survey, frame: Frame) -> list[int]:
    """For each row the number of its group: rows of two groups do not leak into one another.

    Together are rows with the same prompt, with the same question unless it is asked again and again, and near copies;
    what the signatures take for one is measured, as many short questions look alike to them.
    """
    prints = found.fingerprints
    rows = np.arange(len(prints.rows))
    # A part of the rows has a lower limit, and a question that is below it there must not stand in another part.
    questions = _identifying(prints.questions, slack=PARTS_SLACK)
    equal = [
        np.stack([rows, first_equal(prints.prompts, prints.prompts)], axis=1),
        np.stack([rows, first_equal(questions, questions)], axis=1)[questions != 0],
    ]
    groups = Groups(len(rows))
    for row, other in np.concatenate(equal).tolist():
        groups.join(row, other)
    for row, other in similarity.alike(prints.question_signatures, prints.answer_signatures, CANDIDATE).tolist():
        if groups.of(row) != groups.of(other) and _measured(found, found, row, other, frame) >= similarity.THRESHOLD:
            groups.join(row, other)
    return [groups.of(row) for row in range(len(rows))]


class Groups:
    """Things that are joined pair by pair; a group's number is that of its first."""

    def __init__(self, count: int) -> None:
        self._leads = list(range(count))

    def of(self, thing: int) -> int:
        """The group that it is in."""
        leads = self._leads
        while leads[thing] != thing:
            leads[thing] = leads[leads[thing]]
            thing = leads[thing]
        return thing

    def join(self, thing: int, other: int) -> None:
        """Make one group of theirs."""
        first, second = sorted((self.of(thing), self.of(other)))
        self._leads[second] = first


def _identifying(questions: similarity.Keys, slack: int = 1) -> similarity.Keys:
    """The questions, those that are asked again and again replaced by 0. `slack`: so many times as often."""
    limit = slack * max(FIXED_QUESTION_ROWS, FIXED_QUESTION_SHARE * len(questions))
    fixed = [key for key, count in Counter(questions.tolist()).items() if count > limit]
    return np.where(np.isin(questions, np.array(fixed, dtype=np.uint64)), np.uint64(0), questions)


def _measured(held_out: Survey, other: Survey, row: int, match: int, frame: Frame) -> float:
    """The exact similarity of two rows: the smaller of the questions' and the answers'."""
    left = _row_at(held_out.path, int(held_out.fingerprints.offsets[row]), held_out.row_format)
    right = _row_at(other.path, int(other.fingerprints.offsets[match]), other.row_format)
    questions = similarity.jaccard(frame.strip(left.question), frame.strip(right.question))
    return min(questions, similarity.jaccard(left.answer, right.answer))


def _row_at(path: Path, offset: int, row_format: RowFormat) -> Parts:
    with path.open("rb") as file:
        file.seek(offset)
        return parts_of(decode_row(file.readline(), row_format))
