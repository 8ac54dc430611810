"""`tunewise replay JOB`: train a job again from its manifest, and tell whether the same came out."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tunewise import __version__
from tunewise.cli.watch import TerminalWatcher
from tunewise.errors import ConfigError
from tunewise.jobs.replay import Replay, replay
from tunewise.settings import get_settings, installed_versions

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

_DIFFERENT = 1


@app.command("replay")
def replay_job(
    job: Annotated[str, typer.Argument(help="A job's id, or a run directory.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Where to train; by default replays/JOB in the state directory. A repeated replay goes on."),
    ] = None,
) -> None:
    """Rerun a job from its spec.json and compare weights and metrics; the exit code is 0 where they are equal."""
    state = get_settings().state_dir
    run_dir = Path(job) if Path(job).is_dir() else state / "runs" / job
    if not run_dir.is_dir():
        raise ConfigError("no_such_run", f"{job!r} is no job in {state} and no run directory; see `tunewise jobs list`")
    versions = installed_versions("torch", "transformers", "peft", "numpy") | {"tunewise": __version__}
    console = Console()
    with TerminalWatcher(console) as watcher:
        compared = replay(run_dir, output or state / "replays" / run_dir.name, versions, watcher)
    _print(console, compared)
    raise typer.Exit(0 if compared.is_equal else _DIFFERENT)


def _print(console: Console, compared: Replay) -> None:
    verdict = ("EQUAL", "bold green") if compared.is_equal else ("DIFFERENT", "bold red")
    console.print(Text.assemble(verdict))
    console.print(f"weights  original  {compared.original.weights_sha256}", soft_wrap=True)
    console.print(f"         replayed  {compared.repeated.weights_sha256}", soft_wrap=True)
    differing = len(compared.differing_steps)
    first = f", the first at step {compared.differing_steps[0]}" if differing else ""
    console.print(f"metrics  {compared.steps} steps compared, {differing} differ{first}")
    for name, (then, now) in compared.changed_versions.items():
        console.print(f"version  {name} {then} then, {now} now")
