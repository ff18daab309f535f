"""Events as rows of fact tables: which table, which rows of it count, and what is aggregated."""

from __future__ import annotations

from collections.abc import Hashable

from sqlglot import exp

from segments.language.tree import EventIs, Happening, Where, Within
from segments.language.vocabulary import DATE, EVENTS, LINE_PROPERTIES, NUMBER, TEXT
from segments.planning.compare import compare, json_text, local_date, major, number_of, sure
from segments.planning.moment import Moment, literal
from segments.planning.sources import Slice

BEHAVIOUR, LINES = "events", "lines"
_FUNCTIONS: dict[str, type[exp.AggFunc]] = {"sum": exp.Sum, "avg": exp.Avg, "min": exp.Min, "max": exp.Max}
COUNTED = ("count", "sum", "distinct")
"""Aggregates that are 0 where nothing happened; the others are missing then."""


def table_of(what: Happening, of: str | None = None) -> str:
    """The table of an event: a fact's name, or ``lines`` where a property of the order's lines is named."""
    source = EVENTS.get(what.event)
    if source is None:
        return BEHAVIOUR
    named = {where.property for where in what.where} | {of}
    return LINES if what.event == "order" and named.intersection(LINE_PROPERTIES) else source.table


def expression_of(table: str) -> exp.Expr:
    """What to select from."""
    return _lines() if table == LINES else exp.to_table(table)


def _lines() -> exp.Expr:
    category = exp.Coalesce(this=exp.column("category", "l"), expressions=[exp.column("category", "p")])
    own = "member_id order_id line_no ordered_at status sku quantity refunded discount_minor"
    joined = (
        exp.select(
            *(exp.column(name, "l") for name in own.split()),
            exp.alias_(category, "category"),
            exp.alias_(exp.column("amount_minor", "l"), "net_minor"),
            exp.column("brand", "p"),
            exp.column("channel", "o"),
            exp.column("coupon_code", "o"),
        )
        .from_("order_lines AS l")
        .join("orders AS o", on="o.order_id = l.order_id", join_type="left")
        .join("products AS p", on="p.sku = l.sku AND p.source = l.source", join_type="left")
    )
    return joined.subquery("lines")


def time_of(what: Happening) -> str:
    source = EVENTS.get(what.event)
    return source.time if source else "occurred_at"


def rows_of(what: Happening, within: Within, table: str, moment: Moment) -> Slice:
    """The rows of ``table`` that are such an event within the window (its span of dates alone)."""
    start, end = moment.bounds(within)
    source = EVENTS.get(what.event)
    conditions = {**_counting(what, table, moment)}
    for where in what.where:
        conditions[where, what.event] = _where(where, what.event, moment)
    return Slice(conditions, None if source else what.event, time_of(what), start, end)


def _counting(what: Happening, table: str, moment: Moment) -> dict[Hashable, exp.Expr]:
    """What makes a row such an event at all."""
    source = EVENTS.get(what.event)
    if source is None:
        return {}
    if source.table == "orders":
        if any(where.property == "status" for where in what.where):
            return {}  # who names the status means it: cancelled orders can be asked for
        if table == LINES:
            return {"kept": exp.not_(exp.column("refunded"))}
        paid = exp.column("status").eq(exp.Literal.string("paid"))
        return {"paid": exp.paren(exp.or_(paid, exp.column("net_minor") > 0))}
    if source.undone is None:
        return {}
    undone = exp.column(source.undone)
    never = exp.Is(this=undone, expression=exp.null())
    return {"done": exp.paren(exp.or_(never, undone.copy() >= literal(moment.instant)))}


def property_of(name: str, event: str) -> tuple[exp.Expr, str | None]:
    """A property as it is stored, and its type."""
    source = EVENTS.get(event)
    if source is None:
        return json_text(exp.column("properties"), name), None
    kind, column = source.properties[name]
    return exp.column(column), kind


def _where(where: Where, event: str, moment: Moment) -> exp.Expr:
    this, kind = property_of(where.property, event)
    if kind == NUMBER:
        this = major(this, this.name, moment)
    return compare(this, where.op, where.value, kind, moment)


def aggregate_of(node: EventIs, table: str) -> exp.Expr:
    """The aggregate over the rows, without its filter."""
    if node.aggregate == "count":
        # Lines tell which orders match, but orders are what is counted.
        counted = exp.Distinct(expressions=[exp.column("order_id")]) if table == LINES else exp.Star()
        return exp.Count(this=counted)
    time = exp.column(time_of(node.what))
    if node.aggregate == "days_since":
        return exp.Max(this=time)
    if node.aggregate in ("first", "last"):
        extreme = exp.Max if node.aggregate == "last" else exp.Min
        return extreme(this=time if node.of is None else _told(node, table, time))
    assert node.of is not None
    this, kind = property_of(node.of, node.event)
    if node.aggregate == "distinct":
        return exp.Count(this=exp.Distinct(expressions=[this]))
    return _FUNCTIONS[node.aggregate](this=number_of(this) if kind is None else this)


def _told(node: EventIs, table: str, time: exp.Expr) -> exp.Expr:
    """A struct that is ordered by time, then by the row's own id, and carries what the row tells.

    Not ``arg_max``: that skips rows which do not tell, and of rows at one instant takes any.
    """
    source = EVENTS.get(node.event)
    ids = [source.id if source else "event_id", *(["line_no"] if table == LINES else [])]
    this, _ = property_of(node.of or "", node.event)
    parts = {"at": time, **{f"id{i}": exp.column(name) for i, name in enumerate(ids)}, "told": this}
    return exp.Struct(
        expressions=[
            exp.PropertyEQ(this=exp.to_identifier(name), expression=part) for name, part in parts.items()
        ]
    )


def result_of(column: exp.Expr, node: EventIs, moment: Moment) -> tuple[exp.Expr, str | None]:
    """What an aggregate is compared as, and its type.

    Money is added up in minor units: tenths would not add up to 1.
    """
    if node.aggregate == "days_since":
        day = exp.cast(exp.Literal.string(moment.as_of.isoformat()), "date")
        return exp.DateDiff(this=day, expression=local_date(column, moment), unit=exp.var("DAY")), NUMBER
    if node.of is None:
        return (column, NUMBER) if node.aggregate == "count" else (local_date(column, moment), DATE)
    if node.aggregate == "distinct":
        return column, NUMBER
    _, kind = property_of(node.of, node.event)
    if node.aggregate in ("first", "last"):
        told = exp.StructExtract(this=column, expression=exp.Literal.string("told"))
        if kind == NUMBER:
            return _scaled(told, node, moment), NUMBER
        return told, kind
    return _scaled(column, node, moment), NUMBER


def _scaled(this: exp.Expr, node: EventIs, moment: Moment) -> exp.Expr:
    source = EVENTS.get(node.event)
    return this if source is None else major(this, source.properties[node.of or ""][1], moment)


__all__ = [
    "BEHAVIOUR",
    "COUNTED",
    "LINES",
    "TEXT",
    "aggregate_of",
    "expression_of",
    "result_of",
    "rows_of",
    "sure",
    "table_of",
    "time_of",
]
