"""JSON of conditions and benefits → the model; a wrong type or field is refused with its path."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, cast

from core.money import MAX_MINOR
from loyalty.promotions.conditions import TYPES
from loyalty.promotions.fields import MAX_LIST, Fields, fail, shown
from loyalty.promotions.model import (
    EVERYTHING,
    FULL,
    Benefit,
    BuyXGetY,
    Condition,
    Fixed,
    FixedEach,
    FixedPrice,
    FreeShipping,
    Gift,
    Percent,
    Points,
    Scope,
    Tier,
    Tiered,
)

CURRENCY = re.compile(r"[A-Z]{3}")
MAX_PRIORITY = 1_000_000
MAX_STOCK = 10**9
MAX_DEPTH = 8
MAX_CONDITIONS = 100
"""Of one promotion, those inside any, all and not included."""
MAX_TIERS = 20
MAX_UNITS = 1_000_000
MAX_POINTS = 10**9
MAX_TIMES = 100
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def code_key(code: str) -> str:
    """A code as it is compared: typed in small letters or with blanks around, it is the same."""
    return code.strip().upper()


def read_conditions(fields: Fields) -> tuple[Condition, ...]:
    """The promotion's ``conditions``: all of them have to hold."""
    values = fields.items("conditions", MAX_CONDITIONS) or []
    found = tuple(
        _condition(value, f"{fields.at('conditions')}[{number}]", 1) for number, value in enumerate(values)
    )
    if sum(map(_size, found)) > MAX_CONDITIONS:
        raise fail(fields.at("conditions"), f"a promotion has at most {MAX_CONDITIONS} conditions.")
    return found


def _size(condition: Condition) -> int:
    return 1 + sum(map(_size, condition.parts))


def _type(fields: Fields, known: tuple[str, ...], what: str) -> str:
    value = fields.take("type")
    if not isinstance(value, str) or value not in known:
        raise fail(fields.at("type"), f"{shown(value)} is no type of {what}; there are {', '.join(known)}.")
    return value


def _condition(value: Any, path: str, depth: int) -> Condition:
    if depth > MAX_DEPTH:
        raise fail(path, f"conditions nest at most {MAX_DEPTH} levels.")
    fields = Fields(value, path)
    kind = _type(fields, TYPES, "condition")
    found = _CONDITIONS[kind](fields, kind) if kind in _CONDITIONS else _group(fields, kind, depth)
    fields.close()
    return found


def _group(fields: Fields, kind: str, depth: int) -> Condition:
    if kind == "not":
        one = fields.items("conditions", 1, least=1)  # the form of its neighbours, with one of them
        sent, path = fields.take("condition"), fields.at("condition")
        if one is not None and sent is None:
            sent, path = one[0], f"{fields.at('conditions')}[0]"
        return Condition(kind, parts=(_condition(sent, path, depth + 1),))
    values = fields.need("conditions", fields.items("conditions", MAX_CONDITIONS, least=1))
    return Condition(
        kind,
        parts=tuple(
            _condition(value, f"{fields.at('conditions')}[{number}]", depth + 1)
            for number, value in enumerate(values)
        ),
    )


def _numbered(field: str, low: int, high: int, *, scoped: bool = False) -> Callable[[Fields, str], Condition]:
    def read(fields: Fields, kind: str) -> Condition:
        unit = "whole number of minor units" if field == "amount" else "whole number"
        number = fields.need(field, fields.integer(field, low, high, unit))
        return Condition(kind, number=number, scope=_scope(fields) if scoped else EVERYTHING)

    return read


def _among(fields: Fields, kind: str) -> Condition:
    values = fields.texts("in")
    return Condition(kind, values=fields.need("in", values or None))


def _weekdays(fields: Fields, kind: str) -> Condition:
    values = fields.each("in", _weekday, most=7)
    return Condition(kind, values=fields.need("in", values or None))


