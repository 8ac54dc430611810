"""Use cases of evaluations: a run, which is a fine-tuning job with its evaluation; and the evaluation of any job.

What happens to an evaluation is the worker's (`jobs.studies`); how far it is and what came out is read from its files.
Nothing here knows a wire.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.orm import Session

from tunewise.contracts.evaluation import HTML_FILE, JSON_FILE, Report
from tunewise.contracts.evaluations import UNFINISHED, Evaluation, EvaluationRequest, StudyProgress
from tunewise.contracts.jobs import Caller, Job
from tunewise.contracts.run import SPEC_FILE
from tunewise.contracts.study import STUDY_DIR
from tunewise.errors import RequestError
from tunewise.jobs import fine_tuning
from tunewise.jobs.access import require_admin
from tunewise.jobs.config_file import check_meaning
from tunewise.jobs.fine_tuning import Submission, job_of
from tunewise.jobs.platform import Platform
from tunewise.jobs.study_files import progress_of, read_journal
from tunewise.store import evaluations, events, files, models
from tunewise.store.rows import now

PLACE = "evaluation"


def submit_run(platform: Platform, caller: Caller, asked: Submission, request: EvaluationRequest | None) -> Job:
    """Keep a new job together with its evaluation: the alternatives are asked before it is trained.

    Raises:
        RequestError: what `fine_tuning.submit` raises; invalid_file or admin_required for the evaluation.
        ConfigError: the evaluation's graders or arms do not fit together.
    """
    if request is not None:
        _check(caller, request)
    with platform.database.write() as session:
        job = fine_tuning.add(session, platform, caller, asked)
        if request is not None:
            _put(session, caller, job, request)
        return job


def attach(platform: Platform, caller: Caller, job_id: str, request: EvaluationRequest) -> Evaluation:
    """Evaluate a job that has succeeded, however it was made; what an earlier evaluation of it found is let go.

    Raises:
        RequestError: fine_tune_not_found; invalid_state where the job has not succeeded, its model was deleted, or an
            evaluation is under way; invalid_file or admin_required for the evaluation.
        ConfigError: the graders or arms do not fit together.
    """
    _check(caller, request)
    with platform.database.write() as session:
        job = job_of(session, caller, job_id)
        if job.status != "succeeded":
            raise _wrong_state(f"Job {job.id} is {job.status}; only one that has succeeded can be evaluated afterwards")
        if not any(model.is_final for model in models.of_job(session, job.id)):
            raise _wrong_state(f"The model of job {job.id} was deleted; train it again to evaluate it")
        if not (platform.runs_dir / job.id / SPEC_FILE).is_file():
            raise _wrong_state(f"The run directory of job {job.id} is gone; train it again to evaluate it")
        _file(session, caller, job.request.training_file, "training_file")
        evaluation = _put(session, caller, job, request)
        events.tell(session, job.id, "An evaluation was asked for")
        return evaluation


def cancel(platform: Platform, caller: Caller, job_id: str) -> Evaluation:
    """End the evaluation of a job that has succeeded; its model stays. That of any other ends with the job.

    Raises:
        RequestError: fine_tune_not_found, evaluation_not_found, or invalid_state.
    """
    with platform.database.write() as session:
        job, found = job_of(session, caller, job_id), _evaluation(session, caller, job_id)
        if job.status != "succeeded":
            raise _wrong_state(f"Job {job_id} is {job.status}; cancel the job, and its evaluation ends with it")
        moved = evaluations.move(session, job_id, "cancelled")
        if moved is None:
            raise _wrong_state(f"The evaluation of job {job_id} has ended; it is {found.status}")
        events.tell(session, job_id, "The evaluation was cancelled")
        return moved


def retrieve(platform: Platform, caller: Caller, job_id: str) -> Evaluation:
    """The evaluation of one of the caller's jobs, as it stands.

    Raises:
        RequestError: fine_tune_not_found or evaluation_not_found.
    """
    with platform.database.read() as session:
        return _evaluation(session, caller, job_id)


def of_jobs(platform: Platform, caller: Caller, job_ids: Sequence[str]) -> dict[str, Evaluation]:
    """The evaluations of those of the caller's jobs that have one, by job."""
    with platform.database.read() as session:
        return evaluations.of_jobs(session, caller.project, job_ids)


def report(platform: Platform, caller: Caller, job_id: str) -> Report:
    """Everything that the evaluation has found.

    Raises:
        RequestError: fine_tune_not_found, evaluation_not_found, or report_not_found while there is none.
    """
    written = _finished(platform, caller, job_id) / JSON_FILE
    try:
        return Report.model_validate_json(written.read_bytes())
    except (OSError, ValidationError) as error:
        raise _no_report(job_id, "its file was deleted or is of another version; evaluate the job again") from error


def report_page(platform: Platform, caller: Caller, job_id: str) -> str:
    """The same as one HTML page without outside reference.

    Raises:
        RequestError: fine_tune_not_found, evaluation_not_found, or report_not_found while there is none.
    """
    try:
        return (_finished(platform, caller, job_id) / HTML_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise _no_report(job_id, "its file was deleted; evaluate the job again") from error


def progress(platform: Platform, caller: Caller, job_id: str) -> StudyProgress:
    """How far the run is: its stages, and what is done in the one under way.

    Raises:
        RequestError: fine_tune_not_found or evaluation_not_found.
    """
    with platform.database.read() as session:
        job, found = job_of(session, caller, job_id), _evaluation(session, caller, job_id)
    return progress_of(job, found, read_journal(_study_dir(platform, job_id)))


def _check(caller: Caller, request: EvaluationRequest) -> None:
    """What needs no look at the store. A paid arm sends a key of this server's environment to a place of its own."""
    check_meaning(request, PLACE)
    if any(arm.endpoint is not None for arm in request.arms.prompt):
        require_admin(caller, "Comparing with a paid or remote API")


def _put(session: Session, caller: Caller, job: Job, request: EvaluationRequest) -> Evaluation:
    for param, file_id in request.files.items():
        _file(session, caller, file_id, param)
    asked = Evaluation(job_id=job.id, project=job.project, request=request, created_at=now())
    evaluation = evaluations.put(session, asked)
    if evaluation is None:
        raise _wrong_state(f"The evaluation of job {job.id} is under way; wait for its end, or cancel it")
    return evaluation


def _file(session: Session, caller: Caller, file_id: str, param: str) -> None:
    if "\0" in file_id or files.get(session, caller.project, file_id) is None:
        raise RequestError("invalid_file", f"{param}: there is no file {file_id!r}; upload it first", param=param)


def _evaluation(session: Session, caller: Caller, job_id: str) -> Evaluation:
    found = evaluations.get(session, caller.project, job_of(session, caller, job_id).id)
    if found is None:
        raise RequestError("evaluation_not_found", f"Job {job_id} has no evaluation; ask for one")
    return found


def _finished(platform: Platform, caller: Caller, job_id: str) -> Path:
    """The directory of an evaluation that has come to a verdict."""
    found = retrieve(platform, caller, job_id)
    if found.status != "succeeded":
        what = "wait for its end" if found.status in UNFINISHED else "evaluate the job again"
        raise _no_report(job_id, f"its evaluation is {found.status}; {what}")
    return _study_dir(platform, job_id)


def _study_dir(platform: Platform, job_id: str) -> Path:
    return platform.runs_dir / job_id / STUDY_DIR


def _wrong_state(message: str) -> RequestError:
    return RequestError("invalid_state", message)


def _no_report(job_id: str, why: str) -> RequestError:
    return RequestError("report_not_found", f"Job {job_id} has no report: {why}")
