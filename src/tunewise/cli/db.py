"""`tunewise db`: bring the database to this version's tables."""

import typer

from tunewise.settings import get_settings
from tunewise.store.db import Database
from tunewise.store.migrate import NEWEST, upgrade

app = typer.Typer(
    name="db",
    help="Bring the database to this version's tables.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _commands() -> None:
    """A callback makes typer keep the command's name."""


@app.command("upgrade")
def upgrade_database() -> None:
    """Run the migrations that are missing; `tunewise up` and `tunewise worker` do it by themselves."""
    settings = get_settings()
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = upgrade(Database(settings.database))
    typer.echo(f"the database is at revision {NEWEST}" + (f", it was at {before}" if before else " already"))
