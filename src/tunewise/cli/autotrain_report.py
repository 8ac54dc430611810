"""What became of an AutoTrain file, on a terminal: every key, the equivalent config, and what was decided."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.contracts.autotrain import Fate, Prepared

STYLES: dict[Fate, str] = {"used": "green", "translated": "cyan", "default": "dim", "no counterpart": "yellow"}


def print_prepared(prepared: Prepared, console: Console) -> None:
    """Print it, before anything is run."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("AutoTrain", "value", "", "here"):
        table.add_column(heading, overflow="fold")
    for key in prepared.keys:
        table.add_row(Text(key.key), Text(key.value), Text(key.fate, STYLES[key.fate]), Text(key.became))
    console.print(table)
    console.print(Text(f"\n{prepared.config} is the equivalent, and what is run:\n", "bold"))
    console.print(Text(prepared.config.read_text(encoding="utf-8")))
    for note in prepared.notes:
        console.print(Text(f"• {note}", "yellow"))
    console.print()
