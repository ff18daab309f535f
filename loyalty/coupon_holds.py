"""Codes kept for an order until it is paid: held, released, or over by time.

Guarantees: a code has one live hold at most; a hold resolves once (redeemed, released or expired), under
the lock of its code; its discount is kept free in the batch's budget until then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from core.errors import InvalidInput, NotFound
from loyalty import benefits, budgets, codes
from loyalty.batches import EXPIRED, HELD, REDEEMED
from loyalty.ended_holds import take_budget
from loyalty.models import Coupon, CouponBatch, CouponHold
from loyalty.requests import check_key, claim, fingerprint, other_body, remember
from loyalty.sets import insert_new
from loyalty.uses import (
    RELEASED,
    Basket,
    Refused,
    check_basket,
    check_day,
    check_usable,
    coupons_with_batches,
    end_hold,
    find_locked,
    give_codes_back,
    lock_coupon,
    see,
    set_states,
    user_of,
    without_old_hold,
)

DEFAULT_MINUTES, MAX_MINUTES = 15, 24 * 60


@dataclass(frozen=True)
class Held:
    """A hold as it was made (``state`` held), or as it was released."""

    hold_id: int
    code: str
    batch: str
    order_ref: str
    basket_minor: int
    discount_minor: int
    currency: str
    state: str
    expires_at: datetime


def hold(
    session: Session,
    code: str,
    *,
    order_ref: str,
    basket_minor: int,
    currency: str,
    member_external_id: str | None,
    idempotency_key: str,
    now: datetime,
    minutes: int = DEFAULT_MINUTES,
) -> Held:
    """Keep a code for an order, for 1 minute to a day. Errors as :func:`redemptions.redeem` has them.

    The same key with the same body answers the same hold again, whatever became of it.
    """
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MAX_MINUTES:
        raise InvalidInput(f"A code is held for 1 to {MAX_MINUTES} minutes.", "minutes")
    basket = Basket(order_ref, basket_minor, currency, member_external_id).checked()
    digest = fingerprint({"hold": codes.plain(code), **vars(basket), "minutes": minutes})
    before = _repeated(session, idempotency_key, digest)
    if before is not None:
        return before
    coupon = find_locked(session, code, see(session, code), basket, idempotency_key, now)
    before = _repeated(session, idempotency_key, digest)
    if before is not None:
        return before
    coupon = without_old_hold(session, coupon, now)
    check_usable(coupon, now)
    check_basket(coupon, basket_minor, currency)
    member_id = user_of(session, coupon, member_external_id)
    check_day(session, coupon, member_id, now)
    off = benefits.discount(coupon.benefit, basket_minor)
    take_budget(session, coupon, off, now)
    expires_at = now + timedelta(minutes=minutes)
    values = {
        "coupon_id": coupon.id,
        "member_id": member_id,
        "order_ref": order_ref,
        "basket_minor": basket_minor,
        "discount_minor": off,
        "currency": currency,
        "state": HELD,
        "created_at": now,
        "expires_at": expires_at,
        "idempotency_key": idempotency_key,
        "request_hash": digest,
    }
    new = insert_new(session, CouponHold.__table__, values, ["idempotency_key"])
    if new is None:  # another code, at the same moment, with the same key
        raise other_body(idempotency_key)
    set_states(session, [coupon.id], HELD)
    return Held(new[0], coupon.code, coupon.batch, order_ref, basket_minor, off, currency, HELD, expires_at)


def _repeated(session: Session, key: str, digest: str) -> Held | None:
    row = session.execute(
        sa.select(CouponHold, Coupon.code, CouponBatch.name)
        .join(Coupon, Coupon.id == CouponHold.coupon_id)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .where(CouponHold.idempotency_key == check_key(key))
    ).one_or_none()
    if row is None:
        return None
    found, code, batch = row
    if found.request_hash != digest:
        raise other_body(key)
    return _told(found, code, batch, HELD)


def _told(found: CouponHold, code: str, batch: str, state: str) -> Held:
    return Held(
        found.id,
        code,
        batch,
        found.order_ref,
        found.basket_minor,
        found.discount_minor,
        found.currency,
        state,
        found.expires_at,
    )


def release(session: Session, hold_id: int, now: datetime) -> Held:
    """End a hold; its code may be used again. Releasing it again changes nothing.

    NotFound: no such hold. Refused: it was redeemed already. A hold whose time is over is told as
    expired: its code is free all the same.
    """
    code = session.scalar(
        sa.select(Coupon.code)
        .join(CouponHold, CouponHold.coupon_id == Coupon.id)
        .where(CouponHold.id == hold_id)
    )
    if code is None:
        raise NotFound(f"There is no hold {hold_id}.")
    coupon: Any = lock_coupon(session, code)
    found = session.get_one(CouponHold, hold_id, populate_existing=True)
    if found.state == REDEEMED:
        raise Refused("already_redeemed", f"The hold {hold_id} was redeemed already; roll it back instead.")
    if found.state == HELD:
        end_hold(session, coupon, found, EXPIRED if found.expires_at <= now else RELEASED, now)
    return _told(found, coupon.code, coupon.batch, found.state)


def release_requested(session: Session, hold_id: int, *, idempotency_key: str, now: datetime) -> Held:
    """:func:`release` on request of a shop's system: the same key answers the same again."""
    before = claim(session, idempotency_key, {"do": "release", "hold": hold_id}, now)
    if before is not None:
        return Held(**{**before, "expires_at": datetime.fromisoformat(before["expires_at"])})
    done = release(session, hold_id, now)
    remember(session, idempotency_key, {**vars(done), "expires_at": done.expires_at.isoformat()})
    return done


def expire(session: Session, now: datetime, limit: int) -> int:
    """Sweep at most ``limit`` holds whose time is over; how many there were. Several may run at once."""
    due = session.scalars(
        sa.select(CouponHold.coupon_id)
        .where(CouponHold.state == HELD, CouponHold.expires_at <= now)
        .order_by(CouponHold.expires_at)
        .limit(limit)
    ).all()
    if not due:
        return 0
    # Codes that somebody works on are left to him: he sees that the hold is over, or resolved it.
    query = coupons_with_batches().where(among(session, Coupon.id, due))
    rows = session.execute(query.with_for_update(of=Coupon, key_share=True, skip_locked=True)).all()
    coupons = {coupon.id: coupon for coupon in rows}
    ended = session.scalars(
        sa.select(CouponHold)
        .where(
            among(session, CouponHold.coupon_id, coupons),
            CouponHold.state == HELD,
            CouponHold.expires_at <= now,
        )
        .execution_options(populate_existing=True)
    ).all()
    money: Counter[int] = Counter()
    for found in ended:
        found.state, found.resolved_at = EXPIRED, now
        money[coupons[found.coupon_id].batch_id] -= found.discount_minor
    session.flush()
    give_codes_back(session, [coupons[found.coupon_id] for found in ended], now)
    budgets.move(session, money)
    return len(ended)
