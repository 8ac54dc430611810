"""What a run that has succeeded leaves to its users: the model, result files, the last events. All in one
transaction, so that a job has succeeded with everything or has not yet succeeded.

The bytes of the result files are on the disk before. Knows the run directory and the store; starts nothing.
"""

from sqlalchemy.orm import Session

from tunewise.contracts.jobs import Job, StoredFile, TunedModel
from tunewise.contracts.run import ADAPTER_DIR, RunResult, StepMetrics
from tunewise.jobs.checkpoints import let_go, remove_adapters, tuned_model
from tunewise.jobs.names import NewNames, final_names
from tunewise.jobs.platform import Platform
from tunewise.jobs.results import DIALECTS, write_result
from tunewise.jobs.trainer import EventTail
from tunewise.store import events, files, jobs, models


def publish(platform: Platform, job: Job, result: RunResult, worker: str) -> bool:
    """Make the job succeed; False where it was cancelled, paused or taken over first, and nothing was changed."""
    journal = EventTail(platform.runs_dir / job.id).read()
    last = next(event.data for event in reversed(journal) if event.data is not None)
    with platform.database.read() as session:
        metrics = events.metrics(session, job.id)
    file, azure_file = (write_result(platform, job, metrics, dialect) for dialect in DIALECTS)
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
        files.add(session, azure_file)
        gone = _add_model(session, job, result, names, last)
        _tell_the_end(session, job, result, names, azure_file)
    remove_adapters(platform, gone)
    return True


def _add_model(session: Session, job: Job, result: RunResult, names: NewNames, last: StepMetrics) -> list[TunedModel]:
    """The model itself; its checkpoints are models since they were made. Gives those that it takes the place of."""
    adapter = f"runs/{job.id}/{result.model or result.adapter or ADAPTER_DIR}"
    models.add(session, tuned_model(job, names, last, result.steps, adapter, is_final=True))
    return let_go(session, job, last.total_steps)


def _tell_the_end(session: Session, job: Job, result: RunResult, names: NewNames, azure_file: StoredFile) -> None:
    created = "New fine-tuned model created: "
    events.tell(session, job.id, f"{created}{names.name}", azure=f"{created}{names.azure_name}")
    events.tell(session, job.id, "The job has successfully completed", azure="Job succeeded.")
    events.tell_azure(session, job.id, "Postprocessing started.")
    events.tell_azure(session, job.id, f"Completed results file: {azure_file.id}")
    events.tell_azure(session, job.id, f"Training hours billed: {result.seconds / 3600:.3f}")
