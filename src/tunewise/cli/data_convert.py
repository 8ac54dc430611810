"""`tunewise data convert`: any table to JSONL of chats, preference pairs or labelled answers.

Exit code 3: rows, or the file, are at fault. Fills a `ColumnMapping` from flags, shows what was understood, and asks
what is open. Knows nothing of rows.
"""

import sys
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.cli.data_report import findings_table
from tunewise.contracts.importing import ColumnMapping, Conversion, Converted, Detected, Reasoning, Role, Target
from tunewise.data.convert import convert, detect, preview, unanswered
from tunewise.data.problems import shorten
from tunewise.data.tables.hub import fetch, is_hub_id
from tunewise.data.tables.source import parse_source
from tunewise.errors import ConfigError, DataError
from tunewise.settings import get_settings

ROLES: tuple[str, ...] = get_args(Role)
SHOWN_ROWS = 3
MESSAGE_CHARS = 300


def convert_file(  # noqa: PLR0913, PLR0917 (one for each flag)
    source: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A file, a directory, or a hub's OWNER/NAME; :SPLIT behind it."),
    ],
    to: Annotated[Target | None, typer.Option(help="What the rows become; by default what the columns say.")] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="ROLE=COLUMN",
            help=f"Which column is what; an empty column: there is none. Roles: {', '.join(ROLES)}.",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system message of rows that bring none.")] = None,
    reasoning: Annotated[Reasoning | None, typer.Option(help="What becomes of reasoning beside an answer.")] = None,
    strip: Annotated[bool, typer.Option("--strip", help="Take white space from both ends of every text.")] = False,
    encoding: Annotated[str | None, typer.Option(help="The file's encoding, where the detected one is wrong.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="What parts the cells of a text table; 'tab' is one.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; by default NAME.chat.jsonl here.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a file that is there.")] = False,
    dry: Annotated[bool, typer.Option("--preview", help="Show the columns and the first rows; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came of it as JSON.")] = False,
) -> None:
    """Turn a table of any kind into rows that can be trained on."""
    path, split = located(source)
    said = ColumnMapping(
        to=to,
        system_text=system,
        reasoning=reasoning,
        strip=strip,
        split=split,
        encoding=encoding,
        delimiter=delimiter,
        **_parsed(maps or []),
    )
    console = Console(stderr=True) if as_json else Console()
    found = detect(path, said)
    print_detected(found, console)
    if found.mapping is None:
        raise unanswered(found)
    if dry:
        print_preview(preview(path, found.mapping, SHOWN_ROWS), console)
        return
    out = output or Path(f"{path.stem}.{found.mapping.to}.jsonl")
    if out.exists() and not overwrite:
        raise ConfigError("file_exists", f"{out}: is there already; name another with -o, or give --overwrite")
    if not maps:
        print_preview(preview(path, found.mapping, 1), console)
    result = convert(path, found.mapping, out)
    print_conversion(result, console)
    if as_json:
        sys.stdout.write(result.model_dump_json(indent=2) + "\n")
    if result.findings:
        raise typer.Exit(DataError.exit_code)


def located(source: str) -> tuple[Path, str | None]:
    """The path and the split that a person named; a hub's data set is fetched.

    Raises:
        DataError: hub_unreachable, or a split is open.
    """
    name, split = parse_source(source)
    if not Path(name).exists() and is_hub_id(name):
        return fetch(name, split, offline=get_settings().hub_offline), split
    return Path(name), split


def _parsed(maps: list[str]) -> dict[str, str]:
    """`ROLE=COLUMN` flags by role.

    Raises:
        ConfigError: invalid_mapping.
    """
    parsed: dict[str, str] = {}
    for text in maps:
        role, equals, column = text.partition("=")
        if not equals or role not in ROLES or role in parsed:
            raise ConfigError(
                "invalid_mapping",
                f"--map {text}: write each role once, as ROLE=COLUMN; the roles are {', '.join(ROLES)}",
                param="--map",
            )
        parsed[role] = column
    return parsed


def print_detected(found: Detected, console: Console) -> None:
    """What the file is, and its columns with sample values."""
    about = "".join([f", {found.encoding.replace('_', '-')}" if found.encoding else "", f", {found.rows:,} rows"])
    console.print(Text.assemble((found.path.name, "bold"), f": {found.format}{about}"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("column", "kind", "values"):
        table.add_column(heading)
    for column in found.columns:
        table.add_row(Text(column.name), column.kind, Text(" · ".join(shorten(s, 40) for s in column.samples), "dim"))
    console.print(table)
    for note in found.notes:
        console.print(Text(f"• {note}", "yellow"))
    if found.mapping is not None:
        console.print(Text(f"→ {found.mapping.to}: {found.reason}"))
    if found.unused:
        console.print(Text(f"• not used: {', '.join(found.unused)}", "yellow"))


def print_preview(rows: tuple[Converted, ...], console: Console) -> None:
    """The first rows as they would be written."""
    for row in rows:
        console.print(Text(f"\nline {row.line}", "dim"))
        for problem in row.problems:
            console.print(Text(f"  {problem.message}; {problem.remedy}", "red"))
        for part, message in _messages(row):
            shown = message.get("content") or message.get("tool_calls") or ""
            text = shown if isinstance(shown, str) else repr(shown)
            console.print(Text.assemble((f"  {part}{message['role']}: ", "bold"), text[:MESSAGE_CHARS]))


def _messages(row: Converted) -> list[tuple[str, dict[str, object]]]:
    example = row.example or {}
    if "messages" in example:
        *asked, answer = example["messages"]
        part = {None: "", True: "wanted ", False: "not wanted "}[example.get("label")]
        return [*(("", message) for message in asked), (part, answer)]
    return [
        *(("", message) for message in example.get("input", {}).get("messages", ())),
        *(("preferred ", message) for message in example.get("preferred_output", ())),
        *(("not preferred ", message) for message in example.get("non_preferred_output", ())),
    ]


def print_conversion(result: Conversion, console: Console) -> None:
    """What was written, and what was not."""
    if result.findings:
        console.print(findings_table(result.findings))
    for name, rows in sorted(result.ignored.items()):
        console.print(Text(f"• {name} was not carried over ({rows:,} rows)", "yellow"))
    if result.left_out:
        console.print(Text(f"• {result.left_out:,} rows are left out, as {result.mapping.keep} says", "yellow"))
    failed = result.rows - result.written - result.left_out
    told = f"; {failed:,} could not be converted" if failed else ""
    console.print(Text(f"\n{result.path}: {result.written:,} of {result.rows:,} rows written{told}", "bold"))
    console.print(Text(f"Next: tunewise data check {result.path}", "dim"))
