"""Promotions that meet in one basket, and what happens then, in words of both languages. Pure.

What happens is not guessed: a plain basket that satisfies both promotions is priced by the evaluation itself.
Two promotions that can never meet (in time, goods, tiers, order numbers or days) are no conflict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import combinations
from typing import Any
from zoneinfo import ZoneInfo

from loyalty.promotions.explain import Words, money_text
from loyalty.promotions.model import (
    EVERYTHING,
    FULL,
    Basket,
    BuyXGetY,
    FixedPrice,
    FreeShipping,
    Gift,
    Line,
    Percent,
    Points,
    Priced,
    Promotion,
    Tiered,
)
from loyalty.promotions.overlaps import (
    Catalog,
    exclude_each_other,
    scope_of,
    scopes_meet,
    span,
    together,
    touches,
)
from loyalty.promotions.stacking import evaluate, in_order

BOTH, EXCLUSIVE, GROUP, UNDER_MINIMUM, NOTHING_LEFT, DEEP = (
    "both", "exclusive", "group", "under_minimum", "nothing_left", "deep",
)  # fmt: skip
MAX_COMPARED = 100
"""Promotions that are compared with each other: 4,950 pairs at most."""
_AMOUNTS = ("min_subtotal", "max_subtotal", "min_quantity")
_PLAIN = 10_000
"""Minor units of a unit in a plain basket, where nothing asks for more."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """``first`` comes before ``second`` in the order of the evaluation, or shuts it out.

    ``facts`` are what the words need; ``others`` are further promotions of a combination that takes too much.
    """

    kind: str
    first: str
    second: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.first, self.second, *self.others)


def conflicts(
    promotions: Sequence[Promotion],
    zone: ZoneInfo,
    *,
    currency: str = "CNY",
    catalog: Catalog | None = None,
    max_points: int | None = None,
) -> list[Conflict]:
    """Pairs that can meet in one basket, in order; combinations that take too much last.

    ``max_points``: basis points that promotions may take off together (None: any). Of more than
    :data:`MAX_COMPARED` promotions only the first in order are compared.
    """
    ordered = in_order(promotions)[:MAX_COMPARED]
    found = [
        conflict
        for a, b in combinations(ordered, 2)
        for conflict in (_pair(a, b, zone, currency, catalog),)
        if conflict is not None
    ]
    return found + ([] if max_points is None else too_deep(ordered, zone, max_points, catalog))


def _can_meet(a: Promotion, b: Promotion, zone: ZoneInfo) -> bool:
    if together(a, b) is None or (a.currency and b.currency and a.currency != b.currency):
        return False
    return not exclude_each_other(a, b, zone)


def _pair(
    a: Promotion, b: Promotion, zone: ZoneInfo, currency: str, catalog: Catalog | None
) -> Conflict | None:
    """``a`` comes first in order."""
    if not _can_meet(a, b, zone):
        return None
    if a.exclusive or b.exclusive:
        # Alone in the whole basket, whatever goods the other is about; b before a where only b is exclusive.
        first, second = (a, b) if a.exclusive else (b, a)
        return Conflict(EXCLUSIVE, first.id, second.id)
    if a.group is not None and a.group == b.group:
        return Conflict(GROUP, a.id, b.id, {"group": a.group})
    if not (_same_target(a, b, catalog) or _lowers_minimum(a, b, catalog)):
        return None
    return _tried(a, b, a.currency or b.currency or currency, catalog)


def _same_target(a: Promotion, b: Promotion, catalog: Catalog | None) -> bool:
    """Whether both benefits are about the same: goods in both scopes, the shipping, or points."""
    scopes = scope_of(a), scope_of(b)
    if scopes[0] is not None and scopes[1] is not None:
        return scopes_meet(scopes[0], scopes[1], catalog)
    return any(isinstance(a.benefit, kind) and isinstance(b.benefit, kind) for kind in (FreeShipping, Points))


def _lowers_minimum(a: Promotion, b: Promotion, catalog: Catalog | None) -> bool:
    """Whether what ``a`` takes off can bring the goods of a condition of ``b`` under it."""
    return any(one.type == "min_subtotal" and touches(one, scope_of(a), catalog) for one in b.conditions)


# --- A plain basket, priced -----------------------------------------------------------------------------


def _tried(a: Promotion, b: Promotion, currency: str, catalog: Catalog | None) -> Conflict | None:
    """What the evaluation makes of both in the smallest plain basket that each alone applies to."""
    plain_a, plain_b = _plain(a, None, catalog), _plain(b, a, catalog)
    basket = _basket([plain_a, plain_b], currency)
    facts = {"priority": a.priority, "currency": currency}
    alone = [bool(_priced(basket, one).applied) for one in (plain_a, plain_b)]
    if all(alone):
        rejected = {one.promotion: one.reason.code for one in _priced(basket, plain_a, plain_b).rejected}
        code = rejected.get(b.id)
        left = _priced(basket, plain_a)
        if code in ("min_subtotal", "tier_amount"):
            more = {"basket": left.subtotal, "left": left.subtotal - left.discount, "need": _minimum(plain_b)}
            return Conflict(UNDER_MINIMUM, a.id, b.id, facts | more)
        if code in ("no_effect", "no_shipping"):
            return Conflict(NOTHING_LEFT, a.id, b.id, facts)
    return Conflict(BOTH, a.id, b.id, facts) if _same_target(a, b, catalog) else None


def _plain(promotion: Promotion, before: Promotion | None, catalog: Catalog | None) -> Promotion:
    """The promotion with nothing but its amounts, over all goods. Conditions about goods that ``before``
    does not lower are left out: it cannot change them."""
    conditions = tuple(
        replace(one, scope=EVERYTHING)
        for one in promotion.conditions
        if one.type in _AMOUNTS and (before is None or touches(one, scope_of(before), catalog))
    )
    benefit = promotion.benefit
    if not isinstance(benefit, FreeShipping | Gift | Points):
        benefit = replace(benefit, scope=EVERYTHING)
    return Promotion(promotion.id, benefit, conditions, promotion.priority)


def _minimum(promotion: Promotion) -> int:
    found = [one.number for one in promotion.conditions if one.type == "min_subtotal"]
    benefit = promotion.benefit
    if isinstance(benefit, Tiered) and benefit.by == "amount":
        found.append(benefit.tiers[0].start)
    return max(found, default=0)


def _units(promotion: Promotion) -> int:
    found = [one.number for one in promotion.conditions if one.type == "min_quantity"]
    benefit = promotion.benefit
    if isinstance(benefit, Tiered) and benefit.by == "quantity":
        found.append(benefit.tiers[0].start)
    if isinstance(benefit, BuyXGetY):
        found.append(benefit.buy + benefit.get)
    if isinstance(benefit, FixedPrice):
        found.append(benefit.count)
    return max(found, default=1)


def _basket(promotions: Sequence[Promotion], currency: str) -> Basket:
    """One line that is just enough for each of the promotions, and some shipping."""
    quantity = max(map(_units, promotions))
    needed = max(map(_minimum, promotions))
    if not needed:
        bundles = [one.benefit for one in promotions if isinstance(one.benefit, FixedPrice)]
        needed = max([_PLAIN * quantity, *(2 * one.price * quantity // one.count for one in bundles)])
    line = Line("1", "plain", None, -(-needed // quantity), quantity)
    return Basket(currency, _NOON, (line,), shipping=1_000)


_NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
_ANY_ZONE = ZoneInfo("UTC")


def _priced(basket: Basket, *promotions: Promotion) -> Priced:
    return evaluate(basket, promotions, _ANY_ZONE)


# --- Too much together ----------------------------------------------------------------------------------


def too_deep(
    ordered: Sequence[Promotion], zone: ZoneInfo, max_points: int, catalog: Catalog | None = None
) -> list[Conflict]:
    """Combinations whose percentages, one on what the other left, take more than ``max_points`` off a good.

    Worst case: a basket that reaches the highest tiers and no limit of an amount. One promotion alone is
    somebody's wish, so it is not named.
    """
    steep = sorted(
        ((points, one) for one in ordered if not one.exclusive for points in (_deepest(one),) if points),
        key=lambda found: (-found[0], found[1].id),
    )
    found: dict[tuple[str, ...], Conflict] = {}
    for moment in sorted({span(one)[0] for _, one in steep}):
        active = [(points, one) for points, one in steep if span(one)[0] <= moment < span(one)[1]]
        for anchor in active:
            chosen = _stack(anchor, active, zone, catalog)
            left = FULL ** len(chosen)
            for points, _ in chosen:
                left = left * (FULL - points) // FULL
            off = FULL - left // FULL ** (len(chosen) - 1)
            if len(chosen) > 1 and off > max_points:
                names = tuple(one.id for one in in_order(one for _, one in chosen))
                facts = {"points": off, "most": max_points}
                found[tuple(sorted(names))] = Conflict(DEEP, names[0], names[1], facts, names[2:])
    return _largest(found)


def _stack(
    anchor: tuple[int, Promotion],
    active: Sequence[tuple[int, Promotion]],
    zone: ZoneInfo,
    catalog: Catalog | None,
) -> list[tuple[int, Promotion]]:
    """The steepest promotions that can all meet the anchor and each other."""
    chosen = [anchor]
    for points, one in active:
        if one is not anchor[1] and all(_stacks(one, other, zone, catalog) for _, other in chosen):
            chosen.append((points, one))
    return chosen


def _stacks(a: Promotion, b: Promotion, zone: ZoneInfo, catalog: Catalog | None) -> bool:
    same_group = a.group is not None and a.group == b.group
    return not same_group and _same_target(a, b, catalog) and _can_meet(a, b, zone)


def _largest(found: Mapping[tuple[str, ...], Conflict]) -> list[Conflict]:
    """Without combinations that are part of another one that was found."""
    sets = [frozenset(names) for names in found]
    return [one for names, one in found.items() if not any(frozenset(names) < other for other in sets)]


def _deepest(promotion: Promotion) -> int:
    """Basis points that the promotion takes off at most, where it is a percentage; else 0."""
    benefit = promotion.benefit
    if isinstance(benefit, Percent):
        return benefit.points
    if isinstance(benefit, Tiered):
        return max((tier.points or 0 for tier in benefit.tiers), default=0)
    if isinstance(benefit, BuyXGetY):
        return benefit.points * benefit.get // (benefit.buy + benefit.get)
    return 0


# --- Words ----------------------------------------------------------------------------------------------


def in_words(conflict: Conflict, titles: Mapping[str, str]) -> Words:
    """What happens when the promotions meet, in English and Chinese."""
    names = [f"“{titles.get(name, name)}”" for name in conflict.names]
    return _WORDS[conflict.kind](names, conflict.facts)


def _both(names: list[str], facts: Mapping[str, Any]) -> Words:
    a, b = names
    return (
        f"Both apply: {a} first (priority {facts['priority']}), then {b} on what is left.",
        f"同时生效：先 {a}（优先级 {facts['priority']}），再按剩余金额计算 {b}。",
    )


def _exclusive(names: list[str], _facts: Mapping[str, Any]) -> Words:
    a, b = names
    return (
        f"Only {a}: it is exclusive, so {b} does not apply beside it.",
        f"仅 {a} 生效：它不与其他优惠同享，{b} 不生效。",
    )


def _group(names: list[str], facts: Mapping[str, Any]) -> Words:
    a, b = names
    return (
        f"Only {a}: {b} is of the same group “{facts['group']}”.",
        f"仅 {a} 生效：{b} 与它同属“{facts['group']}”组。",
    )


def _under_minimum(names: list[str], facts: Mapping[str, Any]) -> Words:
    a, b = names
    texts = (money_text(facts[name], facts["currency"]) for name in ("basket", "left", "need"))
    (basket, basket_zh), (left, left_zh), (need, need_zh) = texts
    return (
        f"{b} cannot apply to a basket of {basket}: {a} brings it to {left}, under its minimum of {need}.",
        f"购物车为 {basket_zh} 时 {b} 无法生效：{a} 使金额降至 {left_zh}，低于其门槛 {need_zh}。",
    )


def _nothing_left(names: list[str], _facts: Mapping[str, Any]) -> Words:
    a, b = names
    return (f"Only {a}: it leaves nothing for {b} to lower.", f"仅 {a} 生效：之后 {b} 已无可优惠金额。")


def _deep(names: list[str], facts: Mapping[str, Any]) -> Words:
    off, most = (f"{facts[name] / 100:g}" for name in ("points", "most"))
    english = ", ".join(names[:-1]) + f" and {names[-1]}"
    return (
        f"{english} take up to {off} % off together; more than {most} % is to be looked at.",
        f"{'、'.join(names)} 叠加最多优惠 {off}%，超过设定的 {most}%，请确认。",
    )


_WORDS = {
    BOTH: _both,
    EXCLUSIVE: _exclusive,
    GROUP: _group,
    UNDER_MINIMUM: _under_minimum,
    NOTHING_LEFT: _nothing_left,
    DEEP: _deep,
}
