"""Events: a job's story, numbered without gaps. What a trainer's journal repeats after a restart is kept once."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tunewise.contracts.jobs import JobEvent, Level
from tunewise.contracts.run import RunEvent
from tunewise.store.rows import Page, new_id, now, page
from tunewise.store.tables import EventRow

PREFIX = "ftevent-"


def tell(session: Session, job_id: str, message: str, *, level: Level = "info") -> None:
    """Add a message."""
    session.add(_row(job_id, _last(session, job_id) + 1, now(), level, message))
    session.flush()


def copy(session: Session, job_id: str, journal: Sequence[RunEvent]) -> list[RunEvent]:
    """Add those events of the trainer's journal that are not kept yet; gives them."""
    known = session.scalar(select(func.max(EventRow.run_seq)).where(EventRow.job_id == job_id)) or 0
    fresh = [event for event in journal if event.seq > known]
    seq = _last(session, job_id)
    for event in fresh:
        seq += 1
        row = _row(job_id, seq, int(event.created_at), event.level, event.message)
        row.run_seq = event.seq
        if event.type == "metrics" and event.data is not None:
            row.type = "metrics"
            row.data = event.data.model_dump(exclude={"tokens", "seconds"})
        session.add(row)
    session.flush()
    return fresh


def listed(session: Session, job_id: str, *, after: str | None, limit: int, every: int = 1) -> Page[JobEvent] | None:
    """A page of a job's events, newest first; None where `after` names none of them.

    `every`: of the metrics events, only those whose step is a multiple of it, as Azure tells them.
    """
    query = select(EventRow).where(EventRow.job_id == job_id)
    if every > 1:
        query = query.where((EventRow.type != "metrics") | (EventRow.data["step"].as_integer() % every == 0))
    return page(session, JobEvent, EventRow, query, after=after, limit=limit)


def metrics(session: Session, job_id: str) -> list[dict[str, float | int | None]]:
    """The data of every step, in order."""
    query = select(EventRow.data).where(EventRow.job_id == job_id, EventRow.type == "metrics").order_by(EventRow.seq)
    return [dict(data) for data in session.scalars(query) if data is not None]


def _last(session: Session, job_id: str) -> int:
    return session.scalar(select(func.max(EventRow.seq)).where(EventRow.job_id == job_id)) or 0


def _row(job_id: str, seq: int, created_at: int, level: Level, message: str) -> EventRow:
    return EventRow(
        id=new_id(PREFIX), job_id=job_id, seq=seq, created_at=created_at, level=level, type="message", message=message
    )
