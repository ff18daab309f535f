"""What the shop owes in points: who loses some soon, and what is outstanding, with expected breakage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.errors import InvalidInput
from core.models import IS_CUSTOMER, Member
from core.times import instant
from loyalty import ledger, point_value
from loyalty.earn_rules import load_rule
from loyalty.lots import EXPIRE
from loyalty.models import PointsEntry, PointsHold, PointsHoldLot, PointsLot

MAX_EXPIRING = 50_000
MAX_DAYS = 366


class Expiring(NamedTuple):
    """Points of a member that expire ``at`` the first of several times within the days asked for."""

    member_id: int
    points: int
    at: datetime


class MonthDue(NamedTuple):
    """Points that expire in a month of the shop's zone (``YYYY-MM``; None: never), and their worth."""

    month: str | None
    points: int
    worth_minor: int


@dataclass(frozen=True)
class Liability:
    """Points outstanding as of ``at``: usable or pending, not over; those held are in ``held`` alone."""

    at: datetime
    months: tuple[MonthDue, ...]
    outstanding: int
    pending: int
    held: int
    debt: int
    worth_minor: int
    """Of what is outstanding and held, at the value of a point."""
    breakage: float | None
    """Share of issued points that expired, in lots that are over; None: no lot is over yet."""
    breakage_base: int
    """Points issued in those lots."""
    expected_minor: int
    """What of ``worth_minor`` is expected to be burnt, once points that never expire are left whole."""


def expiring(
    session: Session, now: datetime, *, within_days: int, limit: int = MAX_EXPIRING, after: int = 0
) -> list[Expiring]:
    """Members with an id above ``after``, in id order, who lose usable points within the days; one query."""
    if not 1 <= within_days <= MAX_DAYS:
        raise InvalidInput(f"Look 1 to {MAX_DAYS} days ahead.", "within_days")
    rows = session.execute(
        sa.select(PointsLot.member_id, sa.func.sum(PointsLot.remaining), sa.func.min(PointsLot.expires_at))
        .join(Member, Member.id == PointsLot.member_id)
        .where(
            IS_CUSTOMER,
            PointsLot.remaining > 0,
            PointsLot.expires_at > now,
            PointsLot.expires_at <= now + timedelta(days=within_days),
            PointsLot.member_id > after,
        )
        .group_by(PointsLot.member_id)
        .order_by(PointsLot.member_id)
        .limit(min(limit, MAX_EXPIRING))
    )
    return [Expiring(member_id, int(points), at) for member_id, points, at in rows if at is not None]


def report(session: Session, now: datetime) -> Liability:
    """What is outstanding, by the month it expires; in money at the value of a point.

    Expected breakage is the share of issued points that expired in lots whose end is over; it is applied
    to what has an end. Seven queries, whatever the number of members.
    """
    value = point_value.load(session)
    months = _months(session, now, ZoneInfo(load_rule(session).timezone))
    outstanding = sum(months.values())
    pending, held, debt = _beside(session, now)
    share, base = _breakage(session, now)
    dated = sum(points for month, points in months.items() if month is not None)
    lost = Fraction(0) if share is None else share * dated
    return Liability(
        now,
        tuple(
            MonthDue(month, points, point_value.worth(points, value))
            for month, points in sorted(months.items(), key=lambda each: (each[0] is None, each[0] or ""))
        ),
        outstanding,
        pending,
        held,
        debt,
        point_value.worth(outstanding + held, value),
        None if share is None else float(share),
        base,
        int(((outstanding + held - lost) * value + Fraction(1, 2)) // 1),
    )


def _months(session: Session, now: datetime, zone: ZoneInfo) -> dict[str | None, int]:
    live = sa.and_(PointsLot.remaining > 0, ledger.not_over(now))
    last = session.scalar(sa.select(sa.func.max(PointsLot.expires_at)).where(live))
    ends = _month_ends(now, last, zone)
    month = sa.case(
        (PointsLot.expires_at.is_(None), sa.null()),
        # What ends at the first moment of a month could be used until the month before was over.
        *((PointsLot.expires_at <= end, name) for name, end in ends),
    )
    rows = session.execute(sa.select(month, sa.func.sum(PointsLot.remaining)).where(live).group_by(month))
    return {name: int(points) for name, points in rows}


def _month_ends(now: datetime, last: datetime | None, zone: ZoneInfo) -> list[tuple[str, datetime]]:
    """Each month from now to the last end, with the moment it is over."""
    found: list[tuple[str, datetime]] = []
    day = now.astimezone(zone).date().replace(day=1)
    while last is not None and (not found or found[-1][1] < last):
        following = (day + timedelta(days=32)).replace(day=1)
        found.append((day.strftime("%Y-%m"), instant(following, zone)))
        day = following
    return found


def _beside(session: Session, now: datetime) -> tuple[int, int, int]:
    """(pending, held, debt)."""
    pending = session.execute(
        sa.select(sa.func.coalesce(sa.func.sum(PointsLot.remaining), 0)).where(
            PointsLot.remaining > 0, PointsLot.available_at > now, ledger.not_over(now)
        )
    ).scalar_one()
    held = session.execute(
        sa.select(sa.func.coalesce(sa.func.sum(PointsHoldLot.points), 0))
        .join(PointsHold, PointsHold.id == PointsHoldLot.hold_id)
        .where(PointsHold.state == "held")
    ).scalar_one()
    debt = session.execute(
        sa.select(sa.func.coalesce(sa.func.sum(PointsEntry.delta), 0)).where(PointsEntry.lot_id.is_(None))
    ).scalar_one()
    return int(pending), int(held), -int(debt)


def _breakage(session: Session, now: datetime) -> tuple[Fraction | None, int]:
    """(share of points that expired, points issued) of the lots whose end is over."""
    over = sa.and_(PointsLot.expires_at.is_not(None), PointsLot.expires_at <= now)
    issued, unswept = session.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(PointsLot.issued), 0),
            sa.func.coalesce(sa.func.sum(PointsLot.remaining), 0),
        ).where(over)
    ).one()
    if not issued:
        return None, 0
    swept = session.execute(
        sa.select(sa.func.coalesce(-sa.func.sum(PointsEntry.delta), 0))
        .join(PointsLot, PointsLot.id == PointsEntry.lot_id)
        .where(over, PointsEntry.kind == EXPIRE)
    ).scalar_one()
    return Fraction(int(unswept) + int(swept), int(issued)), int(issued)


def table(found: Liability) -> Sequence[tuple[str, int, int]]:
    """(month or ``never``, points, minor units) rows, for an export."""
    return [(due.month or "never", due.points, due.worth_minor) for due in found.months]
