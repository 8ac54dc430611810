"""Jobs: their rows, their status, and who works on them.

`transition` is the only writer of a status. A job is held by at most one worker (`owner`), which counts `beat` up;
another worker may take it over when it has seen the beat stand still. Nothing here compares clocks.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, String, and_, cast, exists, func, or_, select, update
from sqlalchemy.orm import Session

from tunewise.contracts.evaluations import UNFINISHED, Evaluation
from tunewise.contracts.jobs import ACTIVE, FINAL, TRANSITIONS, Job, JobStatus
from tunewise.store import evaluations
from tunewise.store.rows import Page, found, lookup, now, one, page, paged, value, values
from tunewise.store.tables import EvaluationRow, JobRow

# The owner of jobs that a worker has left behind: nobody, but their trainers may still run.
LEFT = "left"
_BY_ID = lookup(JobRow, "project", "id")
_LISTED = paged(JobRow, "project")
# As an expression, so that the few jobs in a status are looked through, and not all that were ever finished.
_IS_UNOWNED = func.coalesce(JobRow.owner, "") == ""
_METADATA = JobRow.__table__.c.request["metadata"]
_SEARCHED: tuple[ColumnElement[str | None], ...] = (
    JobRow.__table__.c.request["suffix"].as_string(),
    JobRow.__table__.c.request["model"].as_string(),
    JobRow.__table__.c.fine_tuned_model,
    JobRow.__table__.c.id,
)


def add(session: Session, job: Job) -> None:
    """Keep a new job."""
    session.add(JobRow(**job.model_dump(mode="json")))
    session.flush()


def get(session: Session, project: str, job_id: str) -> Job | None:
    """The project's job of that id."""
    return found(session, Job, _BY_ID, project=project, id=job_id)


def find(session: Session, job_id: str) -> Job | None:
    """The job of that id, whosever it is: for workers."""
    return value(Job, one(session, JobRow, id=job_id))


def listed(
    session: Session, project: str, *, after: str | None, limit: int, metadata: dict[str, str] | None = None
) -> Page[Job] | None:
    """A page of the project's jobs, newest first, that have all of `metadata`; None where `after` names none."""
    query = _LISTED
    for key, wanted in (metadata or {}).items():
        query = query.where(_has(session, key, wanted))
    return page(session, Job, query, after=after, limit=limit, project=project)


def searched(
    session: Session,
    project: str,
    *,
    words: Sequence[str],
    statuses: Sequence[JobStatus],
    after: str | None,
    limit: int,
) -> Page[Job] | None:
    """A page of the project's jobs, newest first, that are in one of the statuses (none given: in any) and have every
    word in their suffix, model, tuned model or id, whatever its case. None where `after` is none of the project's jobs.
    """
    query = _LISTED
    if statuses:
        query = query.where(JobRow.status.in_(statuses))
    for word in words:
        query = query.where(or_(*(text.icontains(word, autoescape=True) for text in _SEARCHED)))
    return page(session, Job, query, after=after, limit=limit, within=_LISTED, project=project)


def without_metadata(session: Session, project: str, *, after: str | None, limit: int) -> Page[Job] | None:
    """A page of the project's jobs that have no metadata."""
    query = _LISTED.where(or_(_METADATA.as_string().is_(None), cast(_METADATA, String) == "null"))
    return page(session, Job, query, after=after, limit=limit, project=project)


def unfinished(session: Session, project: str, limit: int) -> list[Job]:
    """The project's jobs that have not ended, newest first."""
    query = select(JobRow).where(JobRow.project == project, JobRow.status.not_in(FINAL)).order_by(JobRow.n.desc())
    return values(Job, session.scalars(query.limit(limit)))


def failed(session: Session, project: str, *, since: int, limit: int) -> list[Job]:
    """The project's jobs that have failed since then (Unix time), newest first."""
    query = select(JobRow).where(JobRow.project == project, JobRow.status == "failed", JobRow.finished_at >= since)
    return values(Job, session.scalars(query.order_by(JobRow.n.desc()).limit(limit)))


def transition(
    session: Session, job_id: str, to: JobStatus, *, owner: str | None = None, **changes: object
) -> Job | None:
    """Move a job to another status, and change what goes with it; None if it is not where it may go from there.

    `owner`: do it only while this worker holds the job. One statement decides, so of two racing moves one wins. A job
    that leaves no model leaves nothing to evaluate.
    """
    allowed = [status for status, following in TRANSITIONS.items() if to in following]
    conditions = [JobRow.id == job_id, JobRow.status.in_(allowed)]
    if owner is not None:
        conditions.append(JobRow.owner == owner)
    if to in FINAL:
        changes = {"finished_at": now(), "estimated_finish": None} | changes
    moved = _changed(session, conditions, status=to, **changes)
    if moved is not None and to in {"failed", "cancelled"}:
        evaluations.move(session, job_id, "cancelled")
    return moved


def change(session: Session, job_id: str, *, owner: str, **changes: object) -> Job | None:
    """Change fields other than the status, while this worker holds the job; None if it does not."""
    return _changed(session, [JobRow.id == job_id, JobRow.owner == owner], **changes)


