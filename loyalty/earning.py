"""Earning points on orders, and taking them back when an order is refunded.

Guarantees: an order earns once, however often it is imported or its to-do row is seen; a refund uses
the snapshot taken at accrual, never today's rule; partial refunds are cumulative to the point. An
order whose points are taken back and that is paid again afterwards earns nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import among, bulk_insert
from core.errors import InvalidInput
from core.models import Order, Preference, Todo
from loyalty import ledger
from loyalty.lots import DEBT, EARN, EXPIRE, REVOKE, Change, add_months, earned, refund_due
from loyalty.models import PointsEntry, PointsLot

PREFERENCE = "loyalty.earn"
QUEUE = "loyalty.orders"
ORDER = "order"
"""``source_kind`` of lots earned on orders."""
PAID_STATUSES = ("paid", "refunded")
MAX_RATE = 10_000
MAX_MONTHS = 120
MAX_PENDING_DAYS = 365


@dataclass(frozen=True)
class EarnRule:
    """How orders earn: ``points_per_unit`` (a decimal as text) for each major unit of the currency.

    Points become usable ``pending_days`` after the order and expire ``expiry_months`` after they were
    earned (None: never), at the same local time in ``timezone``.
    """

    points_per_unit: str = "1"
    pending_days: int = 7
    expiry_months: int | None = 12
    timezone: str = "Asia/Shanghai"

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= MAX_RATE:
            raise InvalidInput(f"Points per unit lie between 0 and {MAX_RATE}.", "points_per_unit")
        if not 0 <= self.pending_days <= MAX_PENDING_DAYS:
            raise InvalidInput(f"Pending days lie between 0 and {MAX_PENDING_DAYS}.", "pending_days")
        if self.expiry_months is not None and not 1 <= self.expiry_months <= MAX_MONTHS:
            raise InvalidInput(
                f"Points expire after 1 to {MAX_MONTHS} months; leave it empty for never.", "expiry_months"
            )

    @property
    def rate(self) -> Decimal:
        try:
            rate = Decimal(self.points_per_unit)
        except InvalidOperation:
            rate = Decimal("NaN")
        if not rate.is_finite():
            raise InvalidInput(f"“{self.points_per_unit}” is not a number of points.", "points_per_unit")
        return rate

    def expiry(self, at: datetime) -> datetime | None:
        """When points given at ``at`` expire."""
        if self.expiry_months is None:
            return None
        return add_months(at, self.expiry_months, ZoneInfo(self.timezone))


def load_rule(session: Session) -> EarnRule:
    """The stored rule, or the defaults."""
    stored = session.get(Preference, PREFERENCE)
    return EarnRule(**stored.value) if stored is not None else EarnRule()


def save_rule(session: Session, rule: EarnRule, by: str, now: datetime) -> None:
    """Store the rule for orders that are accrued from now on; leaves an audit row."""
    session.merge(Preference(key=PREFERENCE, value=asdict(rule), updated_at=now))
    audit.record(session, by, "change", "preference", PREFERENCE, now, asdict(rule))


@dataclass(frozen=True)
class Accrued:
    """To-do rows done, points earned, points taken back (debts included), points that repaid debts."""

    todos: int = 0
    earned: int = 0
    taken_back: int = 0
    repaid: int = 0


def accrue_orders(session: Session, rule: EarnRule, now: datetime, limit: int) -> Accrued:
    """Work off at most ``limit`` rows of the queue: earn on paid orders, take back on refunded ones.

    Several workers may run at once: each takes rows that no other holds.
    """
    todos = session.execute(
        sa.select(Todo.id, Todo.subject_id)
        .where(Todo.queue == QUEUE)
        .order_by(Todo.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not todos:
        return Accrued()
    order_ids = sorted({order_id for _, order_id in todos})
    # Locked before anything is read that decides; the same order may be in another worker's hands.
    ledger.lock_members(session, _owners(session, order_ids))
    orders: Sequence[Any] = session.execute(
        sa.select(
            Order.id,
            Order.member_id,
            Order.status,
            Order.currency,
            Order.ordered_at,
            (Order.total_minor - Order.refunded_minor).label("net_minor"),
        ).where(among(session, Order.id, order_ids))
    ).all()
    lots = _lots_of_orders(session, order_ids)
    new_points, repaid = _earn(session, [o for o in orders if o.id not in lots], rule, now)
    taken = _take_back(session, [o for o in orders if o.id in lots], lots, now)
    session.execute(sa.delete(Todo).where(among(session, Todo.id, (todo_id for todo_id, _ in todos))))
    return Accrued(len(todos), new_points, taken, repaid)


def _owners(session: Session, order_ids: Iterable[int]) -> set[int]:
    """Whose points may change: the orders' members, and the members who earned on them before."""
    ids = list(order_ids)
    now_theirs = session.scalars(sa.select(Order.member_id).where(among(session, Order.id, ids)))
    earned_before = session.scalars(
        sa.select(PointsLot.member_id).where(
            PointsLot.source_kind == ORDER, among(session, PointsLot.source_id, map(str, ids))
        )
    )
    return {*now_theirs, *earned_before}


