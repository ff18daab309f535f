"""Referrals for the console: the funnel, who is where in it, who brings most, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from core.models import Member
from loyalty.models import Coupon, CouponBatch, PointsLot, Redemption
from loyalty.referrals.joining import ORDERED, REJECTED, REWARDED
from loyalty.referrals.models import Referral, ReferralOpen, ReferralProgram
from loyalty.referrals.settling import SOURCE
from web.paging import PAGE_ROWS, Page, offset, page_of

TOP = 10


@dataclass(frozen=True)
class Funnel:
    """Openings of links; friends who joined (rejected ones aside), ordered, brought a reward; the rest."""

    opened: int
    joined: int
    ordered: int
    rewarded: int
    held: int
    rejected: int


@dataclass(frozen=True)
class Cost:
    """What was given: points, codes, and the discount that orders got by them."""

    points: int
    codes: int
    discount_minor: int


@dataclass(frozen=True)
class ReferralRow:
    id: int
    referrer_id: int
    referrer: str
    friend_id: int
    friend: str
    state: str
    reason: str | None
    joined_at: datetime
    due_at: datetime | None
    rewarded_at: datetime | None


def programs(session: Session) -> list[ReferralProgram]:
    """Every programme, those in use first, the newest of them first."""
    order = (ReferralProgram.archived_at.is_not(None), ReferralProgram.id.desc())
    return list(session.scalars(sa.select(ReferralProgram).order_by(*order)))


def batches(session: Session) -> list[tuple[int, str]]:
    """(id, title) of the coupon batches that may be promised."""
    rows = session.execute(
        sa.select(CouponBatch.id, CouponBatch.title)
        .where(CouponBatch.archived_at.is_(None))
        .order_by(CouponBatch.title)
    )
    return [(row.id, row.title) for row in rows]


def funnel(session: Session) -> Funnel:
    """All programmes together; two queries."""
    counted = session.execute(sa.select(Referral.state, sa.func.count()).group_by(Referral.state)).all()
    by_state = {row[0]: row[1] for row in counted}
    ordered = session.execute(
        sa.select(sa.func.count()).where(Referral.order_id.is_not(None), Referral.state != REJECTED)
    ).scalar_one()
    opened = session.execute(sa.select(sa.func.coalesce(sa.func.sum(ReferralOpen.opens), 0))).scalar_one()
    rejected = by_state.get(REJECTED, 0)
    return Funnel(
        int(opened),
        sum(by_state.values()) - rejected,
        ordered,
        by_state.get(REWARDED, 0),
        by_state.get("held", 0),
        rejected,
    )


def cost(session: Session) -> Cost:
    """Of all programmes together, by the keys that rewards are given under."""
    points = session.execute(
        sa.select(sa.func.coalesce(sa.func.sum(PointsLot.issued), 0)).where(PointsLot.source_kind == SOURCE)
    ).scalar_one()
    ours = Coupon.issue_key.startswith(f"{SOURCE}:")
    number = session.execute(sa.select(sa.func.count()).select_from(Coupon).where(ours)).scalar_one()
    discount = session.execute(
        sa.select(sa.func.coalesce(sa.func.sum(Redemption.discount_minor), 0))
        .join(Coupon, Coupon.id == Redemption.coupon_id)
        .where(ours, Redemption.rolled_back_at.is_(None))
    ).scalar_one()
    return Cost(int(points), number, int(discount))


def rows(session: Session, number: int, state: str = "") -> Page[ReferralRow]:
    """A page of referrals, the newest first; an empty state keeps all."""
    referrer, friend = aliased(Member), aliased(Member)
    query = (
        sa.select(
            Referral.id,
            Referral.referrer_id,
            sa.func.coalesce(referrer.name, referrer.external_id).label("referrer"),
            Referral.friend_id,
            sa.func.coalesce(friend.name, friend.external_id).label("friend"),
            Referral.state,
            Referral.reason,
            Referral.joined_at,
            Referral.due_at,
            Referral.rewarded_at,
        )
        .join(referrer, referrer.id == Referral.referrer_id)
        .join(friend, friend.id == Referral.friend_id)
        .order_by(Referral.id.desc())
    )
    if state:
        query = query.where(Referral.state == state)
    found = session.execute(query.offset(offset(number)).limit(PAGE_ROWS + 1)).all()
    return page_of([ReferralRow(**row._mapping) for row in found], number, by_time=True)


def top(session: Session) -> list[tuple[int, str, int, int]]:
    """(member id, name, friends who ordered, rewarded) of those who brought most."""
    ordered = sa.func.sum(sa.case((Referral.state.in_((ORDERED, REWARDED)), 1), else_=0))
    rewarded = sa.func.sum(sa.case((Referral.state == REWARDED, 1), else_=0))
    found = session.execute(
        sa.select(Member.id, sa.func.coalesce(Member.name, Member.external_id), ordered, rewarded)
        .join(Referral, Referral.referrer_id == Member.id)
        .group_by(Member.id, Member.name, Member.external_id)
        .having(ordered > 0)
        .order_by(rewarded.desc(), ordered.desc(), Member.id)
        .limit(TOP)
    )
    return [(member_id, str(name), int(one), int(two)) for member_id, name, one, two in found]
