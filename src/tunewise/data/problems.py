"""A problem in a row, as the modules that look for problems hand it on. Knows the shape only, not who finds what."""

from pathlib import Path
from typing import NamedTuple

from tunewise.contracts.check import Finding, Severity
from tunewise.errors import DataError

VALUE_CHARS = 60


class Problem(NamedTuple):
    """What is wrong in one row; the line and the file are added by whoever reads the file."""

    severity: Severity
    code: str
    message: str
    remedy: str
    param: str | None = None
    value: str | None = None


def shorten(value: str, limit: int = VALUE_CHARS) -> str:
    """At most `limit` characters of a value, with what could upset a terminal made visible."""
    head = value[: limit + 1].encode("unicode_escape").decode("ascii") if not value.isprintable() else value
    return head if len(head) <= limit else head[: limit - 1] + "…"


def problem_of(error: DataError) -> Problem:
    """An error about a row, whose message ends in its remedy after a semicolon, as a problem."""
    message, _, remedy = error.message.rpartition("; ")
    return Problem("error", error.code, message or error.message, remedy if message else "look at it", error.param)


def finding(path: Path, line: int | None, problem: Problem) -> Finding:
    """A problem with its place."""
    return Finding(file=path.name, line=line, **problem._asdict())