def _weekday(value: Any, path: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 7:
        return str(value)
    if value in WEEKDAYS:
        return str(WEEKDAYS.index(value) + 1)
    raise fail(path, f"1 (Monday) to 7 (Sunday) is needed, not {shown(value)}.")


_CONDITIONS: dict[str, Callable[[Fields, str], Condition]] = {
    "min_subtotal": _numbered("amount", 0, MAX_MINOR, scoped=True),
    "max_subtotal": _numbered("amount", 0, MAX_MINOR, scoped=True),
    "min_quantity": _numbered("quantity", 1, MAX_UNITS * MAX_LIST, scoped=True),
    "nth_order": _numbered("n", 1, MAX_POINTS),
    "first_order": lambda _fields, kind: Condition(kind),
    "tier": _among,
    "segment": _among,
    "weekday": _weekdays,
    "member_day": _numbered("day", 1, 31),
    "birthday": _numbered("within_days", 0, 182),
}


def _scope(outer: Fields) -> Scope:
    value = outer.take("scope")
    if value is None:
        return EVERYTHING
    fields = Fields(value, outer.at("scope"))
    found = Scope(
        skus=fields.texts("skus"),
        categories=fields.texts("categories"),
        exclude_skus=fields.texts("exclude_skus"),
        exclude_categories=fields.texts("exclude_categories"),
    )
    fields.close()
    return found


def read_benefit(value: Any, path: str) -> Benefit:
    """A promotion's benefit."""
    if value is None:
        raise fail(path, "it is missing.")
    fields = Fields(value, path)
    found = _BENEFITS[_type(fields, tuple(_BENEFITS), "benefit")](fields)
    fields.close()
    return found


def _percentage(fields: Fields) -> int | None:
    return fields.hundredths("percent", 0, 100)


def _amount(fields: Fields) -> int:
    return fields.need("amount", fields.money("amount", 1))


def _percent(fields: Fields) -> Benefit:
    return Percent(
        points=fields.need("percent", _percentage(fields)),
        scope=_scope(fields),
        max_amount=fields.money("max_amount", 1),
        by_line=fields.choice("round", ("total", "line")) == "line",
    )


def _fixed(fields: Fields) -> Benefit:
    return Fixed(_amount(fields), _scope(fields))


def _fixed_each(fields: Fields) -> Benefit:
    return FixedEach(_amount(fields), _scope(fields), fields.integer("max_units", 1, MAX_UNITS * MAX_LIST))


def _fixed_price(fields: Fields) -> Benefit:
    return FixedPrice(
        count=fields.need("count", fields.integer("count", 1, MAX_UNITS)),
        price=fields.need("price", fields.money("price")),
        scope=_scope(fields),
        max_times=fields.integer("max_times", 1, MAX_UNITS),
    )


def _buy_x_get_y(fields: Fields) -> Benefit:
    percent = _percentage(fields)
    return BuyXGetY(
        buy=fields.need("buy", fields.integer("buy", 1, MAX_UNITS)),
        get=fields.need("get", fields.integer("get", 1, MAX_UNITS)),
        points=FULL if percent is None else percent,
        scope=_scope(fields),
        max_times=fields.integer("max_times", 1, MAX_UNITS),
    )


def _tiered(fields: Fields) -> Benefit:
    by = cast(Literal["amount", "quantity"], fields.need("by", fields.choice("by", ("amount", "quantity"))))
    values = fields.need("tiers", fields.items("tiers", MAX_TIERS, least=1))
    path = fields.at("tiers")
    tiers = [_tier(value, f"{path}[{number}]") for number, value in enumerate(values)]
    repeat = fields.flag("repeat")
    starts = [tier.start for tier in tiers]
    for number, tier in enumerate(tiers):
        if tier.start in starts[:number]:
            raise fail(f"{path}[{number}].from", f"another tier begins at {tier.start} too.")
        if repeat and tier.off is None:
            raise fail(f"{path}[{number}].percent", "a percentage does not repeat; give off.")
    return Tiered(by, tuple(sorted(tiers, key=lambda tier: tier.start)), _scope(fields), repeat)


def _tier(value: Any, path: str) -> Tier:
    fields = Fields(value, path)
    start = fields.need("from", fields.integer("from", 1, MAX_MINOR))
    off, points = fields.money("off", 1), _percentage(fields)
    if (off is None) == (points is None):
        raise fail(path, "give either off (minor units) or percent.")
    fields.close()
    return Tier(start, off, points)


def _free_shipping(_fields: Fields) -> Benefit:
    return FreeShipping()


def _gift(fields: Fields) -> Benefit:
    return Gift(fields.need("sku", fields.text("sku")), fields.integer("quantity", 1, MAX_UNITS) or 1)


def _points(fields: Fields) -> Benefit:
    amount, times = fields.integer("amount", 1, MAX_POINTS), fields.hundredths("times", 1, MAX_TIMES)
    if (amount is None) == (times is None):
        raise fail(fields.path, "give either amount (points) or times (such as 2).")
    return Points(amount, times)


_BENEFITS: dict[str, Callable[[Fields], Benefit]] = {
    "percent": _percent,
    "fixed": _fixed,
    "fixed_each": _fixed_each,
    "fixed_price": _fixed_price,
    "buy_x_get_y": _buy_x_get_y,
    "tiered": _tiered,
    "free_shipping": _free_shipping,
    "gift": _gift,
    "points": _points,
}
