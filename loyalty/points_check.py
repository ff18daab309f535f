"""The points ledger computed anew from its entries: lots, debts, holds, transfers, and the sum of it all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from loyalty.lots import CREATION, EXPIRE, HOLD, RECEIVE, REFUND, RELEASE, REPAY, REVOKE, SPEND, TRANSFER
from loyalty.models import PointsEntry, PointsHold, PointsHoldLot, PointsLot, PointsTransfer


@dataclass(frozen=True)
class Difference:
    """Where a stored number is not what the entries say."""

    member_id: int
    lot_id: int | None
    what: str
    stored: int
    computed: int


@dataclass(frozen=True)
class Totals:
    """Every point ever issued, by what became of it: ``issued`` is the sum of the others."""

    issued: int
    available: int
    pending: int
    held: int
    spent: int
    expired: int
    revoked: int
    """Taken back, and kept for debts."""

    @property
    def conserved(self) -> bool:
        rest = self.available + self.pending + self.held + self.spent + self.expired + self.revoked
        return self.issued == rest


def totals(session: Session, now: datetime, member_id: int | None = None) -> Totals:
    """The points of a member, or of all; what is left in a lot that is over counts as expired."""
    mine = sa.true() if member_id is None else PointsEntry.member_id == member_id
    by_kind = {
        kind: int(total)
        for kind, total in session.execute(
            sa.select(PointsEntry.kind, sa.func.sum(PointsEntry.delta))
            .where(PointsEntry.lot_id.is_not(None), mine)
            .group_by(PointsEntry.kind)
        )
    }
    over = sa.and_(PointsLot.expires_at.is_not(None), PointsLot.expires_at <= now)
    usable = sa.and_(~over, PointsLot.available_at <= now)
    of_lots = sa.select(
        sa.func.coalesce(sa.func.sum(sa.case((usable, PointsLot.remaining), else_=0)), 0),
        sa.func.coalesce(sa.func.sum(sa.case((over, PointsLot.remaining), else_=0)), 0),
        sa.func.coalesce(sa.func.sum(PointsLot.remaining), 0),
    )
    if member_id is not None:
        of_lots = of_lots.where(PointsLot.member_id == member_id)
    available, gone, remaining = (int(each) for each in session.execute(of_lots).one())

    def taken(*kinds: str) -> int:
        return -sum(by_kind.get(kind, 0) for kind in kinds)

    return Totals(
        # What was received left another member's lot: it was issued once.
        issued=-taken(*(kind for kind in CREATION if kind != RECEIVE)) - taken(TRANSFER, RECEIVE),
        available=available,
        pending=remaining - available - gone,
        held=taken(HOLD, RELEASE),
        spent=taken(SPEND, REFUND),
        expired=taken(EXPIRE) + gone,
        revoked=taken(REVOKE, REPAY),
    )


def check(session: Session) -> list[Difference]:
    """Compute every lot and debt anew from the entries; each difference found, none when all is well."""
    return [
        *_wrong_lots(session),
        *_entries_without_lot(session),
        *_overpaid_debts(session),
        *_wrong_holds(session),
        *_wrong_transfers(session),
    ]


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


def _wrong_holds(session: Session) -> list[Difference]:
    """Lots whose entries hold another number than the open holds say; holds that differ from their lots."""
    open_shares = (
        sa.select(PointsHoldLot.lot_id, sa.func.sum(PointsHoldLot.points).label("points"))
        .join(PointsHold, PointsHold.id == PointsHoldLot.hold_id)
        .where(PointsHold.state == "held")
        .group_by(PointsHoldLot.lot_id)
        .subquery()
    )
    entries = (
        sa.select(
            PointsEntry.lot_id,
            sa.func.min(PointsEntry.member_id).label("member"),
            (-sa.func.sum(PointsEntry.delta)).label("points"),
        )
        .where(PointsEntry.kind.in_((HOLD, RELEASE)), PointsEntry.lot_id.is_not(None))
        .group_by(PointsEntry.lot_id)
        .subquery()
    )
    stored = sa.func.coalesce(open_shares.c.points, 0)
    by_lot = session.execute(
        sa.select(entries.c.member, entries.c.lot_id, stored, entries.c.points)
        .outerjoin(open_shares, open_shares.c.lot_id == entries.c.lot_id)
        .where(stored != entries.c.points)
        .order_by(entries.c.lot_id)
    )
    found = [Difference(member, lot, "held", int(have), int(said)) for member, lot, have, said in by_lot]
    total = sa.func.coalesce(sa.func.sum(PointsHoldLot.points), 0)
    by_hold = session.execute(
        sa.select(PointsHold.id, PointsHold.member_id, PointsHold.points, total)
        .outerjoin(PointsHoldLot, PointsHoldLot.hold_id == PointsHold.id)
        .group_by(PointsHold.id, PointsHold.member_id, PointsHold.points)
        .having(total != PointsHold.points)
        .order_by(PointsHold.id)
    )
    return [
        *found,
        *(
            Difference(member, None, f"hold {id_}", int(have), int(sum_))
            for id_, member, have, sum_ in by_hold
        ),
    ]


def _wrong_transfers(session: Session) -> list[Difference]:
    """Transfers whose two sides do not sum to 0, or are not what the transfer says."""
    sides = (
        sa.select(
            PointsEntry.source_id.label("source"),
            sa.func.sum(PointsEntry.delta).label("sum"),
            sa.func.sum(sa.case((PointsEntry.kind == RECEIVE, PointsEntry.delta), else_=0)).label("received"),
        )
        .where(PointsEntry.kind.in_((TRANSFER, RECEIVE)))
        .group_by(PointsEntry.source_id)
        .subquery()
    )
    source = sa.literal("transfer:") + sa.cast(PointsTransfer.id, sa.Text)
    got, balance = sa.func.coalesce(sides.c.received, 0), sa.func.coalesce(sides.c.sum, 0)
    rows = session.execute(
        sa.select(PointsTransfer.id, PointsTransfer.giver_id, PointsTransfer.points, got, balance)
        .outerjoin(sides, sides.c.source == source)
        .where(sa.or_(got != PointsTransfer.points, balance != 0))
        .order_by(PointsTransfer.id)
    )
    return [
        Difference(giver, None, f"transfer {id_}", int(have), int(received) - int(off))
        for id_, giver, have, received, off in rows
    ]
