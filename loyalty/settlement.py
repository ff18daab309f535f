"""Coupons on imported orders: a paid order redeems its code, one that is wholly undone gives it back.

Guarantees: an order redeems a code once, however often it is imported or its to-do row is seen, and
whether the till had redeemed it through the API before or not; whatever decides is read after the
codes' rows are locked, as of the time of the order and not of the import. Codes of other systems are
left alone. A code of ours that may not be used leaves an audit row with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from types import SimpleNamespace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import among, bulk_insert
from core.models import AuditEntry, Order, Todo
from core.warehouse.replica import mark
from loyalty import benefits, codes
from loyalty.batches import EXPIRED, ISSUED, REDEEMED
from loyalty.models import Coupon, Redemption
from loyalty.redemptions import REDEMPTIONS, Refused, check_basket, check_usable, locked_coupons
from loyalty.requests import fingerprint

QUEUE = "loyalty.coupons"
ACTOR = "settlement"
"""Who the audit rows of refusals name."""
_KEY = "order:"
_BACK = "settled:"
"""Starts of the idempotency keys of the redemptions and rollbacks made here."""


@dataclass(frozen=True)
class Settled:
    """To-do rows done, codes redeemed, codes given back, codes of ours that were refused."""

    todos: int = 0
    redeemed: int = 0
    rolled_back: int = 0
    refused: int = 0


class _Use(NamedTuple):
    """A redemption to write."""

    coupon: Any
    order: Any
    key: str
    basket_minor: int
    discount_minor: int


@dataclass
class _Plan:
    uses: list[_Use] = field(default_factory=list)
    back: list[Any] = field(default_factory=list)
    refusals: list[tuple[Any, Refused]] = field(default_factory=list)


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
    plan = decide(orders, coupons, _redemptions(session, orders, coupons))
    _give_back(session, plan.back, now)
    redeemed = _redeem(session, plan.uses)
    refused = _keep_refusals(session, plan.refusals, now)
    session.execute(sa.delete(Todo).where(among(session, Todo.id, (todo_id for todo_id, _ in todos))))
    return Settled(len(todos), redeemed, len(plan.back), refused)


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
    used = sa.select(Redemption.coupon_id).where(
        among(session, Redemption.order_ref, {order.external_id for order in orders}),
        Redemption.rolled_back_at.is_(None),
    )
    ids = session.scalars(sa.union(named, used)).all()
    coupons = session.execute(locked_coupons().where(among(session, Coupon.id, ids))).all()
    return {coupon.code: coupon for coupon in coupons}, _orders(session, order_ids)


def normalised(text: str | None) -> str | None:
    """An order's code as codes are stored; None where none of ours can be meant."""
    found = codes.normalise(text or "")
    return found if codes.MIN_RANDOM_CHARS < len(found) <= codes.MAX_LENGTH else None


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
        )
        .where(sa.or_(taken, here))
        .order_by(Redemption.id)
    ).all()


def decide(orders: Sequence[Any], coupons: Mapping[str, Any], redemptions: Sequence[Any]) -> _Plan:
    """What is to be written for these orders, oldest first. Pure."""
    plan = _Plan()
    taken = {found.coupon_id for found in redemptions if found.rolled_back_at is None}
    on_order = defaultdict(list)
    for found in redemptions:
        on_order[found.order_ref].append(found)
    wanted = [(order, coupons.get(normalised(order.coupon_code) or "")) for order in orders]
    # First what comes back: a code that one of these orders frees may be the one another uses.
    for order, coupon in wanted:
        for found in on_order[order.external_id]:
            if found.rolled_back_at is None and _is_undone(order, coupon, found):
                plan.back.append(found)
                taken.discard(found.coupon_id)
    for order, coupon in wanted:
        if coupon is None or _is_gone(order):
            continue
        earlier = on_order[order.external_id]
        if any(found.coupon_id == coupon.id and _stands(found) for found in earlier):
            continue
        try:
            use = _use(order, coupon, coupon.id in taken, sum(_made_here(order, found) for found in earlier))
        except Refused as refusal:
            plan.refusals.append((order, refusal))
            continue
        plan.uses.append(use)
        taken.add(coupon.id)
    return plan


def _is_gone(order: Any) -> bool:
    wholly = order.status == "refunded" and order.refunded_minor >= order.total_minor
    return bool(order.status == "cancelled" or wholly)


