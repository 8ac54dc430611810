"""`tunewise run CONFIG`: the whole experiment on a terminal, and the verdict at its end."""

import json
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.cli.autotrain_report import print_prepared
from tunewise.cli.data_report import plan_part
from tunewise.cli.watch import JsonWatcher, TerminalWatcher
from tunewise.contracts.evaluation import ArmResult, Outcome, Report
from tunewise.jobs.autotrain import is_autotrain, translate
from tunewise.jobs.autotrain_run import prepare
from tunewise.jobs.config_file import read_yaml
from tunewise.jobs.experiment import Plan, explain_experiment, run_experiment
from tunewise.settings import get_settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

_INTERRUPTED = 130
_COLOURS: dict[Outcome, str] = {"worth_it": "green", "not_worth_it": "red", "inconclusive": "yellow"}
_WORDS: dict[Outcome, str] = {
    "worth_it": "WORTH IT",
    "not_worth_it": "NOT WORTH IT",
    "inconclusive": "INCONCLUSIVE",
}


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The tunewise.yaml to run, or an AutoTrain config.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Directory for results; by default runs/SUFFIX beside the config. A repeated run reuses it."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what would be trained and why, and stop before anything is spent.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print progress and result as JSON lines.")] = False,
) -> None:
    """Check the data, measure the alternatives, fine-tune, compare, and say whether it was worth it."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    console = Console()
    watcher = JsonWatcher(console) if as_json else TerminalWatcher(console)
    try:
        with watcher:
            path, directory = _own_config(config, output, console, as_json=as_json)
            do = explain_experiment if explain else run_experiment
            found = do(path, directory, get_settings(), watcher)
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. What was finished is kept; run the same command again to go on.")
        raise typer.Exit(_INTERRUPTED) from None
    if isinstance(found, Plan):
        _print_plan(found, console, as_json=as_json)
    elif as_json:
        _print_json(*found)
    else:
        _print_verdict(console, *found)


def _print_plan(plan: Plan, console: Console, *, as_json: bool) -> None:
    if as_json:
        estimate = None if plan.check.estimate is None else plan.check.estimate.model_dump(mode="json")
        reasons = [reason._asdict() for reason in plan.reasons]
        typer.echo(json.dumps({"event": "plan", "reasons": reasons, "estimate": estimate}))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for reason in plan.reasons:
        table.add_row(reason.name, reason.value, Text(reason.why))
    console.print(table)
    took = plan_part(plan.check)
    if took is not None:
        console.print("", took, sep="\n")


def _own_config(config: Path, output: Path | None, console: Console, *, as_json: bool) -> tuple[Path, Path | None]:
    """The config to run, and its directory; an AutoTrain file is translated, and what became of it shown."""
    content = read_yaml(config)
    if not is_autotrain(content):
        return config, output
    prepared = prepare(translate(content, config), config, output, get_settings())
    if as_json:
        typer.echo(json.dumps({"event": "autotrain", **prepared.model_dump(mode="json")}))
    else:
        print_prepared(prepared, console)
    return prepared.config, prepared.directory


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """A polite kill and a closed terminal are treated as Ctrl-C, so that no child is left behind."""
    raise KeyboardInterrupt


def _print_json(report: Report, directory: Path) -> None:
    verdict = report.verdict.model_dump(mode="json", include={"outcome", "headline", "best_alternative", "rows_needed"})
    arms = {arm.arm: _primary(report, arm) for arm in report.arms}
    typer.echo(json.dumps({"event": "verdict", **verdict, "scores": arms, "report": str(directory / "report.html")}))


def _print_verdict(console: Console, report: Report, directory: Path) -> None:
    outcome = report.verdict.outcome
    console.print()
    console.print(Text.assemble((_WORDS[outcome], f"bold {_COLOURS[outcome]}"), "  ", report.verdict.headline))
    console.print(_arms_table(report))
    for reason in report.verdict.reasons:
        console.print(Text(f"• {reason}"))
    console.print(Text(f"\nReport: {directory / 'report.html'}"), soft_wrap=True)


def _arms_table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("arm")
    table.add_column(report.primary_grader, justify="right")
    table.add_column("interval", justify="right")
    table.add_column("prompt tokens", justify="right")
    table.add_column("answer tokens", justify="right")
    table.add_column("p50 s", justify="right")
    for arm in sorted(report.arms, key=lambda arm: -_primary(report, arm)):
        mean = next(score.mean for score in arm.scores if score.grader == report.primary_grader)
        figures = [f"{mean.value:.3f}", f"{mean.low:.3f} to {mean.high:.3f}"]
        usage = [f"{arm.prompt_tokens:.0f}", f"{arm.completion_tokens:.0f}", f"{arm.p50_seconds:.2f}"]
        is_floor = arm.requests_per_second == 0
        table.add_row(arm.arm, *figures, *(["", "", ""] if is_floor else usage))
    return table


def _primary(report: Report, arm: ArmResult) -> float:
    return next(score.mean.value for score in arm.scores if score.grader == report.primary_grader)
