"""Earning points on orders, and taking them back when an order is refunded.

Guarantees: an order earns once, however often it is imported or its to-do row is seen; a refund uses
the snapshot taken at accrual, never today's rule; partial refunds are cumulative to the point. An
order whose points are taken back and that is paid again afterwards earns nothing more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from core.models import Order, OrderLine, Todo
from loyalty import ledger, multipliers, segment_members
from loyalty.earn_rules import EarnRule as EarnRule
from loyalty.earn_rules import load_rule as load_rule
from loyalty.earn_rules import save_rule as save_rule
from loyalty.lots import DEBT, EARN, EXPIRE, REVOKE, Change, earned, refund_due
from loyalty.models import PointsEntry, PointsLot
from loyalty.multipliers import Multiplier
from loyalty.tiers import review
from loyalty.tiers import store as tiers

QUEUE = "loyalty.orders"
ORDER = "order"
"""``source_kind`` of lots earned on orders."""
PAID_STATUSES = ("paid", "refunded")
_Goods = tuple[str | None, str | None]
"""(sku, category): what lines are told apart by, so that their order does not matter."""


@dataclass(frozen=True)
class Accrued:
    """To-do rows done, points earned, points taken back (debts included), points that repaid debts,
    members who reached a higher tier."""

    todos: int = 0
    earned: int = 0
    taken_back: int = 0
    repaid: int = 0
    promoted: int = 0


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
    lots, lines = _lots_of_orders(session, order_ids), _paid_lines(session, order_ids)
    fresh = [order for order in orders if order.id not in lots]
    new_points, repaid = _earn(session, fresh, lines, _terms(session, rule, fresh), now)
    taken = _take_back(session, [o for o in orders if o.id in lots], lines, lots, now)
    session.execute(sa.delete(Todo).where(among(session, Todo.id, (todo_id for todo_id, _ in todos))))
    # By now the orders and the ledger say what counts: who reached a tier has it at once.
    promoted = review.promote(session, {order.member_id for order in fresh}, now)
    return Accrued(len(todos), new_points, taken, repaid, promoted)


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


def _paid_lines(session: Session, order_ids: Iterable[int]) -> dict[int, dict[_Goods, int]]:
    """What is still paid for, by order and goods; an order without lines has no entry."""
    rows = session.execute(
        sa.select(
            OrderLine.order_id,
            OrderLine.sku,
            OrderLine.category,
            sa.func.sum(sa.case((OrderLine.refunded, 0), else_=OrderLine.amount_minor)),
        )
        .where(among(session, OrderLine.order_id, order_ids))
        .group_by(OrderLine.order_id, OrderLine.sku, OrderLine.category)
    )
    found: dict[int, dict[_Goods, int]] = defaultdict(dict)
    for order_id, sku, category, amount in rows:
        found[order_id][sku, category] = int(amount)
    return found


@dataclass(frozen=True)
class Terms:
    """All that decides what an order earns, for a batch of orders."""

    rule: EarnRule
    multipliers: Sequence[Multiplier] = ()
    tier_of: Mapping[int, str] = field(default_factory=dict)
    """Member → tier."""
    tier_times: Mapping[str, str] = field(default_factory=dict)
    segments_of: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """Member → the segments that a rule or a multiplier names, as of the newest refresh."""


def _terms(session: Session, rule: EarnRule, orders: Sequence[Any]) -> Terms:
    if not orders:
        return Terms(rule)
    times = [order.ordered_at for order in orders]
    members = {order.member_id for order in orders}
    campaigns = multipliers.between(session, min(times), max(times))
    asked = bool(rule.segment_times) or any(one.segments for one in campaigns)
    return Terms(
        rule,
        campaigns,
        tiers.tier_of(session, members),
        tiers.multipliers(session),
        segment_members.of(session, members) if asked else {},
    )


def _earn(
    session: Session,
    orders: Iterable[Any],
    lines: Mapping[int, Mapping[_Goods, int]],
    terms: Terms,
    now: datetime,
) -> tuple[int, int]:
    """Points earned, and the part of them that repaid debts."""
    lots = [lot for order in orders if (lot := new_lot(order, lines.get(order.id), terms, now)) is not None]
    if not lots:
        return 0, 0
    new = ledger.issue(session, lots, EARN, now, prefix="order:")
    if terms.rule.rolling:
        ends: dict[int, datetime] = {}
        for lot in lots:
            if lot.expires_at is not None:
                ends[lot.member_id] = max(lot.expires_at, ends.get(lot.member_id, lot.expires_at))
        ledger.move_ends(session, ends, now)
    repaid = ledger.repay_debts(session, {lot.member_id: f"lot:{lot.id}" for lot in new}, now)
    return sum(lot.points for lot in new), repaid


def new_lot(
    order: Any, lines: Mapping[_Goods, int] | None, terms: Terms, now: datetime
) -> ledger.NewLot | None:
    """The lot an order earns; None: it earns nothing, or its points would be over by now. Pure.

    The snapshot keeps the rate and, where goods earn differently, what each was paid and multiplied by.
    """
    if order.status not in PAID_STATUSES or order.net_minor <= 0:
        return None
    rule, tier = terms.rule, terms.tier_of.get(order.member_id)
    tier_times = terms.tier_times.get(tier, "1") if tier else "1"
    segments = terms.segments_of.get(order.member_id, frozenset())
    segment_times, segment = rule.times_of_segments(segments)
    paid = lines or {(None, None): order.net_minor}
    weighted = [
        (sku, category, amount, _times(terms, order.ordered_at, tier, segments, sku, category))
        for (sku, category), amount in sorted(paid.items(), key=str)
        if amount > 0
    ]
    weight = sum((amount * Fraction(times) for _, _, amount, times in weighted), Fraction(0))
    points = earned(weight * Fraction(tier_times) * Fraction(segment_times), order.currency, rule.rate)
    expires_at = rule.expiry(order.ordered_at)
    if points <= 0 or (expires_at is not None and expires_at <= now):
        return None
    snapshot: dict[str, Any] = {
        "base_minor": order.net_minor,
        "currency": order.currency,
        "points_per_unit": rule.points_per_unit,
        "pending_days": rule.pending_days,
        "expires": rule.expires,
    }
    if tier_times != "1":
        snapshot |= {"tier": tier, "tier_times": tier_times}
    if segment_times != "1":
        snapshot |= {"segment": segment, "segment_times": segment_times}
    if any(times != "1" for *_, times in weighted):
        snapshot["lines"] = [list(line) for line in weighted]
    available_at = order.ordered_at + timedelta(days=rule.pending_days)
    return ledger.NewLot(
        order.member_id, points, available_at, expires_at, ORDER, str(order.id), snapshot, rule.rolling
    )


def _times(
    terms: Terms,
    at: datetime,
    tier: str | None,
    segments: Collection[str],
    sku: str | None,
    category: str | None,
) -> str:
    """What a line is multiplied by, as text: ``0`` where it is excluded."""
    rule = terms.rule
    if category in rule.excluded_categories or sku in rule.excluded_skus:
        return "0"
    own = rule.category_times.get(category, "1") if category is not None else "1"
    campaign = multipliers.times_of(terms.multipliers, at=at, tier=tier, category=category, segments=segments)
    return str(Fraction(own) * Fraction(campaign))


def weights(
    snapshot: Mapping[str, Any], net_minor: int, lines: Mapping[_Goods, int] | None
) -> tuple[Fraction, Fraction]:
    """(what the points were computed from, what of it is still paid for), as the accrual weighed it. Pure.

    Goods are told apart by SKU and category; what was added to the order since counts for nothing.
    """
    listed = snapshot.get("lines")
    if listed is None:
        return Fraction(snapshot["base_minor"]), Fraction(net_minor)
    base = sum((amount * Fraction(times) for _, _, amount, times in listed), Fraction(0))
    paid = lines or {}
    net = sum(
        (
            min(amount, paid.get((sku, category), 0)) * Fraction(times)
            for sku, category, amount, times in listed
        ),
        Fraction(0),
    )
    return base, net if net_minor > 0 else Fraction(0)


def _take_back(
    session: Session,
    orders: Iterable[Any],
    lines: Mapping[int, Mapping[_Goods, int]],
    lots: Mapping[int, Any],
    now: datetime,
) -> int:
    """Take points back for what was refunded since; how many (what became a debt included)."""
    due = {}
    expired = _expired(session, [lot.id for lot in lots.values()])
    taken = _taken(session, lots)
    for order in sorted(orders, key=lambda each: each.id):
        lot = lots[order.id]
        over = lot.expires_at is not None and lot.expires_at <= now
        still_paid = order.net_minor if order.status in PAID_STATUSES else 0
        base, net = weights(lot.snapshot, still_paid, lines.get(order.id))
        points = refund_due(
            issued=lot.issued,
            base_minor=base,
            net_minor=net,
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
