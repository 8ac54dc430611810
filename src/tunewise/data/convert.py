"""Import: what a file is, what its rows would become, and the converted file. Three pure functions of a path.

`detect` suggests a mapping or says what has to be asked; `preview` and `convert` take a complete one. The converted
file is written aside and renamed when it is whole, row by row, so that memory does not grow with the table.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from tunewise.contracts.check import Finding
from tunewise.contracts.importing import (
    Choice,
    ColumnMapping,
    Conversion,
    Converted,
    Detected,
    Question,
)
from tunewise.data.columns import check_names, describe, named, suggest
from tunewise.data.examples import FALSE_WORDS, Made, make_example
from tunewise.data.problems import finding
from tunewise.data.tables.row import TableRow
from tunewise.data.tables.table import (
    PlacedRow,
    Table,
    Way,
    columns_of,
    count_rows,
    head_rows,
    look,
    read_rows,
)
from tunewise.data.turns import NOTHING, as_json, has_reasoning
from tunewise.errors import DataError

KEPT_PER_CODE = 1_000


def detect(path: Path, said: ColumnMapping = ColumnMapping()) -> Detected:  # noqa: B008 (frozen)
    """What a file or directory holds, and the mapping that it suggests, completing what was said.

    Raises:
        DataError: it cannot be read, or names a column that is not there.
    """
    table = look(path, way_of(said))
    head = head_rows(table)
    names = columns_of(table, head)
    if not head:
        raise _no_row(table)
    columns = describe(names, head)
    found = suggest(columns, said)
    questions = found.questions
    if found.mapping is not None:
        questions = _reasoning_question(head, found.mapping)
    rows, estimated = count_rows(table)
    mapping = None if questions else found.mapping
    return Detected(
        path=path,
        format=table.format,
        encoding=table.encoding,
        delimiter=None if table.dialect is None else table.dialect.delimiter,
        sheets=table.sheets,
        sheet=table.sheet,
        columns=columns,
        rows=rows,
        rows_are_estimated=estimated,
        mapping=mapping,
        reason=found.reason,
        questions=questions,
        unused=() if mapping is None else tuple(name for name in names if name not in named(mapping).values()),
        notes=(*table.notes, *_surroundings(head, mapping)),
    )


def _no_row(table: Table) -> DataError:
    first = next(read_rows(table), None)
    if first is None or first.row.problem is None:
        return DataError("empty_file", f"{table.path}: the file holds no row", param=str(table.path))
    problem = first.row.problem
    return DataError(
        problem.code,
        f"{table.path}: no row can be read; the first, line {first.row.line}: {problem.message}; {problem.remedy}",
        param=problem.param,
    )


def way_of(mapping: ColumnMapping) -> Way:
    """What a mapping says of how the table is to be read."""
    return Way(split=mapping.split, encoding=mapping.encoding, delimiter=mapping.delimiter)


def unanswered(found: Detected) -> DataError:
    """What a person has to be asked, as an error that names every choice."""
    lines = []
    for question in found.questions:
        lines.append(question.asks)
        lines += [f"    {choice.flag}  {choice.meaning}" for choice in question.choices]
    return DataError(
        "ambiguous_columns",
        f"{found.path}: what its columns are is not clear.\n  " + "\n  ".join(lines),
        param=found.questions[0].role,
    )


def preview(path: Path, mapping: ColumnMapping, rows: int) -> tuple[Converted, ...]:
    """The first rows as they would be converted.

    Raises:
        DataError: the file cannot be read, or the mapping does not fit it.
    """
    table = _opened(path, mapping)
    shown = []
    for placed in islice((row for row in read_rows(table) if not _unwanted(row.row, mapping)), rows):
        made = _made(placed.row, mapping, set())
        shown.append(
            Converted(
                line=placed.row.line,
                example=None if made.line is None else as_json(made.line.decode()),
                problems=tuple(finding(placed.file, placed.row.line, problem) for problem in made.problems),
            )
        )
    return tuple(shown)


def convert(path: Path, mapping: ColumnMapping, out: Path) -> Conversion:
    """Convert a whole table into `out`. Rows that cannot be converted are findings, and the others are written.

    Raises:
        DataError: the file as a whole cannot be read, the mapping does not fit it, or no row of it could be converted.
    """
    table = _opened(path, mapping)
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            result = _convert_into(file, table, mapping, out)
            file.flush()
            os.fsync(file.fileno())
        if not result.written:
            raise _nothing_written(path, result)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return result


def _opened(path: Path, mapping: ColumnMapping) -> Table:
    table = look(path, way_of(mapping))
    head = head_rows(table)
    columns = describe(columns_of(table, head), head)
    check_names(mapping, columns)
    check_complete(mapping)
    return table


def check_complete(mapping: ColumnMapping) -> None:
    """Refuse a mapping that does not make an example.

    Raises:
        DataError: incomplete_mapping.
    """
    has = named(mapping)
    match mapping.to:
        case None:
            lacks = "to: chat, preference or labelled"
        case "chat" | "labelled":
            has_chat = "messages" in has or {"prompt", "completion"} <= has.keys()
            lacks = "" if has_chat else "prompt and completion, or messages"
            if mapping.to == "labelled" and "label" not in has:
                lacks = "label"
        case "preference":
            lacks = "" if {"chosen", "rejected"} <= has.keys() else "chosen and rejected"
    if lacks:
        raise DataError(
            "incomplete_mapping", f"the mapping lacks {lacks}; name the columns, as in --map prompt=question"
        )


def _convert_into(file: BinaryIO, table: Table, mapping: ColumnMapping, out: Path) -> Conversion:
    digest = hashlib.sha256()
    found: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    findings: list[Finding] = []
    rows = written = left_out = size = 0
    for placed, made, fields in _all_made(table, mapping):
        rows += 1
        ignored.update(fields)
        if made is None:
            left_out += 1
        elif made.line is not None:
            line = made.line + b"\n"
            file.write(line)
            digest.update(line)
            written += 1
            size += len(line)
        for problem in () if made is None else made.problems:
            found[problem.code] += 1
            if found[problem.code] <= KEPT_PER_CODE:
                findings.append(finding(placed.file, placed.row.line, problem))
    return Conversion(
        path=out,
        to=mapping.to or "chat",
        mapping=mapping,
        rows=rows,
        written=written,
        left_out=left_out,
        findings=tuple(findings),
        found=dict(found),
        ignored=dict(ignored),
        sha256=digest.hexdigest(),
        bytes=size,
    )


def _all_made(table: Table, mapping: ColumnMapping) -> Iterator[tuple[PlacedRow, Made | None, set[str]]]:
    """Each row with what it becomes (None: not wanted) and the fields that were not carried over."""
    used = set(named(mapping).values())
    for placed in read_rows(table):
        if _unwanted(placed.row, mapping):
            yield placed, None, set()
            continue
        ignored = {name for name in placed.row.fields.keys() - used if placed.row.fields[name] not in NOTHING}
        yield placed, _made(placed.row, mapping, ignored), ignored


def _made(row: TableRow, mapping: ColumnMapping, ignored: set[str]) -> Made:
    return make_example(row.fields, mapping, ignored) if row.problem is None else Made(None, (row.problem,))


def _unwanted(row: TableRow, mapping: ColumnMapping) -> bool:
    if not mapping.keep or row.problem is not None:
        return False
    value = row.fields.get(mapping.keep)
    return value.strip().lower() in {*FALSE_WORDS, ""} if isinstance(value, str) else not value


def _nothing_written(path: Path, result: Conversion) -> DataError:
    if not result.findings:
        return DataError("empty_file", f"{path}: none of its {result.rows} rows is wanted; look at the mapping's keep")
    first = result.findings[0]
    return DataError(
        first.code,
        f"{path}: none of its {result.rows} rows could be converted; the first, line {first.line}: {first.message}; "
        f"{first.remedy}",
        param=first.param,
    )


def _surroundings(head: list[TableRow], mapping: ColumnMapping | None) -> tuple[str, ...]:
    """What a person should know of white space around the answers, which the model would learn to write."""
    if mapping is None or mapping.strip or not mapping.completion:
        return ()
    answers = [row.fields.get(mapping.completion) for row in head]
    around = sum(isinstance(answer, str) and answer != answer.strip() for answer in answers)
    if not around:
        return ()
    return (f"{around} of the first {len(head)} answers begin or end with white space; --strip takes it away",)


def _reasoning_question(head: list[TableRow], mapping: ColumnMapping) -> tuple[Question, ...]:
    if mapping.reasoning is not None or not mapping.messages:
        return ()
    if not any(has_reasoning(as_json(row.fields.get(mapping.messages))) for row in head):
        return ()
    return (
        Question(
            role="reasoning",
            asks="Some answers hold reasoning beside their text. What is to become of it?",
            choices=(
                Choice(value="drop", flag="--reasoning drop", meaning="leave it out: the model answers at once"),
                Choice(
                    value="think", flag="--reasoning think", meaning="keep it before the answer, between <think> tags"
                ),
            ),
        ),
    )
