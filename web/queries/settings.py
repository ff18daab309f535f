"""API keys and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.models import AuditEntry
from web.models import ApiKey
from web.paging import PAGE_ROWS, Page, offset, page_of


def api_keys(session: Session) -> list[ApiKey]:
    """Keys, those in use first, newest first."""
    return list(session.scalars(sa.select(ApiKey).order_by(ApiKey.revoked_at.is_not(None), ApiKey.id.desc())))


def audit(session: Session, number: int, *, actor: str = "", object_type: str = "") -> Page[AuditEntry]:
    """Who changed or looked at what, newest first."""
    query = sa.select(AuditEntry).order_by(AuditEntry.id.desc()).offset(offset(number)).limit(PAGE_ROWS + 1)
    if actor:
        query = query.where(AuditEntry.actor == actor)
    if object_type:
        query = query.where(AuditEntry.object_type == object_type)
    return page_of(list(session.scalars(query)), number, by_time=True)
