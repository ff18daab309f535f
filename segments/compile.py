"""Rules become one query: SQLGlot expressions, values as escaped literals, never spliced text.

Each fact table is scanned once a rule, however many conditions look at it: an event condition
is one aggregate with a FILTER in that table's CTE, joined to the members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlglot import exp

from core.errors import InvalidInput
from core.money import exponent
from core.times import instant
from segments.rules import (
    ATTRIBUTE_PREFIX,
    DATE,
    EVENTS,
    FIELDS,
    FLAG,
    LINE_PROPERTIES,
    MINOR_COLUMNS,
    NUMBER,
    TAGS,
    TEXT,
    All,
    Any_,
    EventIs,
    EventSource,
    FieldIs,
    InSegment,
    Node,
    Not,
    Where,
    field_type,
    segments_in,
    validate,
)

MAX_SEGMENT_DEPTH = 8
MAX_CONDITIONS = 1000
"""Conditions of a rule together with those of the segments it refers to: each is copied where it is named."""


@dataclass(frozen=True)
class Moment:
    """What a rule is evaluated against: the date, the shop's zone and currency."""

    as_of: date
    zone: ZoneInfo
    currency: str = "CNY"


@dataclass
class _Scope:
    moment: Moment
    lookup: Callable[[str], Mapping[str, Any] | None]
    aggregates: dict[str, list[exp.Expr]] = field(default_factory=dict)
    """source alias → aggregates of its CTE."""
    tables: dict[str, exp.Expr] = field(default_factory=dict)
    extras: set[str] = field(default_factory=set)
    open_segments: tuple[str, ...] = ()
    conditions: int = 0


def compile_rule(
    rule: Any, moment: Moment, lookup: Callable[[str], Mapping[str, Any] | None] = lambda _name: None
) -> exp.Select:
    """The query of member ids (column ``member_id``) that match ``rule``.

    ``lookup`` gives the rule of a segment by name, or None. Raises InvalidInput with a path for a
    malformed rule, an unknown segment, or segments that refer to each other in a circle.
    """
    scope = _Scope(moment, lookup)
    condition = _condition(validate(rule), scope)
    query = (
        exp.select("m.member_id")
        .from_("members AS m")
        .join("snapshot AS s", on="s.member_id = m.member_id", join_type="left")
    )
    for alias, aggregates in scope.aggregates.items():
        source = (
            exp.select(exp.column("member_id"), *aggregates).from_(scope.tables[alias]).group_by("member_id")
        )
        query = query.with_(alias, as_=source).join(
            alias, on=f"{alias}.member_id = m.member_id", join_type="left"
        )
    for extra in sorted(scope.extras):
        alias, make = _EXTRAS[extra]
        query = query.with_(f"x_{alias}", as_=make(moment)).join(
            f"x_{alias} AS {alias}", on=f"{alias}.member_id = m.member_id", join_type="left"
        )
    # Nobody who was not there yet as of the date.
    there = exp.or_(
        exp.column("registered_at", "m").is_(exp.null()),
        exp.column("registered_at", "m") < _instant(moment.as_of, moment),
        exp.column("last_order_at", "s").is_(exp.null()).not_(),
    )
    return query.where(there).where(condition)


def _points(moment: Moment) -> exp.Select:
    return (
        exp.select("member_id", exp.alias_(exp.Sum(this=exp.column("delta")), "balance"))
        .from_("points")
        .where(exp.column("at") < _instant(moment.as_of, moment))
        .group_by("member_id")
    )


def _consents(_moment: Moment) -> exp.Select:
    def granted(channel: str) -> exp.Expr:
        # FILTER, so that an answer about one channel does not make the others' known.
        own = exp.Where(this=exp.column("channel").eq(exp.Literal.string(channel)))
        answer = exp.func("bool_or", exp.column("granted"), dialect="duckdb")
        return exp.alias_(exp.Filter(this=answer, expression=own), channel)

    return (
        exp.select("member_id", *(granted(channel) for channel in ("email", "sms", "wechat")))
        .from_("consents")
        .where(exp.column("purpose").eq(exp.Literal.string("marketing")))
        .group_by("member_id")
    )


_EXTRAS: dict[str, tuple[str, Callable[[Moment], exp.Select]]] = {
    "points": ("p", _points),
    "consent": ("c", _consents),
}


