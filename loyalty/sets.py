"""Two small pieces of SQL that both databases spell differently."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session


def among(session: Session, column: Any, values: Iterable[int | str]) -> sa.ColumnElement[bool]:
    """``column IN values`` as one parameter, however many values there are."""
    found = list(values)
    if session.get_bind().dialect.name == "postgresql":
        kind = sa.BigInteger if isinstance(column.type, sa.Integer) else sa.Text
        return column == sa.any_(sa.cast(found, postgresql.ARRAY(kind)))  # type: ignore[no-any-return]
    each = sa.func.json_each(json.dumps(found)).table_valued("value")
    return column.in_(sa.select(each.c.value))  # type: ignore[no-any-return]


def insert_new(
    session: Session, table: sa.FromClause, values: Mapping[str, Any], conflict: list[str]
) -> tuple[Any, ...] | None:
    """Insert one row; its primary key, or None where the unique key ``conflict`` was there already.

    Waits for a concurrent transaction that holds the same key, and sees its row afterwards.
    """
    assert isinstance(table, sa.Table)
    make = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = (
        make(table)
        .values(**values)
        .on_conflict_do_nothing(index_elements=conflict)
        .returning(*table.primary_key.columns)
    )
    row = session.execute(statement).one_or_none()
    return None if row is None else tuple(row)
