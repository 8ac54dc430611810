"""The study of a job in a worker's hands: before training, as far as the alternatives; after it, to the verdict.

A study is a process that only knows its directory (`jobs.study`), is started or adopted as a trainer is, and is begun
again where it was killed. Each of its two results is kept in one transaction with what is told of it. Knows nothing of
how a study is done.
"""

import logging
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.orm import Session

from tunewise.contracts.config import EvaluationPlan, RunConfig
from tunewise.contracts.evaluation import Interval
from tunewise.contracts.evaluations import Evaluation
from tunewise.contracts.jobs import Job
from tunewise.contracts.run import EVENTS_FILE, SPEC_FILE, RunFailure, TrainSpec
from tunewise.contracts.study import STUDY_DIR, STUDY_FILE, Study, StudyResult
from tunewise.jobs import trainer
from tunewise.jobs.desk import GRACE_SECONDS, MAX_DEATHS, POLL_SECONDS, Backoff, Desk, Lost, disk_is_full, look
from tunewise.jobs.stages import write_whole
from tunewise.jobs.study_files import read_study, result_of
from tunewise.store import evaluations, events, files, jobs

log = logging.getLogger(__name__)

_PARAMS = {"data.test": "test_file", "data.test_items": "test_items", "data": "test_file"}


def is_due(desk: Desk, job: Job, asked_at: int | None = None) -> bool:
    """Whether the job's evaluation has something to find out before the job goes on or is let go.

    `asked_at`: whether the one that was asked for then has; it may have ended, and another been asked for since.
    """
    evaluation = _evaluation(desk, job.id)
    if evaluation is None or asked_at not in {None, evaluation.created_at}:
        return False
    return evaluation.status == "pending" or (evaluation.status == "baselines_done" and job.status == "succeeded")


def follow(desk: Desk, job: Job) -> None:
    """Adopt the study or start one, and follow it until it has found what is due, or the job is moved elsewhere."""
    directory, standing = desk.run_dir(job.id) / STUDY_DIR, job.status
    asked_at = _write(desk, job)
    wait, seen_alive = Backoff(desk.leaving), False
    while not desk.leaving.is_set() and job.status == standing and is_due(desk, job, asked_at):
        if trainer.is_running(directory):
            seen_alive = True
            desk.leaving.wait(POLL_SECONDS)
        elif (result := result_of(directory)) is not None:
            _keep(desk, job.id, asked_at, result)
        elif disk_is_full(directory):
            wait()
        elif not seen_alive or _may_restart(desk, job.id, asked_at):
            seen_alive = _start(desk, directory)
        job = look(desk, job.id)


