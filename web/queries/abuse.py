"""Hits of the rules against abuse, and the allow-list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from core.models import AuditEntry, Member
from loyalty.abuse.models import AbuseAllowance, AbuseHit
from loyalty.abuse.signals import OPEN
from web.paging import PAGE_ROWS, Page, offset, page_of

ALLOWANCES_SHOWN = 100


@dataclass(frozen=True)
class HitRow:
    """A hit; ``subject`` is the start of its hash, by which equal ones are told."""

    id: int
    rule: str
    action: str
    kind: str
    subject: str
    member_id: int | None
    member: str | None
    times: int
    verdict: str
    evidence: dict[str, Any]
    state: str
    first_at: datetime
    last_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    reason: str | None


_NAME = sa.func.coalesce(Member.name, Member.external_id)
_SELECT = sa.select(
    AbuseHit.id,
    AbuseHit.rule,
    AbuseHit.action,
    AbuseHit.kind,
    sa.func.substr(AbuseHit.hash, 1, 6).label("subject"),
    AbuseHit.member_id,
    _NAME.label("member"),
    AbuseHit.times,
    AbuseHit.verdict,
    AbuseHit.evidence,
    AbuseHit.state,
    AbuseHit.first_at,
    AbuseHit.last_at,
    AbuseHit.decided_by,
    AbuseHit.decided_at,
    AbuseHit.reason,
).outerjoin(Member, Member.id == AbuseHit.member_id)


def open_count(session: Session) -> int:
    """How many hits wait for a decision."""
    return session.execute(
        sa.select(sa.func.count()).select_from(AbuseHit).where(AbuseHit.state == OPEN)
    ).scalar_one()


def hits(session: Session, number: int, *, state: str = "", kind: str = "", action: str = "") -> Page[HitRow]:
    """A page of hits, the last broken first; an empty filter keeps all."""
    query = _SELECT.order_by(AbuseHit.last_at.desc(), AbuseHit.id.desc())
    for column, value in ((AbuseHit.state, state), (AbuseHit.kind, kind), (AbuseHit.action, action)):
        if value:
            query = query.where(column == value)
    rows = session.execute(query.offset(offset(number)).limit(PAGE_ROWS + 1)).all()
    return page_of([HitRow(**row._mapping) for row in rows], number, by_time=True)


def hit(session: Session, hit_id: int) -> HitRow | None:
    row = session.execute(_SELECT.where(AbuseHit.id == hit_id)).one_or_none()
    return None if row is None else HitRow(**row._mapping)


def names(session: Session, member_ids: Iterable[int]) -> dict[int, str]:
    """id → name of the members, or their id of the shop."""
    rows = session.execute(sa.select(Member.id, _NAME).where(among(session, Member.id, member_ids)))
    return {member_id: str(name) for member_id, name in rows}


def history(session: Session, hit_id: int) -> list[AuditEntry]:
    """Who decided what about a hit, the newest first."""
    return list(
        session.scalars(
            sa.select(AuditEntry)
            .where(AuditEntry.object_type == "abuse_hit", AuditEntry.object_id == str(hit_id))
            .order_by(AuditEntry.id.desc())
        )
    )


def allowances(session: Session) -> list[AbuseAllowance]:
    """The allow-list, the newest first."""
    query = sa.select(AbuseAllowance).order_by(AbuseAllowance.at.desc()).limit(ALLOWANCES_SHOWN)
    return list(session.scalars(query))
