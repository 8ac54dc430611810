"""Use cases of fine-tuning jobs: submit, look up, cancel, pause, resume. What happens to a job then is the worker's.

Both dialects and the command line call these; nothing here knows a wire.
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from tunewise import catalogue
from tunewise.contracts.fine_tuning import Method, TrainingOptions
from tunewise.contracts.jobs import Caller, Integration, Job, JobEvent, JobRequest, JobStatus, StoredFile, TunedModel
from tunewise.errors import RequestError
from tunewise.jobs.conflicts import conflict
from tunewise.jobs.integrations import require_installed
from tunewise.jobs.names import Resolved, resolve
from tunewise.jobs.platform import Platform
from tunewise.jobs.weights import kind_in
from tunewise.store import events, files, jobs, models
from tunewise.store.rows import Page, Value, new_id, now

JOB_PREFIX = "ftjob-"
SEARCHED_WORDS = 8


class Submission(NamedTuple):
    """A job as a dialect asks for it, before anything was looked up."""

    model: str
    training_file: str
    validation_file: str | None
    method: Method
    seed: int | None
    suffix: str | None
    metadata: dict[str, str] | None
    integrations: tuple[Integration, ...] | None
    training_type: str | None = None
    training: TrainingOptions = TrainingOptions()


def submit(platform: Platform, caller: Caller, asked: Submission) -> Job:
    """Keep a new job, to be validated and trained by a worker. Once this returns, the job is never lost.

    Raises:
        RequestError: a file or the model is not there, or is not for fine-tuning; options that do not go together; or
            integration_unavailable.
    """
    with platform.database.write() as session:
        return add(session, platform, caller, asked)


def add(session: Session, platform: Platform, caller: Caller, asked: Submission) -> Job:
    """`submit` within a transaction: the job is there when that is committed."""
    require_installed(asked.integrations)
    found = resolve(session, platform.settings, caller, asked.model)
    _require_tunable(platform, asked.model, found)
    _training_file(session, caller, asked.training_file, "training_file")
    if asked.validation_file is not None:
        _training_file(session, caller, asked.validation_file, "validation_file")
    parent = found.tuned.name if found.tuned else None
    is_adapter = found.tuned is not None and kind_in(platform.settings.state_dir / found.tuned.adapter) == "adapter"
    _refuse_conflicts(asked, parent if is_adapter else None)
    request = JobRequest(
        model=asked.model,
        base=found.base,
        parent=parent,
        training_file=asked.training_file,
        validation_file=asked.validation_file,
        method=asked.method,
        training=asked.training,
        seed=secrets.randbelow(2**31) if asked.seed is None else asked.seed,
        suffix=asked.suffix,
        metadata=asked.metadata,
        integrations=asked.integrations,
        training_type=asked.training_type,
    )
    job = Job(
        id=new_id(JOB_PREFIX),
        project=caller.project,
        organization=caller.organization,
        request=request,
        status="validating_files",
        created_at=now(),
    )
    jobs.add(session, job)
    events.tell(
        session,
        job.id,
        f"Created fine-tuning job: {job.id}",
        azure="Job enqueued. Waiting for jobs ahead to complete.",
    )
    return job


def _require_tunable(platform: Platform, name: str, found: Resolved) -> None:
    if found.embeds:
        why = "makes embeddings, and only models that write text are tuned; name one of those"
    elif found.base in platform.settings.models_elsewhere and found.base not in catalogue.names_here(platform.settings):
        why = "is hosted elsewhere, and its weights are not here; fetch them with: tunewise models pull"
    else:
        return
    raise RequestError("model_not_tunable", f"model: {name!r} {why}", param="model")


def retrieve(platform: Platform, caller: Caller, job_id: str) -> Job:
    """One of the caller's jobs.

    Raises:
        RequestError: fine_tune_not_found.
    """
    with platform.database.read() as session:
        return job_of(session, caller, job_id)


def list_jobs(
    platform: Platform,
    caller: Caller,
    *,
    after: str | None,
    limit: int,
    metadata: dict[str, str] | None,
    without_metadata: bool = False,
) -> Page[Job]:
    """A page of the caller's jobs, newest first, that have all of `metadata`, or that have none at all.

    Raises:
        RequestError: fine_tune_not_found, when `after` is none of them.
    """
    with platform.database.read() as session:
        if without_metadata:
            found = jobs.without_metadata(session, caller.project, after=after, limit=limit)
        else:
            found = jobs.listed(session, caller.project, after=after, limit=limit, metadata=metadata)
    return _page(found, after)


def search_jobs(
    platform: Platform, caller: Caller, text: str, *, statuses: Sequence[JobStatus], after: str | None, limit: int
) -> Page[Job]:
    """A page of the caller's jobs, newest first, that are in one of `statuses` (none given: in any) and whose suffix,
    model, tuned model or id has every word of `text`, in any order and case.

    Raises:
        RequestError: invalid_cursor, when `after` is none of the caller's jobs.
    """
    words = text.replace("\0", " ").split()[:SEARCHED_WORDS]
    with platform.database.read() as session:
        found = jobs.searched(session, caller.project, words=words, statuses=statuses, after=after, limit=limit)
    return _page(found, after)


def list_events(
    platform: Platform, caller: Caller, job_id: str, *, after: str | None, limit: int, for_azure: bool = False
) -> Page[JobEvent]:
    """A page of a job's events, newest first.

    Raises:
        RequestError: fine_tune_not_found, or invalid_cursor.
    """
    listed = events.listed_for_azure if for_azure else events.listed
    with platform.database.read() as session:
        job = job_of(session, caller, job_id)
        return _page(listed(session, job.id, after=after, limit=limit), after)


def list_checkpoints(
    platform: Platform, caller: Caller, job_id: str, *, after: str | None, limit: int, with_final: bool = False
) -> Page[TunedModel]:
    """A page of a job's checkpoints, newest first.

    Raises:
        RequestError: fine_tune_not_found, or invalid_cursor.
    """
    with platform.database.read() as session:
        job = job_of(session, caller, job_id)
        found = models.checkpoints(session, job.id, with_final=with_final, after=after, limit=limit)
        return _page(found, after)


def cancel(platform: Platform, caller: Caller, job_id: str) -> Job:
    """End a job for good. Its worker stops the trainer as soon as it sees it; checkpoints told until then stay.

    Raises:
        RequestError: fine_tune_not_found, or invalid_state when it has ended already.
    """
    return _move(platform, caller, job_id, "cancelled", "The job was cancelled")


def pause(platform: Platform, caller: Caller, job_id: str) -> Job:
    """Stop a job so that it can go on from where it was: its trainer writes a checkpoint and ends, and the
    checkpoint becomes a model.

    Raises:
        RequestError: fine_tune_not_found, or invalid_state when it neither runs nor waits.
    """
    return _move(platform, caller, job_id, "paused", "The job was paused")


def resume(platform: Platform, caller: Caller, job_id: str) -> Job:
    """Let a paused job go on.

    Raises:
        RequestError: fine_tune_not_found, or invalid_state when it is not paused.
    """
    return _move(platform, caller, job_id, "queued", "The job was resumed", only_from="paused")


def _move(
    platform: Platform, caller: Caller, job_id: str, to: JobStatus, message: str, only_from: JobStatus | None = None
) -> Job:
    with platform.database.write() as session:
        before = job_of(session, caller, job_id)
        if only_from is not None and before.status != only_from:
            raise _wrong_state(before, to)
        after = jobs.transition(session, job_id, to)
        if after is None:
            raise _wrong_state(before, to)
        if before.status == "paused" and to == "cancelled":
            jobs.hand_on(session, job_id)
        events.tell(session, job_id, message)
        return after


def _wrong_state(job: Job, to: JobStatus) -> RequestError:
    return RequestError(
        "invalid_state", f"Job {job.id} is {job.status} and cannot become {to}; retrieve it to see how it stands"
    )


def job_of(session: Session, caller: Caller, job_id: str) -> Job:
    """The caller's job of that id.

    Raises:
        RequestError: fine_tune_not_found.
    """
    job = jobs.get(session, caller.project, job_id)
    if job is None:
        raise RequestError("fine_tune_not_found", f"Could not find fine tune: {job_id}", param="fine_tune_id")
    return job


def _refuse_conflicts(asked: Submission, parent: str | None) -> None:
    found = conflict(asked.training, has_validation=asked.validation_file is not None, parent=parent)
    if found is not None:
        param = f"training.{found.option}"
        raise RequestError(found.code, f"{param}: {found.message}", param=param)


def _training_file(session: Session, caller: Caller, file_id: str, param: str) -> StoredFile:
    file = files.get(session, caller.project, file_id)
    if file is None:
        raise RequestError("invalid_file", f"{param}: there is no file {file_id!r}; upload it first", param=param)
    if file.purpose != "fine-tune":
        raise RequestError(
            "invalid_file",
            f"{param}: file {file_id!r} has the purpose {file.purpose!r}; upload it with purpose 'fine-tune'",
            param=param,
        )
    return file


def _page(found: Page[Value] | None, after: str | None) -> Page[Value]:
    if found is None:
        raise RequestError("invalid_cursor", f"after: there is no {after!r} in this list", param="after")
    return found
