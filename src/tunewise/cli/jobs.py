"""`tunewise jobs`: fine-tuning jobs of a running server, listed, watched, stopped, judged. A client of its HTTP API."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import typer
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from rich.console import Console
from rich.table import Table

from tunewise.cli.evaluation import evaluate, report
from tunewise.cli.remote import AsJson, JobId, Url, moment, print_table, server
from tunewise.cli.watch import JsonWatcher, TerminalWatcher
from tunewise.errors import TrainingError

app = typer.Typer(
    name="jobs",
    help="List, watch, stop, resume and judge fine-tuning jobs of a running server.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.command()(evaluate)
app.command()(report)
POLL_SECONDS = 1.0
RECENT_EVENTS = 100
FINAL = ("succeeded", "failed", "cancelled")


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "status", "model", "created", "tuned model"):
        table.add_column(column, no_wrap=True)
    with server(url) as client:
        for job in islice(client.fine_tuning.jobs.list(limit=min(limit, 100)), limit):
            if as_json:
                typer.echo(job.model_dump_json())
            table.add_row(job.id, status_of(job), job.model, moment(job.created_at), job.fine_tuned_model or "")
    if not as_json:
        print_table(table)


@app.command()
def show(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show how a job stands."""
    with server(url) as client:
        _print(client.fine_tuning.jobs.retrieve(job_id), as_json)


@app.command()
def cancel(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """End a job for good. The checkpoints that it has told of stay usable."""
    with server(url) as client:
        _print(client.fine_tuning.jobs.cancel(job_id), as_json)


@app.command()
def pause(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Stop a job so that it can go on from where it was."""
    with server(url) as client:
        _print(client.fine_tuning.jobs.pause(job_id), as_json)


@app.command()
def resume(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Let a paused job go on."""
    with server(url) as client:
        _print(client.fine_tuning.jobs.resume(job_id), as_json)


@app.command()
def logs(
    job_id: JobId,
    tail: Annotated[int, typer.Option(min=1, help="How many of the last lines.")] = 200,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Print what a job has told, oldest first."""
    with server(url) as client:
        events = list(islice(client.fine_tuning.jobs.list_events(job_id, limit=min(tail, RECENT_EVENTS)), tail))
    for event in reversed(events):
        line = event.model_dump_json() if as_json else f"{moment(event.created_at)}  {event.level:<5} {event.message}"
        typer.echo(line)


@app.command()
def watch(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Follow a job to its end: a bar with its loss and the time left."""
    console = Console()
    with server(url) as client, JsonWatcher(console) if as_json else TerminalWatcher(console) as watcher:
        job = _follow(client, job_id, watcher)
    if job.error is not None:
        raise TrainingError(job.error.code, job.error.message, param=job.error.param)
    _print(job, as_json)
    if job.status != "succeeded":
        raise typer.Exit(1)


def _follow(client: OpenAI, job_id: str, watcher: TerminalWatcher | JsonWatcher) -> FineTuningJob:
    told, stage = None, None
    while True:
        # The job first: when it has ended, the events that are read after it are all that there will be.
        job = client.fine_tuning.jobs.retrieve(job_id)
        if status_of(job) != stage and job.status not in FINAL:
            stage = status_of(job)
            watcher.stage(stage, job.model)
        for event in reversed(list(_fresh(client, job_id, told))):
            told = event.id
            _tell(event, watcher)
        if job.status in FINAL:
            return job
        time.sleep(POLL_SECONDS)


def _fresh(client: OpenAI, job_id: str, told: str | None) -> Iterator[FineTuningJobEvent]:
    """The events since `told`, newest first; at the beginning the most recent ones."""
    events: Iterator[FineTuningJobEvent] = iter(client.fine_tuning.jobs.list_events(job_id, limit=RECENT_EVENTS))
    for event in events if told else islice(events, RECENT_EVENTS):
        if event.id == told:
            return
        yield event


def _tell(event: FineTuningJobEvent, watcher: TerminalWatcher | JsonWatcher) -> None:
    data: dict[str, Any] = event.data if event.type == "metrics" and isinstance(event.data, dict) else {}
    if not data.get("total_steps"):
        watcher.note(event.message)
        return
    watcher.progress(data["step"], data["total_steps"], f"step {data['step']}/{data['total_steps']}{_losses(data)}")


def _losses(data: dict[str, Any]) -> str:
    names = {"train_loss": "loss", "valid_loss": "validation loss", "full_valid_loss": "full validation loss"}
    losses = "".join(f", {short} {data[name]:.3f}" for name, short in names.items() if data.get(name) is not None)
    share = data.get("train_reward_accuracy")
    return losses if share is None else f"{losses}, better answer preferred {share:.0%}"


def status_of(job: FineTuningJob) -> str:
    """The status, `paused` included, which the SDK's statuses have no word for."""
    return "paused" if (job.model_extra or {}).get("paused") else job.status


def _method(job: FineTuningJob) -> str:
    numbers = ", ".join(f"{name} {value}" for name, value in job.hyperparameters.model_dump(exclude_none=True).items())
    return f"{job.method.type if job.method else 'supervised'}: {numbers}"


def _print(job: FineTuningJob, as_json: bool) -> None:
    if as_json:
        typer.echo(job.model_dump_json())
        return
    lines = {
        "job": job.id,
        "status": status_of(job),
        "model": job.model,
        "method": _method(job),
        "training file": job.training_file,
        "validation file": job.validation_file,
        "created": moment(job.created_at),
        "estimated finish": moment(job.estimated_finish),
        "finished": moment(job.finished_at),
        "trained tokens": job.trained_tokens,
        "tuned model": job.fine_tuned_model,
        "result files": ", ".join(job.result_files),
        "error": f"{job.error.code}: {job.error.message}" if job.error else None,
    }
    for name, value in lines.items():
        if value:
            typer.echo(f"{name:<17} {value}")
