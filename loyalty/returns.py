"""Redemptions undone: the whole of one, or the part of the basket that came back.

Guarantees: what comes back is cumulative and exact to the minor unit, the last part takes the remainder,
and never more than was given; the code lives again only once the whole came back; the batch's budget
gets its money; the same idempotency key is counted once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.errors import Conflict, InvalidInput
from core.warehouse.replica import mark
from loyalty import budgets, codes
from loyalty.models import Coupon, CouponReturn, Redemption
from loyalty.redemptions import REDEMPTIONS, Redeemed, answer
from loyalty.requests import check_key, fingerprint, other_body
from loyalty.uses import check_amount, generic_batch, give_codes_back, lock_coupon, unknown


def share(discount_minor: int, basket_minor: int, returned_minor: int) -> int:
    """What of a discount has come back once ``returned_minor`` of its basket has."""
    if returned_minor >= basket_minor:
        return discount_minor
    return discount_minor * returned_minor // basket_minor


def rollback(
    session: Session,
    code: str,
    *,
    order_ref: str,
    idempotency_key: str,
    now: datetime,
    amount_minor: int | None = None,
) -> Redeemed:
    """Undo a use after its order was refunded: whole, or ``amount_minor`` of its basket.

    After the whole the code lives on until its own end; a code made for one use of a code for many frees
    its place instead. NotFound: no such code. Conflict: the code is not redeemed on that order.
    InvalidInput: more than what is left of the basket.
    """
    if amount_minor is not None:
        check_amount(amount_minor, "amount_minor", "The amount that came back", low=1)
    coupon = _locked(session, code, order_ref)
    body: dict[str, Any] = {"coupon": coupon.id, "order_ref": order_ref, "amount": amount_minor}
    digest = fingerprint(body)
    before = _repeated(session, coupon, order_ref, check_key(idempotency_key), digest, amount_minor)
    if before is not None:
        return before
    live = _live(session, coupon.id)
    if live is None or live.order_ref != order_ref:
        raise Conflict(
            f"The code {coupon.code} is not redeemed on the order “{order_ref}”; nothing was rolled back."
        )
    left = live.basket_minor - live.returned_basket_minor
    if amount_minor is not None and amount_minor > left:
        raise InvalidInput(
            f"Of the basket of the order “{order_ref}” {left} minor units are left; {amount_minor} cannot "
            "come back.",
            "amount_minor",
        )
    back = left if amount_minor is None else amount_minor
    whole = back == left
    total = live.returned_basket_minor + back
    discount = live.discount_minor if whole else share(live.discount_minor, live.basket_minor, total)
    money = discount - live.returned_discount_minor
    live.returned_basket_minor, live.returned_discount_minor = total, discount
    if whole:
        live.rolled_back_at, live.rollback_key = now, idempotency_key
    session.add(
        CouponReturn(
            key=idempotency_key,
            redemption_id=live.id,
            basket_minor=back,
            request_hash=digest,
            returned_basket_minor=total,
            returned_discount_minor=discount,
            whole=whole,
            at=now,
        )
    )
    session.flush()
    if whole:
        give_codes_back(session, [coupon], now)
    budgets.give_back(session, coupon.batch_id, coupon.budget_minor, money)
    mark(session, REDEMPTIONS, [live.redeemed_at])
    return answer(live, coupon.code, coupon.batch, now if whole else None)


def _live(session: Session, coupon_id: int) -> Redemption | None:
    """The use of a code that stands; read it under the code's lock."""
    return session.scalars(
        sa.select(Redemption)
        .where(Redemption.coupon_id == coupon_id, Redemption.rolled_back_at.is_(None))
        .execution_options(populate_existing=True)
    ).one_or_none()


def _locked(session: Session, text: str, order_ref: str) -> Any:
    """The code, its row locked; of a code that many use, the one used on this order."""
    code = codes.plain(text)
    coupon = lock_coupon(session, code)
    if coupon is not None:
        return coupon
    batch = generic_batch(session, code)
    if batch is None:
        codes.check(text)
        raise unknown(code)
    own = session.scalar(
        sa.select(Coupon.code)
        .join(Redemption, Redemption.coupon_id == Coupon.id)
        .where(Redemption.order_ref == order_ref, Coupon.batch_id == batch.id)
        .order_by(Redemption.rolled_back_at.is_not(None), Redemption.id.desc())
        .limit(1)
    )
    if own is None:
        raise Conflict(
            f"The code {code} is not redeemed on the order “{order_ref}”; nothing was rolled back."
        )
    return lock_coupon(session, own)


def _repeated(
    session: Session, coupon: Any, order_ref: str, key: str, digest: str, amount_minor: int | None
) -> Redeemed | None:
    row = session.execute(
        sa.select(CouponReturn, Redemption)
        .join(Redemption, Redemption.id == CouponReturn.redemption_id)
        .where(CouponReturn.key == key)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is not None:
        done, found = row
        if done.request_hash != digest:
            raise other_body(key)
        return Redeemed(
            found.id,
            coupon.code,
            coupon.batch,
            found.order_ref,
            found.basket_minor,
            found.discount_minor,
            found.currency,
            found.redeemed_at,
            done.at if done.whole else None,
            done.returned_basket_minor,
            done.returned_discount_minor,
        )
    whole = session.scalars(sa.select(Redemption).where(Redemption.rollback_key == key)).one_or_none()
    if whole is None:
        return None
    if (whole.coupon_id, whole.order_ref, amount_minor) != (coupon.id, order_ref, None):
        raise other_body(key)
    return answer(whole, coupon.code, coupon.batch, whole.rolled_back_at)
