"""Coupons on imported orders: a paid order redeems its code, a refund gives back its share, one that is
wholly undone the code itself.

Guarantees: an order redeems a code once, however often it is imported or its to-do row is seen, and
whether the till had redeemed it through the API before or not; whatever decides is read after the
codes' rows are locked, as of the time of the order and not of the import. Codes of other systems are
left alone. A code of ours that may not be used leaves an audit row with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.bulk import bulk_insert
from core.db import among, lock_rows
from core.errors import Conflict
from core.models import AuditEntry, Member, Order, Todo
from core.warehouse.replica import mark
from loyalty import budgets
from loyalty.batches import EXPIRED, HELD, REDEEMED, day_start, zone_of
from loyalty.issuing import issue_detailed
from loyalty.models import Coupon, CouponBatch, CouponHold, Redemption
from loyalty.redemptions import COLUMNS, REDEMPTIONS
from loyalty.requests import fingerprint
from loyalty.settlement_plan import (
    BACK,
    Limits,
    Part,
    Plan,
    Use,
    basket_before,
    decide,
    discount_of,
    is_gone,
    money_of,
    normalised,
)
from loyalty.uses import (
    Refused,
    give_codes_back,
    locked_coupons,
    resolve,
)

__all__ = ["QUEUE", "Settled", "basket_before", "discount_of", "locked_coupons", "settle_orders"]
QUEUE = "loyalty.coupons"
ACTOR = "settlement"
"""Who the audit rows of refusals name."""


@dataclass(frozen=True)
class Settled:
    """To-do rows done, codes redeemed, codes given back, codes of ours that were refused."""

    todos: int = 0
    redeemed: int = 0
    rolled_back: int = 0
    refused: int = 0
    returned: int = 0
    """Redemptions of which a part came back."""


def settle_orders(session: Session, now: datetime, limit: int) -> Settled:
    """Work off at most ``limit`` rows of the queue. Several workers may run at once."""
    todos = session.execute(
        sa.select(Todo.id, Todo.subject_id)
        .where(Todo.queue == QUEUE)
        .order_by(Todo.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not todos:
        return Settled()
    order_ids = sorted({order_id for _, order_id in todos})
    coupons, orders = _locked(session, order_ids)
    named, refusals = _named(session, orders, coupons)
    redemptions = _redemptions(session, orders, coupons)
    by_id = {coupon.id: coupon for coupon in coupons.values()}
    limits = _limits(session, by_id, orders, now)
    plan = decide(orders, named, redemptions, limits, by_id)
    plan.refusals.extend(refusals)
    _end_holds(session, plan, now)
    _return_parts(session, plan.parts)
    _give_back(session, plan.back, by_id, now)
    redeemed = _redeem(session, plan.uses)
    budgets.move(session, money_of(plan, by_id))
    refused = _keep_refusals(session, plan.refusals, now)
    session.execute(sa.delete(Todo).where(among(session, Todo.id, (todo_id for todo_id, _ in todos))))
    return Settled(len(todos), redeemed, len(plan.back), refused, len(plan.parts))


def _orders(session: Session, order_ids: Iterable[int]) -> Sequence[Any]:
    return session.execute(
        sa.select(
            Order.id,
            Order.external_id,
            Order.member_id,
            Order.ordered_at,
            Order.status,
            Order.currency,
            Order.total_minor,
            Order.discount_minor,
            Order.refunded_minor,
            Order.coupon_code,
        )
        .where(among(session, Order.id, order_ids))
        .order_by(Order.ordered_at, Order.id)
    ).all()


def _locked(session: Session, order_ids: Sequence[int]) -> tuple[dict[str, Any], Sequence[Any]]:
    """The codes that may be concerned, by code, locked; and the orders as they are after that.

    An import may change an order at any time: it is read again under the lock, and an import that
    commits later has left a to-do row whose worker waits for this lock.
    """
    orders = _orders(session, order_ids)
    named = sa.select(Coupon.id).where(
        among(session, Coupon.code, {normalised(order.coupon_code) for order in orders})
    )
    refs = {order.external_id for order in orders}
    used = sa.select(Redemption.coupon_id).where(
        among(session, Redemption.order_ref, refs), Redemption.rolled_back_at.is_(None)
    )
    held = sa.select(CouponHold.coupon_id).where(
        among(session, CouponHold.order_ref, refs), CouponHold.state == HELD
    )
    ids = session.scalars(sa.union(named, used, held)).all()
    _lock_members(session, ids, orders)
    coupons = session.execute(locked_coupons().where(among(session, Coupon.id, ids))).all()
    return {coupon.code: coupon for coupon in coupons}, _orders(session, order_ids)


def _lock_members(session: Session, ids: Sequence[int], orders: Sequence[Any]) -> None:
    """Where a batch counts a member's uses of a day, the members come first: the till does so too."""
    counted = sa.exists().where(
        among(session, Coupon.id, ids),
        CouponBatch.id == Coupon.batch_id,
        CouponBatch.daily_per_member_limit.is_not(None),
    )
    limited = sa.exists().where(
        among(session, CouponBatch.generic_code, {normalised(order.coupon_code) for order in orders}),
        sa.or_(CouponBatch.per_member_limit.is_not(None), CouponBatch.daily_per_member_limit.is_not(None)),
    )
    if session.scalar(sa.select(sa.or_(counted, limited))):
        lock_rows(session, Member.__table__, sorted({order.member_id for order in orders}))


