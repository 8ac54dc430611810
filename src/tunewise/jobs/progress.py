"""What a running use case tells whoever watches: the terminal, a log of JSON lines, later a page."""

from typing import Protocol


class Watcher(Protocol):
    """Receives what happens, in order; returns nothing and must not fail."""

    def stage(self, name: str, title: str) -> None:
        """A stage begins."""

    def reused(self, name: str, detail: str) -> None:
        """Its result was there already, from an earlier run with the same inputs."""

    def progress(self, done: float, total: float, detail: str) -> None:
        """Work within the current stage, in whatever unit `total` counts."""

    def note(self, text: str) -> None:
        """A line worth reading."""
