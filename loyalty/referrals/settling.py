"""From a friend's first paid order to the rewards of both sides.

Guarantees: a side is rewarded once, whatever is repeated and however many workers run, by the keys
``referral:<id>:referrer`` and ``referral:<id>:friend``, in one transaction with the change of state; a coupon
that cannot be issued holds its referral and no other, and once approved only what is missing is given.

Order of locks: the referrals (skipping those that another worker has), member rows, batch rows, codes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from core.db import among, lock_rows
from core.models import Member, Order
from loyalty import coupons, points
from loyalty.abuse.models import AbuseSignal
from loyalty.abuse.subjects import SHARED_KINDS
from loyalty.earning import PAID_STATUSES
from loyalty.models import Coupon, CouponBatch, PointsLot
from loyalty.referrals import reasons
from loyalty.referrals.joining import CANCELLED, HELD, JOINED, ORDERED, REJECTED, REWARDED
from loyalty.referrals.models import Referral, ReferralProgram

SOURCE = "referral"
REFERRER, FRIEND = "referrer", "friend"
SIDES = (REFERRER, FRIEND)


@dataclass(frozen=True)
class Settled:
    """Referrals whose friend was found to have ordered, rewarded, rejected, held, and joined once more
    because the order was cancelled."""

    ordered: int = 0
    rewarded: int = 0
    rejected: int = 0
    held: int = 0
    reopened: int = 0


def settle(session: Session, now: datetime, limit: int) -> Settled:
    """Take at most ``limit`` referrals of each step one step further; all zero: nothing is left to do."""
    ordered = find_orders(session, limit)
    return Settled(ordered, **reward_due(session, now, limit))


def find_orders(session: Session, limit: int) -> int:
    """Note the first paid order of friends who joined, and when its return window ends; how many."""
    first = (
        sa.select(Order.id)
        .where(
            Order.member_id == Referral.friend_id,
            Order.ordered_at >= Referral.joined_at,
            Order.status.in_(PAID_STATUSES),
        )
        .order_by(Order.ordered_at, Order.id)
        .limit(1)
        .correlate(Referral)
        .scalar_subquery()
    )
    rows = session.execute(
        sa.select(Referral.id, Order.id.label("order_id"), Order.ordered_at, ReferralProgram.return_days)
        .join(Order, Order.id == first)
        .join(ReferralProgram, ReferralProgram.id == Referral.program_id)
        .where(Referral.state == JOINED)
        .order_by(Referral.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Referral)
    ).all()
    changes = [
        {
            "id": row.id,
            "state": ORDERED,
            "order_id": row.order_id,
            "ordered_at": row.ordered_at,
            "due_at": row.ordered_at + timedelta(days=row.return_days),
        }
        for row in rows
    ]
    if changes:
        session.execute(sa.update(Referral), changes)
    return len(changes)


def reward_due(session: Session, now: datetime, limit: int) -> dict[str, int]:
    """Reward, reject, hold or reopen the referrals whose return window is over; how many of each."""
    due = _due(session, now, limit)
    if not due:
        return {}
    ids = {member for row in due for member in (row.referrer_id, row.friend_id)}
    lock_rows(session, Member.__table__, sorted(ids))
    reasons_by_id = _against(session, due)
    changes: list[dict[str, Any]] = []
    to_reward = []
    for row in due:
        reason = reasons_by_id.get(row.id) or _of_order(row)
        if reason == CANCELLED:
            changes.append({"id": row.id, "state": JOINED, "reason": None, "order_id": None,
                            "ordered_at": None, "due_at": None, "rewarded_at": None})  # fmt: skip
        elif reason is not None:
            changes.append(_change(row, REJECTED, reason))
        else:
            to_reward.append(row)
    changes += _reward(session, to_reward, now)
    session.execute(sa.update(Referral), changes)
    states = [change["state"] for change in changes]
    names = {"rewarded": REWARDED, "rejected": REJECTED, "held": HELD, "reopened": JOINED}
    return {name: states.count(state) for name, state in names.items()}


def _due(session: Session, now: datetime, limit: int) -> Sequence[Any]:
    program = ReferralProgram
    return session.execute(
        sa.select(
            Referral.id,
            Referral.referrer_id,
            Referral.friend_id,
            Referral.joined_at,
            Referral.order_id,
            Referral.ordered_at,
            Referral.due_at,
            program.referrer_points,
            program.referrer_batch_id,
            program.friend_points,
            program.friend_batch_id,
            program.min_order_minor,
            program.currency.label("program_currency"),
            Order.status,
            Order.currency,
            (Order.total_minor - Order.refunded_minor).label("net_minor"),
        )
        .join(program, program.id == Referral.program_id)
        .outerjoin(Order, Order.id == Referral.order_id)
        .where(Referral.state == ORDERED, Referral.due_at <= now)
        .order_by(Referral.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Referral)
    ).all()


def _of_order(row: Any) -> str | None:
    """What is against the first order now; ``cancelled``: it never counted."""
    if row.status not in PAID_STATUSES:
        return CANCELLED
    if row.net_minor <= 0:
        return reasons.REFUNDED
    # An order in another currency cannot be held against the minimum.
    enough = row.net_minor >= row.min_order_minor and row.currency == row.program_currency
    return None if enough or row.min_order_minor == 0 else reasons.BELOW_MINIMUM


def _against(session: Session, due: Iterable[Any]) -> dict[int, str]:
    """What came to light since the friend joined: referral id → reason; one statement for each."""
    ids = [row.id for row in due]
    of_these = among(session, Referral.id, ids)
    found: dict[int, str] = {}
    mine, theirs = aliased(AbuseSignal), aliased(AbuseSignal)
    common = session.execute(
        sa.select(Referral.id, sa.func.min(mine.kind))
        .join(mine, mine.member_id == Referral.referrer_id)
        .join(
            theirs,
            sa.and_(
                theirs.member_id == Referral.friend_id, theirs.kind == mine.kind, theirs.hash == mine.hash
            ),
        )
        .where(of_these, mine.kind.in_(SHARED_KINDS))
        .group_by(Referral.id)
    )
    found.update((referral_id, f"same_{kind}") for referral_id, kind in common)
    referrer, friend = aliased(Member), aliased(Member)
    people = (
        sa.select(Referral.id)
        .join(referrer, referrer.id == Referral.referrer_id)
        .join(friend, friend.id == Referral.friend_id)
        .where(of_these)
    )
    same_phone = session.scalars(people.where(referrer.phone_index == friend.phone_index))
    found.update(dict.fromkeys(same_phone, reasons.SAME_PHONE))
    earlier = sa.exists().where(
        Order.member_id == Referral.friend_id,
        Order.ordered_at < Referral.joined_at,
        Order.status != CANCELLED,
    )  # an import may bring yesterday's order tomorrow
    before = session.scalars(sa.select(Referral.id).where(of_these, earlier))
    found.update(dict.fromkeys(before, reasons.ORDERED_BEFORE))
    gone = sa.or_(referrer.erased_at.is_not(None), friend.erased_at.is_not(None))
    found.update(dict.fromkeys(session.scalars(people.where(gone)), reasons.ERASED))
    return found


def _change(row: Any, state: str, reason: str | None, rewarded_at: datetime | None = None) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": state,
        "reason": reason,
        "order_id": row.order_id,
        "ordered_at": row.ordered_at,
        "due_at": row.due_at,
        "rewarded_at": rewarded_at,
    }


def _reward(session: Session, rows: Sequence[Any], now: datetime) -> list[dict[str, Any]]:
    """Give both sides what the programme promises; the changes of the referrals."""
    granted: list[tuple[int, int, str]] = []
    wanted: dict[int, list[tuple[int | None, str]]] = defaultdict(list)
    given = _given(session, [f"{SOURCE}:{row.id}:{side}" for row in rows for side in SIDES])
    for row in rows:
        for side in SIDES:
            member_id, key = getattr(row, f"{side}_id"), f"{SOURCE}:{row.id}:{side}"
            if key in given:
                continue
            batch_id, number = getattr(row, f"{side}_batch_id"), getattr(row, f"{side}_points")
            if batch_id is not None:
                wanted[batch_id].append((member_id, key))
            elif number is not None:
                granted.append((member_id, number, key))
    refused = _issue(session, wanted, now)
    held = {row.id for row in rows if any(f"{SOURCE}:{row.id}:{side}" in refused for side in SIDES)}
    if granted:
        points.grant_many(session, granted, now, source_kind=SOURCE)
    return [
        _change(row, HELD, reasons.NO_REWARD) if row.id in held else _change(row, REWARDED, None, now)
        for row in rows
    ]


def _given(session: Session, keys: Sequence[str]) -> set[str]:
    """The keys that were rewarded before: with what the programme said then, and that is enough."""
    lots = session.scalars(
        sa.select(PointsLot.source_id).where(
            PointsLot.source_kind == SOURCE, among(session, PointsLot.source_id, keys)
        )
    )
    codes = session.scalars(sa.select(Coupon.issue_key).where(among(session, Coupon.issue_key, keys)))
    return {*lots, *codes}


def _issue(session: Session, wanted: dict[int, list[tuple[int | None, str]]], now: datetime) -> set[str]:
    """Issue codes of each batch (a handful: two of each programme); the keys that got none."""
    batches = {
        batch.id: batch
        for batch in session.scalars(sa.select(CouponBatch).where(CouponBatch.id.in_(list(wanted))))
    }
    refused: set[str] = set()
    for batch_id, rows in sorted(wanted.items()):
        batch, keys = batches[batch_id], {key for _, key in rows}
        if batch.archived_at is not None or (batch.ends_at is not None and batch.ends_at <= now):
            refused |= keys
        else:
            refused |= keys - set(coupons.issue(session, batch, rows, now))
    return refused
