"""One job in a worker's hands, from wherever its status says it stands: validated, trained, stopped, published; its
evaluation before and after is `jobs.studies`'.

Every write is made only while the worker holds the job; a worker that has lost it leaves all as it is. Whatever was
begun and cut short by a kill is begun again by the next worker and changes nothing twice. Knows nothing of other jobs.
"""

import logging
import shlex
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import assert_never

from tunewise.contracts.jobs import FINAL, Job, Level
from tunewise.contracts.run import CHECKPOINTS_DIR, SPEC_FILE, RunEvent, RunFailure, RunResult, TrainSpec
from tunewise.errors import StoreError, TunewiseError
from tunewise.jobs import checkpoints, studies, trainer
from tunewise.jobs.desk import GRACE_SECONDS, MAX_DEATHS, POLL_SECONDS, Backoff, Desk, Lost, disk_is_full, look
from tunewise.jobs.integrations import NotWritten, write_runs
from tunewise.jobs.plan import expected, remember_speed
from tunewise.jobs.publish import publish
from tunewise.jobs.trainer import EventTail
from tunewise.jobs.validate import validate
from tunewise.store import events, jobs
from tunewise.store.rows import now

log = logging.getLogger(__name__)

MAX_FAULTS = 3
_FAULT = "the worker met a fault of its own several times; its log says which; submit the job again"


def attend(desk: Desk, job_id: str) -> None:
    """Do what the job needs until it is released or lost, or until the worker leaves.

    A full disk and a database that cannot be used are waited out; what was not written is written then.
    """
    wait, faults = Backoff(desk.leaving), 0
    while not desk.leaving.is_set():
        try:
            if _settled(desk, job_id):
                return
        except Lost:
            log.info("%s: left to another worker", job_id)
            return
        except (StoreError, OSError) as error:
            log.warning("%s: waiting, %s", job_id, error)
            wait()
        except Exception:  # a thread's edge is a process edge: the other jobs go on
            log.exception("%s: a fault in this program", job_id)
            faults += 1
            if faults > MAX_FAULTS:
                with suppress(StoreError, Lost):
                    _fail(desk, job_id, RunFailure(code="server_error", message=_FAULT))
            wait()


def _settled(desk: Desk, job_id: str) -> bool:
    """One step of the job; whether it was given back. A known failure of the job's own ends it."""
    try:
        return _step(desk, look(desk, job_id))
    except StoreError:
        raise
    except TunewiseError as error:
        if error.code == "disk_full":
            raise OSError(error.message) from error
        _fail(desk, job_id, RunFailure(code=error.code, message=error.message, param=error.param))
        return False


def _step(desk: Desk, job: Job) -> bool:
    """Bring the job on as far as its status goes; whether it was given back."""
    match job.status:
        case "validating_files":
            _validate(desk, job)
            return _release(desk, job.id)
        case "queued" if studies.is_due(desk, job):
            studies.follow(desk, job)
        case "queued":
            _begin(desk, job)
        case "running":
            _train(desk, job)
        case "paused" | "cancelled" | "failed":
            studies.stop(desk, job)
            _stop(desk, job)
            _write_integrations(desk, job)
            return _release(desk, job.id)
        case "succeeded" if studies.is_due(desk, job):
            studies.follow(desk, job)
        case "succeeded":
            studies.stop(desk, job)
            _forget_checkpoints(desk, job)
            _write_integrations(desk, job)
            return _release(desk, job.id)
        case _:
            assert_never(job.status)
    return False


def _release(desk: Desk, job_id: str) -> bool:
    with desk.platform.database.write() as session:
        jobs.release(session, job_id, desk.worker)
    return True


def _validate(desk: Desk, job: Job) -> None:
    asked = job.request
    words = f"Validating training file: {asked.training_file}"
    if asked.validation_file is not None:
        words += f" and validation file: {asked.validation_file}"
    with desk.platform.database.write() as session:
        if jobs.held(session, job.id, desk.worker) is None:
            raise Lost
        if not events.told(session, job.id, words):
            events.tell(session, job.id, words, azure="Preprocessing started.")
    found = validate(desk.platform, job, desk.machine)
    with desk.platform.database.write() as session:
        moved = jobs.transition(
            session, job.id, "queued", owner=desk.worker, hyperparameters=found.hyperparameters.model_dump()
        )
        if moved is None:
            return
        for warning in found.warnings:
            events.tell(session, job.id, warning, level="warn")
        words = "Files validated, moving job to queued state"
        events.tell(session, job.id, words, azure="Job enqueued. Waiting for jobs ahead to complete.")


