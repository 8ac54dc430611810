"""What the modules of one resource share: new ids, the clock, rows as frozen values, and pages of a list.

What requests wait for is asked by queries that are made once, with named parameters, and over columns: SQLAlchemy takes
longer to make a query than to run it, and an object of its ORM for each row costs as much again (docs/performance.md).
Rows that are to be changed are loaded as objects, with `one`.
"""

import secrets
import time
from collections.abc import Iterable
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import BaseModel
from sqlalchemy import ColumnElement, RowMapping, Select, bindparam, select
from sqlalchemy.orm import Session

from tunewise.store.tables import Listed, Table

Value = TypeVar("Value", bound=BaseModel)
Row = TypeVar("Row", bound=Table)
Order: TypeAlias = Literal["asc", "desc"]
ORDERS: tuple[Order, ...] = ("asc", "desc")
BEFORE_ALL: dict[Order, int] = {"asc": 0, "desc": 2**63 - 1}


class Page(NamedTuple, Generic[Value]):
    """A part of a list, and whether there is more after it."""

    items: list[Value]
    has_more: bool


class Paged(NamedTuple):
    """A query that is read page by page: `:edge` is the `number` of the row before the page, `:rows` its length."""

    query: Select[Any]
    id: ColumnElement[str]
    number: ColumnElement[int]
    order: Order

    def where(self, condition: ColumnElement[bool]) -> "Paged":
        """The same of fewer rows."""
        return self._replace(query=self.query.where(condition))


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


def lookup(table: type[Table], *names: str) -> Select[Any]:
    """A query for the row whose columns of these names have the values that it is asked with."""
    columns = table.__table__.c
    return select(table.__table__).where(*(columns[name] == bindparam(name) for name in names))


def found(session: Session, kind: type[Value], query: Select[Any], **parameters: object) -> Value | None:
    """The one row of a `lookup` as a frozen value."""
    row = session.execute(query, parameters).mappings().first()
    return None if row is None else _value(kind, row)


def paged(table: type[Listed], *names: str, by: str = "n", order: Order = "desc") -> Paged:
    """The rows whose columns of these names have the values that the list is asked with, in the order of writing.

    `by`: the column that counts them, in that order; an index over `names` and it spares sorting them at each page.
    """
    columns = table.__table__.c
    number = columns[by]
    edge = number < bindparam("edge") if order == "desc" else number > bindparam("edge")
    sorted_by = number.desc() if order == "desc" else number
    query = lookup(table, *names).where(edge).order_by(sorted_by).limit(bindparam("rows"))
    return Paged(query, columns.id, number, order)


def page(
    session: Session,
    kind: type[Value],
    paged: Paged,
    *,
    after: str | None,
    limit: int,
    within: Paged | None = None,
    **parameters: object,
) -> Page[Value] | None:
    """At most `limit` rows after the one with the id `after`; None where that is not among them.

    `within`: the list that `after` has to be in, where rows may leave the one that is read.
    """
    parameters |= {"edge": BEFORE_ALL[paged.order], "rows": limit + 1}
    if after is not None:
        edge = (within or paged).query.where(paged.id == after).with_only_columns(paged.number)
        cursor = session.scalar(edge, parameters)
        if cursor is None:
            return None
        parameters["edge"] = cursor
    rows = session.execute(paged.query, parameters).mappings().all()
    return Page([_value(kind, row) for row in rows[:limit]], len(rows) > limit)


def one(session: Session, table: type[Row], **where: object) -> Row | None:
    """The row whose columns have these values, to be changed; or None."""
    return session.scalar(select(table).filter_by(**where))


def _value(kind: type[Value], row: RowMapping) -> Value:
    return kind.model_validate({name: row[name] for name in kind.model_fields})
