"""Points: granted, taken back, expired, and counted.

Guarantees (per member and in total): issued = available + pending + held + spent + expired + taken back;
the member's row is locked before anything is read that decides; every change has a natural key, so that
a repetition changes nothing. Earning is in :mod:`loyalty.earning` (orders) and
:mod:`loyalty.earn_events`, burning in :mod:`loyalty.burning`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from core.errors import Conflict, InvalidInput
from loyalty import ledger, requests
from loyalty.earn_rules import EarnRule, load_rule
from loyalty.lots import EXPIRE, GRANT, Change
from loyalty.models import PointsHold, PointsHoldLot, PointsLot
from loyalty.points_check import Difference as Difference
from loyalty.points_check import check as check

MAX_GRANTS = 50_000
MAX_POINTS = 10**9


@dataclass(frozen=True)
class Balance:
    """Points of a member: to spend now, not yet usable, owed; and when the next ones expire."""

    available: int = 0
    pending: int = 0
    debt: int = 0
    next_expiry: datetime | None = None
    held: int = 0
    """Set aside by holds whose time is not over."""


@dataclass(frozen=True)
class Granted:
    """Points granted, and what could be spent right after (less where a debt was repaid)."""

    points: int
    available: int


def grant_many(
    session: Session,
    rows: Sequence[tuple[int, int, str]],
    now: datetime,
    *,
    source_kind: str = "run",
    rule: EarnRule | None = None,
) -> int:
    """Give at most 50,000 (member id, points, source id) rows their points; how many were new.

    Idempotent on (source_kind, source id): a repetition changes nothing, one with other points or
    another member is a Conflict. Usable at once; they expire as ``rule`` says (None: the stored one).
    A debt is repaid first.
    """
    if len(rows) > MAX_GRANTS:
        raise InvalidInput(
            f"At most {MAX_GRANTS} grants are made at once; {len(rows)} were asked for.", "rows"
        )
    if any(not 0 < points <= MAX_POINTS for _, points, _ in rows):
        raise InvalidInput(f"A grant has 1 to {MAX_POINTS} points.", "points")
    rule = rule or load_rule(session)
    expires_at, snapshot = rule.expiry(now), dict[str, Any]()
    ledger.lock_members(session, (member_id for member_id, _, _ in rows))
    lots = (
        ledger.NewLot(member, points, now, expires_at, source_kind, source, snapshot, rule.rolling)
        for member, points, source in rows
    )
    new = ledger.issue(session, lots, GRANT, now)
    if len(new) < len(rows):
        _check_same_grants(session, rows, source_kind)
    if rule.rolling and expires_at is not None:
        ledger.move_ends(session, {lot.member_id: expires_at for lot in new}, now)
    ledger.repay_debts(session, {lot.member_id: f"lot:{lot.id}" for lot in new}, now)
    return len(new)


def take_back(session: Session, source_kind: str, granted: Mapping[str, int], now: datetime) -> None:
    """Undo grants (source id → member id): from their own lots, then the member's others, then as a debt."""
    ledger.lock_members(session, granted.values())
    lots = session.execute(
        sa.select(PointsLot.id, PointsLot.member_id, PointsLot.issued, PointsLot.source_id)
        .where(PointsLot.source_kind == source_kind, among(session, PointsLot.source_id, granted))
        .order_by(PointsLot.id)
    ).all()
    held = ledger.holdings(session, sorted({lot.member_id for lot in lots}), now)
    changes = [
        change
        for lot in lots
        for change in held[lot.member_id].take_back(
            lot.issued, lot.id, f"undo:{lot.source_id}", f"{source_kind}:{lot.source_id}"
        )
    ]
    ledger.write(session, changes, now)


def grant(session: Session, member_id: int, points: int, *, idempotency_key: str, now: datetime) -> Granted:
    """Grant points on request of a shop's system; the same key with the same body answers the same."""
    check_points(points)
    body = {"do": GRANT, "member": member_id, "points": points}
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Granted(**before)
    source_id = requests.fingerprint({"key": idempotency_key})
    grant_many(session, [(member_id, points, source_id)], now, source_kind=GRANT)
    answer = Granted(points, balance(session, member_id, now).available)
    requests.remember(session, idempotency_key, asdict(answer))
    return answer


