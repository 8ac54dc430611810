"""Evaluations of jobs: their rows. `move` is the only writer of a status."""

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from tunewise.contracts.evaluations import UNFINISHED, Evaluation, EvaluationStatus
from tunewise.store.rows import found, lookup, now, one, value, values
from tunewise.store.tables import EvaluationRow

_OF_JOB = lookup(EvaluationRow, "project", "job_id")


def put(session: Session, evaluation: Evaluation) -> Evaluation | None:
    """Keep a new evaluation in place of one that has ended; None, and nothing changed, where one is under way.

    What is kept was asked for later than the one before, by the second at least: `created_at` tells the two apart.
    """
    ended = EvaluationRow.job_id == evaluation.job_id, EvaluationRow.status.not_in(UNFINISHED)
    before = session.scalar(delete(EvaluationRow).where(*ended).returning(EvaluationRow.created_at))
    if find(session, evaluation.job_id) is not None:
        return None
    if before is not None and before >= evaluation.created_at:
        evaluation = evaluation.model_copy(update={"created_at": before + 1})
    session.add(EvaluationRow(**evaluation.model_dump(mode="json")))
    session.flush()
    return evaluation


def get(session: Session, project: str, job_id: str) -> Evaluation | None:
    """The evaluation of the project's job."""
    return found(session, Evaluation, _OF_JOB, project=project, job_id=job_id)


def find(session: Session, job_id: str) -> Evaluation | None:
    """The evaluation of the job, whosever it is: for workers."""
    return value(Evaluation, one(session, EvaluationRow, job_id=job_id))


def of_jobs(session: Session, project: str, job_ids: Sequence[str]) -> dict[str, Evaluation]:
    """Those of the project's jobs of these ids, by job; in one query."""
    query = select(EvaluationRow).where(EvaluationRow.project == project, EvaluationRow.job_id.in_(job_ids))
    return {evaluation.job_id: evaluation for evaluation in values(Evaluation, session.scalars(query))}


def move(session: Session, job_id: str, to: EvaluationStatus, **changes: object) -> Evaluation | None:
    """Move an unfinished evaluation on, and change what goes with it; None if there is none that may go there.

    One statement decides, so of two racing moves one wins.
    """
    allowed = ("pending",) if to == "baselines_done" else UNFINISHED
    if to not in UNFINISHED:
        changes = {"finished_at": now()} | changes
    return _changed(session, job_id, allowed, status=to, **changes)


def count_death(session: Session, job_id: str) -> Evaluation | None:
    """Count a process of an unfinished evaluation that died without a result."""
    return _changed(session, job_id, UNFINISHED, attempts=EvaluationRow.attempts + 1)


def _changed(
    session: Session, job_id: str, allowed: Sequence[EvaluationStatus], **changes: object
) -> Evaluation | None:
    conditions = EvaluationRow.job_id == job_id, EvaluationRow.status.in_(allowed)
    statement = update(EvaluationRow).where(*conditions).values(**changes).returning(EvaluationRow)
    return value(Evaluation, session.scalar(statement))
