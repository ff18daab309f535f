"""Metrics in words: their titles, what they count, and when, in the reader's language."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_babel import gettext, lazy_gettext

from experiments import catalogue
from experiments.metric_where import All, AnyOf, Not, Where
from experiments.metrics import (
    COUNT,
    IN,
    IS_SET,
    MEAN,
    PROPERTY,
    PROPORTION,
    QUANTILE,
    RATIO,
    RETENTION,
    ROWS,
    MetricSpec,
)
from web import charts, context, i18n

NOT_SET = "not_set"
"""In forms: ``is_set`` with False."""
TITLES = {
    "revenue": lazy_gettext("Revenue"),
    "margin": lazy_gettext("Margin"),
    "orders": lazy_gettext("Orders"),
    "converted": lazy_gettext("Conversion"),
    "order_value": lazy_gettext("Average order value"),
    "units": lazy_gettext("Units"),
    "return_rate": lazy_gettext("Return rate"),
    "unsubscribes": lazy_gettext("Unsubscribes"),
    "repurchase": lazy_gettext("Bought again"),
}
KINDS = {
    MEAN: lazy_gettext("Sum a member"),
    COUNT: lazy_gettext("Count a member"),
    PROPORTION: lazy_gettext("Share of members"),
    RATIO: lazy_gettext("Ratio of sums"),
    QUANTILE: lazy_gettext("Quantile"),
    RETENTION: lazy_gettext("Retention"),
}
FACTS = {
    "orders": lazy_gettext("Orders"),
    "order_lines": lazy_gettext("order lines"),
    "events": lazy_gettext("events"),
    "touches": lazy_gettext("messages sent"),
    "redemptions": lazy_gettext("redemptions of coupons"),
    "points": lazy_gettext("points moves"),
    "coupons": lazy_gettext("coupons"),
}
COLUMNS = {
    "net_minor": lazy_gettext("net revenue"),
    "total_minor": lazy_gettext("revenue before refunds"),
    "refunded_minor": lazy_gettext("refunded amount"),
    "discount_minor": lazy_gettext("discount"),
    "amount_minor": lazy_gettext("amount of the line"),
    "margin_minor": lazy_gettext("margin"),
    "quantity": lazy_gettext("units"),
    "status": lazy_gettext("status"),
    "kind": lazy_gettext("kind"),
    "channel": lazy_gettext("channel"),
    "category": lazy_gettext("category"),
    "refunded": lazy_gettext("refunded"),
    "coupon_code": lazy_gettext("coupon code"),
    "unsubscribed_at": lazy_gettext("time of unsubscribing"),
    ROWS: lazy_gettext("number of rows"),
}
OPERATORS = {
    "=": lazy_gettext("is"),
    "!=": lazy_gettext("is not"),
    "<": lazy_gettext("is below"),
    "<=": lazy_gettext("is at most"),
    ">": lazy_gettext("is above"),
    ">=": lazy_gettext("is at least"),
    IN: lazy_gettext("is one of"),
    IS_SET: lazy_gettext("has a value"),
    NOT_SET: lazy_gettext("has no value"),
}


def title_of(name: str) -> str:
    """A metric's title: the ready-made ones are translated, the others are called as the shop calls them."""
    return str(TITLES.get(name, name))


def fact_word(fact: str) -> str:
    # In Chinese “orders” by itself is their number, so the heading of that name is taken.
    return str(FACTS.get(fact, fact)).lower()


def column_word(column: str) -> str:
    return str(COLUMNS.get(column, column.removeprefix(PROPERTY)))


def unit_of(spec: MetricSpec) -> charts.Unit:
    """How its value is written."""
    kind = catalogue.unit_of(spec)
    return charts.Unit(kind, context.console().settings.shop_currency if kind == "money" else "")


def shown(value: float | None, unit: charts.Unit) -> str:
    """A value of the metric as a reader wants it."""
    if unit.kind == "money":
        return str(i18n.money(value, unit.currency))
    return i18n.share(value, 2) if unit.kind == "share" else i18n.number(value, 3)


def measures(spec: MetricSpec) -> str:
    """What a metric measures, as a sentence without its window."""
    fact, value = fact_word(spec.fact), column_word(spec.value or ROWS)
    texts: dict[str, Callable[[], Any]] = {
        MEAN: lambda: gettext("%(value)s of %(fact)s, summed for each member", value=value, fact=fact),
        COUNT: lambda: gettext("number of %(fact)s of each member", fact=fact),
        PROPORTION: lambda: gettext("share of members with any of: %(fact)s", fact=fact),
        RATIO: lambda: gettext(
            "%(value)s by %(below)s of %(fact)s, over all members together",
            value=value, below=column_word(spec.denominator or ROWS), fact=fact,
        ),
        QUANTILE: lambda: gettext(
            "%(q)s quantile over members of the %(value)s of %(fact)s",
            q=i18n.share(spec.q), value=value, fact=fact,
        ),
        RETENTION: lambda: gettext("share of members who come back with any of: %(fact)s", fact=fact),
    }  # fmt: skip
    text = str(texts[spec.kind]()) if spec.kind in texts else spec.kind
    if spec.where:
        text = gettext(
            "%(measure)s, where %(conditions)s",
            measure=text,
            conditions=gettext(" and ").join(_part(one) for one in spec.where),
        )
    return text[:1].upper() + text[1:]


def matches() -> list[tuple[str, str]]:
    """How the conditions of the form hold, as its choices."""
    return [
        ("all", gettext("all of them hold")),
        ("any", gettext("at least one of them holds")),
        ("groups", gettext("groups within groups, as JSON")),
    ]


def condition(one: Where) -> str:
    """A condition, or a group of them, in words."""
    if isinstance(one, Not):
        return str(gettext("not (%(conditions)s)", conditions=condition(one.part)))
    if isinstance(one, All | AnyOf):
        between = gettext(" and ") if isinstance(one, All) else gettext(" or ")
        return str(between).join(map(_part, one.parts))
    if one.op == IS_SET:
        return f"{column_word(one.column)} {OPERATORS[IS_SET if one.value else NOT_SET]}"
    value = ", ".join(map(_value, one.value)) if isinstance(one.value, list | tuple) else _value(one.value)
    return f"{column_word(one.column)} {OPERATORS[one.op]} {value}"


def _part(one: Where) -> str:
    """A part of a group: a group of its own stands in brackets."""
    return f"({condition(one)})" if isinstance(one, All | AnyOf) else condition(one)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(gettext("yes") if value else gettext("no"))
    return f"“{value}”" if isinstance(value, str) else f"{value:g}"


def window(spec: MetricSpec) -> str:
    """The days after the decision that count."""
    if not spec.from_day:
        return str(gettext("%(days)s days from the decision on", days=spec.until_day))
    return str(
        gettext("day %(first)s to %(last)s after the decision", first=spec.from_day, last=spec.until_day)
    )
