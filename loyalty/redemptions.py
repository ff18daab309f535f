"""Codes at the till: redeemed on an order, by the code, by its hold, or by its member.

Guarantees: a code is redeemed at most once at a time, decided under the lock of its own row; a held code
is redeemed only by its hold or for its order, and at most what was held is taken; the same idempotency
key with the same body answers the same, with another body it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import lock_rows
from core.errors import NotFound
from core.models import Member
from core.warehouse.replica import mark
from loyalty import benefits, budgets, codes
from loyalty.batches import EXPIRED, HELD, ISSUED, REDEEMED, find_batch
from loyalty.models import Coupon, CouponBatch, CouponHold, Redemption
from loyalty.requests import check_key, fingerprint, other_body
from loyalty.sets import insert_new
from loyalty.uses import (
    REASONS,
    RELEASED,
    Basket,
    Refused,
    check_basket,
    check_day,
    check_offered,
    check_usable,
    find_locked,
    live_hold,
    lock_coupon,
    locked_coupons,
    resolve,
    see,
    set_state,
    take_budget,
    unknown,
    user_of,
    without_old_hold,
)

__all__ = [
    "REASONS",
    "REDEMPTIONS",
    "Redeemed",
    "Refused",
    "check_basket",
    "check_usable",
    "locked_coupons",
    "redeem",
    "redeem_for_member",
    "redeem_hold",
    "unknown",
]

REDEMPTIONS = "redemptions"
"""Name of the fact table of the warehouse."""
_R, _C, _B = Redemption.__table__, Coupon.__table__, CouponBatch.__table__
_BY_KEY = (
    sa.select(_R, _C.c.code, _B.c.name.label("batch"))
    .join_from(_R, _C, _C.c.id == _R.c.coupon_id)
    .join(_B, _B.c.id == _C.c.batch_id)
    .where(_R.c.idempotency_key == sa.bindparam("key"))
)
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Redeemed:
    """A use of a code. ``rolled_back_at`` is set once the whole order was refunded; what came back of
    the basket and of the discount so far is in the ``returned`` amounts."""

    redemption_id: int
    code: str
    batch: str
    order_ref: str
    basket_minor: int
    discount_minor: int
    currency: str
    redeemed_at: datetime
    rolled_back_at: datetime | None = None
    returned_basket_minor: int = 0
    returned_discount_minor: int = 0


def redeem(
    session: Session,
    code: str,
    *,
    order_ref: str,
    basket_minor: int,
    currency: str,
    member_external_id: str | None,
    idempotency_key: str,
    now: datetime,
) -> Redeemed:
    """Use a code on a basket, under the lock of its row.

    InvalidInput: a typing error. NotFound: no such code. :class:`Refused` (a Conflict) says why it may
    not be used. A code held by a member may be redeemed without naming one (a till that does not know
    its customer), never in another member's name. A code that is held for this order is taken from its
    hold; a code that many use becomes a code of its own.
    """
    basket = Basket(order_ref, basket_minor, currency, member_external_id).checked()
    digest = fingerprint({"code": codes.plain(code), **_body(basket)})
    seen = see(session, code)
    if seen is None:
        # A code that many use may have been withdrawn since it was used with this key.
        before = _repeated(session, idempotency_key, digest)
        if before is not None:
            return before
    coupon = find_locked(session, code, seen, basket, idempotency_key, now)
    before = _repeated(session, idempotency_key, digest)
    return before or _use(session, coupon, basket, None, idempotency_key, digest, now)


def redeem_hold(
    session: Session,
    hold_id: int,
    *,
    order_ref: str,
    basket_minor: int,
    currency: str,
    member_external_id: str | None,
    idempotency_key: str,
    now: datetime,
) -> Redeemed:
    """Use the code of a hold, on whatever order the basket has become. NotFound: no such hold."""
    basket = Basket(order_ref, basket_minor, currency, member_external_id).checked()
    digest = fingerprint({"hold": hold_id, **_body(basket)})
    code = session.scalar(
        sa.select(Coupon.code)
        .join(CouponHold, CouponHold.coupon_id == Coupon.id)
        .where(CouponHold.id == hold_id)
    )
    if code is None:
        raise NotFound(f"There is no hold {hold_id}.")
    coupon = lock_coupon(session, code)
    before = _repeated(session, idempotency_key, digest)
    return before or _use(session, coupon, basket, hold_id, idempotency_key, digest, now)


def redeem_for_member(
    session: Session,
    batch_name: str,
    member_id: int,
    *,
    order_ref: str,
    basket_minor: int,
    currency: str,
    idempotency_key: str,
    now: datetime,
) -> Redeemed:
    """Use the member's best code of a batch: one held for this order, then the one that ends first."""
    basket = Basket(order_ref, basket_minor, currency).checked()
    batch = find_batch(session, batch_name)
    digest = fingerprint({"batch": batch.id, "holder": member_id, **_body(basket)})
    lock_rows(session, Member.__table__, [member_id])
    before = _repeated(session, idempotency_key, digest)
    if before is not None:
        return before
    rows = session.execute(
        locked_coupons().where(
            Coupon.batch_id == batch.id,
            Coupon.member_id == member_id,
            Coupon.state.in_((ISSUED, HELD)),
            sa.or_(Coupon.valid_from.is_(None), Coupon.valid_from <= now),
        )
    ).all()
    holds = {
        held.coupon_id: held
        for held in session.scalars(
            sa.select(CouponHold).where(CouponHold.member_id == member_id, CouponHold.state == HELD)
        )
    }

    def rank(coupon: Any) -> tuple[int, datetime, int] | None:
        held = holds.get(coupon.id)
        mine = held is not None and held.order_ref == order_ref and held.expires_at > now
        taken = coupon.state == HELD and not mine and (held is None or held.expires_at > now)
        over = coupon.valid_until is not None and coupon.valid_until <= now and not mine
        return None if taken or over else (not mine, coupon.valid_until or _NEVER, coupon.id)

    ranked = sorted((place, row) for row in rows if (place := rank(row)) is not None)
    if not ranked:
        raise Refused("no_coupon", f"The member has no code of the offer “{batch_name}” to use now.")
    return _use(session, ranked[0][1], basket, None, idempotency_key, digest, now)


