"""What imported orders do to coupons, decided purely: uses, returns, refusals. Settlement writes it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from types import SimpleNamespace
from typing import Any, NamedTuple

from loyalty import benefits, codes
from loyalty.batches import EXPIRED, ISSUED, REDEEMED, day_start, zone_of
from loyalty.returns import share
from loyalty.uses import Refused, check_basket, check_usable

KEY = "order:"
BACK = "settled:"
"""Starts of the idempotency keys of the redemptions and rollbacks made here."""


class Use(NamedTuple):
    """A redemption to write, with what came back of it already; ``held`` is the hold that it takes."""

    coupon: Any
    order: Any
    key: str
    basket_minor: int
    discount_minor: int
    returned_minor: tuple[int, int] = (0, 0)
    held: Any = None


class Part(NamedTuple):
    """What of a redemption has come back in all: of its basket, and of its discount."""

    found: Any
    basket_minor: int
    discount_minor: int


@dataclass
class Limits:
    """What decides beside the codes themselves, read under their locks.

    ``money``: left of the budgets, by batch; ``day``: uses of a member and day that a batch's daily
    limit counts, by (batch, member, first moment of the day); ``holds``: live ones, by code.
    """

    now: datetime

    money: dict[int, int] = field(default_factory=dict)
    day: Counter[tuple[int, int | None, datetime]] = field(default_factory=Counter)
    holds: dict[int, Any] = field(default_factory=dict)


@dataclass
class Plan:
    uses: list[Use] = field(default_factory=list)
    back: list[Any] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    refusals: list[tuple[Any, Refused]] = field(default_factory=list)
    over: list[Any] = field(default_factory=list)
    """Holds whose time was over, found on the way."""


def normalised(text: str | None) -> str | None:
    """An order's code as codes are stored; None where none can be meant."""
    found = codes.normalise(text or "")
    return found if 0 < len(found) <= codes.MAX_STORED else None


def decide(
    orders: Sequence[Any],
    named: Mapping[int, Any],
    redemptions: Sequence[Any],
    limits: Limits,
    by_id: Mapping[int, Any],
) -> Plan:
    """What is to be written for these orders, oldest first. ``limits`` is used up on the way."""
    plan = Plan()
    taken = {found.coupon_id for found in redemptions if found.rolled_back_at is None}
    on_order = defaultdict(list)
    for found in redemptions:
        on_order[found.order_ref].append(found)
    wanted = [(order, named.get(order.id)) for order in orders]
    # First what comes back: a code that one of these orders frees may be the one another uses.
    for order, coupon in wanted:
        for found in on_order[order.external_id]:
            if found.rolled_back_at is not None or found.coupon_id not in by_id:
                continue
            if _is_undone(order, coupon, found):
                plan.back.append(found)
                taken.discard(found.coupon_id)
                _free(limits, by_id[found.coupon_id], found.discount_minor - found.returned_discount_minor)
            elif (part := _part(order, coupon, found)) is not None:
                plan.parts.append(part)
                _free(limits, by_id[found.coupon_id], part.discount_minor - found.returned_discount_minor)
    for order, coupon in wanted:
        if coupon is None or is_gone(order):
            continue
        earlier = on_order[order.external_id]
        if any(found.coupon_id == coupon.id and _stands(found) for found in earlier):
            continue
        times = sum(_made_here(order, found) for found in earlier)
        try:
            use = _use(order, coupon, coupon.id in taken, times, limits, plan)
        except Refused as refusal:
            plan.refusals.append((order, refusal))
            continue
        plan.uses.append(use)
        taken.add(coupon.id)
    return plan


def _free(limits: Limits, coupon: Any, money: int) -> None:
    if coupon.batch_id in limits.money:
        limits.money[coupon.batch_id] += money


def _part(order: Any, coupon: Any, found: Any) -> Part | None:
    """What a partly refunded order says came back of a live use, where that is more than is known."""
    if not 0 < order.refunded_minor < order.total_minor:
        return None
    if not _made_here(order, found) and (coupon is None or found.coupon_id != coupon.id):
        return None
    basket = found.basket_minor * order.refunded_minor // order.total_minor
    if basket <= found.returned_basket_minor:
        return None
    return Part(found, basket, share(found.discount_minor, found.basket_minor, basket))


def is_gone(order: Any) -> bool:
    wholly = order.status == "refunded" and order.refunded_minor >= order.total_minor
    return bool(order.status == "cancelled" or wholly)


