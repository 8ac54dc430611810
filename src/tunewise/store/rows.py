"""What the modules of one resource share: new ids, the clock, rows as frozen values, and pages of a list."""

import secrets
import time
from collections.abc import Iterable
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import BaseModel
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from tunewise.store.tables import Listed, Table

Value = TypeVar("Value", bound=BaseModel)
Row = TypeVar("Row", bound=Table)
Order: TypeAlias = Literal["asc", "desc"]


class Page(NamedTuple, Generic[Value]):
    """A part of a list, and whether there is more after it."""

    items: list[Value]
    has_more: bool


def new_id(prefix: str) -> str:
    """`prefix` and 32 hex digits: the form of Azure's ids, which OpenAI's clients take as well."""
    return f"{prefix}{secrets.token_hex(16)}"


def now() -> int:
    """Unix time in whole seconds."""
    return int(time.time())


def value(kind: type[Value], row: Table | None) -> Value | None:
    """The row as a frozen value."""
    return None if row is None else kind.model_validate(fields(kind, row))


def values(kind: type[Value], rows: Iterable[Table]) -> list[Value]:
    """Rows as frozen values."""
    return [kind.model_validate(fields(kind, row)) for row in rows]


def fields(kind: type[Value], row: Table) -> dict[str, Any]:
    """Of the row, what the value holds."""
    return {name: getattr(row, name) for name in kind.model_fields}


def page(
    session: Session,
    kind: type[Value],
    table: type[Listed],
    query: Select[Any],
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
) -> Page[Value] | None:
    """At most `limit` rows of `query` (over `table`) after the one with the id `after`; None where it is not there."""
    if after is not None:
        cursor = session.scalar(query.where(table.id == after).with_only_columns(table.n))
        if cursor is None:
            return None
        query = query.where(table.n < cursor if order == "desc" else table.n > cursor)
    ordered = query.order_by(table.n.desc() if order == "desc" else table.n).limit(limit + 1)
    rows = list(session.scalars(ordered))
    return Page(values(kind, rows[:limit]), len(rows) > limit)


def one(session: Session, table: type[Row], **where: object) -> Row | None:
    """The row whose columns have these values, or None."""
    return session.scalar(select(table).filter_by(**where))
