"""Codes handed from one member to another, where their batch allows it.

Guarantees: the receiver's limits count, read under the receiver's lock; a code that is held, redeemed or
over stays where it is; the same idempotency key moves it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import lock_rows
from core.errors import InvalidInput
from core.models import Member
from loyalty import codes
from loyalty.models import Coupon, CouponBatch
from loyalty.requests import claim, remember
from loyalty.uses import LIMIT_TEXTS, Refused, check_usable, lock_coupon, unknown, without_old_hold

ACTOR = "transfer"
"""Whom the audit rows name."""


@dataclass(frozen=True)
class Transferred:
    code: str
    batch: str
    from_member_id: int
    to_member_id: int


def transfer(
    session: Session, text: str, from_id: int, to_id: int, *, idempotency_key: str, now: datetime
) -> Transferred:
    """Give a member's code to another one. The receiver's limit of the batch counts.

    NotFound: no such code. :class:`Refused`: ``not_transferable``, ``other_member``,
    ``per_member_limit``, or what forbids any use of the code (but not that it is valid only later).
    """
    code = codes.plain(text)
    if from_id == to_id:
        raise InvalidInput("A code is handed to another member, not to its holder.", "to_member_id")
    body = {"do": "transfer", "code": code, "from": from_id, "to": to_id}
    before = claim(session, idempotency_key, body, now)
    if before is not None:
        return Transferred(**before)
    lock_rows(session, Member.__table__, sorted((from_id, to_id)))
    coupon = lock_coupon(session, code)
    if coupon is None:
        codes.check(text)
        raise unknown(code)
    if coupon.member_id != from_id:
        raise Refused("other_member", f"The code {code} belongs to another member.")
    if not coupon.transferable:
        raise Refused("not_transferable", f"Codes of the offer “{coupon.batch}” cannot be handed on.")
    coupon = without_old_hold(session, coupon, now)
    check_usable(coupon, max(now, coupon.valid_from or now))
    _check_limit(session, coupon.batch_id, coupon.batch, to_id)
    session.execute(
        sa.update(Coupon).where(Coupon.id == coupon.id).values(member_id=to_id),
        execution_options={"synchronize_session": False},
    )
    audit.record(session, ACTOR, "change", "coupon", code, now, {"from": from_id, "to": to_id})
    done = Transferred(code, coupon.batch, from_id, to_id)
    remember(session, idempotency_key, vars(done))
    return done


def _check_limit(session: Session, batch_id: int, batch: str, to_id: int) -> None:
    limit, has = session.execute(
        sa.select(
            CouponBatch.per_member_limit,
            sa.select(sa.func.count())
            .select_from(Coupon)
            .where(Coupon.batch_id == batch_id, Coupon.member_id == to_id, Coupon.freed_at.is_(None))
            .scalar_subquery(),
        ).where(CouponBatch.id == batch_id)
    ).one()
    if limit is not None and has >= limit:
        raise Refused("per_member_limit", LIMIT_TEXTS["per_member_limit"].format(batch))
