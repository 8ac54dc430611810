"""What a run that has succeeded leaves to its users: model rows, a result file, the last events. All in one
transaction, so that a job has succeeded with everything or has not yet succeeded.

The bytes of the result file are on the disk before. Knows the run directory and the store; starts nothing.
"""

import csv
import hashlib
import io
import os
from collections.abc import Sequence

from sqlalchemy.orm import Session

from tunewise.contracts.jobs import Job, StoredFile, TunedModel
from tunewise.contracts.run import ADAPTER_DIR, RunEvent, RunResult, StepMetrics
from tunewise.jobs.names import NewNames, checkpoint_names, final_names
from tunewise.jobs.platform import Platform
from tunewise.jobs.stages import sync_directory
from tunewise.jobs.trainer import EventTail
from tunewise.store import events, files, jobs, models
from tunewise.store.rows import new_id, now

RESULT_NAME = "step_metrics.csv"
KEPT_CHECKPOINTS = 2
# The columns of the result file, and under which names the events have them.
COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
_DECIMALS = 5


def publish(platform: Platform, job: Job, result: RunResult, worker: str) -> bool:
    """Make the job succeed; False where it was cancelled, paused or taken over first, and nothing was changed."""
    journal = EventTail(platform.runs_dir / job.id).read()
    with platform.database.read() as session:
        table = result_csv(events.metrics(session, job.id)).encode()
    file = _write_result_file(platform, job, table)
    names = final_names(job)
    with platform.database.write() as session:
        moved = jobs.transition(
            session,
            job.id,
            "succeeded",
            owner=worker,
            fine_tuned_model=names.name,
            trained_tokens=result.trained_tokens,
            result_file=file.id,
        )
        if moved is None:
            return False
        files.add(session, file)
        _add_models(session, platform, job, result, names, journal)
        _tell_the_end(session, job, result, names, file)
    return True


def result_csv(metrics: Sequence[dict[str, float | int | None]]) -> str:
    """One row a step, five decimals, blank where nothing was measured."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows([_cell(step.get(name)) for name in COLUMNS.values()] for step in metrics)
    return text.getvalue()


def _cell(number: float | int | None) -> float | int | str:
    return "" if number is None else round(number, _DECIMALS)


def _write_result_file(platform: Platform, job: Job, table: bytes) -> StoredFile:
    """The bytes under an id that follows from the job's, so that a repeated try replaces them."""
    digest = hashlib.sha256(f"{job.id} result".encode()).hexdigest()
    file = StoredFile(
        id=f"file-{digest[:32]}",
        project=job.project,
        filename=RESULT_NAME,
        purpose="fine-tune-results",
        bytes=len(table),
        sha256=hashlib.sha256(table).hexdigest(),
        created_at=now(),
    )
    aside = platform.incoming_dir / new_id(f"{file.id}.")
    with aside.open("wb") as stream:
        stream.write(table)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(platform.files_dir / file.id)
    sync_directory(platform.files_dir)
    return file


def _add_models(
    session: Session, platform: Platform, job: Job, result: RunResult, names: NewNames, journal: Sequence[RunEvent]
) -> None:
    """The checkpoints of the last epochs that are on the disk, oldest first, then the model itself.

    The last epoch's checkpoint is the model and no row of its own, as at OpenAI.
    """
    saved = [event for event in journal if event.checkpoint and event.data and event.data.step < result.steps]
    for event in saved[-KEPT_CHECKPOINTS:]:
        directory = f"{job.id}/{event.checkpoint}"
        if event.data is None or not (platform.runs_dir / directory).is_dir():
            continue
        own = checkpoint_names(job, event.data.step)
        models.add(session, _model(job, own, event.data, event.data.step, directory, is_final=False))
        words = f"Checkpoint created at step {event.data.step} with Snapshot ID: "
        events.tell(session, job.id, f"{words}{own.name}", azure=f"{words}{own.azure_name}")
    last = next((event.data for event in reversed(journal) if event.data is not None), None)
    directory = f"{job.id}/{result.adapter or ADAPTER_DIR}"
    models.add(session, _model(job, names, last, result.steps, directory, is_final=True))


def _model(
    job: Job, names: NewNames, metrics: StepMetrics | None, step: int, directory: str, *, is_final: bool
) -> TunedModel:
    return TunedModel(
        id=new_id("ftckpt_"),
        name=names.name,
        azure_name=names.azure_name,
        project=job.project,
        organization=job.organization,
        job_id=job.id,
        base=job.request.base,
        step=step,
        is_final=is_final,
        adapter=f"runs/{directory}",
        metrics={} if metrics is None else metrics.model_dump(exclude={"total_steps", "tokens", "seconds"}),
        created_at=now(),
    )


def _tell_the_end(session: Session, job: Job, result: RunResult, names: NewNames, file: StoredFile) -> None:
    created = "New fine-tuned model created: "
    events.tell(session, job.id, f"{created}{names.name}", azure=f"{created}{names.azure_name}")
    events.tell(session, job.id, "The job has successfully completed", azure="Job succeeded.")
    events.tell_azure(session, job.id, "Postprocessing started.")
    events.tell_azure(session, job.id, f"Completed results file: {file.id}")
    events.tell_azure(session, job.id, f"Training hours billed: {result.seconds / 3600:.3f}")