def _lots_of_orders(session: Session, order_ids: Iterable[int]) -> dict[int, Any]:
    rows = session.execute(
        sa.select(
            PointsLot.id,
            PointsLot.member_id,
            PointsLot.issued,
            PointsLot.remaining,
            PointsLot.expires_at,
            PointsLot.snapshot,
            PointsLot.source_id,
        ).where(PointsLot.source_kind == ORDER, among(session, PointsLot.source_id, map(str, order_ids)))
    )
    return {int(row.source_id): row for row in rows}


def _earn(session: Session, orders: Iterable[Any], rule: EarnRule, now: datetime) -> tuple[int, int]:
    """Points earned, and the part of them that repaid debts."""
    lots = [lot for order in orders if (lot := _lot_row(order, rule, now)) is not None]
    if not lots:
        return 0, 0
    new = bulk_insert(
        session,
        PointsLot.__table__,
        ledger.LOT_COLUMNS,
        lots,
        conflict=["source_kind", "source_id"],
        returning=["id", "member_id", "issued", "source_id"],
    )
    changes = [Change(member, lot, EARN, f"order:{order}", points) for lot, member, points, order in new]
    ledger.write(session, changes, now)
    repaid = ledger.repay_debts(session, {member: f"lot:{lot}" for lot, member, _, _ in new}, now)
    return sum(change.delta for change in changes), repaid


def _lot_row(order: Any, rule: EarnRule, now: datetime) -> tuple[Any, ...] | None:
    """The lot an order earns; None: it earns nothing, or its points would be over by now."""
    if order.status not in PAID_STATUSES or order.net_minor <= 0:
        return None
    points = earned(order.net_minor, order.currency, rule.rate)
    expires_at = rule.expiry(order.ordered_at)
    if points <= 0 or (expires_at is not None and expires_at <= now):
        return None
    snapshot = {"base_minor": order.net_minor, "currency": order.currency, **asdict(rule)}
    available_at = order.ordered_at + timedelta(days=rule.pending_days)
    return (
        order.member_id,
        points,
        points,
        available_at,
        expires_at,
        ORDER,
        str(order.id),
        snapshot,
        now,
    )


def _take_back(session: Session, orders: Iterable[Any], lots: Mapping[int, Any], now: datetime) -> int:
    """Take points back for what was refunded since; how many (what became a debt included)."""
    due = {}
    expired = _expired(session, [lot.id for lot in lots.values()])
    taken = _taken(session, lots)
    for order in sorted(orders, key=lambda each: each.id):
        lot = lots[order.id]
        over = lot.expires_at is not None and lot.expires_at <= now
        points = refund_due(
            issued=lot.issued,
            base_minor=lot.snapshot["base_minor"],
            net_minor=order.net_minor if order.status in PAID_STATUSES else 0,
            # What is left in a lot that is over counts as expired, whether it was swept yet or not.
            expired=expired.get(lot.id, 0) + (lot.remaining if over else 0),
            taken=taken.get(_origin(order.id), 0),
        )
        if points:
            due[order.id] = points
    if not due:
        return 0
    held = ledger.holdings(session, sorted({lots[order_id].member_id for order_id in due}), now)
    changes: list[Change] = []
    for order_id, points in due.items():
        lot, origin = lots[order_id], _origin(order_id)
        # Cumulative, so that each further refund of the order has a key of its own.
        source = f"{origin}:{taken.get(origin, 0) + points}"
        changes += held[lot.member_id].take_back(points, lot.id, source, origin)
    ledger.write(session, changes, now)
    return sum(due.values())


def _origin(order_id: int) -> str:
    return f"order:{order_id}"


def _expired(session: Session, lot_ids: Iterable[int]) -> dict[int, int]:
    rows = session.execute(
        sa.select(PointsEntry.lot_id, -sa.func.sum(PointsEntry.delta))
        .where(among(session, PointsEntry.lot_id, lot_ids), PointsEntry.kind == EXPIRE)
        .group_by(PointsEntry.lot_id)
    )
    return {lot_id: int(points) for lot_id, points in rows if lot_id is not None}


def _taken(session: Session, order_ids: Iterable[int]) -> dict[str, int]:
    rows = session.execute(
        sa.select(PointsEntry.origin, -sa.func.sum(PointsEntry.delta))
        .where(
            among(session, PointsEntry.origin, map(_origin, order_ids)), PointsEntry.kind.in_((REVOKE, DEBT))
        )
        .group_by(PointsEntry.origin)
    )
    return {origin: int(points) for origin, points in rows if origin is not None}