def _named(
    session: Session, orders: Sequence[Any], coupons: dict[str, Any]
) -> tuple[dict[int, Any], list[tuple[Any, Refused]]]:
    """The code that each order names, by order id. Of a code that many use it is the order's own one,
    made where there is none yet (and added to ``coupons``); limits that forbid it are refusals."""
    found = {order.id: coupons.get(normalised(order.coupon_code) or "") for order in orders}
    names = {normalised(order.coupon_code) for order in orders if found[order.id] is None}
    batches = {
        batch.generic_code: batch
        for batch in session.scalars(
            sa.select(CouponBatch).where(among(session, CouponBatch.generic_code, names))
        )
    }
    if not batches:
        return found, []
    own = _own_codes(session, orders, [batch.id for batch in batches.values()])
    groups: dict[tuple[str, datetime], list[Any]] = defaultdict(list)
    for order in orders:
        batch = batches.get(normalised(order.coupon_code)) if found[order.id] is None else None
        if batch is None or is_gone(order) or (batch.id, order.external_id) in own:
            continue
        day = day_start(order.ordered_at, zone_of(batch.timezone))
        groups[str(batch.generic_code), day].append(order)
    refusals: list[tuple[Any, Refused]] = []
    for (code, _), some in groups.items():  # a handful: the batches and days of one lot of orders
        own.update(_make_own(session, batches[code], some, refusals))
    made = locked_coupons().where(among(session, Coupon.code, set(own.values()) - coupons.keys()))
    coupons.update({coupon.code: coupon for coupon in session.execute(made)})
    for order in orders:
        batch = batches.get(normalised(order.coupon_code)) if found[order.id] is None else None
        if batch is not None:
            found[order.id] = coupons.get(own.get((batch.id, order.external_id), ""))
    return found, refusals


def _own_codes(
    session: Session, orders: Sequence[Any], batch_ids: Sequence[int]
) -> dict[tuple[int, str], str]:
    """Codes of these batches that were used on, or are held for, the orders: (batch, order) → code."""
    refs = {order.external_id for order in orders}
    tables = ((Redemption, Redemption.id > 0), (CouponHold, CouponHold.state == HELD))
    own: dict[tuple[int, str], str] = {}
    for table, live in tables:
        rows = session.execute(
            sa.select(Coupon.batch_id, table.order_ref, Coupon.code)
            .join(Coupon, Coupon.id == table.coupon_id)
            .where(among(session, table.order_ref, refs), among(session, Coupon.batch_id, batch_ids), live)
            .order_by(table.id)
        )
        own.update({(batch_id, ref): code for batch_id, ref, code in rows})
    return own


