"""Reading and writing the points ledger: locks, holdings, entries. What it means is in lots.py.

Guarantees: every change of a lot's ``remaining`` is one entry in the same transaction; entries are
only ever inserted. Callers lock the members before they read what decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert, update_each
from core.db import among_named, dialect_of, lock_rows, named
from core.errors import Conflict
from core.models import Member
from core.warehouse.replica import mark
from loyalty.lots import CREATION, Change, Holding, Lot
from loyalty.models import PointsEntry, PointsLot

POINTS = "points"
"""Name of the fact table of the warehouse."""

_LOT_COLUMNS = (
    "member_id",
    "issued",
    "remaining",
    "available_at",
    "expires_at",
    "source_kind",
    "source_id",
    "snapshot",
    "rolling",
    "created_at",
)
_ENTRY_COLUMNS = ("member_id", "lot_id", "kind", "source_id", "origin", "delta", "at")


class NotEnough(Conflict):
    """Fewer points can be spent than were asked for."""

    reason = "insufficient_points"


class NewLot(NamedTuple):
    """A lot to be issued; unique by (source_kind, source_id)."""

    member_id: int
    points: int
    available_at: datetime
    expires_at: datetime | None
    source_kind: str
    source_id: str
    snapshot: Mapping[str, Any]
    rolling: bool = False


class IssuedLot(NamedTuple):
    """A lot that was new."""

    id: int
    member_id: int
    points: int
    source_id: str


def lock_members(session: Session, member_ids: Iterable[int]) -> None:
    """Lock the members' rows in id order: whoever changes a member's points holds this lock."""
    lock_rows(session, Member.__table__, sorted(set(member_ids)))


def debts(session: Session, member_ids: Iterable[int]) -> dict[int, int]:
    """Points owed, of the members who owe any."""
    dialect = dialect_of(session)
    rows = session.execute(_debts(dialect), {"members": named(dialect, member_ids)})
    return {member_id: -int(owed) for member_id, owed in rows}


@lru_cache
def _debts(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    entries = PointsEntry.__table__.c
    total = sa.func.sum(entries.delta)
    return (
        sa.select(entries.member_id, total)
        .where(among_named(dialect, entries.member_id, "members"), entries.lot_id.is_(None))
        .group_by(entries.member_id)
        .having(total < 0)
    )


def holdings(session: Session, member_ids: Sequence[int], now: datetime) -> dict[int, Holding]:
    """What each of the members holds in lots that are not over at ``now``, and owes."""
    found = {member_id: Holding(member_id) for member_id in member_ids}
    dialect = dialect_of(session)
    lots = session.execute(_live_lots(dialect), {"members": named(dialect, found), "now": now})
    for member_id, lot_id, remaining, available_at, expires_at in lots:
        found[member_id].lots.append(Lot(lot_id, remaining, available_at, expires_at))
    for member_id, owed in debts(session, found).items():
        found[member_id].debt = owed
    return found


@lru_cache
def _live_lots(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    lots = PointsLot.__table__.c
    now = sa.bindparam("now", type_=lots.expires_at.type)
    return sa.select(lots.member_id, lots.id, lots.remaining, lots.available_at, lots.expires_at).where(
        among_named(dialect, lots.member_id, "members"),
        lots.remaining > 0,
        sa.or_(lots.expires_at.is_(None), lots.expires_at > now),
    )


def not_over(now: datetime) -> sa.ColumnElement[bool]:
    """Condition: the lot has not expired, swept or not."""
    return sa.or_(PointsLot.expires_at.is_(None), PointsLot.expires_at > now)


def write(session: Session, changes: Sequence[Change], now: datetime) -> None:
    """Write entries and move their lots. A repeated entry is an error: its caller did not look."""
    if not changes:
        return
    bulk_insert(
        session,
        PointsEntry.__table__,
        _ENTRY_COLUMNS,
        ((c.member_id, c.lot_id, c.kind, c.source_id, c.origin, c.delta, now) for c in changes),
    )
    moved: Counter[int] = Counter()
    for change in changes:
        if change.lot_id is not None and change.kind not in CREATION:
            moved[change.lot_id] += change.delta
    if moved:
        # Relative, so that the table's check constraint stands behind the lock.
        deltas = [{"id": lot, "remaining": delta} for lot, delta in sorted(moved.items())]
        update_each(session, PointsLot.__table__, "id", deltas, add=True)
    mark(session, POINTS, [now])


def issue(
    session: Session,
    lots: Iterable[NewLot],
    kind: str,
    now: datetime,
    *,
    prefix: str = "",
    entry_source: str | None = None,
) -> list[IssuedLot]:
    """Write lots with their entries (source: ``entry_source``, or ``prefix`` + source id); the new ones.

    The members are locked by the caller, who also lets the new lots repay debts.
    """
    rows = (
        (lot.member_id, lot.points, lot.points, *lot[2:6], dict(lot.snapshot), lot.rolling, now)
        for lot in lots
    )
    found = bulk_insert(
        session,
        PointsLot.__table__,
        _LOT_COLUMNS,
        rows,
        conflict=["source_kind", "source_id"],
        returning=["id", "member_id", "issued", "source_id"],
    )
    new = [IssuedLot(*row) for row in found]
    sources = [f"{prefix}{lot.source_id}" if entry_source is None else entry_source for lot in new]
    changes = [
        Change(lot.member_id, lot.id, kind, source, lot.points)
        for lot, source in zip(new, sources, strict=True)
    ]
    write(session, changes, now)
    return new


def move_ends(session: Session, ends: Mapping[int, datetime], now: datetime) -> None:
    """Move the end of every live rolling lot of the members to ``ends`` (member → time), never back.

    One statement for all of them: earning or spending is activity, and inactivity is what ends them.
    """
    if not ends:
        return
    lots = PointsLot.__table__
    assert isinstance(lots, sa.Table)
    statement = (
        sa.update(lots)
        .where(
            lots.c.member_id == sa.bindparam("member"),
            lots.c.rolling,
            lots.c.expires_at > now,
            lots.c.expires_at < sa.bindparam("end", type_=lots.c.expires_at.type),
        )
        .values(expires_at=sa.bindparam("end", type_=lots.c.expires_at.type))
    )
    session.connection().execute(
        statement, [{"member": member, "end": end} for member, end in sorted(ends.items())]
    )


def repay_debts(session: Session, source_of: dict[int, str], now: datetime) -> int:
    """Let what just came in (``source_of``: member → source id) repay debts; the points it took."""
    owing = debts(session, source_of)
    if not owing:
        return 0
    changes = [
        change
        for member_id, holding in sorted(holdings(session, list(owing), now).items())
        for change in holding.repay(source_of[member_id])
    ]
    write(session, changes, now)
    return sum(change.delta for change in changes if change.lot_id is None)