def _is_undone(order: Any, coupon: Any, found: Any) -> bool:
    """Whether a live use ends: its order is undone, or it was made here and names another code now."""
    if coupon is not None and found.coupon_id == coupon.id:
        return _is_gone(order)
    return _made_here(order, found)


def _made_here(order: Any, found: Any) -> bool:
    key = f"{_KEY}{order.id}"
    return bool(found.idempotency_key == key or found.idempotency_key.startswith(f"{key}:"))


def _stands(found: Any) -> bool:
    """Whether a use on the order stays as it is: it lives, or the till gave it back by itself."""
    return found.rolled_back_at is None or not found.rollback_key.startswith(_BACK)


def _use(order: Any, coupon: Any, taken: bool, times: int) -> _Use:
    """The redemption of a code on an order, made here ``times`` before. Raises Refused."""
    check_usable(_as_of(coupon, order.ordered_at, taken), order.ordered_at)
    if coupon.member_id is not None and coupon.member_id != order.member_id:
        raise Refused("other_member", f"The code {coupon.code} belongs to another member.")
    basket = basket_before(coupon.benefit, order.total_minor, order.discount_minor)
    check_basket(coupon, basket, order.currency)
    key = f"{_KEY}{order.id}" if not times else f"{_KEY}{order.id}:{times}"
    return _Use(coupon, order, key, basket, discount_of(coupon.benefit, basket, order.discount_minor))


def _as_of(coupon: Any, at: datetime, taken: bool) -> Any:
    """The code as it was when the order was placed: a file may arrive long after its end."""
    state = REDEEMED if taken else coupon.state
    was_valid = coupon.valid_until is None or coupon.valid_until > at
    if not taken and (state == REDEEMED or (state == EXPIRED and was_valid)):
        state = ISSUED
    archived_at = coupon.archived_at if coupon.archived_at is not None and coupon.archived_at <= at else None
    return SimpleNamespace(**{**coupon._mapping, "state": state, "archived_at": archived_at})


def basket_before(benefit: Mapping[str, Any], total_minor: int, discount_minor: int) -> int:
    """What the lines cost before discounts. A file without discounts tells only what was paid: then
    the coupon's own discount is added back."""
    if discount_minor > 0:
        return total_minor + discount_minor
    if benefit["type"] == "fixed":
        return total_minor + int(benefit["amount"])
    share = 1 - Decimal(benefit["percent"]) / 100
    cap = benefit.get("max_amount")
    if not share:  # the whole basket: without a cap nothing is left that would tell how much it was
        return total_minor + int(cap or 0)
    whole = int((total_minor / share).to_integral_value(ROUND_HALF_UP))
    return whole if cap is None else min(whole, total_minor + int(cap))


def discount_of(benefit: Mapping[str, Any], basket_minor: int, stated_minor: int) -> int:
    """What the code took off: the order's own discount where the batch can have given it, else the
    benefit's arithmetic (an order's discount may hold other promotions too)."""
    most = benefits.discount(benefit, basket_minor)
    return stated_minor if 0 < stated_minor <= most else most


def _give_back(session: Session, back: Sequence[Any], now: datetime) -> None:
    if not back:
        return
    session.execute(
        sa.update(Redemption)
        .where(among(session, Redemption.id, (found.id for found in back)))
        .values(rolled_back_at=now, rollback_key=sa.literal(_BACK) + sa.cast(Redemption.id, sa.String)),
        execution_options={"synchronize_session": False},
    )
    over = sa.and_(Coupon.valid_until.is_not(None), Coupon.valid_until <= now)
    session.execute(
        sa.update(Coupon)
        .where(among(session, Coupon.id, (found.coupon_id for found in back)))
        .values(state=sa.case((over, EXPIRED), else_=ISSUED)),
        execution_options={"synchronize_session": False},
    )
    mark(session, REDEMPTIONS, [found.redeemed_at for found in back])


_COLUMNS = (
    "coupon_id",
    "member_id",
    "order_ref",
    "basket_minor",
    "discount_minor",
    "currency",
    "redeemed_at",
    "idempotency_key",
    "request_hash",
)


def _redeem(session: Session, uses: Sequence[_Use]) -> int:
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
        )
        for use in uses
    )
    new = bulk_insert(
        session,
        Redemption.__table__,
        _COLUMNS,
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
