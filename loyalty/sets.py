"""A small piece of SQL that both databases spell differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session


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
