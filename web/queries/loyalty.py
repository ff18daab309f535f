"""Coupon batches and their codes, and the points ledger as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.models import Member
from loyalty.models import ClaimLink, Coupon, CouponBatch, CouponHold, PointsEntry, PointsLot, Redemption
from web.paging import PAGE_ROWS, Page, offset, page_of

EXPIRING_DAYS = 30
HOLDERS = 10


@dataclass(frozen=True)
class BatchRow:
    id: int
    name: str
    title: str
    benefit: dict[str, Any]
    currency: str
    min_spend_minor: int
    total_limit: int | None
    starts_at: datetime | None
    ends_at: datetime | None
    issued: int
    redeemed: int
    discount_minor: int


@dataclass(frozen=True)
class CodeRow:
    code: str
    state: str
    member_id: int | None
    member: str | None
    issued_at: datetime
    valid_until: datetime | None
    order_ref: str | None
    discount_minor: int | None
    redeemed_at: datetime | None


@dataclass(frozen=True)
class PointsOverview:
    """Points outstanding, by when they can be spent, and what moved in the last 30 days."""

    available: int
    pending: int
    expiring: int
    holders: int
    moved: dict[str, int]
    """kind → sum of changes."""
    top: list[tuple[int, str, int]]
    """(member id, name, points) of the largest balances."""


def batches(session: Session, *, archived: bool = False) -> list[BatchRow]:
    """Batches, newest first, with what became of their codes; three queries."""
    query = sa.select(CouponBatch).order_by(CouponBatch.id.desc())
    query = query.where(
        CouponBatch.archived_at.is_not(None) if archived else CouponBatch.archived_at.is_(None)
    )
    found = session.scalars(query).all()
    ids = [batch.id for batch in found]
    issued = dict(
        session.execute(
            sa.select(Coupon.batch_id, sa.func.count())
            .where(Coupon.batch_id.in_(ids))
            .group_by(Coupon.batch_id)
        ).all()
    )
    redeemed = {
        row.batch_id: row
        for row in session.execute(
            sa.select(
                Coupon.batch_id,
                sa.func.count().label("n"),
                sa.func.sum(Redemption.discount_minor - Redemption.returned_discount_minor).label("discount"),
            )
            .join(Coupon, Coupon.id == Redemption.coupon_id)
            .where(Coupon.batch_id.in_(ids), Redemption.rolled_back_at.is_(None))
            .group_by(Coupon.batch_id)
        )
    }
    return [
        BatchRow(
            one.id,
            one.name,
            one.title,
            one.benefit,
            one.currency,
            one.min_spend_minor,
            one.total_limit,
            one.starts_at,
            one.ends_at,
            issued.get(one.id, 0),
            redeemed[one.id].n if one.id in redeemed else 0,
            int(redeemed[one.id].discount or 0) if one.id in redeemed else 0,
        )
        for one in found
    ]


def states(session: Session, batch_id: int, now: datetime) -> dict[str, int]:
    """Codes of a batch by state as of ``now``: an issued code past its end counts as expired."""
    state = sa.case(
        (
            sa.and_(Coupon.state == "issued", Coupon.valid_until.is_not(None), Coupon.valid_until <= now),
            "expired",
        ),
        else_=Coupon.state,
    )
    rows = session.execute(
        sa.select(state, sa.func.count()).where(Coupon.batch_id == batch_id).group_by(state)
    )
    return dict(rows.all())


def given(session: Session, batch_id: int) -> tuple[int, int]:
    """(live redemptions, minor units of discount) of a batch."""
    row = session.execute(
        sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(Redemption.discount_minor - Redemption.returned_discount_minor), 0),
        )
        .join(Coupon, Coupon.id == Redemption.coupon_id)
        .where(Coupon.batch_id == batch_id, Redemption.rolled_back_at.is_(None))
    ).one()
    return int(row[0]), int(row[1])


def codes(
    session: Session, batch_id: int, number: int, *, state: str | None, code: str | None
) -> Page[CodeRow]:
    """Codes of a batch, newest first, each with its live redemption."""
    query = (
        sa.select(
            Coupon.code,
            Coupon.state,
            Coupon.member_id,
            sa.func.coalesce(Member.name, Member.external_id),
            Coupon.issued_at,
            Coupon.valid_until,
            Redemption.order_ref,
            Redemption.discount_minor,
            Redemption.redeemed_at,
        )
        .outerjoin(Member, Member.id == Coupon.member_id)
        .outerjoin(
            Redemption, sa.and_(Redemption.coupon_id == Coupon.id, Redemption.rolled_back_at.is_(None))
        )
        .where(Coupon.batch_id == batch_id)
        .order_by(Coupon.id.desc())
        .offset(offset(number))
        .limit(PAGE_ROWS + 1)
    )
    if state:
        query = query.where(Coupon.state == state)
    if code:
        query = query.where(Coupon.code == code)
    return page_of([CodeRow(*row) for row in session.execute(query)], number, by_time=True)


def held(session: Session, batch_id: int, now: datetime) -> tuple[int, int]:
    """(live holds, minor units they keep free) of a batch."""
    row = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(CouponHold.discount_minor), 0))
        .join(Coupon, Coupon.id == CouponHold.coupon_id)
        .where(Coupon.batch_id == batch_id, CouponHold.state == "held", CouponHold.expires_at > now)
    ).one()
    return int(row[0]), int(row[1])


def links(session: Session, batch_id: int) -> list[tuple[ClaimLink, CouponBatch, int]]:
    """Claim links of a batch that are in use, newest first, with the codes that each has given."""
    rows = session.execute(
        sa.select(ClaimLink, CouponBatch)
        .join(CouponBatch, CouponBatch.id == ClaimLink.batch_id)
        .where(ClaimLink.batch_id == batch_id, ClaimLink.archived_at.is_(None))
        .order_by(ClaimLink.id.desc())
        .limit(PAGE_ROWS)
    ).all()
    starts = [f"claim:{link.id}:" for link, _ in rows]
    counts = dict.fromkeys(starts, 0)
    if starts:
        matches = sa.case(*((Coupon.issue_key.startswith(start), start) for start in starts))
        counts |= dict(
            session.execute(
                sa.select(matches.label("link_key"), sa.func.count())
                .where(Coupon.batch_id == batch_id, Coupon.issue_key.startswith("claim:"))
                .group_by(sa.text("link_key"))
            ).all()
        )
    return [(link, batch, counts[f"claim:{link.id}:"]) for link, batch in rows]


def batch_names(session: Session) -> list[tuple[str, str]]:
    """(name, title) of the batches in use, for choices."""
    query = (
        sa.select(CouponBatch.name, CouponBatch.title)
        .where(CouponBatch.archived_at.is_(None))
        .order_by(CouponBatch.title)
    )
    return [(row.name, row.title) for row in session.execute(query)]


def points(session: Session, now: datetime) -> PointsOverview:
    live = sa.and_(
        PointsLot.remaining > 0, sa.or_(PointsLot.expires_at.is_(None), PointsLot.expires_at > now)
    )
    soon = now + timedelta(days=EXPIRING_DAYS)
    usable = sa.case((PointsLot.available_at <= now, PointsLot.remaining), else_=0)
    available, pending, expiring, holders = session.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(usable), 0),
            sa.func.coalesce(
                sa.func.sum(sa.case((PointsLot.available_at > now, PointsLot.remaining), else_=0)), 0
            ),
            sa.func.coalesce(
                sa.func.sum(sa.case((PointsLot.expires_at <= soon, PointsLot.remaining), else_=0)), 0
            ),
            sa.func.count(sa.distinct(PointsLot.member_id)),
        ).where(live)
    ).one()
    moved = session.execute(
        sa.select(PointsEntry.kind, sa.func.sum(PointsEntry.delta))
        .where(PointsEntry.at > now - timedelta(days=EXPIRING_DAYS), PointsEntry.at <= now)
        .group_by(PointsEntry.kind)
    ).all()
    total = sa.func.sum(PointsLot.remaining)
    top = session.execute(
        sa.select(Member.id, sa.func.coalesce(Member.name, Member.external_id), total)
        .join(Member, Member.id == PointsLot.member_id)
        .where(live)
        .group_by(Member.id, Member.name, Member.external_id)
        .order_by(total.desc(), Member.id)
        .limit(HOLDERS)
    ).all()
    return PointsOverview(
        int(available),
        int(pending),
        int(expiring),
        holders,
        {kind: int(delta) for kind, delta in moved},
        [(member_id, name, int(points_)) for member_id, name, points_ in top],
    )
