"""One block of a file, looked at in full: its problems, and what is kept of its rows to compare them with others.

A pure function of bytes, so blocks can be looked at in several processes at once. Knows nothing of whole files.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, assert_never

import msgspec
import numpy as np
import numpy.typing as npt

from tunewise.contracts.chat import AssistantMessage, ChatExample, DeveloperMessage, Message, PlainText, SystemMessage
from tunewise.contracts.check import RowFormat
from tunewise.data import privacy, rules, similarity
from tunewise.data.answers import Answered
from tunewise.data.conversation import call_text, calls_of, text_of, tools_of
from tunewise.data.explain import explain_row
from tunewise.data.formats import Row, decode_block, decode_row, examples_of
from tunewise.data.pairs import placed, problems_of
from tunewise.data.problems import Problem
from tunewise.data.reader import Span, is_blank, lines_of, read_span
from tunewise.data.texts import text_problems


class Validated(NamedTuple):
    """A block's good rows, each with the index of its line, and the problems by the index of their line."""

    lines: int
    rows: Sequence[Row]
    indices: Sequence[int]
    shapes: Counter[rules.Shape]
    problems: list[tuple[int, Problem]]


class Fingerprints(NamedTuple):
    """What is kept of each good row, in the order of the file. 296 bytes a row."""

    lines: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    rows: similarity.Keys
    prompts: similarity.Keys
    questions: similarity.Keys
    question_signatures: similarity.Signatures
    answer_signatures: similarity.Signatures


class Block(NamedTuple):
    """All that is known of one block. Line numbers count from 0 at the block's start."""

    lines: int
    roles: Counter[str]
    lengths: Counter[int]
    weighted: int
    labels: Counter[bool]
    problems: list[tuple[int, Problem]]
    fingerprints: Fingerprints


class Frame(NamedTuple):
    """What every question of a file begins and ends with, and what therefore makes no two of them alike."""

    prefix: str
    suffix: str

    def strip(self, question: str) -> str:
        """The question without the frame; as it is when nothing would be left."""
        if len(question) <= len(self.prefix) + len(self.suffix):
            return question
        inner = question.removeprefix(self.prefix).removesuffix(self.suffix)
        return inner if inner.strip() else question


class Parts(NamedTuple):
    """A row as it is compared: normalised, system messages apart."""

    system: str
    question: str
    answer: str


def validate(data: bytes, row_format: RowFormat) -> Validated:
    """Decode a block and look for every rule that a row breaks."""
    rows = decode_block(data, row_format)
    if rows is not None:
        shapes, clean = rules.sweep(rows)
        if clean:
            return Validated(len(rows), rows, range(len(rows)), shapes, [])
    return _validate_one_by_one(data, row_format)


def _validate_one_by_one(data: bytes, row_format: RowFormat) -> Validated:
    rows: list[Row] = []
    indices: list[int] = []
    problems: list[tuple[int, Problem]] = []
    lines = lines_of(data)
    for index, line in enumerate(lines):
        if is_blank(line):
            problems.append((index, _blank_line()))
            continue
        try:
            example = decode_row(line, row_format)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            problems += [(index, problem) for problem in explain_row(line, row_format)]
            continue
        found = _row_problems(example)
        problems += [(index, problem) for problem in found]
        if not any(problem.severity == "error" for problem in found):
            rows.append(example)
            indices.append(index)
    chats = [example for row in rows for example in examples_of(row)[:1]]
    return Validated(len(lines), rows, indices, rules.shapes_of(chats), problems)


def _row_problems(row: Row) -> list[Problem]:
    match row:
        case ChatExample():
            return rules.row_problems(row)
        case Answered():
            return problems_of(row)
        case PlainText():
            return list(text_problems(row.text))
        case _:
            assert_never(row)


def _blank_line() -> Problem:
    return Problem("warning", "blank_line", "the line is blank and holds no row", "remove it")


