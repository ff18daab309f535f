"""What holds whose time is over still keep of a budget, given back where somebody needs it before the sweep.

Guarantees: a hold ends once, under its code's lock; codes that another transaction works on are passed over,
so that nobody waits here whatever is locked already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from loyalty import budgets
from loyalty.batches import EXPIRED, HELD
from loyalty.models import Coupon, CouponHold
from loyalty.uses import coupons_with_batches, give_codes_back, no_room

LIMIT = 2_000
"""Holds ended at once: more are left to the next who needs room, and to the sweep."""


def take_budget(session: Session, coupon: Any, amount_minor: int, now: datetime) -> None:
    """Count money into the batch's budget, or raise :class:`~loyalty.uses.Refused` where it has no room."""
    if coupon.budget_minor is None or budgets.take(session, coupon.batch_id, amount_minor):
        return
    free(session, [coupon.batch_id], now)
    if not budgets.take(session, coupon.batch_id, amount_minor):
        raise no_room(coupon, amount_minor)


def free(session: Session, batch_ids: Iterable[int], now: datetime) -> dict[int, int]:
    """End the batches' holds whose time is over; batch → minor units of its budget that are free again.

    For whom a budget has no room: one indexed query where there are none.
    """
    due = (
        sa.select(CouponHold.coupon_id)
        .join(Coupon, Coupon.id == CouponHold.coupon_id)
        .where(
            CouponHold.state == HELD,
            CouponHold.expires_at <= now,
            among(session, Coupon.batch_id, sorted(batch_ids)),
        )
        .order_by(CouponHold.expires_at)
        .limit(LIMIT)
    )
    locked = coupons_with_batches().where(Coupon.id.in_(due))
    rows = session.execute(locked.with_for_update(of=Coupon, key_share=True, skip_locked=True)).all()
    if not rows:
        return {}
    coupons = {coupon.id: coupon for coupon in rows}
    ended = session.execute(
        sa.update(CouponHold)
        .where(
            among(session, CouponHold.coupon_id, coupons),
            CouponHold.state == HELD,
            CouponHold.expires_at <= now,
        )
        .values(state=EXPIRED, resolved_at=now)
        .returning(CouponHold.coupon_id, CouponHold.discount_minor),
        execution_options={"synchronize_session": "fetch"},
    ).all()
    give_codes_back(session, [coupons[coupon_id] for coupon_id, _ in ended], now)
    money: Counter[int] = Counter()
    for coupon_id, discount_minor in ended:
        if coupons[coupon_id].budget_minor is not None:
            money[coupons[coupon_id].batch_id] += discount_minor
    budgets.move(session, {batch: -amount for batch, amount in money.items()})
    return dict(money)
