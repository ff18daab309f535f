"""Kinds of behaviour events that the shop has sent."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.models import Event

NEWEST = 20_000
MOST = 50


def kinds(session: Session) -> list[str]:
    """The kinds among the newest events, by name; bounded, so that a large table costs no more."""
    newest = sa.select(Event.kind).order_by(Event.id.desc()).limit(NEWEST).subquery()
    return list(session.scalars(sa.select(newest.c.kind).distinct().order_by(newest.c.kind).limit(MOST)))
