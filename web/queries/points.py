"""Adjustments of points and the ladder of tiers, as their pages show them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from core.models import Member
from loyalty.models import PointsAdjustment
from loyalty.tiers.models import TierMove
from web.paging import PAGE_ROWS, Page, offset, page_of

MOVES = 50


@dataclass(frozen=True)
class AdjustmentRow:
    id: int
    member_id: int
    member: str
    points: int
    reason: str
    state: str
    asked_by: str
    asked_at: datetime
    decided_by: str | None


@dataclass(frozen=True)
class MoveRow:
    member_id: int
    member: str
    from_tier: str | None
    to_tier: str | None
    at: datetime
    why: str
    value: int


_NAME = sa.func.coalesce(Member.name, Member.external_id)


def adjustments(session: Session, number: int) -> Page[AdjustmentRow]:
    """Those that wait first, then the newest."""
    query = (
        sa.select(
            PointsAdjustment.id,
            PointsAdjustment.member_id,
            _NAME,
            PointsAdjustment.points,
            PointsAdjustment.reason,
            PointsAdjustment.state,
            PointsAdjustment.asked_by,
            PointsAdjustment.asked_at,
            PointsAdjustment.decided_by,
        )
        .join(Member, Member.id == PointsAdjustment.member_id)
        .order_by(sa.case((PointsAdjustment.state == "pending", 0), else_=1), PointsAdjustment.id.desc())
        .offset(offset(number))
        .limit(PAGE_ROWS + 1)
    )
    return page_of([AdjustmentRow(*row) for row in session.execute(query)], number, by_time=True)


def moves(session: Session) -> list[MoveRow]:
    """The latest moves on the ladder, newest first."""
    query = (
        sa.select(
            TierMove.member_id,
            _NAME,
            TierMove.from_tier,
            TierMove.to_tier,
            TierMove.at,
            TierMove.why,
            TierMove.value,
        )
        .join(Member, Member.id == TierMove.member_id)
        .order_by(TierMove.at.desc(), TierMove.id.desc())
        .limit(MOVES)
    )
    return [MoveRow(*row) for row in session.execute(query)]


def names(session: Session, member_ids: list[int]) -> dict[int, str]:
    """Name (or the shop's id) by member."""
    rows = session.execute(sa.select(Member.id, _NAME).where(among(session, Member.id, member_ids)))
    return {row[0]: row[1] for row in rows}


def member_by_id(session: Session, external_id: str) -> int | None:
    """The member with the shop's own id, from whatever source; None: unknown, or several have it."""
    found = session.scalars(
        sa.select(Member.id).where(Member.external_id == external_id, Member.erased_at.is_(None)).limit(2)
    ).all()
    return found[0] if len(found) == 1 else None