def _instant(day: date, moment: Moment) -> exp.Expr:
    return exp.cast(
        exp.Literal.string(instant(day, moment.zone).isoformat()), "timestamptz", dialect="duckdb"
    )


def _sure(condition: exp.Expr) -> exp.Expr:
    """A missing value makes a condition false, not unknown."""
    return exp.Coalesce(this=exp.paren(condition), expressions=[exp.false()])


def _condition(node: Node, scope: _Scope) -> exp.Expr:
    if isinstance(node, All):
        return exp.and_(*(_condition(child, scope) for child in node.nodes))
    if isinstance(node, Any_):
        return exp.or_(*(_condition(child, scope) for child in node.nodes))
    if isinstance(node, Not):
        return exp.not_(exp.paren(_condition(node.node, scope)))
    scope.conditions += 1
    if scope.conditions > MAX_CONDITIONS:
        raise InvalidInput(
            f"segment: with the segments it refers to, the rule has more than {MAX_CONDITIONS} conditions.",
            "segment",
        )
    if isinstance(node, FieldIs):
        return _field(node, scope)
    if isinstance(node, EventIs):
        return _event(node, scope)
    return _segment(node, scope)


def _segment(node: InSegment, scope: _Scope) -> exp.Expr:
    if node.name in scope.open_segments:
        circle = " → ".join((*scope.open_segments, node.name))
        raise InvalidInput(f"segment: these segments refer to each other in a circle: {circle}.", "segment")
    if len(scope.open_segments) >= MAX_SEGMENT_DEPTH:
        raise InvalidInput(
            f"segment: segments refer to each other over more than {MAX_SEGMENT_DEPTH} steps.", "segment"
        )
    rule = scope.lookup(node.name)
    if rule is None:
        raise InvalidInput(f"segment: there is no segment “{node.name}”.", "segment")
    outer = scope.open_segments
    scope.open_segments = (*outer, node.name)
    # The other segment's own rule, in the same query: its conditions share the scans.
    result = exp.paren(_condition(validate(rule), scope))
    scope.open_segments = outer
    return result


def depends_on(rule: Any) -> list[str]:
    """Names of the segments that a rule refers to directly."""
    return list(dict.fromkeys(segments_in(validate(rule))))


def _field(node: FieldIs, scope: _Scope) -> exp.Expr:
    kind = field_type(node.field)
    if kind is None:
        name = node.field.removeprefix(ATTRIBUTE_PREFIX)
        return _compare(_json(exp.column("attributes", "m"), name), node.op, node.value, None, scope.moment)
    table, column = FIELDS[node.field].column.split(".")
    extra = {"p": "points", "c": "consent"}.get(table)
    if extra:
        scope.extras.add(extra)
    this: exp.Expr = exp.column(column, table)
    if extra == "points":
        this = exp.Coalesce(this=this, expressions=[exp.Literal.number(0)])
    if kind == NUMBER:
        this = _major(this, column, scope.moment)
    return _compare(this, node.op, node.value, kind, scope.moment)


def _json(column: exp.Expr, name: str) -> exp.Expr:
    """The text of a JSON object's member; a name with dots is one name."""
    path = exp.JSONPath(expressions=[exp.JSONPathRoot(), exp.JSONPathKey(this=name)])
    return exp.JSONExtractScalar(this=column, expression=path)


def _major(this: exp.Expr, column: str, moment: Moment) -> exp.Expr:
    if column not in MINOR_COLUMNS:
        return this
    return exp.Div(
        this=exp.cast(this, "double"), expression=exp.Literal.number(10 ** exponent(moment.currency))
    )


def _literal(value: Any) -> exp.Expr:
    if isinstance(value, bool):
        return exp.true() if value else exp.false()
    if isinstance(value, float):
        return exp.Literal.number(int(value) if value.is_integer() else repr(value))
    if isinstance(value, date):
        return exp.cast(exp.Literal.string(value.isoformat()), "date")
    return exp.Literal.string(value)


_COMPARISONS: dict[str, type[exp.Binary]] = {
    "=": exp.EQ, "!=": exp.NEQ, ">": exp.GT, ">=": exp.GTE, "<": exp.LT, "<=": exp.LTE,
}  # fmt: skip


