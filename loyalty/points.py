"""Points: granted, spent, given back, expired, counted, and the ledger checked.

Guarantees (per member and in total): issued = available + pending + spent + expired + taken back;
nobody spends what is not there, however many try at once, since the member's row is locked before
anything is read that decides; every change has a natural key, so that a repetition changes nothing.
Earning on orders is in :mod:`loyalty.earning`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among, bulk_insert
from core.errors import Conflict, InvalidInput, NotFound
from loyalty import ledger, requests
from loyalty.earning import EarnRule, load_rule
from loyalty.lots import CREATION, EXPIRE, GRANT, REFUND, SPEND, Change
from loyalty.models import PointsEntry, PointsLot

MAX_GRANTS = 50_000
MAX_POINTS = 10**9


class NotEnough(Conflict):
    """Fewer points can be spent than were asked for."""

    reason = "insufficient_points"


@dataclass(frozen=True)
class Balance:
    """Points of a member: to spend now, not yet usable, owed; and when the next ones expire."""

    available: int = 0
    pending: int = 0
    debt: int = 0
    next_expiry: datetime | None = None


@dataclass(frozen=True)
class Granted:
    """Points granted, and what could be spent right after (less where a debt was repaid)."""

    points: int
    available: int


@dataclass(frozen=True)
class Spent:
    """Points spent, and what could still be spent right after."""

    points: int
    available: int


@dataclass(frozen=True)
class Refunded:
    """Points given back, of these over at once (their lot expired) and kept for a debt; the new balance."""

    points: int
    expired: int
    repaid: int
    available: int


@dataclass(frozen=True)
class Difference:
    """Where a stored number is not what the entries say."""

    member_id: int
    lot_id: int | None
    what: str
    stored: int
    computed: int


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
    expires_at = (rule or load_rule(session)).expiry(now)
    ledger.lock_members(session, (member_id for member_id, _, _ in rows))
    snapshot: dict[str, Any] = {}
    lots: Iterator[tuple[Any, ...]] = (
        (member_id, points, points, now, expires_at, source_kind, source_id, snapshot, now)
        for member_id, points, source_id in rows
    )
    new = bulk_insert(
        session,
        PointsLot.__table__,
        ledger.LOT_COLUMNS,
        lots,
        conflict=["source_kind", "source_id"],
        returning=["id", "member_id", "issued", "source_id"],
    )
    if len(new) < len(rows):
        _check_same_grants(session, rows, source_kind)
    changes = [Change(member, lot, GRANT, source, points) for lot, member, points, source in new]
    ledger.write(session, changes, now)
    ledger.repay_debts(session, {member: f"lot:{lot}" for lot, member, _, _ in new}, now)
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
    _check_points(points)
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


def spend(
    session: Session,
    member_id: int,
    points: int,
    *,
    source_id: str,
    idempotency_key: str,
    now: datetime,
) -> Spent:
    """Spend points by nearest expiry for ``source_id`` (an order, a gift). :class:`NotEnough` if short.

    The same key with the same body answers the same again; a source that spent before is a Conflict.
    """
    _check_points(points)
    body = {"do": SPEND, "member": member_id, "points": points, "source_id": source_id}
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Spent(**before)
    ledger.lock_members(session, [member_id])
    if _spent_by_lot(session, member_id, source_id):
        raise Conflict(f"Points were spent on “{source_id}” before; name another source for a new spend.")
    holding = ledger.holdings(session, [member_id], now)[member_id]
    available = holding.available(now)
    if available < points:
        raise NotEnough(f"The member has {available} points to spend; {points} were asked for.")
    drawn = holding.draw(points, available_at=now)
    ledger.write(session, [Change(member_id, lot, SPEND, source_id, -share) for lot, share in drawn], now)
    answer = Spent(points, available - points)
    requests.remember(session, idempotency_key, asdict(answer))
    return answer


def _check_points(points: int) -> None:
    if not 0 < points <= MAX_POINTS:
        raise InvalidInput(f"Take 1 to {MAX_POINTS} points.", "points")


def _spent_by_lot(session: Session, member_id: int, source_id: str) -> dict[int, int]:
    """Points of a spend that were not given back yet, by lot in the order they were taken."""
    origin = spend_origin(source_id)
    rows = session.execute(
        sa.select(PointsEntry.lot_id, -sa.func.sum(PointsEntry.delta))
        .where(
            PointsEntry.member_id == member_id,
            PointsEntry.lot_id.is_not(None),
            sa.or_(
                sa.and_(PointsEntry.kind == SPEND, PointsEntry.source_id == source_id),
                sa.and_(PointsEntry.kind == REFUND, PointsEntry.origin == origin),
            ),
        )
        .group_by(PointsEntry.lot_id)
        .order_by(sa.func.min(PointsEntry.id))
    )
    return {lot_id: int(points) for lot_id, points in rows if lot_id is not None}


def spend_origin(source_id: str) -> str:
    """What a refund's entries name as their origin."""
    return requests.fingerprint({"spend": source_id})


