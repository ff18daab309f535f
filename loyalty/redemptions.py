"""Codes at the till: redeemed on an order, and given back when the order is refunded.

Guarantees: a code is redeemed at most once at a time, decided under the lock of its own row; the
same idempotency key with the same body answers the same, with another body it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.errors import Conflict, InvalidInput, NotFound
from core.models import Member
from core.warehouse.replica import mark
from loyalty import benefits, codes
from loyalty.batches import EXPIRED, ISSUED, REDEEMED, REVOKED, current_state
from loyalty.models import Coupon, CouponBatch, Redemption
from loyalty.requests import check_key, fingerprint, other_body
from loyalty.sets import insert_new

REDEMPTIONS = "redemptions"
"""Name of the fact table of the warehouse."""


class Refused(Conflict):
    """A code that may not be used now; ``reason`` is one of :data:`REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


REASONS = (
    "archived",
    "revoked",
    "expired",
    "not_yet_valid",
    "already_redeemed",
    "other_member",
    "wrong_currency",
    "below_min_spend",
)


@dataclass(frozen=True)
class Redeemed:
    """A use of a code. ``rolled_back_at`` is set once the order was refunded."""

    redemption_id: int
    code: str
    batch: str
    order_ref: str
    basket_minor: int
    discount_minor: int
    currency: str
    redeemed_at: datetime
    rolled_back_at: datetime | None = None


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
    its customer), never in another member's name.
    """
    code = codes.check(code)
    _check_order(order_ref, basket_minor)
    body = {
        "code": code,
        "order_ref": order_ref,
        "basket_minor": basket_minor,
        "currency": currency,
        "member": member_external_id,
    }
    digest = fingerprint(body)
    coupon = _lock_coupon(session, code)
    before = _repeated(
        session, Redemption.idempotency_key == check_key(idempotency_key), idempotency_key, digest
    )
    if before is not None:
        return before
    if coupon is None:
        raise unknown(code)
    check_usable(coupon, now)
    check_basket(coupon, basket_minor, currency)
    member_id = _redeemer(session, coupon, member_external_id)
    off = benefits.discount(coupon.benefit, basket_minor)
    values = {
        "coupon_id": coupon.id,
        "member_id": member_id,
        "order_ref": order_ref,
        "basket_minor": basket_minor,
        "discount_minor": off,
        "currency": currency,
        "redeemed_at": now,
        "idempotency_key": idempotency_key,
        "request_hash": digest,
    }
    key = insert_new(session, Redemption.__table__, values, ["idempotency_key"])
    if key is None:  # another code, at the same moment, with the same key
        raise other_body(idempotency_key)
    _set_state(session, coupon.id, REDEEMED)
    mark(session, REDEMPTIONS, [now])
    return Redeemed(key[0], code, coupon.batch, order_ref, basket_minor, off, currency, now)


def _check_order(order_ref: str, basket_minor: int) -> None:
    if not 0 < len(order_ref) <= 128:
        raise InvalidInput("Name the order in 1 to 128 characters.", "order_ref")
    if not 0 <= basket_minor <= benefits.MAX_AMOUNT_MINOR:
        raise InvalidInput("The basket is a whole number of minor units, 0 or more.", "basket_minor")


def unknown(code: str) -> NotFound:
    return NotFound(f"The code {code} is not known here. It was typed correctly; ask where it comes from.")


def _lock_coupon(session: Session, code: str) -> sa.Row[Any] | None:
    """The code with its batch, its row locked: nothing that decides is read before."""
    return session.execute(locked_coupons().where(Coupon.code == code)).one_or_none()


def locked_coupons() -> sa.Select[*tuple[Any, ...]]:
    """Codes with what decides about them, their rows locked in id order when it is run."""
    return (
        sa.select(
            Coupon.id,
            Coupon.code,
            Coupon.state,
            Coupon.member_id,
            Coupon.valid_from,
            Coupon.valid_until,
            CouponBatch.name.label("batch"),
            CouponBatch.benefit,
            CouponBatch.currency,
            CouponBatch.min_spend_minor,
            CouponBatch.archived_at,
        )
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .order_by(Coupon.id)
        .with_for_update(of=Coupon, key_share=True)
    )


def _repeated(session: Session, where: sa.ColumnElement[bool], key: str, digest: str) -> Redeemed | None:
    row = session.execute(
        sa.select(Redemption, Coupon.code, CouponBatch.name)
        .join(Coupon, Coupon.id == Redemption.coupon_id)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .where(where)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        return None
    found, code, batch = row
    if found.request_hash != digest:
        raise other_body(key)
    return _answer(found, code, batch)


def _answer(found: Redemption, code: str, batch: str, rolled_back_at: datetime | None = None) -> Redeemed:
    # The answer of a redemption stays what it was, also after its order was refunded.
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
    )


def check_usable(coupon: Any, now: datetime) -> None:
    """Raises :class:`Refused` for a row of :func:`locked_coupons` that may not be used at ``now``."""
    code = coupon.code
    state = current_state(coupon.state, coupon.valid_until, now)
    if state == REDEEMED:
        raise Refused("already_redeemed", f"The code {code} was redeemed already.")
    if state == REVOKED:
        raise Refused("revoked", f"The code {code} was revoked.")
    if coupon.archived_at is not None:
        raise Refused("archived", f"The offer “{coupon.batch}” of the code {code} was withdrawn.")
    if state == EXPIRED:
        raise Refused("expired", f"The code {code} was valid until {coupon.valid_until:%Y-%m-%d %H:%M} UTC.")
    if coupon.valid_from is not None and now < coupon.valid_from:
        raise Refused(
            "not_yet_valid", f"The code {code} is valid from {coupon.valid_from:%Y-%m-%d %H:%M} UTC."
        )


def check_basket(coupon: Any, basket_minor: int, currency: str) -> None:
    """Raises :class:`Refused` for a basket that the batch is not for."""
    if currency != coupon.currency:
        raise Refused(
            "wrong_currency", f"The code {coupon.code} is for {coupon.currency}; the basket is in {currency}."
        )
    if basket_minor < coupon.min_spend_minor:
        raise Refused(
            "below_min_spend",
            f"The code {coupon.code} needs a basket of {coupon.min_spend_minor} minor units of {currency}; "
            f"this one has {basket_minor}.",
        )


def _redeemer(session: Session, coupon: sa.Row[Any], external_id: str | None) -> int | None:
    if external_id is None:
        return coupon.member_id  # type: ignore[no-any-return]
    ids = session.scalars(sa.select(Member.id).where(Member.external_id == external_id).limit(2)).all()
    if coupon.member_id is None:  # anybody's code; a customer we do not know (or not surely) stays unnamed
        return ids[0] if len(ids) == 1 else None
    if coupon.member_id not in ids:
        raise Refused("other_member", f"The code {coupon.code} belongs to another member.")
    return coupon.member_id  # type: ignore[no-any-return]


def _set_state(session: Session, coupon_id: int, state: str) -> None:
    session.execute(
        sa.update(Coupon).where(Coupon.id == coupon_id).values(state=state),
        execution_options={"synchronize_session": False},
    )


def rollback(session: Session, code: str, *, order_ref: str, idempotency_key: str, now: datetime) -> Redeemed:
    """Give the code back after its order was refunded, whole; it lives on until its own end.

    NotFound: no such code. Conflict: the code is not redeemed on that order.
    """
    code = codes.check(code)
    coupon = _lock_coupon(session, code)
    if coupon is None:
        raise unknown(code)
    before = session.scalars(
        sa.select(Redemption).where(Redemption.rollback_key == check_key(idempotency_key))
    ).one_or_none()
    if before is not None:
        if (before.coupon_id, before.order_ref) != (coupon.id, order_ref):
            raise other_body(idempotency_key)
        return _answer(before, code, coupon.batch, before.rolled_back_at)
    live = session.scalars(
        sa.select(Redemption)
        .where(Redemption.coupon_id == coupon.id, Redemption.rolled_back_at.is_(None))
        .execution_options(populate_existing=True)
    ).one_or_none()
    if live is None or live.order_ref != order_ref:
        raise Conflict(
            f"The code {code} is not redeemed on the order “{order_ref}”; nothing was rolled back."
        )
    live.rolled_back_at, live.rollback_key = now, idempotency_key
    session.flush()
    _set_state(session, coupon.id, current_state(ISSUED, coupon.valid_until, now))
    mark(session, REDEMPTIONS, [live.redeemed_at])
    return _answer(live, code, coupon.batch, now)
