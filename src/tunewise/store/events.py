"""Events: a job's story, numbered without gaps. What a trainer's journal repeats after a restart is kept once."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tunewise.contracts.jobs import JobEvent, Level
from tunewise.contracts.run import RunEvent
from tunewise.store.rows import Page, new_id, now, page, paged
from tunewise.store.tables import EventRow

PREFIX = "ftevent-"
AZURE_STEPS = 10  # Azure tells every tenth step
_EVENT = EventRow.__table__.c
_OPENAIS = paged(EventRow, "job_id", by="seq").where(_EVENT.message.is_not(None))
_AZURES = (
    paged(EventRow, "job_id", by="seq")
    .where(_EVENT.azure_message.is_not(None))
    .where((_EVENT.type != "metrics") | (_EVENT.data["step"].as_integer() % AZURE_STEPS == 0))
)


def tell(
    session: Session,
    job_id: str,
    message: str,
    *,
    azure: str | None = None,
    level: Level = "info",
    run_seq: int | None = None,
) -> None:
    """Add a message. `azure`: its words under Azure's dialect, where they differ. `run_seq`: its number in the
    trainer's journal, where it stands for an event there.
    """
    row = _row(job_id, _last(session, job_id) + 1, now(), level, message, azure or message)
    row.run_seq = run_seq
    session.add(row)
    session.flush()


def tell_azure(session: Session, job_id: str, message: str) -> None:
    """Add a message that OpenAI's dialect does not have."""
    session.add(_row(job_id, _last(session, job_id) + 1, now(), "info", None, message))
    session.flush()


def told(session: Session, job_id: str, message: str) -> bool:
    """Whether the job's story has this message: what is told before anything else is written is told once that way."""
    query = select(EventRow.n).where(EventRow.job_id == job_id, EventRow.message == message)
    return session.scalar(query.limit(1)) is not None


def known(session: Session, job_id: str) -> int:
    """The number of the last event of the trainer's journal that is kept; 0 where none is."""
    return session.scalar(select(func.max(EventRow.run_seq)).where(EventRow.job_id == job_id)) or 0


def copy(session: Session, job_id: str, journal: Sequence[RunEvent]) -> list[RunEvent]:
    """Add those events of the trainer's journal that are not kept yet; gives them."""
    fresh_from = known(session, job_id) + 1
    fresh = [event for event in journal if event.seq >= fresh_from]
    seq = _last(session, job_id)
    for event in fresh:
        seq += 1
        row = _row(job_id, seq, int(event.created_at), event.level, event.message, event.message)
        row.run_seq = event.seq
        if event.type == "metrics" and event.data is not None:
            row.type = "metrics"
            row.data = event.data.told()
            row.azure_message = f"Step {event.data.step}: training loss={event.data.train_loss}"
        session.add(row)
    session.flush()
    return fresh


def listed(session: Session, job_id: str, *, after: str | None, limit: int) -> Page[JobEvent] | None:
    """A page of a job's events as OpenAI tells them, newest first; None where `after` names none of them."""
    return page(session, JobEvent, _OPENAIS, after=after, limit=limit, job_id=job_id)


def listed_for_azure(session: Session, job_id: str, *, after: str | None, limit: int) -> Page[JobEvent] | None:
    """The same as Azure tells them: in its words, and of the steps every tenth."""
    return page(session, JobEvent, _AZURES, after=after, limit=limit, job_id=job_id)


def metrics(session: Session, job_id: str) -> list[dict[str, float | int | None]]:
    """The data of every step, in order."""
    query = select(EventRow.data).where(EventRow.job_id == job_id, EventRow.type == "metrics").order_by(EventRow.seq)
    return [dict(data) for data in session.scalars(query) if data is not None]


def last_metrics(session: Session, job_id: str) -> dict[str, float | int | None] | None:
    """The data of the newest step; None before the first."""
    query = select(EventRow.data).where(EventRow.job_id == job_id, EventRow.type == "metrics")
    return session.scalar(query.order_by(EventRow.seq.desc()).limit(1))


def _last(session: Session, job_id: str) -> int:
    return session.scalar(select(func.max(EventRow.seq)).where(EventRow.job_id == job_id)) or 0


def _row(job_id: str, seq: int, created_at: int, level: Level, message: str | None, azure: str | None) -> EventRow:
    return EventRow(
        id=new_id(PREFIX),
        job_id=job_id,
        seq=seq,
        created_at=created_at,
        level=level,
        type="message",
        message=message,
        azure_message=azure,
    )