def _compare(this: exp.Expr, op: str, value: Any, kind: str | None, moment: Moment) -> exp.Expr:
    if op in ("is_set", "is_not_set"):
        missing: exp.Expr = exp.Is(this=this, expression=exp.null())
        if kind == TAGS:
            missing = exp.or_(missing, exp.EQ(this=this.copy(), expression=exp.Literal.string("[]")))
        return exp.paren(missing) if op == "is_not_set" else exp.not_(exp.paren(missing))
    if kind == TAGS:
        return _sure(exp.or_(*(_has_tag(this, tag) for tag in value)))
    if kind == DATE:
        return _compare_date(this, op, value, moment)
    if kind is None and isinstance(value[0] if isinstance(value, tuple) else value, float):
        this = _number(this)
    return _sure(_plain(this, op, value))


def _number(this: exp.Expr) -> exp.Expr:
    """A text that looks like a finite number as one; “nan”, which is above every number, is none."""
    cast = exp.TryCast(this=this, to=exp.DataType.build("double"))
    finite = exp.Between(this=cast, low=exp.Literal.number("-1e300"), high=exp.Literal.number("1e300"))
    return exp.Case(ifs=[exp.If(this=finite, true=cast.copy())])


def _plain(this: exp.Expr, op: str, value: Any) -> exp.Expr:
    if op in _COMPARISONS:
        return _COMPARISONS[op](this=this, expression=_literal(value))
    if op == "between":
        return exp.Between(this=this, low=_literal(value[0]), high=_literal(value[1]))
    if op == "in":
        return exp.In(this=this, expressions=[_literal(item) for item in value])
    if op == "not_in":
        return exp.not_(exp.In(this=this, expressions=[_literal(item) for item in value]))
    if op == "starts_with":
        return exp.StartsWith(this=this, expression=_literal(value))
    return exp.GT(this=exp.StrPosition(this=this, substr=_literal(value)), expression=exp.Literal.number(0))


def _has_tag(this: exp.Expr, tag: str) -> exp.Expr:
    # Tags lie as the text of a JSON list; read as one, as its quotes and escapes differ by database.
    listed = exp.cast(exp.cast(this.copy(), "json", dialect="duckdb"), "text[]", dialect="duckdb")
    return exp.ArrayContains(this=listed, expression=exp.Literal.string(tag))


def _local_date(this: exp.Expr, moment: Moment) -> exp.Expr:
    zoned = exp.AtTimeZone(
        this=exp.cast(this, "timestamptz", dialect="duckdb"), zone=exp.Literal.string(moment.zone.key)
    )
    return exp.cast(zoned, "date")


def _compare_date(this: exp.Expr, op: str, value: Any, moment: Moment) -> exp.Expr:
    column = this.name
    if column == "registered_at":
        this = _local_date(this, moment)
    today = moment.as_of
    if op == "in_last":
        return _sure(
            exp.Between(
                this=this,
                low=_literal(today - timedelta(days=value)),
                high=_literal(today - timedelta(days=1)),
            )
        )
    if op == "in_next":
        return _sure(
            exp.Between(this=this, low=_literal(today), high=_literal(today + timedelta(days=value - 1)))
        )
    if op == "anniversary_in":
        days = [today + timedelta(days=n) for n in range(min(value, 366))]
        wanted = {f"{day:%m-%d}" for day in days}
        if "02-28" in wanted and not _leap(next(day for day in days if f"{day:%m-%d}" == "02-28").year):
            wanted.add("02-29")  # born on a leap day: celebrated on the 28th
        text = exp.func("substr", exp.cast(this, "text"), exp.Literal.number(6), exp.Literal.number(5))
        return _sure(exp.In(this=text, expressions=[exp.Literal.string(day) for day in sorted(wanted)]))
    return _sure(_plain(this, op, value))


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _event(node: EventIs, scope: _Scope) -> exp.Expr:
    source = EVENTS.get(node.event)
    lines = node.event == "order" and (
        any(where.property in LINE_PROPERTIES for where in node.where) or node.of in LINE_PROPERTIES
    )
    alias = "e_lines" if lines else f"e_{source.table}" if source else "e_events"
    scope.tables.setdefault(alias, _source_table(alias, source))
    conditions = [*_base_conditions(node, source, lines, scope.moment), *_window(node, source, scope.moment)]
    conditions += [_where(where, source, scope.moment) for where in node.where]
    name = f"a{sum(map(len, scope.aggregates.values()))}"
    filtered = exp.Filter(
        this=_aggregate(node, source, lines), expression=exp.Where(this=exp.and_(*conditions))
    )
    scope.aggregates.setdefault(alias, []).append(exp.alias_(filtered, name))
    value = _result(exp.column(name, alias), node, source, scope.moment)
    return _sure(_plain(value, node.op, node.value))


