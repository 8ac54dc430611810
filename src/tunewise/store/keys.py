"""API keys: looked up by their SHA-256. A key has 256 random bits, so a slow hash would add nothing but time."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunewise.contracts.jobs import ApiKey
from tunewise.store.rows import found, lookup, now, one, values
from tunewise.store.tables import KeyRow

_IS_IN_USE = KeyRow.__table__.c.revoked_at.is_(None)
_BY_HASH = lookup(KeyRow, "sha256").where(_IS_IN_USE)
_BY_ID = lookup(KeyRow, "id").where(_IS_IN_USE)
_ANY = select(KeyRow.__table__.c.n).limit(1)


def add(session: Session, key: ApiKey, sha256: str) -> None:
    """Keep a new key."""
    session.add(KeyRow(**key.model_dump(), sha256=sha256))
    session.flush()


def find(session: Session, sha256: str) -> ApiKey | None:
    """The key with that hash, unless it was revoked."""
    return found(session, ApiKey, _BY_HASH, sha256=sha256)


def get(session: Session, key_id: str) -> ApiKey | None:
    """The key of that id, unless it was revoked."""
    return found(session, ApiKey, _BY_ID, id=key_id)


def listed(session: Session) -> list[ApiKey]:
    """Every key, oldest first, the revoked ones too."""
    return values(ApiKey, session.scalars(select(KeyRow).order_by(KeyRow.n)))


def revoke(session: Session, key_id: str) -> bool:
    """End a key; whether there was one in use."""
    row = one(session, KeyRow, id=key_id, revoked_at=None)
    if row is None:
        return False
    row.revoked_at = now()
    session.flush()
    return True


def organization_of(session: Session, project: str) -> str | None:
    """The organization whose keys, revoked ones too, were made for this project."""
    return session.scalar(select(KeyRow.organization).where(KeyRow.project == project).limit(1))


def exist(session: Session) -> bool:
    """Whether any key was ever made. Revoked ones count: ending the last key must not open the server."""
    return session.scalar(_ANY) is not None
