"""Writes docs/cli.md and docs/settings.md from the code itself; with `--check` it only compares."""

import sys
from pathlib import Path

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from typer import Context, Typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from tunewise.cli import COMMANDS, app, command_app
from tunewise.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
MARK = "Written by `scripts/generate_docs.py`; do not edit.\n"


def cli_reference() -> str:
    """All commands with their arguments and options, as Markdown."""
    sections = [f"# The command line\n\n{MARK}"]
    sections.append(described("tunewise", app).partition("\n## ")[0])  # each command follows, in full
    sections += [described(f"tunewise {name}", command_app(name)) for name in COMMANDS]
    return "\n".join(section.strip() + "\n" for section in sections)


def described(name: str, source: Typer) -> str:
    """One application as typer documents it."""
    command = get_command(source)
    return get_docs_for_click(obj=command, ctx=Context(command), name=name)


def settings_reference() -> str:
    """Every environment variable, what it is for, and what holds without it, as Markdown."""
    rows = [
        f"| {variables_of(name, field)} | {field.description} | {default_of(field)} |"
        for name, field in Settings.model_fields.items()
    ]
    about = "What differs from machine to machine is an environment variable; a run's own configuration is none."
    return "\n".join(
        [f"# Settings\n\n{MARK}\n{about}\n", "| variable | what for | without it |", "|---|---|---|", *rows, ""]
    )


def variables_of(name: str, field: FieldInfo) -> str:
    """The variables that set it, the first one that is there."""
    match field.validation_alias:
        case AliasChoices(choices=choices):
            names = [str(choice) for choice in choices]
        case str(alias):
            names = [alias]
        case _:
            names = [f"TUNEWISE_{name.upper()}"]
    return ", else ".join(f"`{one}`" for one in names)


def default_of(field: FieldInfo) -> str:
    """What holds where nothing is set; nothing for none."""
    default = field.default
    if isinstance(default, Path):
        return f"`{str(default).replace(str(Path.home()), '~')}`"
    if isinstance(default, BaseModel):
        return f"`{default.model_dump_json()}`"
    return "" if default in (None, {}, ()) else f"`{default}`"


def main() -> int:
    """The exit code: 1 where a file is not what it should be."""
    stale = []
    for name, text in (("cli.md", cli_reference()), ("settings.md", settings_reference())):
        target = DOCS / name
        if "--check" not in sys.argv:
            target.write_text(text, encoding="utf-8")
        elif not target.is_file() or target.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"{', '.join(stale)}: not what the code says any more. Run: python scripts/generate_docs.py")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