def held(session: Session, job_id: str, worker: str | None) -> Job | None:
    """The job, if this worker holds it, or nobody for None; no other write to it comes before the transaction's end."""
    return _changed(session, [JobRow.id == job_id, JobRow.owner == worker], owner=worker)


def unowned(session: Session, statuses: Sequence[JobStatus] = ACTIVE, limit: int | None = None) -> list[Job]:
    """Jobs with work to do that no worker holds, oldest first."""
    query = select(JobRow).where(_IS_UNOWNED, JobRow.status.in_(statuses)).order_by(JobRow.n)
    return values(Job, session.scalars(query.limit(limit)))


def waiting(session: Session, limit: int) -> list[Job]:
    """Jobs that no worker holds and that wait to be trained or evaluated, oldest first."""
    to_evaluate = select(EvaluationRow.job_id).where(EvaluationRow.status.in_(UNFINISHED))
    query = select(JobRow).where(
        _IS_UNOWNED,
        or_(JobRow.status.in_(("queued", "running")), and_(JobRow.status == "succeeded", JobRow.id.in_(to_evaluate))),
    )
    return values(Job, session.scalars(query.order_by(JobRow.n).limit(limit)))


def owned(session: Session) -> list[Job]:
    """Jobs that some worker holds, whatever their status: a cancelled one may still have a trainer to stop."""
    return values(Job, session.scalars(select(JobRow).where(JobRow.owner.is_not(None)).order_by(JobRow.n)))


def claim(session: Session, job: Job, worker: str) -> Job | None:
    """Take a job as it was seen: unowned, or held by an owner whose beat has stood still. None if it has moved on."""
    held = JobRow.owner.is_(None) if job.owner is None else and_(JobRow.owner == job.owner, JobRow.beat == job.beat)
    return _changed(session, [JobRow.id == job.id, held], owner=worker, beat=JobRow.beat + 1)


def release(session: Session, job_id: str, worker: str) -> None:
    """Give a job back."""
    _changed(session, [JobRow.id == job_id, JobRow.owner == worker], owner=None)


def hand_on(session: Session, job_id: str) -> None:
    """Have a worker take a job that nobody holds, although it has ended: there is something to clear up after it."""
    _changed(session, [JobRow.id == job_id, JobRow.owner.is_(None)], owner=LEFT)


def leave(session: Session, worker: str) -> None:
    """Leave all that the worker holds to whoever comes next. Its trainers may still run, so that a job that is
    cancelled from now on must be seen as well: it is left under the name `LEFT` and not as unowned.
    """
    session.execute(update(JobRow).where(JobRow.owner == worker).values(owner=LEFT))


def heartbeat(session: Session, worker: str) -> dict[str, JobStatus]:
    """Show that the worker lives; the jobs that it still holds, and where they stand."""
    session.execute(update(JobRow).where(JobRow.owner == worker).values(beat=JobRow.beat + 1))
    held = session.scalars(select(JobRow).where(JobRow.owner == worker))
    return {job.id: job.status for job in values(Job, held)}


def using_file(session: Session, project: str, file_id: str) -> Job | None:
    """A job that is not finished, or whose evaluation is not, and that reads this file for either."""
    query = select(JobRow, EvaluationRow).join(EvaluationRow, EvaluationRow.job_id == JobRow.id, isouter=True)
    unfinished = or_(JobRow.status.not_in(FINAL), EvaluationRow.status.in_(UNFINISHED))
    for job_row, evaluation_row in session.execute(query.where(JobRow.project == project, unfinished)):
        job, evaluation = value(Job, job_row), value(Evaluation, evaluation_row)
        read = {} if evaluation is None else evaluation.request.files
        if job is not None and file_id in (job.request.training_file, job.request.validation_file, *read.values()):
            return job
    return None


def using_model(session: Session, name: str) -> Job | None:
    """An unfinished job, whosever it is, that tunes this model further."""
    query = select(JobRow).where(JobRow.request["parent"].as_string() == name, JobRow.status.not_in(FINAL)).limit(1)
    return value(Job, session.scalar(query))


def counts(session: Session) -> dict[str, int]:
    """How many jobs of all projects there are in each status that occurs."""
    found = session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
    return dict(found.all())


def _has(session: Session, key: str, wanted: str) -> ColumnElement[bool]:
    """That the job's metadata have this value under this key, whatever characters stand in either.

    SQLite reads a key as a path, in which quotes and backslashes cannot be written; there each pair is looked at.
    """
    if session.get_bind().dialect.name == "sqlite":
        pair = func.json_each(JobRow.__table__.c.request, "$.metadata").table_valued("key", "value")
        return exists().where(pair.c.key == key, pair.c.value == wanted)
    kept: ColumnElement[str] = _METADATA[key].as_string()
    return kept == wanted


def _changed(session: Session, conditions: list[ColumnElement[bool]], **changes: object) -> Job | None:
    statement = update(JobRow).where(*conditions).values(**changes).returning(JobRow)
    return value(Job, session.scalar(statement))
