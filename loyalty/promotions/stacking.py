"""The evaluation: promotions applied to a basket in one order. Pure; the time is the basket's ``at``.

Guarantees: priority descending, then id, whatever the order of the input. An exclusive promotion that
applies to the untouched basket applies alone; of several the first. Of a group the first that applies.
Conditions are tested on what earlier promotions left. Every promotion is either applied or rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from zoneinfo import ZoneInfo

from loyalty.lots import earned
from loyalty.promotions.benefits import Effect, effect
from loyalty.promotions.conditions import unmet
from loyalty.promotions.model import (
    Applied,
    Basket,
    Gift,
    Moment,
    Points,
    Priced,
    PricedLine,
    Promotion,
    Reason,
    Rejected,
)
from loyalty.promotions.state import State


def in_order(promotions: Iterable[Promotion]) -> list[Promotion]:
    """Priority descending, then id."""
    return sorted(promotions, key=lambda promotion: (-promotion.priority, promotion.id))


def evaluate(
    basket: Basket,
    promotions: Sequence[Promotion],
    zone: ZoneInfo,
    points_per_unit: Decimal = Decimal(1),
) -> Priced:
    """Price a basket. ``zone`` is the shop's: weekdays, member days and birthdays are of its calendar.

    ``points_per_unit``: what an order earns for a major unit, where the basket does not say; multipliers
    of points multiply that.
    """
    state = State(basket, Moment(basket.at, basket.at.astimezone(zone).date()))
    done: list[tuple[Promotion, Effect]] = []
    rejected: list[Rejected] = []
    ordered = in_order(promotions)
    alone = next((one for one in ordered if one.exclusive and isinstance(_try(one, state), Effect)), None)
    if alone is not None:
        rejected = [_kept_out(one, state, alone) for one in ordered if one is not alone]
        ordered = [alone]
    winners: dict[str, str] = {}
    for promotion in ordered:
        found = _try(promotion, state, winners)
        if isinstance(found, Reason):
            rejected.append(Rejected(promotion.id, found))
            continue
        state.take(found.shares, found.shipping)
        done.append((promotion, found))
        if promotion.group is not None:
            winners[promotion.group] = promotion.id
    return _answer(state, done, rejected, _rate(basket, points_per_unit))


def _rate(basket: Basket, otherwise: Decimal) -> Decimal:
    return otherwise if basket.points_per_unit is None else basket.points_per_unit


def _try(promotion: Promotion, state: State, winners: dict[str, str] | None = None) -> Effect | Reason:
    """What the promotion does to the basket as it stands, or the first reason why it does nothing."""
    closed = _closed(promotion, state.basket)
    if closed is not None:
        return closed
    for condition in promotion.conditions:
        reason = unmet(condition, state)
        if reason is not None:
            return reason
    if winners and promotion.group in winners:
        return Reason("group", {"by": winners[promotion.group]})
    return effect(promotion.benefit, state)


def _closed(promotion: Promotion, basket: Basket) -> Reason | None:
    """What rules a promotion out whatever lies in the basket."""
    if promotion.currency is not None and promotion.currency != basket.currency:
        return Reason("currency", {"currency": promotion.currency})
    if promotion.starts_at is not None and basket.at < promotion.starts_at:
        return Reason("not_started", {"at": promotion.starts_at})
    if promotion.ends_at is not None and basket.at >= promotion.ends_at:
        return Reason("ended", {"at": promotion.ends_at})
    if promotion.code is not None and promotion.code not in basket.codes:
        return Reason("code")
    if promotion.stock is not None and promotion.used >= promotion.stock:
        return Reason("sold_out", {"stock": promotion.stock})
    return _member_limit(promotion, basket)


def _member_limit(promotion: Promotion, basket: Basket) -> Reason | None:
    """A limit a member holds for members: nobody known has none left."""
    if promotion.per_member is None and promotion.per_day is None:
        return None
    facts = {"limit": promotion.per_member, "per_day": promotion.per_day, "known": True}
    if basket.member is None or basket.member.id is None:
        return Reason("member_limit", {**facts, "known": False})
    if promotion.per_member is not None and promotion.taken >= promotion.per_member:
        return Reason("member_limit", {**facts, "per_day": None})
    if promotion.per_day is not None and promotion.taken_today >= promotion.per_day:
        return Reason("member_limit", {**facts, "limit": None})
    return None


def _kept_out(promotion: Promotion, state: State, alone: Promotion) -> Rejected:
    """Beside an exclusive promotion: a reason of its own says more than the other one's name."""
    found = _try(promotion, state)
    own = found if isinstance(found, Reason) else Reason("exclusive", {"by": alone.id})
    return Rejected(promotion.id, own)


def _answer(
    state: State, done: list[tuple[Promotion, Effect]], rejected: list[Rejected], rate: Decimal
) -> Priced:
    basket = state.basket
    adjustments: list[list[tuple[str, int]]] = [[] for _ in basket.lines]
    for promotion, found in done:
        for place, amount in found.shares:
            adjustments[place].append((promotion.id, amount))
    lines = tuple(
        PricedLine(line.id, line.subtotal, line.subtotal - total, total, tuple(taken))
        for line, total, taken in zip(basket.lines, state.totals, adjustments, strict=True)
    )
    subtotal, rest = sum(line.subtotal for line in lines), sum(state.totals)
    base = earned(rest, basket.currency, rate) if _multiplies(done) else 0
    applied = tuple(
        Applied(
            promotion.id,
            sum(amount for _, amount in found.shares) + found.shipping,
            _points(promotion, base),
        )
        for promotion, found in done
    )
    gifts = [(one.id, one.benefit) for one, _ in done if isinstance(one.benefit, Gift)]
    return Priced(
        currency=basket.currency,
        lines=lines,
        subtotal=subtotal,
        discount=subtotal - rest,
        shipping=basket.shipping,
        shipping_discount=basket.shipping - state.shipping,
        total=rest + state.shipping,
        gifts=tuple((promotion, gift.sku, gift.quantity) for promotion, gift in gifts),
        points=sum(one.points for one in applied),
        applied=applied,
        rejected=tuple(rejected),
    )


def _multiplies(done: list[tuple[Promotion, Effect]]) -> bool:
    return any(isinstance(one.benefit, Points) and one.benefit.times for one, _ in done)


def _points(promotion: Promotion, base: int) -> int:
    """Points on top of the order's own: an amount, or what a multiplier adds to them (rounded down)."""
    benefit = promotion.benefit
    if not isinstance(benefit, Points):
        return 0
    return benefit.amount or base * ((benefit.times or 100) - 100) // 100
