"""`tunewise export MODEL --to ...`: a tuned model for elsewhere; prints what was written and what the gate found."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.contracts.export import ExportReport, Kind, Quantisation, Target
from tunewise.contracts.fine_tuning import Dtype
from tunewise.errors import ConfigError
from tunewise.jobs import exporting
from tunewise.settings import get_settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

UNVERIFIED = "NOT verified: nothing has read this file back. Compare its answers before you rely on it."


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(help="A run directory, a run's suffix, a tuned model's name (ft:…) or an adapter directory."),
    ],
    to: Annotated[Target, typer.Option("--to", help="What to write.")],
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of merged weights; float32 where it is not said.", show_default=False)
    ] = None,
    quantisation: Annotated[
        Quantisation | None, typer.Option(help="Of a GGUF file; f16 where it is not said.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The directory to make; by default MODEL-TO in the current one.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base model of an adapter that does not say which it is for.")
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Publish a GGUF file without llama.cpp having read it back.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write a tuned model, read it back, and publish it only if it answers as it did when its training ended."""
    settings = get_settings()
    tuned = exporting.find(model, settings)
    _require_fitting(to, tuned.kind, dtype, quantisation, unverified=unverified)
    spec = exporting.plan(tuned, settings, base=base, notify=_notify).model_copy(
        update={
            "target": to,
            "dtype": dtype or "float32",
            "quantisation": quantisation or "f16",
            "output": (output or exporting.default_output(tuned.title, to)).absolute(),
            "unverified": unverified,
        }
    )
    _notify(f"Writing {spec.output}, then reading it back.")
    report = exporting.export(spec)
    typer.echo(report.model_dump_json() if as_json else _told(report))


def _require_fitting(
    to: Target, kind: Kind, dtype: Dtype | None, quantisation: Quantisation | None, *, unverified: bool
) -> None:
    """Refuse options that would change nothing."""
    if dtype is not None and to != "merged" and (to, kind) != ("hub-dir", "model"):
        raise ConfigError(
            "unused_option", f"--dtype is of whole weights, and this is {to} of an {kind}", param="--dtype"
        )
    if (quantisation is not None or unverified) and to != "gguf":
        option = "--unverified" if unverified else "--quantisation"
        raise ConfigError("unused_option", f"{option} is of GGUF files, and --to is {to}", param=option)


def _told(report: ExportReport) -> str:
    lines = [f"{report.output}"]
    lines += [f"  {size / 1e6:>10,.1f} MB  {name}" for name, size in report.files.items()]
    if report.checked_with is None:
        return "\n".join([*lines, UNVERIFIED])
    ties = f", {report.near_ties} of them near ties" if report.near_ties else ""
    since = "when training ended" if report.recorded else "by the adapter on its base model (training recorded nothing)"
    lines.append(
        f"Checked with {report.checked_with}: {report.prompts} prompts, {report.tokens} tokens as answered {since}"
        f"{ties}; log-probabilities within {report.widest_logprob:.2g} nats. {report.seconds:.0f} s."
    )
    return "\n".join(lines)


def _notify(message: str) -> None:
    typer.echo(message, err=True)
