"""Writes docs/cli.md from the commands themselves: `scripts/generate_docs.py`; with `--check` it only compares."""

import sys
from pathlib import Path

from typer import Context, Typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from tunewise.cli import COMMANDS, app, command_app

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"


def cli_reference() -> str:
    """All commands with their arguments and options, as Markdown."""
    sections = ["# The command line\n\nWritten by `scripts/generate_docs.py`; do not edit.\n"]
    sections.append(described("tunewise", app).partition("\n## ")[0])  # each command follows, in full
    sections += [described(f"tunewise {name}", command_app(name)) for name in COMMANDS]
    return "\n".join(section.strip() + "\n" for section in sections)


def described(name: str, source: Typer) -> str:
    """One application as typer documents it."""
    command = get_command(source)
    return get_docs_for_click(obj=command, ctx=Context(command), name=name)


def main() -> int:
    """The exit code: 1 where the file is not what it should be."""
    text = cli_reference()
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET.name} does not fit the commands any more. Run: python scripts/generate_docs.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
