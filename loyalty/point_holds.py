"""Points set aside for a checkout: held, captured in whole or part, released, or over by their time.

Guarantees: what is held can be spent by nobody else; a hold resolves once, and what is not captured goes
back to the lots it came from (what returns to a lot that is over expires at once; a debt is repaid first);
holds, captures, releases and the sweep take the member's lock before they read what decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import among, among_named, dialect_of, named
from core.errors import Conflict, InvalidInput, NotFound
from loyalty import earn_rules, ledger, requests
from loyalty.ledger import NotEnough
from loyalty.lots import EXPIRE, FOREVER, HOLD, RELEASE, SPEND, Change
from loyalty.models import PointsHold, PointsHoldLot, PointsLot
from loyalty.points import balance, check_points

HOLD_MINUTES = 30
MAX_HOLD_MINUTES = 24 * 60
HELD, CAPTURED, RELEASED, EXPIRED = "held", "captured", "released", "expired"
"""States of a hold."""


class HoldOver(Conflict):
    """The hold was resolved before, or its time is over."""

    reason = "hold_over"


@dataclass(frozen=True)
class Held:
    """A hold of ``points`` until ``expires_at``, and what could still be spent beside it."""

    hold_id: int
    points: int
    expires_at: datetime
    available: int


@dataclass(frozen=True)
class Released:
    """Points that a hold gave back, of these over at once (their lot expired); the new balance."""

    points: int
    expired: int
    available: int


def hold(
    session: Session,
    member_id: int,
    points: int,
    *,
    source_id: str,
    idempotency_key: str,
    now: datetime,
    minutes: int = HOLD_MINUTES,
) -> Held:
    """Set points aside for ``source_id``, by nearest expiry. :class:`NotEnough` if short.

    The same key with the same body answers the same again, whatever became of the hold.
    """
    check_points(points)
    if not 1 <= minutes <= MAX_HOLD_MINUTES:
        raise InvalidInput(f"Points are held for 1 to {MAX_HOLD_MINUTES} minutes.", "minutes")
    body = {"do": HOLD, "member": member_id, "points": points, "source_id": source_id, "minutes": minutes}
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Held(**{**before, "expires_at": datetime.fromisoformat(before["expires_at"])})
    ledger.lock_members(session, [member_id])
    expire_holds_of(session, [member_id], now)
    holding = ledger.holdings(session, [member_id], now)[member_id]
    available = holding.available(now)
    if available < points:
        raise NotEnough(f"The member has {available} points to spend; {points} were asked for.")
    drawn = holding.draw(points, available_at=now)
    row = PointsHold(
        member_id=member_id,
        points=points,
        source_id=source_id,
        state=HELD,
        captured=0,
        held_at=now,
        expires_at=now + timedelta(minutes=minutes),
    )
    session.add(row)
    session.flush()
    shares = ((row.id, lot, share) for lot, share in drawn)
    bulk_insert(session, PointsHoldLot.__table__, ("hold_id", "lot_id", "points"), shares)
    ledger.write(
        session, [Change(member_id, lot, HOLD, _source(row.id), -share) for lot, share in drawn], now
    )
    answer = Held(row.id, points, row.expires_at, available - points)
    requests.remember(session, idempotency_key, {**vars(answer), "expires_at": answer.expires_at.isoformat()})
    return answer


def capture(session: Session, member_id: int, hold_id: int, points: int | None, now: datetime) -> int:
    """Spend at most what is held (None: all of it) on the hold's source; the rest is released.

    Answers the points spent. NotFound: no such hold of this member. :class:`HoldOver`: it was resolved
    before or its time is over. The caller owns the idempotency key (:func:`loyalty.burning.burn`).
    """
    ledger.lock_members(session, [member_id])
    found = open_hold(session, member_id, hold_id, now)
    wanted = found.points if points is None else points
    if wanted > found.points:
        raise Conflict(f"The hold has {found.points} points; {wanted} were asked for. Burn the rest apart.")
    _resolve(session, [found], CAPTURED, now, {hold_id: wanted})
    rule = earn_rules.load_rule(session)
    end = rule.expiry(now) if rule.rolling else None
    if end is not None:
        ledger.move_ends(session, {member_id: end}, now)
    return wanted


def release(
    session: Session, member_id: int, hold_id: int, *, idempotency_key: str, now: datetime
) -> Released:
    """Give all that is held back. Refused like a capture where the hold is over."""
    body = {"do": RELEASE, "member": member_id, "hold": hold_id}
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Released(**before)
    ledger.lock_members(session, [member_id])
    found = open_hold(session, member_id, hold_id, now)
    expired = _resolve(session, [found], RELEASED, now)
    answer = Released(found.points, expired, balance(session, member_id, now).available)
    requests.remember(session, idempotency_key, vars(answer))
    return answer


def open_hold(session: Session, member_id: int, hold_id: int, now: datetime) -> Any:
    """The member's hold, which can still be resolved; the member is locked."""
    found = session.execute(
        sa.select(
            PointsHold.id,
            PointsHold.member_id,
            PointsHold.points,
            PointsHold.source_id,
            PointsHold.state,
            PointsHold.expires_at,
        ).where(PointsHold.id == hold_id, PointsHold.member_id == member_id)
    ).one_or_none()
    if found is None:
        raise NotFound(f"The member has no hold {hold_id}.")
    if found.state != HELD:
        raise HoldOver(f"The hold {hold_id} was {found.state} before; hold points anew.")
    if found.expires_at <= now:
        raise HoldOver(f"The time of the hold {hold_id} is over and its points are free; hold points anew.")
    return found


