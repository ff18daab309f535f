"""The daily sweep of birthdays: points by the rules for them, and the coupon of the member's tier.

Guarantees: once a year a member, whatever day a sweep sees it first: points by the rule's award, coupons
by their key ``birthday:<year>:<member>``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from loyalty import coupons, earn_events
from loyalty.earn_rules import load_rule
from loyalty.models import Coupon, CouponBatch
from loyalty.tiers import store

LOOK_BACK_DAYS = 3
"""Days before today that a sweep looks at again, so that a machine that was off misses nobody."""


@dataclass(frozen=True)
class Celebrated:
    """Points and coupons given; ``last``: the last id seen (None: nobody is left)."""

    points: int
    coupons: int
    last: int | None


def days(now: datetime, zone: ZoneInfo) -> list[date]:
    """The days of a sweep at ``now``, the oldest first."""
    today = now.astimezone(zone).date()
    return [today - timedelta(days=back) for back in range(LOOK_BACK_DAYS, -1, -1)]


def reward(session: Session, day: date, now: datetime, *, after: int, limit: int) -> Celebrated:
    """Reward at most ``limit`` members with an id above ``after`` whose birthday is ``day``."""
    done, last = earn_events.reward_birthdays(session, load_rule(session), day, now, after=after, limit=limit)
    if last is None:
        return Celebrated(0, 0, None)
    members = earn_events.birthday_members(session, day, after=after, limit=limit)
    return Celebrated(done.points, _coupons(session, members, day.year, now), last)


def _coupons(session: Session, members: list[int], year: int, now: datetime) -> int:
    """The coupon of each member's tier; how many were given now. A batch that is over gives none."""
    gifts = {
        tier.name: str(tier.benefits["birthday_batch"])
        for tier in store.load_program(session).tiers
        if tier.benefits.get("birthday_batch")
    }
    rows: dict[str, list[tuple[int | None, str]]] = defaultdict(list)
    for member_id, tier in store.tier_of(session, members).items() if gifts else ():
        if tier in gifts:
            rows[gifts[tier]].append((member_id, f"birthday:{year}:{member_id}"))
    usable = sa.and_(
        CouponBatch.archived_at.is_(None),
        sa.or_(CouponBatch.ends_at.is_(None), CouponBatch.ends_at > now),
    )
    batches = session.scalars(sa.select(CouponBatch).where(CouponBatch.name.in_(rows), usable)).all()
    before = _given(session, rows)
    # One call for each batch of the ladder, of which there are few.
    for batch in batches:
        coupons.issue(session, batch, [row for row in rows[batch.name] if row[1] not in before], now)
    return len(_given(session, rows)) - len(before)


def _given(session: Session, rows: dict[str, list[tuple[int | None, str]]]) -> set[str]:
    keys = [key for listed in rows.values() for _, key in listed]
    return set(session.scalars(sa.select(Coupon.issue_key).where(among(session, Coupon.issue_key, keys))))
