"""`tunewise worker`: a process that takes jobs from the database and trains them. Logs JSON lines without data."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated

import typer

from tunewise.jobs.platform import open_platform
from tunewise.jobs.worker import Worker
from tunewise.settings import get_settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def worker(
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Leave when the process that started this one has ended.")
    ] = False,
) -> None:
    """Take jobs and train them until SIGTERM or Ctrl-C; trainers then go on, and the next worker adopts them."""
    log_as_json()
    Worker(open_platform(get_settings())).run(leaves(os.getppid() if exit_with_parent else None))


def leaves(parent: int | None) -> Callable[[], bool]:
    """Whether a signal has come, or the parent has gone."""
    asked = False

    def remember(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, remember)
    return lambda: asked or (parent is not None and os.getppid() != parent)


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, who says it, what, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_as_json() -> None:
    """Log to standard error, for programs."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[lines])