def expire_holds_of(session: Session, member_ids: Iterable[int], now: datetime) -> int:
    """Resolve the holds of locked members whose time is over; how many."""
    dialect = dialect_of(session)
    params = {"members": named(dialect, member_ids), "now": now}
    due = session.execute(_over(dialect), params).all()
    if due:
        _resolve(session, due, EXPIRED, now)
    return len(due)


@lru_cache
def _over(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    holds = PointsHold.__table__.c
    now = sa.bindparam("now", type_=holds.expires_at.type)
    return (
        sa.select(holds.id, holds.member_id, holds.points, holds.source_id)
        .where(among_named(dialect, holds.member_id, "members"), holds.state == HELD, holds.expires_at <= now)
        .order_by(holds.id)
    )


def expire_holds(session: Session, now: datetime, limit: int) -> int:
    """Resolve at most ``limit`` holds whose time is over, once; how many there were."""
    due = session.execute(
        sa.select(PointsHold.id, PointsHold.member_id)
        .where(PointsHold.state == HELD, PointsHold.expires_at <= now)
        .order_by(PointsHold.expires_at, PointsHold.id)
        .limit(limit)
    ).all()
    if not due:
        return 0
    ledger.lock_members(session, (member_id for _, member_id in due))
    # Read again under the lock: another worker, or a capture in time, may have been here.
    _expire(session, among(session, PointsHold.id, (hold_id for hold_id, _ in due)), now)
    return len(due)


def _expire(session: Session, which: sa.ColumnElement[bool], now: datetime) -> int:
    due = session.execute(
        sa.select(PointsHold.id, PointsHold.member_id, PointsHold.points, PointsHold.source_id)
        .where(which, PointsHold.state == HELD, PointsHold.expires_at <= now)
        .order_by(PointsHold.id)
    ).all()
    if due:
        _resolve(session, due, EXPIRED, now)
    return len(due)


def _source(hold_id: int) -> str:
    return f"hold:{hold_id}"


def _resolve(
    session: Session,
    holds: Sequence[Any],
    state: str,
    now: datetime,
    captured: Mapping[int, int] | None = None,
) -> int:
    """Give back what is held and spend what is captured; the points that were over at once."""
    owners = {hold.id: hold for hold in holds}
    left = dict(captured or {})
    rows = session.execute(
        sa.select(PointsHoldLot.hold_id, PointsHoldLot.lot_id, PointsHoldLot.points, PointsLot.expires_at)
        .join(PointsLot, PointsLot.id == PointsHoldLot.lot_id)
        .where(among(session, PointsHoldLot.hold_id, owners))
    ).all()
    changes: list[Change] = []
    expired = 0
    for row in sorted(rows, key=lambda each: (each.hold_id, each.expires_at or FOREVER, each.lot_id)):
        owner, source = owners[row.hold_id], _source(row.hold_id)
        changes.append(Change(owner.member_id, row.lot_id, RELEASE, source, row.points))
        spent = min(left.get(row.hold_id, 0), row.points)
        if spent:
            left[row.hold_id] -= spent
            changes.append(Change(owner.member_id, row.lot_id, SPEND, owner.source_id, -spent))
        back = row.points - spent
        if back and row.expires_at is not None and row.expires_at <= now:
            expired += back
            changes.append(Change(owner.member_id, row.lot_id, EXPIRE, source, -back))
    holds_table = PointsHold.__table__
    assert isinstance(holds_table, sa.Table)
    session.connection().execute(
        sa.update(holds_table)
        .where(holds_table.c.id == sa.bindparam("hold"), holds_table.c.state == HELD)
        .values(state=state, captured=sa.bindparam("taken"), resolved_at=now),
        [{"hold": hold_id, "taken": (captured or {}).get(hold_id, 0)} for hold_id in sorted(owners)],
    )
    ledger.write(session, changes, now)
    # A hold resolves once, so that its name is a key of the repayment too.
    ledger.repay_debts(session, {hold.member_id: _source(hold.id) for hold in reversed(holds)}, now)
    return expired