def stop(desk: Desk, job: Job) -> None:
    """Let the study of a job that needs it no more end, by force where it does not; what it found so far is kept.

    Raises:
        Lost: the job was taken over meanwhile.
    """
    directory = desk.run_dir(job.id) / STUDY_DIR
    deadline, asked = time.monotonic() + GRACE_SECONDS, False
    while trainer.is_running(directory):
        asked = asked or trainer.send(directory, signal.SIGTERM)
        if time.monotonic() > deadline or desk.leaving.is_set():
            trainer.send(directory, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
        look(desk, job.id)


def _evaluation(desk: Desk, job_id: str) -> Evaluation | None:
    with desk.platform.database.read() as session:
        return evaluations.find(session, job_id)


def _write(desk: Desk, job: Job) -> int:
    """Put what is due into the study's directory; when it was asked for. A process at work on another is stopped."""
    directory = desk.run_dir(job.id) / STUDY_DIR
    with desk.platform.database.read() as session:
        evaluation = evaluations.find(session, job.id)
        if evaluation is None:
            raise Lost
        study = _study(desk, session, job, evaluation)
    before = read_study(directory)
    if before != study:
        stop(desk, job)
        if before is None or (before.config, before.asked_at) != (study.config, study.asked_at):
            (directory / EVENTS_FILE).unlink(missing_ok=True)
        write_whole(directory / STUDY_FILE, study.model_dump_json(indent=1))
    return study.asked_at


def _study(desk: Desk, session: Session, job: Job, evaluation: Evaluation) -> Study:
    asked, request = job.request, evaluation.request
    spec = TrainSpec.model_validate_json((desk.run_dir(job.id) / SPEC_FILE).read_bytes())
    stored = files.get(session, job.project, asked.training_file)
    name = stored.filename if stored else asked.training_file
    data = {
        "train": asked.training_file,
        "valid": asked.validation_file,
        "test": request.test_file,
        "test_items": request.test_items,
        "max_tokens": spec.max_tokens,
        "overlong": spec.overlong,
    }
    plan = request.model_dump(mode="json", include=set(EvaluationPlan.model_fields))
    training = {"method": asked.method.model_dump(), "seed": asked.seed}
    # A file's id is a path below the directory of stored files, so that the ids become paths as a config's paths do.
    config = RunConfig.model_validate(
        {"model": asked.base, "data": data, "training": training, **plan}, context={"root": desk.platform.files_dir}
    )
    return Study(
        until="verdict" if job.status == "succeeded" else "baselines",
        asked_at=evaluation.created_at,
        title=f"{asked.suffix or asked.base}: {asked.base} tuned on {name}",
        tuned_name=job.fine_tuned_model or f"ft:{asked.base}",
        config=config,
    )


def _start(desk: Desk, directory: Path) -> bool:
    """Whether a study was started; where the lock was taken, it may be that of someone who looked."""
    child = None if desk.leaving.is_set() else trainer.start(directory, desk.spawn_study)
    if child is None:
        return False
    log.info("%s: study %s started", directory.parent.name, child.pid)
    desk.started(child)
    return True


def _keep(desk: Desk, job_id: str, asked_at: int, result: StudyResult) -> None:
    """Move evaluation and job on by what the study has found, and tell it."""
    if result.error is not None:
        fail(desk, job_id, result.error, asked_at)
        return
    scores = {arm: score.model_dump() for arm, score in result.scores.items()}
    with desk.platform.database.write() as session:
        _held(desk, session, job_id)
        if _is_another(session, job_id, asked_at):
            return
        if result.outcome is None:
            if evaluations.move(session, job_id, "baselines_done", scores=scores) is not None:
                events.tell(session, job_id, f"Baselines: {_ranked(result.scores)}")
        else:
            found = {"scores": scores, "outcome": result.outcome, "headline": result.headline}
            if evaluations.move(session, job_id, "succeeded", **found) is not None:
                events.tell(session, job_id, f"Verdict: {result.headline}")


def _ranked(scores: Mapping[str, Interval]) -> str:
    """The arms, the best first, as a sentence's end."""
    best = sorted(scores.items(), key=lambda item: -item[1].value)
    (first, score), others = best[0], best[1:]
    return ", ".join([f"{first} scored {score.value:.2f}", *(f"{arm} {score.value:.2f}" for arm, score in others)])


def _may_restart(desk: Desk, job_id: str, asked_at: int) -> bool:
    """Count a study that ended without a result; False when that was once too often, and the evaluation has failed."""
    with desk.platform.database.write() as session:
        _held(desk, session, job_id)
        if _is_another(session, job_id, asked_at):
            return False
        evaluation = evaluations.count_death(session, job_id)
    if evaluation is None:
        return False
    log.warning("%s: the study ended without a result, %d time(s) so far", job_id, evaluation.attempts)
    if evaluation.attempts <= MAX_DEATHS:
        return True
    tail = trainer.log_tail(desk.run_dir(job_id) / STUDY_DIR / trainer.LOG_FILE)
    message = f"the evaluation ended {evaluation.attempts} times without a result; its log ends:\n{tail}"
    fail(desk, job_id, RunFailure(code="evaluation_killed", message=message), asked_at)
    return False


def fail(desk: Desk, job_id: str, error: RunFailure, asked_at: int | None = None) -> None:
    """End the evaluation. A job that waited for it fails, and nothing is trained; one that has succeeded stays so.

    `asked_at`: only the one that was asked for then.
    """
    message = error.message.replace(f"{desk.platform.files_dir}/", "")
    told = RunFailure(code=error.code, message=message, param=_PARAMS.get(error.param or "", error.param))
    with desk.platform.database.write() as session:
        job = _held(desk, session, job_id)
        # One that was paused at this moment fails when it goes on: the study's result stays where it is.
        if job.status not in {"queued", "succeeded"} or _is_another(session, job_id, asked_at):
            return
        if evaluations.move(session, job_id, "failed", error=told.model_dump()) is None:
            return
        log.warning("%s: the evaluation failed, %s", job_id, error.code)
        if job.status == "succeeded":
            events.tell(session, job_id, f"The evaluation failed: {message}", level="warn")
        else:
            jobs.transition(session, job_id, "failed", owner=desk.worker, error=told.model_dump())
            events.tell(session, job_id, f"The job failed: {message}", level="error")


def _is_another(session: Session, job_id: str, asked_at: int | None) -> bool:
    """Whether the evaluation that stands now was asked for after the one that is spoken of."""
    if asked_at is None:
        return False
    standing = evaluations.find(session, job_id)
    return standing is None or standing.created_at != asked_at


def _held(desk: Desk, session: Session, job_id: str) -> Job:
    job = jobs.held(session, job_id, desk.worker)
    if job is None:
        raise Lost
    return job
