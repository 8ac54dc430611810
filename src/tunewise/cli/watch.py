"""How a running use case looks: bars with time left on a terminal, or one JSON object a line."""

import json
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TerminalWatcher:
    """One line a stage: a live bar while it runs, its time and last detail when it is done."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}[/]"),
            console=console,
        )
        self._task: TaskID | None = None

    def stage(self, name: str, title: str) -> None:
        """Close the bar of the stage before, open one for this."""
        self._finish()
        self._task = self._progress.add_task(f"{name:<10} {title}", total=None, detail="")

    def reused(self, name: str, detail: str) -> None:
        """Say what need not be done again."""
        self._progress.console.print(f"  [dim]{name}: reused, {detail}[/]", highlight=False)

    def progress(self, done: float, total: float, detail: str) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, detail=detail)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(f"  {text}", highlight=False, markup=False)

    def _finish(self) -> None:
        if self._task is not None:
            task = next(task for task in self._progress.tasks if task.id == self._task)
            total = task.total or 1
            self._progress.update(self._task, total=total, completed=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()


class JsonWatcher:
    """One JSON object a line on standard output, for programs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def stage(self, name: str, title: str) -> None:
        """{"event": "stage", ...}."""
        self._write({"event": "stage", "stage": name, "title": title})

    def reused(self, name: str, detail: str) -> None:
        """{"event": "reused", ...}."""
        self._write({"event": "reused", "stage": name, "detail": detail})

    def progress(self, done: float, total: float, detail: str) -> None:
        """{"event": "progress", ...}."""
        self._write({"event": "progress", "done": done, "total": total, "detail": detail})

    def note(self, text: str) -> None:
        """{"event": "note", ...}."""
        self._write({"event": "note", "text": text})

    def _write(self, event: dict[str, object]) -> None:
        self._console.file.write(json.dumps({"time": round(time.time(), 3), **event}) + "\n")
        self._console.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        return None
