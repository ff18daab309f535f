"""Whether a promotion's conditions hold for a basket as it stands. Pure."""

from __future__ import annotations

import calendar
from collections.abc import Callable
from datetime import date

from loyalty.promotions.model import Condition, Reason
from loyalty.promotions.state import State


def unmet(condition: Condition, state: State) -> Reason | None:
    """None when the condition holds, else why it does not."""
    return _CHECKS[condition.type](condition, state)


def _min_subtotal(condition: Condition, state: State) -> Reason | None:
    have = state.total(condition.scope)
    if have >= condition.number:
        return None
    return Reason("min_subtotal", {"amount": condition.number, "have": have})


def _max_subtotal(condition: Condition, state: State) -> Reason | None:
    have = state.total(condition.scope)
    if have <= condition.number:
        return None
    return Reason("max_subtotal", {"amount": condition.number, "have": have})


def _min_quantity(condition: Condition, state: State) -> Reason | None:
    have = state.units(condition.scope)
    if have >= condition.number:
        return None
    return Reason("min_quantity", {"quantity": condition.number, "have": have})


def _nth_order(condition: Condition, state: State) -> Reason | None:
    member = state.basket.member
    if member is None or member.orders_placed is None:
        return Reason("nth_order", {"n": condition.number, "have": None})
    if member.orders_placed + 1 == condition.number:
        return None
    return Reason("nth_order", {"n": condition.number, "have": member.orders_placed + 1})


def _first_order(_condition: Condition, state: State) -> Reason | None:
    member = state.basket.member
    return None if member is not None and member.orders_placed == 0 else Reason("first_order")


def _tier(condition: Condition, state: State) -> Reason | None:
    member = state.basket.member
    if member is not None and member.tier in condition.values:
        return None
    return Reason("tier", {"in": condition.values})


def _segment(condition: Condition, state: State) -> Reason | None:
    member = state.basket.member
    if member is not None and not condition.values.isdisjoint(member.segments):
        return None
    return Reason("segment")


def _weekday(condition: Condition, state: State) -> Reason | None:
    if str(state.moment.day.isoweekday()) in condition.values:
        return None
    return Reason("weekday", {"in": condition.values})


def _member_day(condition: Condition, state: State) -> Reason | None:
    day = state.moment.day
    # The 31st of a shorter month is its last day, so that no month goes without one.
    wanted = min(condition.number, calendar.monthrange(day.year, day.month)[1])
    return None if day.day == wanted else Reason("member_day", {"day": condition.number})


def _birthday(condition: Condition, state: State) -> Reason | None:
    member = state.basket.member
    if member is None or member.birthday is None:
        return Reason("birthday", {"days": condition.number})
    if days_from_birthday(state.moment.day, *member.birthday) <= condition.number:
        return None
    return Reason("birthday", {"days": condition.number})


def days_from_birthday(day: date, month: int, of_month: int) -> int:
    """Days to the nearest birthday, before or after; 29 February is the 28th in other years."""
    found = []
    for year in (day.year - 1, day.year, day.year + 1):
        if 1 <= year <= date.max.year:
            last = calendar.monthrange(year, month)[1]
            found.append(abs((date(year, month, min(of_month, last)) - day).days))
    return min(found)


def _any(condition: Condition, state: State) -> Reason | None:
    reasons = []
    for part in condition.parts:
        reason = unmet(part, state)
        if reason is None:
            return None
        reasons.append(reason)
    return Reason("any", {"reasons": reasons})


def _all(condition: Condition, state: State) -> Reason | None:
    for part in condition.parts:
        reason = unmet(part, state)
        if reason is not None:
            return reason
    return None


def _not(condition: Condition, state: State) -> Reason | None:
    if unmet(condition.parts[0], state) is not None:
        return None
    return Reason("not", {"type": condition.parts[0].type})


_CHECKS: dict[str, Callable[[Condition, State], Reason | None]] = {
    "min_subtotal": _min_subtotal,
    "max_subtotal": _max_subtotal,
    "min_quantity": _min_quantity,
    "nth_order": _nth_order,
    "first_order": _first_order,
    "tier": _tier,
    "segment": _segment,
    "weekday": _weekday,
    "member_day": _member_day,
    "birthday": _birthday,
    "any": _any,
    "all": _all,
    "not": _not,
}
TYPES = tuple(_CHECKS)
"""Every type of condition."""
