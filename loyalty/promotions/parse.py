"""JSON → what an evaluation works on. Everything that is wrong is refused with its path.

Guarantees: unknown fields, fractions and negative amounts, mixed currencies, sums above 10^15 and more
than the named limits never reach the arithmetic.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.money import MAX_MINOR
from loyalty.promotions import rules
from loyalty.promotions.fields import Fields, as_decimal, as_text, fail, shown
from loyalty.promotions.model import Basket, Limits, Line, Promotion, Shopper

MAX_LINES = 1_000
MAX_PROMOTIONS = 1_000
MAX_QUANTITY = 1_000_000
MAX_ORDERS = 10**9
MAX_CODES = 100
MAX_RATE = 10_000
"""Points a major unit."""


@dataclass(frozen=True, slots=True)
class Request:
    """A basket, and its own promotions (None: the shop's stored ones)."""

    basket: Basket
    promotions: tuple[Promotion, ...] | None


def read_request(value: Any, now: datetime, path: str = "") -> Request:
    """Basket and promotions of a JSON object; without ``at`` it is priced as of ``now``."""
    fields = Fields(value, path)
    currency = fields.need("currency", _currency(fields))
    at = fields.time("at") or now
    found = fields.items("lines", MAX_LINES)
    lines = _lines(fields.need("lines", found), fields.at("lines"), currency)
    shipping = fields.money("shipping") or 0
    total = sum(line.subtotal for line in lines) + shipping
    if total > MAX_MINOR:
        raise fail(fields.at("lines"), f"together they cost more than {MAX_MINOR} minor units.")
    basket = Basket(
        currency=currency,
        at=at,
        lines=lines,
        shipping=shipping,
        codes=frozenset(map(rules.code_key, fields.texts("codes", least=0, most=MAX_CODES))),
        member=_member(fields.take("member"), fields.at("member")),
        points_per_unit=_rate(fields),
    )
    own = fields.items("promotions", MAX_PROMOTIONS)
    promotions = None if own is None else read_promotions(own, fields.at("promotions"), currency)
    fields.close()
    return Request(basket, promotions)


def _currency(fields: Fields) -> str | None:
    value = fields.text("currency")
    if value is not None and not rules.CURRENCY.fullmatch(value):
        raise fail(fields.at("currency"), f"a code of three capitals, such as CNY, not {shown(value)}.")
    return value


def _rate(fields: Fields) -> Any:
    value = fields.take("points_per_unit")
    if value is None:
        return None
    rate = as_decimal(value)
    if rate is None or not 0 <= rate <= MAX_RATE:
        raise fail(
            fields.at("points_per_unit"), f"a number from 0 to {MAX_RATE} is needed, not {shown(value)}."
        )
    return rate


def _lines(values: Sequence[Any], path: str, currency: str) -> tuple[Line, ...]:
    lines: list[Line] = []
    seen: set[str] = set()
    for number, value in enumerate(values):
        line = _line(value, f"{path}[{number}]", currency)
        if line.id in seen:
            raise fail(f"{path}[{number}].id", f"the id “{line.id}” is another line's too.")
        seen.add(line.id)
        lines.append(line)
    return tuple(lines)


def _line(value: Any, path: str, currency: str) -> Line:
    fields = Fields(value, path)
    line = Line(
        id=fields.need("id", fields.text("id")),
        sku=fields.need("sku", fields.text("sku")),
        category=fields.text("category"),
        unit_price=fields.need("unit_price", fields.money("unit_price")),
        quantity=fields.need("quantity", fields.integer("quantity", 1, MAX_QUANTITY)),
        floor_price=fields.money("floor_price") or 0,
    )
    own = _currency(fields)
    if own not in (None, currency):
        raise fail(f"{path}.currency", f"the basket is in {currency}; a basket has one currency.")
    fields.close()
    if line.subtotal > MAX_MINOR:
        raise fail(f"{path}.quantity", f"the line costs more than {MAX_MINOR} minor units.")
    return line


def _member(value: Any, path: str) -> Shopper | None:
    if value is None:
        return None
    fields = Fields(value, path)
    found = Shopper(
        id=fields.text("id"),
        tier=fields.text("tier"),
        orders_placed=fields.integer("orders_placed", 0, MAX_ORDERS),
        segments=fields.texts("segments", least=0),
        birthday=_birthday(fields),
    )
    fields.close()
    return found


def _birthday(fields: Fields) -> tuple[int, int] | None:
    """Month and day of ``1990-05-31`` or ``05-31``."""
    value = fields.take("birthday")
    if value is None:
        return None
    parts = value.split("-") if isinstance(value, str) else []
    if len(parts) in (2, 3) and all(part.isascii() and part.isdigit() and len(part) < 5 for part in parts):
        month, day = int(parts[-2]), int(parts[-1])
        # 2000 was a leap year: 29 February exists.
        if 1 <= month <= 12 and 1 <= day <= calendar.monthrange(2000, month)[1]:
            return month, day
    raise fail(fields.at("birthday"), f"a day such as 1990-05-31 or 05-31 is needed, not {shown(value)}.")


def read_promotions(values: Sequence[Any], path: str, currency: str) -> tuple[Promotion, ...]:
    """Promotions of a list; ids are unique, and each is in the basket's currency if it names one."""
    found: dict[str, Promotion] = {}
    for number, value in enumerate(values):
        where = f"{path}[{number}]"
        promotion = read_promotion(value, where)
        if promotion.id in found:
            raise fail(f"{where}.id", f"the id “{promotion.id}” is another promotion's too.")
        if promotion.currency not in (None, currency):
            raise fail(f"{where}.currency", f"the basket is in {currency}; a basket has one currency.")
        found[promotion.id] = promotion
    return tuple(found.values())


def read_promotion(value: Any, path: str = "") -> Promotion:
    """One promotion of a JSON object."""
    fields = Fields(value, path)
    starts_at, ends_at = fields.time("starts_at"), fields.time("ends_at")
    if starts_at is not None and ends_at is not None and starts_at >= ends_at:
        raise fail(fields.at("ends_at"), "the end lies not after the start.")
    limits = _limits(fields.take("limits"), fields.at("limits"))
    code = fields.text("code")
    found = Promotion(
        id=fields.need("id", fields.text("id")),
        benefit=rules.read_benefit(fields.take("benefit"), fields.at("benefit")),
        conditions=rules.read_conditions(fields),
        priority=fields.integer("priority", -rules.MAX_PRIORITY, rules.MAX_PRIORITY) or 0,
        exclusive=fields.flag("exclusive"),
        group=fields.text("group"),
        code=None if code is None else rules.code_key(as_text(code.strip(), fields.at("code"))),
        starts_at=starts_at,
        ends_at=ends_at,
        currency=_currency(fields),
        stock=limits.stock,
        used=limits.used,
        per_member=limits.per_member,
        per_day=limits.per_day,
        taken=limits.taken,
        taken_today=limits.taken_today,
    )
    fields.close()
    return found


def _limits(value: Any, path: str) -> Limits:
    if value is None:
        return Limits()
    fields = Fields(value, path)
    found = Limits(
        stock=fields.integer("stock", 0, rules.MAX_STOCK),
        used=fields.integer("used", 0, rules.MAX_STOCK) or 0,
        per_member=fields.integer("per_member", 1, rules.MAX_UNITS),
        per_day=fields.integer("per_day", 1, rules.MAX_UNITS),
        taken=fields.integer("taken", 0, rules.MAX_STOCK) or 0,
        taken_today=fields.integer("taken_today", 0, rules.MAX_STOCK) or 0,
    )
    fields.close()
    return found
