"""Small pieces of SQL that the package's modules share: updates by arrays, and the warehouse's marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from core.db import Base
from core.warehouse.replica import mark

TOUCHES, CONSENTS = "touches", "consents"
"""The warehouse's tables of sent messages and of today's consents."""


def is_postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def table_of(model: type[Base]) -> sa.Table:
    """The table of a mapped class."""
    table = model.__table__
    assert isinstance(table, sa.Table)
    return table


def update_each(
    session: Session,
    table: sa.Table,
    key: str,
    rows: Sequence[Mapping[str, Any]],
    where: str = "",
    params: Mapping[str, Any] | None = None,
) -> None:
    """Set the columns of ``rows`` (all with the same keys) where ``key`` is each row's.

    ``where`` is a further condition in SQL, with the ``params`` it names. PostgreSQL: one UPDATE
    joined with arrays; SQLite: ``executemany``.
    """
    if not rows:
        return
    names = [name for name in rows[0] if name != key]
    condition = f" AND {where}" if where else ""
    if not is_postgres(session):
        columns = ", ".join(f"{name} = :{name}" for name in names)
        statement = sa.text(f"UPDATE {table.name} SET {columns} WHERE {key} = :{key}{condition}")  # noqa: S608
        typed = [sa.bindparam(name, type_=table.c[name].type) for name in (key, *names)]
        session.execute(statement.bindparams(*typed), [{**row, **(params or {})} for row in rows])
        return
    columns = ", ".join(f"{name} = v.{name}" for name in names)
    every = (key, *names)
    arrays = ", ".join(f":{name}" for name in every)
    statement = sa.text(
        f"UPDATE {table.name} SET {columns} FROM unnest({arrays}) AS v({', '.join(every)}) "  # noqa: S608
        f"WHERE {table.name}.{key} = v.{key}{condition}"
    ).bindparams(*[sa.bindparam(name, type_=ARRAY(table.c[name].type)) for name in every])
    session.execute(statement, {**{name: [row[name] for row in rows] for name in every}, **(params or {})})


def mark_touches(session: Session, created: Iterable[datetime]) -> None:
    """Tell the warehouse which months of messages changed: one row a month and call."""
    times = list(created)
    if times:
        mark(session, TOUCHES, times)