def _check_same_grants(session: Session, rows: Sequence[tuple[int, int, str]], source_kind: str) -> None:
    stored = {
        source_id: (member_id, issued)
        for source_id, member_id, issued in session.execute(
            sa.select(PointsLot.source_id, PointsLot.member_id, PointsLot.issued).where(
                PointsLot.source_kind == source_kind,
                among(session, PointsLot.source_id, {source_id for _, _, source_id in rows}),
            )
        )
    }
    for member_id, points, source_id in rows:
        if stored[source_id] != (member_id, points):
            raise Conflict(
                f"Points were granted for “{source_id}” before, to another member or in another number; "
                "send a new key with a new grant."
            )


def check_points(points: int) -> None:
    """InvalidInput unless points is 1 to 10^9."""
    if not 0 < points <= MAX_POINTS:
        raise InvalidInput(f"Take 1 to {MAX_POINTS} points.", "points")


def expire(session: Session, now: datetime, limit: int) -> int:
    """Remove what is left of at most ``limit`` lots that are over, once; how many lots there were."""
    due = session.execute(
        sa.select(PointsLot.id, PointsLot.member_id)
        .where(PointsLot.remaining > 0, PointsLot.expires_at <= now)
        .order_by(PointsLot.expires_at, PointsLot.id)
        .limit(limit)
    ).all()
    ledger.lock_members(session, (member_id for _, member_id in due))
    left = session.execute(  # read again under the lock: another worker may have been here
        sa.select(PointsLot.id, PointsLot.member_id, PointsLot.remaining).where(
            among(session, PointsLot.id, (lot_id for lot_id, _ in due)), PointsLot.remaining > 0
        )
    ).all()
    changes = [Change(member, lot, EXPIRE, f"lot:{lot}", -remaining) for lot, member, remaining in left]
    ledger.write(session, changes, now)
    return len(changes)


def balance(session: Session, member_id: int, now: datetime) -> Balance:
    """A member's points as of ``now``."""
    return balances(session, [member_id], now)[member_id]


def balances(session: Session, member_ids: Iterable[int], now: datetime) -> dict[int, Balance]:
    """The points of each of the members as of ``now``, in three queries; without any: zeros."""
    ids = list(member_ids)
    usable = PointsLot.available_at <= now
    rows = session.execute(
        sa.select(
            PointsLot.member_id,
            sa.func.sum(sa.case((usable, PointsLot.remaining), else_=0)),
            sa.func.sum(sa.case((usable, 0), else_=PointsLot.remaining)),
            sa.func.min(sa.case((usable, PointsLot.expires_at))),
        )
        .where(among(session, PointsLot.member_id, ids), PointsLot.remaining > 0, ledger.not_over(now))
        .group_by(PointsLot.member_id)
    )
    lots = {member_id: (int(now_), int(later), expiry) for member_id, now_, later, expiry in rows}
    owed, held = ledger.debts(session, ids), _held(session, ids, now)
    found = {}
    for member_id in ids:
        available, pending, expiry = lots.get(member_id, (0, 0, None))
        set_aside, back, back_expiry = held.get(member_id, (0, 0, None))
        # A hold whose time is over counts as released, swept or not: a debt takes from it first.
        repaid = min(back, owed.get(member_id, 0))
        if back > repaid:
            expiry = min((end for end in (expiry, back_expiry) if end is not None), default=None)
        found[member_id] = Balance(
            available + back - repaid, pending, owed.get(member_id, 0) - repaid, expiry, set_aside
        )
    return found


def _held(
    session: Session, member_ids: Iterable[int], now: datetime
) -> dict[int, tuple[int, int, datetime | None]]:
    """By member: points set aside; points of holds whose time is over, and when the first of these end."""
    live = PointsHold.expires_at > now
    back = sa.and_(~live, ledger.not_over(now))
    rows = session.execute(
        sa.select(
            PointsHold.member_id,
            sa.func.sum(sa.case((live, PointsHoldLot.points), else_=0)),
            sa.func.sum(sa.case((back, PointsHoldLot.points), else_=0)),
            sa.func.min(sa.case((back, PointsLot.expires_at))),
        )
        .join(PointsHoldLot, PointsHoldLot.hold_id == PointsHold.id)
        .join(PointsLot, PointsLot.id == PointsHoldLot.lot_id)
        .where(among(session, PointsHold.member_id, member_ids), PointsHold.state == "held")
        .group_by(PointsHold.member_id)
    )
    return {member_id: (int(now_), int(free), end) for member_id, now_, free, end in rows}