def refund_spend(
    session: Session,
    member_id: int,
    *,
    source_id: str,
    idempotency_key: str,
    now: datetime,
    points: int | None = None,
) -> Refunded:
    """Give spent points back to the lots they came from, the last taken first; None: all that is left.

    What returns to a lot that is over expires at once; a debt is repaid first. NotFound: nothing was
    spent on ``source_id``. Conflict: more than was spent.
    """
    if points is not None:
        _check_points(points)
    body = {"do": REFUND, "member": member_id, "points": points, "source_id": source_id}
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Refunded(**before)
    ledger.lock_members(session, [member_id])
    spent = _spent_by_lot(session, member_id, source_id)
    if not spent:
        raise NotFound(f"The member spent no points on “{source_id}”.")
    left = sum(spent.values())
    wanted = left if points is None else points
    if not 0 < wanted <= left:
        raise Conflict(f"{left} points can still be given back for “{source_id}”; {wanted} were asked for.")
    changes = _give_back(session, member_id, spent, wanted, idempotency_key, spend_origin(source_id), now)
    ledger.write(session, changes, now)
    repaid = ledger.repay_debts(session, {member_id: requests.fingerprint({"refund": idempotency_key})}, now)
    expired = -sum(change.delta for change in changes if change.kind == EXPIRE)
    answer = Refunded(wanted, expired, repaid, balance(session, member_id, now).available)
    requests.remember(session, idempotency_key, asdict(answer))
    return answer


def _give_back(
    session: Session,
    member_id: int,
    spent: dict[int, int],
    wanted: int,
    key: str,
    origin: str,
    now: datetime,
) -> list[Change]:
    over = set(
        session.scalars(
            sa.select(PointsLot.id).where(among(session, PointsLot.id, spent), ~ledger.not_over(now))
        )
    )
    changes = []
    for lot_id, taken in reversed(spent.items()):
        share = min(wanted, taken)
        wanted -= share
        if share:
            changes.append(Change(member_id, lot_id, REFUND, key, share, origin))
        if share and lot_id in over:
            changes.append(Change(member_id, lot_id, EXPIRE, key, -share))
    return changes


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
    """The points of each of the members as of ``now``, in two queries; without any: zeros."""
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
    held = {member_id: (int(now_), int(later), expiry) for member_id, now_, later, expiry in rows}
    owed = ledger.debts(session, ids)
    return {
        member_id: Balance(available, pending, owed.get(member_id, 0), expiry)
        for member_id in ids
        for available, pending, expiry in [held.get(member_id, (0, 0, None))]
    }


def check(session: Session) -> list[Difference]:
    """Compute every lot and debt anew from the entries; each difference found, none when all is well."""
    return [*_wrong_lots(session), *_entries_without_lot(session), *_overpaid_debts(session)]


def _wrong_lots(session: Session) -> list[Difference]:
    of_lot = (
        sa.select(
            PointsEntry.lot_id,
            sa.func.sum(PointsEntry.delta).label("remaining"),
            sa.func.sum(sa.case((PointsEntry.kind.in_(CREATION), PointsEntry.delta), else_=0)).label(
                "issued"
            ),
            sa.func.min(PointsEntry.member_id).label("first"),
            sa.func.max(PointsEntry.member_id).label("last"),
        )
        .where(PointsEntry.lot_id.is_not(None))
        .group_by(PointsEntry.lot_id)
        .subquery()
    )
    left, issued = sa.func.coalesce(of_lot.c.remaining, 0), sa.func.coalesce(of_lot.c.issued, 0)
    rows = session.execute(
        sa.select(PointsLot.id, PointsLot.member_id, PointsLot.remaining, PointsLot.issued, left, issued)
        .add_columns(sa.func.coalesce(of_lot.c.first, 0), sa.func.coalesce(of_lot.c.last, 0))
        .outerjoin(of_lot, of_lot.c.lot_id == PointsLot.id)
        .where(
            sa.or_(
                PointsLot.remaining != left,
                PointsLot.issued != issued,
                PointsLot.member_id != of_lot.c.first,
                PointsLot.member_id != of_lot.c.last,
            )
        )
        .order_by(PointsLot.id)
    )
    found = []
    for lot_id, member_id, remaining, stored, left_, issued_, first, last in rows:
        pairs = [("remaining", remaining, left_), ("issued", stored, issued_)]
        pairs += [("member", member_id, other) for other in sorted({first, last} - {0})]
        found += [
            Difference(member_id, lot_id, what, int(have), int(computed))
            for what, have, computed in pairs
            if have != computed
        ]
    return found


def _entries_without_lot(session: Session) -> list[Difference]:
    orphans = session.execute(
        sa.select(PointsEntry.lot_id, sa.func.min(PointsEntry.member_id), sa.func.sum(PointsEntry.delta))
        .where(
            PointsEntry.lot_id.is_not(None),
            ~sa.exists().where(PointsLot.id == PointsEntry.lot_id),
        )
        .group_by(PointsEntry.lot_id)
        .order_by(PointsEntry.lot_id)
    )
    return [Difference(member, lot_id, "missing lot", 0, int(total)) for lot_id, member, total in orphans]


def _overpaid_debts(session: Session) -> list[Difference]:
    total = sa.func.sum(PointsEntry.delta)
    overpaid = session.execute(
        sa.select(PointsEntry.member_id, total)
        .where(PointsEntry.lot_id.is_(None))
        .group_by(PointsEntry.member_id)
        .having(total > 0)
    )
    return [Difference(member, None, "debt", 0, -int(paid)) for member, paid in overpaid]