def scan(path: Path, span: Span, row_format: RowFormat, frame: Frame) -> Block:
    """Everything about one block."""
    data = read_span(path, span)
    checked = validate(data, row_format)
    lines = lines_of(data)
    problems = checked.problems + _warnings(data, lines, checked)
    roles: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    for shape, count in checked.shapes.items():
        lengths[len(shape)] += count
        for kind in shape:
            roles[rules.role_name(kind)] += count
    prints = _fingerprints(checked, lines, span.start, frame)
    weighted = sum(isinstance(row, ChatExample) and row.weight is not None for row in checked.rows)
    labels = Counter(row.wanted for row in checked.rows if isinstance(row, Answered))
    return Block(checked.lines, roles, lengths, weighted, labels, sorted(problems, key=lambda item: item[0]), prints)


def _warnings(data: bytes, lines: list[bytes], checked: Validated) -> list[tuple[int, Problem]]:
    row_at = dict(zip(checked.indices, checked.rows, strict=True))
    return [
        (found.line, _seen(found, row_at[found.line]))
        for found in privacy.sightings(data, lines)
        if found.line in row_at
    ]


def _seen(found: privacy.Sighting, row: Row) -> Problem:
    """What was seen, with the field that it was seen in."""
    if not isinstance(row, Answered):
        return privacy.problem_of(found, row)
    sides = [privacy.problem_of(found, example) for example in row.examples]
    number, problem = next(((n, side) for n, side in enumerate(sides) if side.param), (0, sides[0]))
    return problem._replace(param=placed(problem.param, row, number))


def _fingerprints(checked: Validated, lines: list[bytes], start: int, frame: Frame) -> Fingerprints:
    parts = [parts_of(row) for row in checked.rows]
    offsets = np.concatenate(([0], np.cumsum([len(line) + 1 for line in lines])))[:-1] + start
    indices = np.array(checked.indices, dtype=np.int64)
    return Fingerprints(
        lines=indices,
        offsets=offsets[indices].astype(np.int64),
        rows=_keys(["\x1e".join(p) for p in parts]),
        prompts=_keys([f"{p.system}\x1e{p.question}" for p in parts]),
        questions=_keys([p.question for p in parts]),
        question_signatures=similarity.signatures([frame.strip(p.question) for p in parts]),
        answer_signatures=similarity.signatures([p.answer for p in parts]),
    )


def _keys(texts: list[str]) -> similarity.Keys:
    digests = b"".join(blake2b(t.encode("utf-8", "surrogatepass"), digest_size=8).digest() for t in texts)
    return np.frombuffer(digests, dtype=np.uint64)


def parts_of(example: Row) -> Parts:
    """The row's texts: the system's (with the tools' names), those before the last answer, and that answer.

    A document is what is asked and what is answered at once: another repeats it only as a whole.
    """
    if isinstance(example, PlainText):
        text = similarity.normalise(example.text)
        return Parts("", text, text)
    chat = examples_of(example)[0]
    *before, last = chat.messages
    system = [text_of(m.content) for m in before if isinstance(m, SystemMessage | DeveloperMessage)]
    system += [tool.function.name for tool in tools_of(chat.tools, chat.functions)]
    question = [_spoken(m) for m in before if not isinstance(m, SystemMessage | DeveloperMessage)]
    return Parts(*(similarity.normalise("\n".join(texts)) for texts in (system, question, [_spoken(last)])))


def _spoken(message: Message) -> str:
    text = text_of(message.content)
    if not isinstance(message, AssistantMessage) or not (message.tool_calls or message.function_call):
        return text
    return "\n".join([text, *(call_text(call.function) for call in calls_of(message))])


def frame_of(rows: Sequence[Row], least_rows: int = 20) -> Frame:
    """What the questions of a file's first rows share at both ends; nothing when the rows are few."""
    questions = list({parts_of(row).question for row in rows})
    if len(questions) < least_rows:
        return Frame("", "")
    prefix = _shared_start(questions)
    rests = [question[len(prefix) :][::-1] for question in questions]
    return Frame(prefix, _shared_start(rests)[::-1])


def _shared_start(texts: list[str]) -> str:
    # What the least and the greatest string share, all between them share.
    least, greatest = min(texts), max(texts)
    same = next((n for n, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), len(least))
    return least[:same]
