"""Files and uploads: their rows. The bytes lie on the disk, and `jobs.files` puts them there first."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tunewise.contracts.jobs import StoredFile, Upload, UploadPart, UploadStatus
from tunewise.store.rows import ORDERS, Order, Page, Paged, found, lookup, one, page, paged, values
from tunewise.store.tables import FileRow, PartRow, UploadRow

_BY_ID = lookup(FileRow, "project", "id")
_UPLOAD_BY_ID = lookup(UploadRow, "project", "id")
_LISTED: dict[Order, Paged] = {order: paged(FileRow, "project", order=order) for order in ORDERS}


def add(session: Session, file: StoredFile) -> None:
    """Keep a new file."""
    session.add(FileRow(**file.model_dump()))
    session.flush()


def get(session: Session, project: str, file_id: str) -> StoredFile | None:
    """The project's file of that id."""
    return found(session, StoredFile, _BY_ID, project=project, id=file_id)


def remove(session: Session, project: str, file_id: str) -> bool:
    """Forget a file; whether there was one."""
    statement = delete(FileRow).where(FileRow.project == project, FileRow.id == file_id).returning(FileRow.n)
    return session.scalar(statement) is not None


def listed(
    session: Session, project: str, *, purpose: str | None, after: str | None, limit: int, order: Order
) -> Page[StoredFile] | None:
    """A page of the project's files; None where `after` names none of them."""
    query = _LISTED[order]
    if purpose is not None:
        query = query.where(FileRow.__table__.c.purpose == purpose)
    return page(session, StoredFile, query, after=after, limit=limit, project=project)


def expired(session: Session, now: int) -> list[StoredFile]:
    """Files whose time is over, of every project."""
    return values(StoredFile, session.scalars(select(FileRow).where(FileRow.expires_at <= now)))


def ids(session: Session) -> set[str]:
    """The ids of all files of every project: what else lies in the directory is a leftover."""
    return set(session.scalars(select(FileRow.id)))


def add_upload(session: Session, upload: Upload) -> None:
    """Keep a new upload."""
    session.add(UploadRow(**upload.model_dump()))
    session.flush()


def get_upload(session: Session, project: str, upload_id: str) -> Upload | None:
    """The project's upload of that id."""
    return found(session, Upload, _UPLOAD_BY_ID, project=project, id=upload_id)


def end_upload(session: Session, upload_id: str, status: UploadStatus, file_id: str | None = None) -> bool:
    """Move a pending upload on; whether it was still pending."""
    row = one(session, UploadRow, id=upload_id, status="pending")
    if row is None:
        return False
    row.status, row.file_id = status, file_id
    session.flush()
    return True


def overdue_uploads(session: Session, now: int) -> list[Upload]:
    """Pending uploads whose time is over, of every project."""
    query = select(UploadRow).where(UploadRow.status == "pending", UploadRow.expires_at <= now)
    return values(Upload, session.scalars(query))


def pending_upload_ids(session: Session) -> set[str]:
    """The ids of all uploads that parts may still come for."""
    return set(session.scalars(select(UploadRow.id).where(UploadRow.status == "pending")))


def add_part(session: Session, part: UploadPart) -> None:
    """Keep a new part."""
    session.add(PartRow(**part.model_dump()))
    session.flush()


def parts(session: Session, upload_id: str) -> dict[str, UploadPart]:
    """An upload's parts by id, in the order in which they came."""
    query = select(PartRow).where(PartRow.upload_id == upload_id).order_by(PartRow.n)
    return {part.id: part for part in values(UploadPart, session.scalars(query))}
