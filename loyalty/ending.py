"""Codes that end soon and can still be used: whose members may be reminded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from loyalty.batches import ISSUED
from loyalty.models import Coupon, CouponBatch


@dataclass(frozen=True)
class EndingCode:
    """A code that its member can use until ``valid_until``; amounts in minor units of its currency."""

    coupon_id: int
    member_id: int
    code: str
    title: str
    benefit: dict[str, Any]
    currency: str
    min_spend_minor: int
    valid_until: datetime


def _usable(now: datetime) -> sa.ColumnElement[bool]:
    started = sa.or_(Coupon.valid_from.is_(None), Coupon.valid_from <= now)
    live = CouponBatch.archived_at.is_(None)
    return sa.and_(Coupon.state == ISSUED, Coupon.valid_until > now, started, live)


def ending(
    session: Session, now: datetime, *, within_days: int | None
) -> sa.Select[int, int | None, datetime | None]:
    """Members' usable codes that end within the days: (coupon_id, member_id, valid_until), as a query.

    A batch's own ``reminder_days`` count instead of ``within_days``; None: only such batches.
    """
    own = session.scalars(
        sa.select(CouponBatch.reminder_days).distinct().where(CouponBatch.reminder_days.is_not(None))
    )
    # A few different numbers of days: each its own end, so that the comparison is with constants.
    ends = [
        sa.and_(CouponBatch.reminder_days == days, Coupon.valid_until <= now + timedelta(days=days))
        for days in own
        if days is not None
    ]
    if within_days is not None:
        last = now + timedelta(days=within_days)
        ends.append(sa.and_(CouponBatch.reminder_days.is_(None), Coupon.valid_until <= last))
    return (
        sa.select(
            Coupon.id.label("coupon_id"),
            Coupon.member_id.label("member_id"),
            Coupon.valid_until.label("valid_until"),
        )
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .where(_usable(now), Coupon.member_id.is_not(None), sa.or_(sa.false(), *ends))
    )


def codes(session: Session, coupon_ids: Iterable[int], now: datetime) -> list[EndingCode]:
    """Those of the codes that can be used now, and that end; one query."""
    rows = session.execute(
        sa.select(
            Coupon.id,
            Coupon.member_id,
            Coupon.code,
            CouponBatch.title,
            CouponBatch.benefit,
            CouponBatch.currency,
            CouponBatch.min_spend_minor,
            Coupon.valid_until,
        )
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .where(among(session, Coupon.id, coupon_ids), Coupon.member_id.is_not(None), _usable(now))
        .order_by(Coupon.member_id, Coupon.id)
    )
    return [EndingCode(*row) for row in rows]


def usable(session: Session, texts: Iterable[str], now: datetime) -> set[tuple[int, str]]:
    """(member, code) of those of the codes that their members can use now; one query."""
    rows = session.execute(
        sa.select(Coupon.member_id, Coupon.code)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .where(among(session, Coupon.code, texts), _usable(now))
    )
    return {(member_id, code) for member_id, code in rows if member_id is not None}
