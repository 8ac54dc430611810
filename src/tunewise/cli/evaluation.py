"""`tunewise jobs evaluate` and `tunewise jobs report`: whether a job of a running server was worth it."""

from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from openai import OpenAI

from tunewise.cli.remote import AsJson, JobId, Url, server
from tunewise.contracts.config import EvaluationPlan, RunConfig
from tunewise.jobs.config_file import load_config


def evaluate(
    job_id: JobId,
    config: Annotated[
        Path, typer.Option("--config", help="A tunewise.yaml; its model and training are not looked at.")
    ],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Judge a job that has succeeded by the test rows, graders and arms of a tunewise.yaml; its files are uploaded."""
    asked = load_config(config)
    with server(url) as client:
        body = _request(client, asked)
        answer = client.post(f"/fine_tuning/jobs/{job_id}/evaluation", body=body, cast_to=httpx.Response)
    typer.echo(answer.text if as_json else f"Under way; `tunewise jobs report {job_id}` shows what comes out.")


def report(
    job_id: JobId,
    output: Annotated[Path | None, typer.Option(help="Write the report here, as a page.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Print the verdict of a job's evaluation, or how far it is; with --json the whole report."""
    place = f"/fine_tuning/jobs/{job_id}/evaluation"
    with server(url) as client:
        if output is not None:
            page = client.get(f"{place}/report.html", cast_to=httpx.Response)
            output.write_text(page.text, encoding="utf-8")
        if as_json:
            typer.echo(client.get(f"{place}/report", cast_to=httpx.Response).text)
            return
        found: dict[str, Any] = client.get(place, cast_to=httpx.Response).json()
    typer.echo(f"{found['status']}  {found['headline'] or ''}".rstrip())
    for arm, score in sorted((found["scores"] or {}).items(), key=lambda item: -item[1]["value"]):
        typer.echo(f"  {arm:<16} {score['value']:.3f}  ({score['low']:.3f} to {score['high']:.3f})")
    if found["error"]:
        typer.echo(f"{found['error']['code']}: {found['error']['message']}")


def _request(client: OpenAI, config: RunConfig) -> dict[str, Any]:
    """The plan with every file uploaded, and named by its id."""
    plan: dict[str, Any] = _uploaded(client, config.model_dump(include=set(EvaluationPlan.model_fields)))
    data = {"test_file": config.data.test, "test_items": config.data.test_items}
    return plan | dict(_uploaded(client, data))


def _uploaded(client: OpenAI, value: object) -> Any:  # noqa: ANN401  # JSON, of any shape
    match value:
        case Path():
            return client.files.create(file=value, purpose="evals").id
        case dict():
            return {name: _uploaded(client, item) for name, item in value.items()}
        case list() | tuple():
            return [_uploaded(client, item) for item in value]
        case _:
            return value