def _source_table(alias: str, source: EventSource | None) -> exp.Expr:
    if alias != "e_lines":
        return exp.to_table(source.table if source else "events")
    category = exp.Coalesce(this=exp.column("category", "l"), expressions=[exp.column("category", "p")])
    line = ("member_id", "order_id", "ordered_at", "status", "sku", "quantity", "refunded", "discount_minor")
    joined = (
        exp.select(
            *(exp.column(name, "l") for name in line),
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


def _base_conditions(
    node: EventIs, source: EventSource | None, lines: bool, moment: Moment
) -> list[exp.Expr]:
    if source is None:
        return [exp.column("kind").eq(exp.Literal.string(node.event))]
    if source.table == "orders":
        if any(where.property == "status" for where in node.where):
            return []  # who names the status means it: cancelled orders can be asked for
        if lines:
            return [exp.not_(exp.column("refunded"))]
        return [exp.or_(exp.column("status").eq(exp.Literal.string("paid")), exp.column("net_minor") > 0)]
    found: list[exp.Expr] = [exp.not_(exp.Is(this=exp.column(source.time), expression=exp.null()))]
    if source.undone is not None:
        undone = exp.column(source.undone)
        found.append(
            exp.or_(
                exp.Is(this=undone, expression=exp.null()), undone.copy() >= _instant(moment.as_of, moment)
            )
        )
    return found


def _window(node: EventIs, source: EventSource | None, moment: Moment) -> list[exp.Expr]:
    time = exp.column(source.time if source else "occurred_at")
    end = min(node.within.end, moment.as_of) if node.within.end else moment.as_of
    found: list[exp.Expr] = [time < _instant(end, moment)]
    start = node.within.start
    if node.within.last_days is not None:
        start = moment.as_of - timedelta(days=node.within.last_days)
    if start is not None:
        found.append(time.copy() >= _instant(start, moment))
    return found


def _property(name: str, source: EventSource | None) -> tuple[exp.Expr, str | None]:
    """A property as it is stored, and its type."""
    if source is None:
        return _json(exp.column("properties"), name), None
    kind, column = source.properties[name]
    return exp.column(column), kind


def _where(where: Where, source: EventSource | None, moment: Moment) -> exp.Expr:
    this, kind = _property(where.property, source)
    if kind == NUMBER:
        this = _major(this, this.name, moment)
    return _compare(this, where.op, where.value, kind, moment)


_FUNCTIONS: dict[str, type[exp.AggFunc]] = {"sum": exp.Sum, "avg": exp.Avg, "min": exp.Min, "max": exp.Max}


def _aggregate(node: EventIs, source: EventSource | None, lines: bool) -> exp.Expr:
    if node.aggregate == "count":
        # Lines tell which orders match, but orders are what is counted.
        return exp.Count(this=exp.Distinct(expressions=[exp.column("order_id")]) if lines else exp.Star())
    if node.aggregate == "days_since":
        return exp.Max(this=exp.column(source.time if source else "occurred_at"))
    assert node.of is not None
    this, kind = _property(node.of, source)
    if node.aggregate == "distinct":
        return exp.Count(this=exp.Distinct(expressions=[this]))
    return _FUNCTIONS[node.aggregate](this=_number(this) if kind is None else this)


def _result(this: exp.Expr, node: EventIs, source: EventSource | None, moment: Moment) -> exp.Expr:
    """What an aggregate is compared as. Money is added up in minor units: tenths would not add up to 1."""
    if node.aggregate == "days_since":
        return exp.DateDiff(
            this=_literal(moment.as_of), expression=_local_date(this, moment), unit=exp.var("DAY")
        )
    if node.of is not None and source is not None and node.aggregate != "distinct":
        this = _major(this, source.properties[node.of][1], moment)
    if node.aggregate in ("count", "sum", "distinct"):
        this = exp.Coalesce(this=this, expressions=[exp.Literal.number(0)])
    return this


__all__ = ["DATE", "FLAG", "TEXT", "Moment", "compile_rule", "depends_on"]
