"""The command line. This module knows the commands' names and nothing of what they do.

Each command lives in a module of its name, whose `app` is a typer application; it is imported when it is called, so
that `tunewise --help` answers at once. Known failures become one message and an exit code here, and nowhere else.
"""

import gc
import importlib
from importlib.metadata import version
from typing import Annotated

import typer

from tunewise.errors import TunewiseError

COMMANDS = {
    "up": "Start the API and the worker on one port.",
    "jobs": "List, watch, stop and resume fine-tuning jobs.",
    "files": "List, upload, show and delete files.",
    "worker": "Train jobs: one of any number of workers on the same state.",
    "keys": "Make, list and revoke API keys.",
    "db": "Bring the database to this version's tables.",
    "replay": "Rerun a job from its manifest, and compare weights and metrics.",
    "run": "Tune, compare, and learn whether it was worth it.",
    "export": "Write a tuned model as adapter, merged weights, GGUF or hub directory, and check it.",
    "data": "Check training files before anything is spent; convert tables into them.",
    "models": "List, fetch and show base models.",
}
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    name="tunewise",
    help="Fine-tune open language models on the machine you have, and learn whether it was worth it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tunewise {version('tunewise')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself; a callback makes typer keep the commands' names."""


def command_app(name: str) -> typer.Typer:
    """The application behind one of `COMMANDS`, imported now."""
    gc.disable()  # nothing that is imported is garbage, and looking for some takes a tenth of the time
    found: typer.Typer = importlib.import_module(f"tunewise.cli.{name}").app
    gc.enable()
    return found


def _call(name: str, arguments: list[str]) -> None:
    try:
        command_app(name)(args=arguments, prog_name=f"tunewise {name}")
    except TunewiseError as error:
        print_error(error)
        raise typer.Exit(error.exit_code) from error


def print_error(error: TunewiseError) -> None:
    """One line on standard error, coloured on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble((f"error ({error.code}): ", "bold red"), error.message))


def _mount(name: str, help_line: str) -> None:
    @app.command(name, help=help_line, context_settings=_PASS_ON)
    def _command(context: typer.Context) -> None:
        _call(name, context.args)


for _name, _help_line in COMMANDS.items():
    _mount(_name, _help_line)