def _begin(desk: Desk, job: Job) -> None:
    seconds = expected(desk.run_dir(job.id)).seconds
    words = "Fine-tuning job started"
    with desk.platform.database.write() as session:
        moved = jobs.transition(
            session, job.id, "running", owner=desk.worker, estimated_finish=now() + round(seconds) if seconds else None
        )
        if moved is not None and not events.told(session, job.id, words):
            events.tell(session, job.id, words, azure="Training started.")


def _train(desk: Desk, job: Job) -> None:
    """Adopt the trainer or start one, and follow it for as long as the job runs."""
    run_dir = desk.run_dir(job.id)
    tail, wait = EventTail(run_dir), Backoff(desk.leaving)
    seen_alive = False
    while job.status == "running" and not desk.leaving.is_set():
        alive = trainer.is_running(run_dir)
        _copy(desk, job.id, tail.read())
        if alive:
            seen_alive = True
            desk.leaving.wait(POLL_SECONDS)
        else:
            result = trainer.result_of(run_dir)
            if result is not None and _is_final(result):
                _conclude(desk, job, result)
            else:
                if _disk_is_full(run_dir, result):
                    _warn_of_full_disk(desk, job.id)
                    wait()
                elif seen_alive and not _may_restart(desk, job.id):
                    return
                seen_alive = _start(desk, run_dir)
        job = look(desk, job.id)


def _start(desk: Desk, run_dir: Path) -> bool:
    """Whether a trainer was started. Where the lock was taken, it may be a trainer's, or that of someone who looked."""
    if desk.leaving.is_set():
        return False
    child = trainer.start(run_dir, desk.spawn)
    if child is None:
        return False
    log.info("%s: trainer %s started", run_dir.name, child.pid)
    desk.started(child)
    return True


def _copy(desk: Desk, job_id: str, journal: Sequence[RunEvent]) -> None:
    """Keep what the trainer has told: steps, messages, and checkpoints as models. Errors are told when the job fails;
    a trainer that is started again numbers what follows from before them.
    """
    kept = [event for event in journal if event.level != "error"]
    if not kept:
        return
    taken = checkpoints.take_out(desk.platform, job_id, kept)
    metrics = next((event.data for event in reversed(kept) if event.data is not None), None)
    changes: dict[str, object] = {}
    if metrics is not None:
        left = metrics.seconds / metrics.step * (metrics.total_steps - metrics.step)
        changes["estimated_finish"] = now() + round(left)
    with desk.platform.database.write() as session:
        held = jobs.held(session, job_id, desk.worker)
        if held is None:
            raise Lost
        checkpoints.copy_journal(session, held, kept, taken)
        if changes and held.status == "running":
            jobs.change(session, job_id, owner=desk.worker, **changes)
        gone = checkpoints.let_go(session, held, metrics.total_steps) if metrics is not None and taken else []
    checkpoints.remove_adapters(desk.platform, gone)


def _is_final(result: RunResult) -> bool:
    """A full disk ends no job: its trainer is started again until there is room."""
    return result.error is None or result.error.code != "disk_full"


def _conclude(desk: Desk, job: Job, result: RunResult) -> None:
    if result.error is not None:
        _fail(desk, job.id, result.error)
    elif publish(desk.platform, job, result, desk.worker):
        log.info("%s: succeeded after %d steps", job.id, result.steps)
        spec = TrainSpec.model_validate_json((desk.run_dir(job.id) / SPEC_FILE).read_bytes())
        remember_speed(desk.platform.settings, spec, result.tokens_per_second)


