"""The sql_execution grader: an answer is right when it gives the rows that the reference gives.

An answer is a stranger's code. It runs on a read-only connection, under an authorizer that lets it read and nothing
else (no ATTACH, no PRAGMA, no temporary tables), for a limited time, rows and memory.
"""

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tunewise.contracts.graders import SqlExecution
from tunewise.evaluate.graders.graded import Graded, misconfigured, share
from tunewise.evaluate.graders.template import fill_reference
from tunewise.evaluate.rows import EvalRow

Value: TypeAlias = str | int | float | bytes | None
Row: TypeAlias = tuple[Value, ...]

MAX_ROWS = 100_000
MAX_VALUE_BYTES = 10_000_000
_STEPS_BETWEEN_CLOCK_READS = 1_000
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
# Strings, quoted names and comments are one token each, so that "order by" within them is not seen.
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|\w+|\s+|.", re.DOTALL)


class QueryError(Exception):
    """A query that did not run to its end. Never leaves this module."""


class Reference(NamedTuple):
    """What the reference query gave, and whether it fixed an order."""

    sql: str
    rows: list[Row]
    is_ordered: bool


def grade_sql(grader: SqlExecution, rows: Sequence[EvalRow], answers: Sequence[str]) -> Graded:
    """1 where the answer gives the reference's rows; over all rows the shares of valid SQL and of equal texts.

    Rows are compared as a multiset, or in order where the reference has a top-level ORDER BY.
    Column names do not count.

    Raises:
        EvaluationError: the database cannot be opened, or a reference fails on it.
    """
    with open_read_only(grader.name, grader.database) as connection:
        references = [_reference(grader, connection, row) for row in rows]
        results = [
            _answer_rows(grader, connection, answer, reference)
            for answer, reference in zip(answers, references, strict=True)
        ]
    pairs = zip(answers, references, strict=True)
    return Graded(
        [float(_agree(result, reference)) for result, reference in zip(results, references, strict=True)],
        {
            "valid_sql": share([result is not None for result in results]),
            "exact_match": share([normalise(answer) == normalise(reference.sql) for answer, reference in pairs]),
        },
    )


@contextmanager
def open_read_only(grader: str, database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can read the database and do nothing else.

    Raises:
        EvaluationError: there is no such file, or it is no SQLite database.
    """
    uri = f"{database.absolute().as_uri()}?mode=ro"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise misconfigured(grader, f"cannot open the database {database}: {error}") from error
    with closing(connection):
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        except sqlite3.Error as error:
            raise misconfigured(grader, f"{database} is no SQLite database: {error}") from error
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_authorizer(_authorize)
        # Bytes that are no UTF-8 are compared all the same, not refused.
        connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        yield connection


def run_query(connection: sqlite3.Connection, sql: str, *, seconds: float, max_rows: int) -> list[Row]:
    """The rows of one SELECT, at most `max_rows`. `seconds` is CPU time, so that a busy machine changes no score.

    Raises:
        QueryError: no valid single query, more than reading, or out of time.
    """
    deadline = time.thread_time() + seconds
    connection.set_progress_handler(lambda: time.thread_time() > deadline, _STEPS_BETWEEN_CLOCK_READS)
    try:
        with closing(connection.execute(sql)) as cursor:
            if cursor.description is None:
                raise QueryError("the statement gives no rows")
            return [tuple(map(_comparable, row)) for row in cursor.fetchmany(max_rows)]
    # ValueError: a null character or a lone surrogate in the text. Warning: two statements (Python 3.11).
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
        raise QueryError(str(error)) from error
    finally:
        connection.set_progress_handler(None, 0)


def is_ordered(sql: str) -> bool:
    """Whether the query has an ORDER BY outside all brackets, so that the order of its rows has a meaning."""
    depth, previous = 0, ""
    for token in _TOKEN.findall(sql):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0 and previous == "order" and token.lower() == "by":
            return True
        if not token.isspace() and not token.startswith(("--", "/*")):
            previous = token.lower()
    return False


def normalise(sql: str) -> str:
    """Lower case outside quotes, no comments, single blanks, no semicolon at the end."""
    tokens = [
        token if token[0] in "'\"`[" else token.lower()
        for token in _TOKEN.findall(sql)
        if not token.isspace() and not token.startswith(("--", "/*"))
    ]
    return " ".join(tokens).rstrip("; ")


def _authorize(action: int, _one: str | None, two: str | None, _database: str | None, _trigger: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION and two == "load_extension":
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def _comparable(value: Value) -> Value:
    # Sums of the same numbers in another order differ in the last bits.
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _reference(grader: SqlExecution, connection: sqlite3.Connection, row: EvalRow) -> Reference:
    sql = fill_reference(grader.reference, row).strip()
    try:
        rows = run_query(connection, sql, seconds=grader.seconds, max_rows=MAX_ROWS)
    except QueryError as error:
        raise misconfigured(
            grader.name, f"the reference of test row {row.line} fails on {grader.database}: {error}; SQL: {sql[:120]!r}"
        ) from error
    return Reference(sql, rows, is_ordered(sql))


def _answer_rows(
    grader: SqlExecution, connection: sqlite3.Connection, answer: str, reference: Reference
) -> list[Row] | None:
    # One row more than the reference is enough to tell that there are too many.
    max_rows = len(reference.rows) + 1
    try:
        return run_query(connection, answer.strip(), seconds=grader.seconds, max_rows=max_rows)
    except QueryError:
        return None


def _agree(given: list[Row] | None, reference: Reference) -> bool:
    if given is None:
        return False
    if reference.is_ordered:
        return given == reference.rows
    return Counter(given) == Counter(reference.rows)
