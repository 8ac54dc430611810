"""Integrations of a job: its run for Weights & Biases, written into the run directory when the job has ended.

Nothing is sent from here: `wandb sync DIR`, with a key of one's own, does that. Knows what is told and where it lies;
the package itself is `wandb_run`'s, in a process of its own.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from tunewise.contracts.jobs import Integration, Job, WandbIntegration
from tunewise.contracts.wandb import WandbRun
from tunewise.errors import RequestError
from tunewise.jobs.platform import Platform
from tunewise.jobs.stages import sync_directory
from tunewise.settings import environment_without
from tunewise.store import events
from tunewise.store.rows import new_id

PACKAGE = "wandb"
WRITE_SECONDS = 120.0
Metrics: TypeAlias = list[dict[str, float | int | None]]


class NotWritten(Exception):  # noqa: N818  # no error of the job's: its events and result file have it all
    """The package could not write a run; says why."""


def require_installed(asked: Sequence[Integration] | None) -> None:
    """Refuse what this server cannot do before anything is trained for it.

    Raises:
        RequestError: integration_unavailable.
    """
    if asked and find_spec(PACKAGE) is None:
        raise RequestError(
            "integration_unavailable",
            "integrations.0.type: 'wandb' needs a package that is not installed here; `pip install 'tunewise[wandb]'` "
            "on the server, or leave it out and take the metrics from the job's events or its result file",
            param="integrations.0.type",
        )


def wandb_run_id(job_id: str, position: int) -> str:
    """The id of the run that the job's integration at this position is told under: known as soon as the job is."""
    digits = job_id.removeprefix("ftjob-")
    return digits if position == 0 else f"{digits}-{position + 1}"


def write_runs(platform: Platform, job: Job) -> list[Path]:
    """Write the run of each integration, and give its directory; one that an earlier try has written is left as it is.

    A job that has not trained a step has no run.

    Raises:
        NotWritten: with what the package said.
        OSError: the disk is full.
    """
    if not job.request.integrations:
        return []
    with platform.database.read() as session:
        metrics = events.metrics(session, job.id)
    asked = job.request.integrations if metrics else ()
    return [_write_run(platform, job, one.wandb, metrics, position) for position, one in enumerate(asked)]


def _write_run(platform: Platform, job: Job, asked: WandbIntegration, metrics: Metrics, position: int) -> Path:
    """Written aside, then renamed; named as the package names its offline runs, after the job's own time."""
    run_id = wandb_run_id(job.id, position)
    began = time.strftime("%Y%m%d_%H%M%S", time.gmtime(job.created_at))
    place = (platform.runs_dir / job.id / "wandb" / f"offline-run-{began}-{run_id}").absolute()
    if place.is_dir():
        return place
    aside = place.with_name(new_id(".aside-"))
    aside.mkdir(parents=True)
    try:
        _call(
            WandbRun(
                directory=aside,
                run_id=run_id,
                asked=asked if asked.name else asked.model_copy(update={"name": job.id}),
                has_failed=job.status == "failed",
                config=_config(job),
                metrics=metrics,
            )
        )
        (written,) = (aside / "wandb").glob("offline-run-*")
        written.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync_directory(place.parent)
    return place


def _config(job: Job) -> dict[str, object]:
    """What the job was made with, and what came of it. No metadata: they may say what is nobody else's business."""
    asked = job.request.model_dump(mode="json", include={"model", "base", "training_file", "validation_file", "seed"})
    numbers = {"method": job.request.method.type}
    numbers |= job.hyperparameters.model_dump(exclude_none=True) if job.hyperparameters else {}
    ended = {"job_id": job.id, "status": job.status, "fine_tuned_model": job.fine_tuned_model}
    return asked | numbers | ended | {"trained_tokens": job.trained_tokens}


def _call(run: WandbRun) -> None:
    environment = environment_without(
        "WANDB_",
        WANDB_MODE="offline",
        WANDB_ERROR_REPORTING="false",
        **{f"WANDB_{name}_DIR": str(run.directory / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")},
    )
    command = [sys.executable, "-m", "tunewise.jobs.wandb_run"]
    try:
        subprocess.run(
            command,
            input=run.model_dump_json().encode(),
            env=environment,
            cwd=run.directory,
            capture_output=True,
            timeout=WRITE_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise NotWritten(f"it took longer than {WRITE_SECONDS:.0f} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or ["no word"]
        raise NotWritten(said[-1]) from error
