"""`tunewise keys`: make, list and revoke API keys, on the machine of the server; works on the database directly."""

from typing import Annotated

import typer

from tunewise.contracts.jobs import Role
from tunewise.jobs import access
from tunewise.jobs.platform import open_platform
from tunewise.settings import get_settings

app = typer.Typer(
    name="keys",
    help="Make, list and revoke API keys. From the first key on, callers need one.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def create(
    role: Annotated[Role, typer.Option(help="An admin may name any project and share checkpoints.")] = "member",
    project: Annotated[str | None, typer.Option(help="The project whose files, jobs and models it sees.")] = None,
    organization: Annotated[str | None, typer.Option(help="Part of the names of tuned models.")] = None,
) -> None:
    """Make a key. It is shown once and cannot be shown again."""
    made = access.create_key(open_platform(get_settings()), role=role, organization=organization, project=project)
    typer.echo(made.secret)
    typer.echo(f"{made.key.id}: {role} of project {made.key.project!r}; this is the only time it is shown", err=True)


@app.command("list")
def list_keys() -> None:
    """List every key, without its secret."""
    for key in access.list_keys(open_platform(get_settings())):
        state = "revoked" if key.revoked_at else "in use"
        typer.echo(f"{key.id}  {key.hint}…  {key.role:<6}  {state:<7}  {key.organization}  {key.project}")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The key's id, as `tunewise keys list` shows it.")]) -> None:
    """End a key at once."""
    access.revoke_key(open_platform(get_settings()), key_id)
    typer.echo(f"{key_id} is revoked")
