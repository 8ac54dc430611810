"""`tunewise models`: what models there are, fetching one, what one is.

Prints what `tunewise.catalogue` and `tunewise.embedding_models` find.
"""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tunewise import embedding_models
from tunewise.catalogue import Listing, find, known, locate
from tunewise.contracts.run import BaseModelRef
from tunewise.embedding_models import EmbeddingModel
from tunewise.errors import ModelError
from tunewise.settings import get_settings

app = typer.Typer(
    name="models",
    help="List, fetch and show base models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Name = Annotated[
    str, typer.Argument(help="A catalogue name, a hub id (owner/name[@revision]), a directory or a .gguf file.")
]
Chatml = Annotated[
    bool, typer.Option("--chatml", help="Give a model without a chat template ChatML; its tokens are then trained too.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the catalogue and what has been fetched or converted besides."""
    listings = (*known(get_settings()), *_embeddings())
    if as_json:
        _print_json([listing._asdict() for listing in listings])
    else:
        Console().print(_table(listings))


@app.command()
def pull(name: Name, chatml: Chatml = False, as_json: AsJson = False) -> None:
    """Make a base model ready: convert it, or fetch it from the hub. One of embeddings is used from its package."""
    if embedding_models.knows(name):
        _tell_embeddings(embedding_models.find(name), as_json=as_json)
        return
    reference = find(name, get_settings(), notify=_notify, chatml=chatml)
    if as_json:
        _print_json(reference.model_dump(mode="json"))
    else:
        typer.echo(
            f"{name} is ready: {_millions(reference.parameters)} parameters, "
            f"{reference.context_length:,} tokens of context, in {reference.path}"
        )


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show what a base model is; it has to be ready."""
    if embedding_models.knows(name):
        _tell_embeddings(embedding_models.find(name), as_json=as_json)
        return
    place = locate(name, get_settings())
    if not place.is_ready and place.source:
        raise ModelError("not_ready", f"{name} is not on this machine yet. Run: tunewise models pull {name}")
    reference = find(name, get_settings())
    facts = _facts(reference)
    if as_json:
        _print_json(facts)
    else:
        width = max(map(len, facts))
        for key, value in facts.items():
            typer.echo(f"{key.replace('_', ' '):<{width}}  {f'{value:,}' if type(value) is int else value}")


def _embeddings() -> list[Listing]:
    return [
        Listing(entry.name, "absent" if path is None else "ready", entry.parameters, path, entry.about)
        for entry, path in embedding_models.known()
    ]


def _tell_embeddings(model: EmbeddingModel, *, as_json: bool) -> None:
    if as_json:
        _print_json(model._asdict())
    else:
        typer.echo(f"{model.name} is ready: {_millions(model.parameters)} parameters, for embeddings, in {model.path}")


def _facts(reference: BaseModelRef) -> dict[str, Any]:
    """What the reference says, and of config.json what says how large a run with the model will be."""
    config = json.loads((reference.path / "config.json").read_bytes())
    files = [file for file in reference.path.iterdir() if file.is_file()]
    shape = ("model_type", "num_hidden_layers", "hidden_size", "vocab_size", "tie_word_embeddings", "dtype")
    return {
        **reference.model_dump(mode="json"),
        **{key: config[key] for key in shape if key in config},
        "bytes_on_disk": sum(file.stat().st_size for file in files),
        "files": ", ".join(sorted(file.name for file in files)),
    }


def _table(listings: tuple[Listing, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("state")
    table.add_column("parameters", justify="right")
    table.add_column("")
    for listing in listings:
        table.add_row(listing.name, listing.state, _millions(listing.parameters), listing.about)
    return table


def _millions(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _notify(message: str) -> None:
    typer.echo(message, err=True)


def _print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