def _is_undone(order: Any, coupon: Any, found: Any) -> bool:
    """Whether a live use ends: its order is undone, or it was made here and names another code now."""
    if coupon is not None and found.coupon_id == coupon.id:
        return is_gone(order)
    return _made_here(order, found)


def _made_here(order: Any, found: Any) -> bool:
    key = f"{KEY}{order.id}"
    return bool(found.idempotency_key == key or found.idempotency_key.startswith(f"{key}:"))


def _stands(found: Any) -> bool:
    """Whether a use on the order stays as it is: it lives, or the till gave it back by itself."""
    return found.rolled_back_at is None or not found.rollback_key.startswith(BACK)


def _use(order: Any, coupon: Any, taken: bool, times: int, limits: Limits, plan: Plan) -> Use:
    """The redemption of a code on an order, made here ``times`` before. Raises Refused."""
    held = limits.holds.get(coupon.id)
    if held is not None and held.expires_at <= limits.now:
        plan.over.append(limits.holds.pop(coupon.id))
        _free(limits, coupon, held.discount_minor)
        held, coupon = None, SimpleNamespace(**{**coupon._mapping, "state": ISSUED})
    mine = held is not None and held.order_ref == order.external_id
    check_usable(_as_of(coupon, order.ordered_at, taken, mine), order.ordered_at)
    if coupon.member_id is not None and coupon.member_id != order.member_id:
        raise Refused("other_member", f"The code {coupon.code} belongs to another member.")
    basket = basket_before(coupon.benefit, order.total_minor, order.discount_minor)
    check_basket(coupon, basket, order.currency)
    off = discount_of(coupon.benefit, basket, order.discount_minor)
    back = basket * order.refunded_minor // order.total_minor if order.total_minor > 0 else 0
    returned = (back, share(off, basket, back)) if 0 < back < basket else (0, 0)
    if held is not None and mine:
        off = min(off, held.discount_minor)
        limits.holds.pop(coupon.id)
    else:
        _count(order, coupon, off - returned[1], limits)
    key = f"{KEY}{order.id}" if not times else f"{KEY}{order.id}:{times}"
    return Use(coupon, order, key, basket, off, returned, held if mine else None)


def _count(order: Any, coupon: Any, money: int, limits: Limits) -> None:
    """Take a use off the member's day and the batch's budget, or raise Refused."""
    if coupon.daily_per_member_limit is not None:
        day = day_start(order.ordered_at, zone_of(coupon.timezone))
        key = (coupon.batch_id, order.member_id, day)
        if limits.day[key] >= coupon.daily_per_member_limit:
            raise Refused(
                "daily_member_limit",
                f"This member used the offer “{coupon.batch}” that day as often as it may be.",
            )
    if coupon.batch_id in limits.money:
        if money > limits.money[coupon.batch_id]:
            raise Refused(
                "budget", f"The budget of the offer “{coupon.batch}” has no room for {money} minor units."
            )
        limits.money[coupon.batch_id] -= money
    if coupon.daily_per_member_limit is not None:
        limits.day[key] += 1


def _as_of(coupon: Any, at: datetime, taken: bool, mine: bool) -> Any:
    """The code as it was when the order was placed: a file may arrive long after its end. One that is
    held for this order (``mine``) is its own."""
    state = REDEEMED if taken else coupon.state
    was_valid = coupon.valid_until is None or coupon.valid_until > at
    if not taken and (state == REDEEMED or mine or (state == EXPIRED and was_valid)):
        state = ISSUED
    archived_at = coupon.archived_at if coupon.archived_at is not None and coupon.archived_at <= at else None
    values = vars(coupon) if isinstance(coupon, SimpleNamespace) else coupon._mapping
    return SimpleNamespace(**{**values, "state": state, "archived_at": archived_at})


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


def money_of(plan: Plan, by_id: Mapping[int, Any]) -> Counter[int]:
    """What the plan changes of the budgets, by batch."""
    money: Counter[int] = Counter()
    for found in plan.back:
        money[by_id[found.coupon_id].batch_id] -= found.discount_minor - found.returned_discount_minor
    for part in plan.parts:
        money[by_id[part.found.coupon_id].batch_id] -= (
            part.discount_minor - part.found.returned_discount_minor
        )
    for held in plan.over:
        money[by_id[held.coupon_id].batch_id] -= held.discount_minor
    for use in plan.uses:
        kept = 0 if use.held is None else use.held.discount_minor
        money[use.coupon.batch_id] += use.discount_minor - use.returned_minor[1] - kept
    return Counter({batch: amount for batch, amount in money.items() if amount})
