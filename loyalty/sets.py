"""A small piece of SQL that both databases spell differently."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.db import dialect_of


def insert_new(
    session: Session, table: sa.FromClause, values: Mapping[str, Any], conflict: list[str]
) -> tuple[Any, ...] | None:
    """Insert one row; its primary key, or None where the unique key ``conflict`` was there already.

    Waits for a concurrent transaction that holds the same key, and sees its row afterwards.
    """
    statement = _insert(dialect_of(session), table, tuple(values), tuple(conflict))
    row = session.execute(statement, dict(values)).one_or_none()
    return None if row is None else tuple(row)


@lru_cache(maxsize=200)
def _insert(dialect: str, table: sa.FromClause, columns: tuple[str, ...], conflict: tuple[str, ...]) -> Any:
    """Made once: putting a statement together costs more than running it."""
    assert isinstance(table, sa.Table)
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return (
        make(table)
        .values({name: sa.bindparam(name) for name in columns})
        .on_conflict_do_nothing(index_elements=list(conflict))
        .returning(*table.primary_key.columns)
    )
