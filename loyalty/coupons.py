"""Codes expired, revoked, taken back, looked up; and the one door to everything else about coupons.

Guarantees: what decides is read under the lock of the codes' rows or inside the write; a code that is
held for an order can neither be revoked nor taken back until its hold resolves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import among
from core.errors import Conflict, InvalidInput
from core.models import Member
from loyalty import codes, coupon_holds
from loyalty.batches import (
    EXPIRED,
    HELD,
    ISSUED,
    REDEEMED,
    REVOKED,
    NewBatch,
    archive_batch,
    create_batch,
    current_state,
    find_batch,
)
from loyalty.coupon_holds import Held, hold, release, release_requested
from loyalty.issuing import (
    DAILY_LIMIT,
    MAX_ISSUE,
    MEMBER_LIMIT,
    TOTAL_LIMIT,
    Issued,
    free_places,
    issue,
    issue_detailed,
    issue_requested,
)
from loyalty.models import Coupon, CouponBatch
from loyalty.redemptions import Redeemed, Refused, redeem, redeem_for_member, redeem_hold
from loyalty.returns import rollback
from loyalty.uses import unknown

__all__ = [
    "DAILY_LIMIT",
    "EXPIRED",
    "HELD",
    "ISSUED",
    "MAX_ISSUE",
    "MEMBER_LIMIT",
    "REDEEMED",
    "REVOKED",
    "TOTAL_LIMIT",
    "CouponView",
    "Held",
    "Issued",
    "NewBatch",
    "Redeemed",
    "Refused",
    "archive_batch",
    "create_batch",
    "expire",
    "find_batch",
    "hold",
    "issue",
    "issue_detailed",
    "issue_requested",
    "look_up",
    "of_member",
    "redeem",
    "redeem_for_member",
    "redeem_hold",
    "release",
    "release_requested",
    "revoke",
    "rollback",
    "take_back",
]

MAX_SHOWN = 500
"""Codes of one member that are listed."""


@dataclass(frozen=True)
class CouponView:
    """A code as a shop's counter sees it; ``state`` is as of the moment asked, swept or not."""

    code: str
    batch: str
    title: str
    benefit: dict[str, Any]
    currency: str
    min_spend_minor: int
    state: str
    valid_from: datetime | None
    valid_until: datetime | None
    member_external_id: str | None


def expire(session: Session, now: datetime, limit: int) -> int:
    """Sweep at most ``limit`` holds, and as many issued codes, whose time is over; how many there were."""
    ended = coupon_holds.expire(session, now, limit)
    due = (
        sa.select(Coupon.id)
        .where(Coupon.state == ISSUED, Coupon.valid_until <= now)
        .order_by(Coupon.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    swept = session.execute(
        sa.update(Coupon).where(Coupon.id.in_(due)).values(state=EXPIRED).returning(Coupon.id),
        execution_options={"synchronize_session": False},
    )
    return ended + len(swept.all())


def revoke(session: Session, texts: Sequence[str], by: str, now: datetime) -> int:
    """Make codes that were not redeemed useless for good; how many were. Leaves an audit row."""
    if len(texts) > MAX_ISSUE:
        raise InvalidInput(f"At most {MAX_ISSUE} codes are revoked at once.", "codes")
    wanted = [codes.plain(text) for text in texts]
    revoked = session.execute(
        sa.update(Coupon)
        .where(among(session, Coupon.code, wanted), Coupon.state == ISSUED)
        .values(state=REVOKED)
        .returning(Coupon.code),
        execution_options={"synchronize_session": False},
    ).all()
    if revoked:
        gone = sorted(row[0] for row in revoked)
        audit.record(session, by, "revoke", "coupon", gone[0], now, {"codes": gone[:100], "count": len(gone)})
    return len(revoked)


def take_back(session: Session, texts: Sequence[str], now: datetime | None = None) -> None:
    """Undo the issue of codes that nobody has seen: useless for good, and off every limit again.

    Raises Conflict, and changes nothing, when one of them was redeemed or is held.
    """
    taken = session.execute(
        sa.update(Coupon)
        .where(among(session, Coupon.code, texts), Coupon.state.in_((ISSUED, EXPIRED)))
        .values(state=REVOKED, member_id=None, freed_at=now or Coupon.issued_at)
        .returning(Coupon.batch_id),
        execution_options={"synchronize_session": False},
    )
    by_batch = Counter(taken.scalars())
    if sum(by_batch.values()) < len(set(texts)):
        raise Conflict("A coupon of this run was used already, so the run cannot be undone.")
    free_places(session, by_batch)


def look_up(session: Session, text: str, now: datetime) -> CouponView:
    """A code and what it gives. InvalidInput: a typing error. NotFound: no such code.

    A code that many use is shown as what its next use would give.
    """
    code = codes.plain(text)
    row = session.execute(_shown().where(Coupon.code == code)).one_or_none()
    if row is not None:
        return _view(row[0], row[1], row[2], now)
    batch = session.scalars(sa.select(CouponBatch).where(CouponBatch.generic_code == code)).one_or_none()
    if batch is None:
        codes.check(text)
        raise unknown(code)
    state = current_state(ISSUED, batch.ends_at, now)
    return _of_batch(batch, code, state, batch.starts_at, batch.ends_at, None)


def of_member(session: Session, member_id: int, now: datetime) -> list[CouponView]:
    """The member's codes, those that can be used first and by their ends; at most 500."""
    usable = sa.case((Coupon.state.in_((ISSUED, HELD)), 0), else_=1)
    rows = session.execute(
        _shown()
        .where(Coupon.member_id == member_id)
        .order_by(usable, Coupon.valid_until.is_(None), Coupon.valid_until, Coupon.id)
        .limit(MAX_SHOWN)
    )
    return [_view(coupon, batch, external_id, now) for coupon, batch, external_id in rows]


def _shown() -> sa.Select[Coupon, CouponBatch, str]:
    return (
        sa.select(Coupon, CouponBatch, Member.external_id)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .outerjoin(Member, Member.id == Coupon.member_id)
    )


def _view(coupon: Coupon, batch: CouponBatch, external_id: str | None, now: datetime) -> CouponView:
    state = current_state(coupon.state, coupon.valid_until, now)
    return _of_batch(batch, coupon.code, state, coupon.valid_from, coupon.valid_until, external_id)


def _of_batch(
    batch: CouponBatch,
    code: str,
    state: str,
    valid_from: datetime | None,
    valid_until: datetime | None,
    external_id: str | None,
) -> CouponView:
    return CouponView(
        code,
        batch.name,
        batch.title,
        batch.benefit,
        batch.currency,
        batch.min_spend_minor,
        state,
        valid_from,
        valid_until,
        external_id,
    )
