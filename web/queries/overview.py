"""What needs somebody today, and how the shop moves: the first page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.models import Campaign, CampaignRun
from channels.models import Account, Message
from core.models import TEST_SOURCE, Member, Order
from core.times import instant
from segments.models import Refresh

WEEKS = 26
WEEK_S = 7 * 24 * 3600
FAILED_WITHIN = timedelta(days=7)
LISTED = 8


@dataclass(frozen=True)
class Todo:
    """What waits for somebody. ``failed`` is (channel, messages) of the last seven days."""

    pending: list[tuple[str, str, str]]
    """(name, title, created by)"""
    paused: list[tuple[str, str | None, datetime]]
    """(channel, reason, since)"""
    failed: list[tuple[str, int]]
    unknown: int


@dataclass(frozen=True)
class Week:
    start: date
    orders: int
    revenue_minor: int


@dataclass(frozen=True)
class Running:
    name: str
    title: str
    state: str
    candidates: int
    sent: int
    scheduled_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class Totals:
    members: int
    first_import: bool
    """Whether nothing was imported yet."""


def todo(session: Session, now: datetime) -> Todo:
    pending = session.execute(
        sa.select(Campaign.name, Campaign.title, Campaign.created_by)
        .where(Campaign.state == "pending")
        .order_by(Campaign.updated_at)
        .limit(LISTED)
    ).all()
    paused = session.execute(
        sa.select(Account.channel, Account.paused_reason, Account.paused_at)
        .where(Account.paused_at.is_not(None))
        .order_by(Account.channel)
    ).all()
    bad = session.execute(
        sa.select(Message.channel, Message.state, sa.func.count())
        .where(Message.state.in_(("failed", "unknown")), Message.settled_at >= now - FAILED_WITHIN)
        .group_by(Message.channel, Message.state)
        .order_by(Message.channel)
    ).all()
    return Todo(
        [(row.name, row.title, row.created_by) for row in pending],
        [(row.channel, row.paused_reason, row.paused_at) for row in paused],
        [(channel, count) for channel, state, count in bad if state == "failed"],
        sum(count for _, state, count in bad if state == "unknown"),
    )


def totals(session: Session) -> Totals:
    # Two counts that an index answers: who was made up for tests is no member of the shop.
    made_up = sa.select(sa.func.count()).where(Member.source == TEST_SOURCE).scalar_subquery()
    members = session.scalar(sa.select(sa.func.count(Member.id) - made_up)) or 0
    return Totals(members, members == 0)


def latest(session: Session) -> Refresh | None:
    return session.scalars(sa.select(Refresh).order_by(Refresh.as_of.desc()).limit(1)).first()


def weeks(session: Session, zone: ZoneInfo, count: int = WEEKS) -> list[Week]:
    """Orders and revenue net of refunds of the last weeks that have any, from Monday in the shop's zone.

    Weeks without orders between them are there with zeros, so that a gap shows. A week is 168 hours:
    where the clock changed since the first of them, an hour of a Sunday falls into the other week.
    """
    last = session.scalar(sa.select(sa.func.max(Order.ordered_at)))
    if last is None:
        return []
    day = last.astimezone(zone).date()
    start = day - timedelta(days=day.weekday(), weeks=count - 1)
    begin = instant(start, zone)
    if session.get_bind().dialect.name == "sqlite":
        seconds = sa.func.unixepoch(Order.ordered_at) - int(begin.timestamp())
        bucket = sa.cast(seconds / WEEK_S, sa.Integer)
    else:
        bucket = sa.cast(sa.func.floor(sa.extract("epoch", Order.ordered_at - begin) / WEEK_S), sa.Integer)
    net = Order.total_minor - Order.refunded_minor
    rows = session.execute(
        sa.select(bucket.label("week"), sa.func.count(), sa.func.sum(net))
        .where(Order.ordered_at >= begin, Order.status != "cancelled")
        .group_by(bucket)
    ).all()
    found = {int(week): (orders, int(revenue or 0)) for week, orders, revenue in rows}
    return [Week(start + timedelta(weeks=index), *found.get(index, (0, 0))) for index in range(count)]


def running(session: Session) -> list[Running]:
    """Campaigns at work or about to be, with their newest run."""
    newest = (
        sa.select(CampaignRun.campaign_id, sa.func.max(CampaignRun.id).label("run_id"))
        .group_by(CampaignRun.campaign_id)
        .subquery()
    )
    rows = session.execute(
        sa.select(Campaign, CampaignRun)
        .outerjoin(newest, newest.c.campaign_id == Campaign.id)
        .outerjoin(CampaignRun, CampaignRun.id == newest.c.run_id)
        .where(Campaign.state.in_(("running", "approved", "paused", "finished")))
        .order_by(sa.case((Campaign.state == "finished", 1), else_=0), Campaign.updated_at.desc())
        .limit(LISTED)
    ).all()
    return [
        Running(
            campaign.name,
            campaign.title,
            campaign.state,
            run.candidates if run else 0,
            sum((run.counts or {}).get("sent", {}).values()) if run else 0,
            campaign.scheduled_at,
            run.finished_at if run else None,
        )
        for campaign, run in rows
    ]
