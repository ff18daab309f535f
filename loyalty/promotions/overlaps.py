"""Whether two promotions can meet in one basket: in time, in goods, and by whom they are for. Pure.

Guarantees: an answer of “no” is certain. Where it cannot be known (a segment's members, a SKU whose
category is not given) the answer is “yes”.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from loyalty.promotions.model import (
    Condition,
    FreeShipping,
    Gift,
    Points,
    Promotion,
    Scope,
)

Catalog = Mapping[str, str | None]
"""Categories of the SKUs that are known."""
DAYS_AHEAD = 1_200
"""Days of an overlap that are looked at: a day of the month falls on every weekday within three years."""
ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def span(promotion: Promotion) -> tuple[datetime, datetime]:
    """When it is in force; an open end lies at the end of all times."""
    return promotion.starts_at or ALWAYS[0], promotion.ends_at or ALWAYS[1]


def together(a: Promotion, b: Promotion) -> tuple[datetime, datetime] | None:
    """The time in which both are in force."""
    (a_from, a_to), (b_from, b_to) = span(a), span(b)
    start, end = max(a_from, b_from), min(a_to, b_to)
    return (start, end) if start < end else None


def scope_of(promotion: Promotion) -> Scope | None:
    """The goods that its benefit lowers; None: it lowers no line."""
    benefit = promotion.benefit
    return None if isinstance(benefit, FreeShipping | Gift | Points) else benefit.scope


def scopes_meet(a: Scope, b: Scope, catalog: Catalog | None = None) -> bool:
    """Whether some good may be in both scopes. A SKU that ``catalog`` lacks may be in any category."""
    known = catalog or {}
    out_skus = a.exclude_skus | b.exclude_skus
    out_categories = a.exclude_categories | b.exclude_categories
    for sku in (None, *sorted(a.skus | b.skus)):
        if sku in out_skus:
            continue
        # Whom the SKU alone does not bring in needs a category of its list.
        lists = [
            scope.categories for scope in (a, b) if (scope.skus or scope.categories) and sku not in scope.skus
        ]
        if sku is not None and sku in known:
            category = known[sku]
            if category not in out_categories and all(category in listed for listed in lists):
                return True
        elif not lists or frozenset.intersection(*lists) - out_categories:
            return True
    return False


# --- Whom and which days the conditions leave -----------------------------------------------------------


def _flat(conditions: tuple[Condition, ...]) -> Iterator[Condition]:
    for one in conditions:
        if one.type == "all":
            yield from _flat(one.parts)
        else:
            yield one


def exclude_each_other(a: Promotion, b: Promotion, zone: ZoneInfo) -> bool:
    """Whether no basket at any time can meet the conditions of both."""
    both = [*_flat(a.conditions), *_flat(b.conditions)]
    return _no_tier(both) or _no_order(both) or _no_day(a, b, both, zone)


def _no_tier(both: list[Condition]) -> bool:
    allowed: frozenset[str] | None = None
    refused: frozenset[str] = frozenset()
    for one in both:
        if one.type == "tier":
            allowed = one.values if allowed is None else allowed & one.values
        elif one.type == "any" and all(part.type == "tier" for part in one.parts):
            values = frozenset().union(*(part.values for part in one.parts))
            allowed = values if allowed is None else allowed & values
        elif one.type == "not" and one.parts[0].type == "tier":
            refused |= one.parts[0].values
    return allowed is not None and not allowed - refused


def _no_order(both: list[Condition]) -> bool:
    numbers = {1 if one.type == "first_order" else one.number for one in both if one.type in _ORDERS}
    refused = {
        1 if one.parts[0].type == "first_order" else one.parts[0].number
        for one in both
        if one.type == "not" and one.parts[0].type in _ORDERS
    }
    return len(numbers) > 1 or bool(numbers & refused)


_ORDERS = ("first_order", "nth_order")
_DAYS = ("weekday", "member_day")


def _no_day(a: Promotion, b: Promotion, both: list[Condition], zone: ZoneInfo) -> bool:
    """Whether no day of the time in which both are in force is one of both."""
    positive = [one for one in both if one.type in _DAYS]
    negative = [one.parts[0] for one in both if one.type == "not" and one.parts[0].type in _DAYS]
    overlap = together(a, b)
    if overlap is None or not positive + negative:
        return overlap is None
    return not any(
        all(_is_day(one, day) for one in positive) and not any(_is_day(one, day) for one in negative)
        for day in _days(*overlap, zone)
    )


def _is_day(condition: Condition, day: date) -> bool:
    if condition.type == "weekday":
        return str(day.isoweekday()) in condition.values
    return day.day == min(condition.number, calendar.monthrange(day.year, day.month)[1])


def _days(start: datetime, end: datetime, zone: ZoneInfo) -> Iterator[date]:
    """Days of the shop's zone between two times, at most :data:`DAYS_AHEAD`."""
    if start == ALWAYS[0]:
        start = datetime(2024, 1, 1, tzinfo=UTC) if end == ALWAYS[1] else end - timedelta(days=DAYS_AHEAD)
    day = start.astimezone(zone).date()
    last = None if end == ALWAYS[1] else (end - timedelta(microseconds=1)).astimezone(zone).date()
    for number in range(DAYS_AHEAD + 1):
        found = day + timedelta(days=number)
        if last is not None and found > last:
            return
        yield found


def touches(condition: Condition, scope: Scope | None, catalog: Catalog | None = None) -> bool:
    """Whether lowering the goods of ``scope`` can change what an amount condition sees."""
    return scope is not None and scopes_meet(condition.scope, scope, catalog)