def _make_own(
    session: Session, batch: CouponBatch, orders: Sequence[Any], refusals: list[tuple[Any, Refused]]
) -> dict[tuple[int, str], str]:
    """A code of their own for orders of one day that name the code that many use."""
    keys = {order.id: f"generic:{batch.id}:{fingerprint({'order': order.id})}" for order in orders}
    rows = [(order.member_id, keys[order.id]) for order in orders]
    try:
        issued = issue_detailed(session, batch, rows, min(order.ordered_at for order in orders))
    except Conflict as error:  # archived, or over when the orders were placed
        reason = "archived" if batch.archived_at is not None else "expired"
        refusals.extend((order, Refused(reason, str(error))) for order in orders)
        return {}
    for order in orders:
        reason = issued.refused.get(keys[order.id], "")
        if reason:
            refusals.append((order, Refused(reason, f"The offer “{batch.name}”: {reason}.")))
    return {
        (batch.id, order.external_id): issued.codes[keys[order.id]]
        for order in orders
        if keys[order.id] in issued.codes
    }


def _limits(session: Session, by_id: Mapping[int, Any], orders: Sequence[Any], now: datetime) -> Limits:
    limits = Limits(now)
    found = session.scalars(
        sa.select(CouponHold)
        .where(among(session, CouponHold.coupon_id, by_id), CouponHold.state == HELD)
        .execution_options(populate_existing=True)
    )
    limits.holds = {held.coupon_id: held for held in found}
    batches = sorted({coupon.batch_id for coupon in by_id.values() if coupon.budget_minor is not None})
    if batches:
        lock_rows(session, CouponBatch.__table__, batches)
        left = CouponBatch.budget_minor - CouponBatch.budget_used_minor
        limits.money = {
            batch: int(money or 0)
            for batch, money in session.execute(
                sa.select(CouponBatch.id, left).where(among(session, CouponBatch.id, batches))
            )
        }
    zones = {c.batch_id: zone_of(c.timezone) for c in by_id.values() if c.daily_per_member_limit is not None}
    if zones:
        _count_days(session, limits, zones, orders, now)
    return limits


def _count_days(
    session: Session, limits: Limits, zones: Mapping[int, Any], orders: Sequence[Any], now: datetime
) -> None:
    """Uses and live holds of the orders' members, from the day before the first order to the last's."""
    members = {order.member_id for order in orders}
    first = min(order.ordered_at for order in orders) - timedelta(days=2)
    used = (
        sa.select(Coupon.batch_id, Redemption.member_id, Redemption.redeemed_at)
        .join(Coupon, Coupon.id == Redemption.coupon_id)
        .where(
            among(session, Coupon.batch_id, zones),
            among(session, Redemption.member_id, members),
            Redemption.rolled_back_at.is_(None),
            Redemption.redeemed_at >= first,
        )
    )
    held = (
        sa.select(Coupon.batch_id, CouponHold.member_id)
        .join(Coupon, Coupon.id == CouponHold.coupon_id)
        .where(
            among(session, Coupon.batch_id, zones),
            among(session, CouponHold.member_id, members),
            CouponHold.state == HELD,
            CouponHold.expires_at > now,
        )
    )
    for batch_id, member_id, at in session.execute(used):
        limits.day[batch_id, member_id, day_start(at, zones[batch_id])] += 1
    for batch_id, member_id in session.execute(held):
        limits.day[batch_id, member_id, day_start(now, zones[batch_id])] += 1


def _redemptions(session: Session, orders: Sequence[Any], coupons: Mapping[str, Any]) -> Sequence[Any]:
    """What happened to these codes: every live use, and every use on one of these orders."""
    taken = sa.and_(
        among(session, Redemption.coupon_id, (coupon.id for coupon in coupons.values())),
        Redemption.rolled_back_at.is_(None),
    )
    here = among(session, Redemption.order_ref, {order.external_id for order in orders})
    return session.execute(
        sa.select(
            Redemption.id,
            Redemption.coupon_id,
            Redemption.order_ref,
            Redemption.idempotency_key,
            Redemption.redeemed_at,
            Redemption.rolled_back_at,
            Redemption.rollback_key,
            Redemption.basket_minor,
            Redemption.discount_minor,
            Redemption.returned_basket_minor,
            Redemption.returned_discount_minor,
        )
        .where(sa.or_(taken, here))
        .order_by(Redemption.id)
    ).all()


