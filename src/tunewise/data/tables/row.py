"""What every reader of tables gives. Knows no file."""

from typing import Any, NamedTuple

from tunewise.data.problems import Problem


class TableRow(NamedTuple):
    """One row; `line` counts from 1, and is the row's number where a file has no lines. With a problem: no fields."""

    line: int
    fields: dict[str, Any]
    problem: Problem | None = None


def broken(line: int, problem: Problem) -> TableRow:
    """A row that could not be read."""
    return TableRow(line, {}, problem)
