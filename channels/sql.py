"""Small pieces of SQL that the package's modules share: tables, and the warehouse's marks."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa
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


def mark_touches(session: Session, created: Iterable[datetime]) -> None:
    """Tell the warehouse which months of messages changed: one row a month and call."""
    times = list(created)
    if times:
        mark(session, TOUCHES, times)