def _may_restart(desk: Desk, job_id: str) -> bool:
    """Count a trainer that ended without a result; False when that was once too often, and the job has failed."""
    with desk.platform.database.write() as session:
        job = jobs.held(session, job_id, desk.worker)
        if job is None:
            raise Lost
        if job.status != "running":
            return False
        jobs.change(session, job_id, owner=desk.worker, attempts=job.attempts + 1)
    log.warning("%s: the trainer ended without a result, %d time(s) so far", job_id, job.attempts + 1)
    if job.attempts + 1 <= MAX_DEATHS:
        return True
    error = trainer.killed(desk.run_dir(job_id), job.attempts + 1)
    _fail(desk, job_id, RunFailure(code=error.code, message=error.message))
    return False


def _disk_is_full(run_dir: Path, result: RunResult | None) -> bool:
    return result is not None or disk_is_full(run_dir)


def _warn_of_full_disk(desk: Desk, job_id: str) -> None:
    words = "The disk is full; training goes on from its last checkpoint when there is room"
    with desk.platform.database.write() as session:
        if jobs.held(session, job_id, desk.worker) is None:
            raise Lost
        if not events.told(session, job_id, words):
            events.tell(session, job_id, words, level="warn")


def _fail(desk: Desk, job_id: str, error: RunFailure) -> None:
    with desk.platform.database.write() as session:
        moved = jobs.transition(session, job_id, "failed", owner=desk.worker, error=error.model_dump())
        if moved is not None:
            log.warning("%s: failed, %s", job_id, error.code)
            events.tell(session, job_id, f"The job failed: {error.message}", level="error")
            return
    studies.fail(desk, job_id, error)  # what is left to fail of a job that has succeeded


def _stop(desk: Desk, job: Job) -> None:
    """Let the trainer of a job that goes on no more end. A paused one may take its time to write a checkpoint."""
    run_dir = desk.run_dir(job.id)
    deadline = time.monotonic() + GRACE_SECONDS
    asked = False
    while trainer.is_running(run_dir):
        asked = asked or trainer.send(run_dir, signal.SIGTERM)
        if job.status in FINAL and (time.monotonic() > deadline or desk.leaving.is_set()):
            trainer.send(run_dir, signal.SIGKILL)
        if job.status == "paused" and desk.leaving.is_set():
            raise Lost
        time.sleep(POLL_SECONDS)
        job = look(desk, job.id)
    journal = EventTail(run_dir).read()
    _copy(desk, job.id, journal)
    if job.status == "paused":
        _publish_newest(desk, job.id, journal)
    elif job.status == "cancelled":
        _forget_checkpoints(desk, job)


def _publish_newest(desk: Desk, job_id: str, journal: Sequence[RunEvent]) -> None:
    """Make the newest checkpoint of a paused job a model, wherever in an epoch it was written."""
    taken = checkpoints.take_newest_out(desk.platform, job_id, journal)
    if taken is None:
        return
    with desk.platform.database.write() as session:
        held = jobs.held(session, job_id, desk.worker)
        if held is None:
            raise Lost
        if held.status != "paused":
            return
        checkpoints.publish_checkpoint(session, held, taken)
        gone = checkpoints.let_go(session, held, taken.metrics.total_steps)
    checkpoints.remove_adapters(desk.platform, gone)


def _forget_checkpoints(desk: Desk, job: Job) -> None:
    """Training will not go on: those that are models were taken out. A failed job's are left, to look into."""
    shutil.rmtree(desk.run_dir(job.id) / CHECKPOINTS_DIR, ignore_errors=True)


def _write_integrations(desk: Desk, job: Job) -> None:
    """Write the runs of a job that has ended for other services, and tell where they lie."""
    if job.status not in FINAL:
        return
    level: Level = "info"
    try:
        places = write_runs(desk.platform, job)
        told = [f"Weights & Biases run written; to upload it: wandb sync {shlex.quote(str(place))}" for place in places]
    except NotWritten as error:
        level = "warn"
        told = [f"The Weights & Biases run could not be written: {error}; the result file and the events have its data"]
    with desk.platform.database.write() as session:
        if jobs.held(session, job.id, desk.worker) is None:
            raise Lost
        for words in told:
            if not events.told(session, job.id, words):
                events.tell(session, job.id, words, level=level)