def _body(basket: Basket) -> dict[str, Any]:
    return {
        "order_ref": basket.order_ref,
        "basket_minor": basket.basket_minor,
        "currency": basket.currency,
        "member": basket.member,
    }


def _use(
    session: Session,
    coupon: Any,
    basket: Basket,
    hold_id: int | None,
    key: str,
    digest: str,
    now: datetime,
) -> Redeemed:
    """Redeem a locked code; of a live hold, its own or its order's, at most what it held."""
    held = _hold_to_take(session, coupon, basket, hold_id, now)
    if held is None:
        coupon = without_old_hold(session, coupon, now)
        check_usable(coupon, now)
    else:
        check_offered(coupon)
    check_basket(coupon, basket.basket_minor, basket.currency)
    member_id = user_of(session, coupon, basket.member)
    off = benefits.discount(coupon.benefit, basket.basket_minor)
    if held is None:
        check_day(session, coupon, member_id, now)
        take_budget(session, coupon, off)
    else:
        off = min(off, held.discount_minor)
        resolve(session, held, REDEEMED, now)
        budgets.give_back(session, coupon.batch_id, coupon.budget_minor, held.discount_minor - off)
    values = {
        "coupon_id": coupon.id,
        "member_id": member_id,
        "order_ref": basket.order_ref,
        "basket_minor": basket.basket_minor,
        "discount_minor": off,
        "currency": basket.currency,
        "redeemed_at": now,
        "idempotency_key": check_key(key),
        "request_hash": digest,
        "returned_basket_minor": 0,
        "returned_discount_minor": 0,
    }
    new = insert_new(session, Redemption.__table__, values, ["idempotency_key"])
    if new is None:  # another code, at the same moment, with the same key
        raise other_body(key)
    set_state(session, coupon.id, REDEEMED)
    mark(session, REDEMPTIONS, [now])
    return Redeemed(
        new[0], coupon.code, coupon.batch, basket.order_ref, basket.basket_minor, off, basket.currency, now
    )


def _hold_to_take(
    session: Session, coupon: Any, basket: Basket, hold_id: int | None, now: datetime
) -> CouponHold | None:
    """The live hold that this use may take: the one named, or the one of this order."""
    if hold_id is None:
        held = live_hold(session, coupon.id) if coupon.state == HELD else None
        mine = held is not None and held.order_ref == basket.order_ref and held.expires_at > now
        return held if mine else None
    found = session.get_one(CouponHold, hold_id, populate_existing=True)
    if found.state == REDEEMED:
        raise Refused("already_redeemed", f"The hold {hold_id} was redeemed already.")
    if found.state == RELEASED:
        raise Refused("hold_released", f"The hold {hold_id} was released; hold the code again.")
    if found.state == EXPIRED or found.expires_at <= now:
        raise Refused(
            "hold_expired",
            f"The hold {hold_id} was good until {found.expires_at:%Y-%m-%d %H:%M} UTC; hold the code again.",
        )
    return found


def _repeated(session: Session, key: str, digest: str) -> Redeemed | None:
    found = session.execute(_BY_KEY, {"key": check_key(key)}).one_or_none()
    if found is None:
        return None
    if found.request_hash != digest:
        raise other_body(key)
    # The answer of a redemption stays what it was, also after its order was refunded.
    return replace(answer(found, found.code, found.batch), returned_basket_minor=0, returned_discount_minor=0)


def answer(found: Any, code: str, batch: str, rolled_back_at: datetime | None = None) -> Redeemed:
    """A stored use as it is told."""
    return Redeemed(
        found.id,
        code,
        batch,
        found.order_ref,
        found.basket_minor,
        found.discount_minor,
        found.currency,
        found.redeemed_at,
        rolled_back_at,
        found.returned_basket_minor,
        found.returned_discount_minor,
    )
