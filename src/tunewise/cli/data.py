"""`tunewise data check`: what is wrong with data files, and what a job on them would take. Exit code 3 means errors.

Finds the base model and the plan, calls `tunewise.data.check`, and prints. Knows nothing of rows.
"""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tunewise import machine
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.cli.data_convert import convert_file
from tunewise.cli.data_report import print_report
from tunewise.contracts.check import CheckReport, Split
from tunewise.contracts.fine_tuning import LossOn, Method, MethodType, Overlong, TrainingRequest
from tunewise.contracts.run import BaseModelRef
from tunewise.data.check import Limits, check
from tunewise.data.formats import detect_format
from tunewise.data.template import Template
from tunewise.errors import ConfigError, DataError
from tunewise.jobs.plan import fitting_method, make_spec, refuse_misfits, with_plan
from tunewise.planning import longest_row
from tunewise.settings import get_settings

app = typer.Typer(
    name="data",
    help="Check training files before anything is spent, and convert tables into them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


app.command("convert")(convert_file)


@app.command("check")
def check_files(  # noqa: PLR0913, PLR0917 (one for each flag)
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="JSONL files; 'test', 'valid' or 'dev' in a name says what it is, others are for training."
        ),
    ] = None,
    train: Annotated[list[Path] | None, typer.Option(help="A training file, whatever its name.")] = None,
    valid: Annotated[list[Path] | None, typer.Option(help="A validation file.")] = None,
    test: Annotated[list[Path] | None, typer.Option(help="A test file.")] = None,
    model: Annotated[str, typer.Option(help="The base model whose tokens are counted; 'none' counts none.")] = (
        DEFAULT_MODEL
    ),
    max_tokens: Annotated[
        int | None, typer.Option(min=16, help="The longest row to train on; by default the model's context.")
    ] = None,
    overlong: Annotated[Overlong, typer.Option(help="What to do with longer training rows.")] = "error",
    method: Annotated[
        MethodType | None, typer.Option(help="How they are to be trained on; by default as their rows suggest.")
    ] = None,
    loss_on: Annotated[LossOn, typer.Option(help="Which messages of a conversation carry loss.")] = "assistant",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Report every problem of data files, and what they hold."""
    wanted = [(split_of(path), path) for path in files or ()]
    wanted += [("train", path) for path in train or ()]
    wanted += [("valid", path) for path in valid or ()]
    wanted += [("test", path) for path in test or ()]
    if not wanted:
        raise ConfigError("no_files", "no file given; name at least one, as in: tunewise data check train.jsonl")
    reference = None if model == "none" else find(model, get_settings())
    report = checked(wanted, reference, max_tokens, overlong, method, loss_on)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        print_report(report, Console())
    if report.errors:
        raise typer.Exit(DataError.exit_code)


def split_of(path: Path) -> Split:
    """What a file is for, by its name."""
    words = set(re.split(r"[^a-z]+", path.stem.lower()))
    if words & {"train", "training"}:
        return "train"
    if words & {"test", "testing"}:
        return "test"
    return "valid" if words & {"valid", "validation", "val", "dev", "eval"} else "train"


def checked(
    files: list[tuple[Split, Path]],
    model: BaseModelRef | None,
    max_tokens: int | None,
    overlong: Overlong,
    method: MethodType | None = None,
    loss_on: LossOn = "assistant",
) -> CheckReport:
    """The report on the files; with the plan of a job when there is a model and something to train on.

    Raises:
        DataError: invalid_file_format, where the rows are not what `method` trains on.
    """
    if model is None:
        report = check(files)
        refuse_misfits(report, method or fitting_method(report))
        return report
    limit = max_tokens or longest_row(method or _likely_method(files), model.context_length)
    report = check(files, Limits(Template.load(model.path), limit, overlong, model.context_length, loss_on))
    chosen = method or fitting_method(report)
    refuse_misfits(report, chosen)
    if not any(file.split == "train" and file.rows for file in report.files):
        return report
    hardware = machine.probe()
    spec = make_spec(
        TrainingRequest(method=Method(type=chosen)),
        report,
        base=model,
        max_tokens=limit,
        overlong=overlong,
        machine=hardware,
        versions={},
    )
    return with_plan(report, spec, machine=hardware, price_per_hour=None, settings=get_settings())


def _likely_method(files: list[tuple[Split, Path]]) -> MethodType:
    """By the first file; what cannot be read is told by the check."""
    try:
        return "pretraining" if detect_format(files[0][1]) == "text" else "supervised"
    except (DataError, OSError):
        return "supervised"
