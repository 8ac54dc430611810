"""`tunewise files`: files of a running server, listed, uploaded, deleted. A client of its HTTP API."""

from itertools import islice
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from openai.types import FileObject, FilePurpose
from rich.table import Table

from tunewise.cli.remote import AsJson, Url, moment, print_table, server

app = typer.Typer(
    name="files",
    help="List, upload, show and delete files of a running server.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

MOST_ON_A_PAGE = 10_000
FileId: TypeAlias = Annotated[
    str, typer.Argument(metavar="FILE", help="The file's id, as `tunewise files list` shows it.")
]


@app.command("list")
def list_files(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 100,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List files, newest first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("file", "name", "purpose", "bytes", "created"):
        table.add_column(column, no_wrap=True, justify="right" if column == "bytes" else "left")
    with server(url) as client:
        for file in islice(client.files.list(limit=min(limit, MOST_ON_A_PAGE)), limit):
            if as_json:
                typer.echo(file.model_dump_json())
            table.add_row(file.id, file.filename, file.purpose, f"{file.bytes:,}", moment(file.created_at))
    if not as_json:
        print_table(table)


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The file to send.")],
    purpose: Annotated[FilePurpose, typer.Option(help="What it is for.")] = "fine-tune",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file; prints its id."""
    with server(url) as client:
        file = client.files.create(file=path, purpose=purpose)
    typer.echo(file.model_dump_json() if as_json else file.id)


@app.command()
def show(file_id: FileId, url: Url = None, as_json: AsJson = False) -> None:
    """Show what a file is."""
    with server(url) as client:
        _print(client.files.retrieve(file_id), as_json)


@app.command()
def delete(file_id: FileId, url: Url = None) -> None:
    """Delete a file."""
    with server(url) as client:
        client.files.delete(file_id)
    typer.echo(f"{file_id} is deleted")


def _print(file: FileObject, as_json: bool) -> None:
    if as_json:
        typer.echo(file.model_dump_json())
        return
    lines = {
        "file": file.id,
        "name": file.filename,
        "purpose": file.purpose,
        "bytes": f"{file.bytes:,}",
        "created": moment(file.created_at),
        "expires": moment(file.expires_at),
    }
    for name, value in lines.items():
        if value:
            typer.echo(f"{name:<9} {value}")