def _end_holds(session: Session, plan: Plan, now: datetime) -> None:
    for held in plan.over:
        resolve(session, held, EXPIRED, now)
    for use in plan.uses:
        if use.held is not None:
            resolve(session, use.held, REDEEMED, now)


def _return_parts(session: Session, parts: Sequence[Part]) -> None:
    table = Redemption.__table__
    assert isinstance(table, sa.Table)
    if not parts:
        return
    session.connection().execute(
        sa.update(table)
        .where(table.c.id == sa.bindparam("redemption"))
        .values(returned_basket_minor=sa.bindparam("basket"), returned_discount_minor=sa.bindparam("off")),
        [
            {"redemption": part.found.id, "basket": part.basket_minor, "off": part.discount_minor}
            for part in parts
        ],
    )
    mark(session, REDEMPTIONS, [part.found.redeemed_at for part in parts])


def _give_back(session: Session, back: Sequence[Any], by_id: Mapping[int, Any], now: datetime) -> None:
    if not back:
        return
    session.execute(
        sa.update(Redemption)
        .where(among(session, Redemption.id, (found.id for found in back)))
        .values(
            rolled_back_at=now,
            rollback_key=sa.literal(BACK) + sa.cast(Redemption.id, sa.String),
            returned_basket_minor=Redemption.basket_minor,
            returned_discount_minor=Redemption.discount_minor,
        ),
        execution_options={"synchronize_session": False},
    )
    give_codes_back(session, [by_id[found.coupon_id] for found in back], now)
    mark(session, REDEMPTIONS, [found.redeemed_at for found in back])


def _redeem(session: Session, uses: Sequence[Use]) -> int:
    """Write the uses; how many were new."""
    if not uses:
        return 0
    rows = (
        (
            use.coupon.id,
            use.order.member_id,
            use.order.external_id,
            use.basket_minor,
            use.discount_minor,
            use.order.currency,
            use.order.ordered_at,
            use.key,
            fingerprint({"code": use.coupon.code, "order": use.order.id}),
            *use.returned_minor,
        )
        for use in uses
    )
    new = bulk_insert(
        session,
        Redemption.__table__,
        COLUMNS,
        rows,
        conflict=["idempotency_key"],
        returning=["coupon_id"],
    )
    session.execute(
        sa.update(Coupon)
        .where(among(session, Coupon.id, (coupon_id for (coupon_id,) in new)))
        .values(state=REDEEMED),
        execution_options={"synchronize_session": False},
    )
    mark(session, REDEMPTIONS, [use.order.ordered_at for use in uses])
    return len(new)


def _keep_refusals(session: Session, refusals: Sequence[tuple[Any, Refused]], now: datetime) -> int:
    """An audit row a refusal; one that is there already is not repeated with every import."""
    if not refusals:
        return 0
    known = {
        (entry.object_id, entry.detail.get("order_id"), entry.detail.get("reason"))
        for entry in session.scalars(
            sa.select(AuditEntry).where(
                AuditEntry.object_type == "coupon",
                among(session, AuditEntry.object_id, {normalised(o.coupon_code) for o, _ in refusals}),
                AuditEntry.action == "refuse",
            )
        )
    }
    for order, refusal in refusals:
        code = str(normalised(order.coupon_code))
        if (code, order.id, refusal.reason) in known:
            continue
        detail = {
            "order": order.external_id,
            "order_id": order.id,
            "reason": refusal.reason,
            "message": str(refusal),
        }
        audit.record(session, ACTOR, "refuse", "coupon", code, now, detail)
    return len(refusals)
