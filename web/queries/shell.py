"""What the frame of every page shows: the as-of day, work in progress, and the search."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.models import Campaign
from core.models import Job, Member
from loyalty.models import Coupon
from segments.models import Refresh, Segment

JOBS_SHOWN = 5
FOUND_EACH = 20
STALE = timedelta(hours=6)
"""A job without a sign of life for that long has died, and is not in progress."""


@dataclass(frozen=True)
class JobRow:
    id: int
    kind: str
    label: str
    done: int
    total: int | None
    started_at: datetime


@dataclass(frozen=True)
class Found:
    """Named things besides members: (title, address part)."""

    campaigns: list[tuple[str, str]]
    segments: list[tuple[str, str]]
    coupon: tuple[str, int, int | None, str | None] | None
    """(code, batch id, holder's member id and external id)"""


def as_of(session: Session) -> date | None:
    """The newest refresh's day."""
    return session.scalar(sa.select(sa.func.max(Refresh.as_of)))


def running_jobs(session: Session, now: datetime) -> list[JobRow]:
    """Work in progress, oldest first."""
    query = (
        sa.select(Job.id, Job.kind, Job.label, Job.done, Job.total, Job.started_at)
        .where(Job.state == "running", Job.updated_at > now - STALE)
        .order_by(Job.started_at)
        .limit(JOBS_SHOWN)
    )
    return [JobRow(*row) for row in session.execute(query)]


def find(session: Session, text: str) -> Found:
    """Campaigns and segments by name or title, a coupon by its whole code."""
    campaigns = sa.select(Campaign.title, Campaign.name).where(
        sa.or_(Campaign.name == text, Campaign.title.icontains(text, autoescape=True))
    )
    segments = sa.select(Segment.title, Segment.name).where(
        sa.or_(Segment.name == text, Segment.title.icontains(text, autoescape=True))
    )
    code = text.replace("-", "").replace(" ", "").upper()
    coupon = session.execute(
        sa.select(Coupon.code, Coupon.batch_id, Coupon.member_id, Member.external_id)
        .outerjoin(Member, Member.id == Coupon.member_id)
        .where(Coupon.code.in_((code, text)))
    ).first()
    return Found(
        [
            (row.title, row.name)
            for row in session.execute(campaigns.order_by(Campaign.id.desc()).limit(FOUND_EACH))
        ],
        [
            (row.title, row.name)
            for row in session.execute(segments.order_by(Segment.title).limit(FOUND_EACH))
        ],
        (coupon.code, coupon.batch_id, coupon.member_id, coupon.external_id) if coupon else None,
    )
