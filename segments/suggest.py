"""Values that the data holds, with how often, for whoever writes a rule. One bounded query."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from core.errors import InvalidInput
from segments.language.events import property_of
from segments.language.tree import Happening, Span, Within
from segments.language.values import MAX_TEXT, name
from segments.language.vocabulary import ATTRIBUTE_PREFIX, FIELDS, TAGS
from segments.planning import happenings
from segments.planning.plan import Plan
from segments.planning.sources import NOTHING

LIMIT, MAX_LIMIT = 20, 200
DAYS = 90
"""Events are looked at this far back."""


@dataclass(frozen=True)
class Suggestion:
    value: str
    number: int
    """Of members, or of events."""


def query(plan: Plan, field: str, event: str | None, prefix: str, limit: int) -> exp.Select:
    """The query of ``value`` and ``number``, the commonest first. InvalidInput: no such field or property."""
    if len(prefix) > MAX_TEXT:
        raise InvalidInput(f"prefix: a text has at most {MAX_TEXT} characters.", "prefix")
    values = _of_members(plan, field) if event is None else _of_events(plan, event, field)
    value = exp.column("value")
    begins = exp.StartsWith(this=exp.Lower(this=value), expression=exp.Lower(this=exp.Literal.string(prefix)))
    return (
        exp.select(value, exp.alias_(exp.Count(this=exp.Star()), "number"))
        .from_(values.subquery("told"))
        .where(exp.not_(value.is_(exp.null())), *([begins] if prefix else []))
        .group_by("value")
        .order_by("number DESC", "value")
        .limit(min(max(limit, 1), MAX_LIMIT))
    )


def _of_members(plan: Plan, field: str) -> exp.Select:
    if field.startswith(ATTRIBUTE_PREFIX):
        name(field.removeprefix(ATTRIBUTE_PREFIX), "field")
    elif field not in FIELDS:
        raise InvalidInput(f"field: there is no field “{field}”.", "field")
    this, kind = plan.field(field)
    if kind == TAGS:
        listed = exp.cast(exp.cast(this, "json", dialect="duckdb"), "text[]", dialect="duckdb")
        return plan.query(exp.alias_(exp.Explode(this=listed), "value"), where=plan.there())
    return plan.query(exp.alias_(exp.cast(this, "text"), "value"), where=plan.there())


def _of_events(plan: Plan, event: str, field: str) -> exp.Select:
    found, _ = property_of(name(event, "event"), field, "field")
    what = Happening(event)
    table = happenings.table_of(what, found)
    this, _ = happenings.property_of(found, event)
    window = Within("last", start=Span(DAYS, "d"))
    where = happenings.rows_of(what, window, table, plan.moment).spelt_out(NOTHING)
    return (
        exp.select(exp.alias_(exp.cast(this, "text"), "value"))
        .from_(happenings.expression_of(table))
        .where(*where)
    )
