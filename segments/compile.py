"""Rules become one query: SQLGlot expressions, values as escaped literals, never spliced text.

Each fact table is scanned once a query, however many conditions of however many rules look at it:
an event condition is one aggregate with a FILTER in that table's CTE, joined to the members.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlglot import exp

from segments.planning.moment import Moment
from segments.planning.plan import MAX_CONDITIONS, MAX_SEGMENT_DEPTH, Lookup, Plan, nothing
from segments.rules import lists_in, segments_in, validate

MEMBER = "member_id"


def compile_rule(
    rule: Any,
    moment: Moment,
    lookup: Lookup = nothing,
    lists: Collection[str] | None = None,
    member_id: int | None = None,
) -> exp.Select:
    """The query of member ids (column ``member_id``) that match ``rule``.

    ``lookup`` gives the rule of a segment by name, or None; ``lists`` the names of the lists there
    are (None: not checked); ``member_id`` asks about one member only. Raises InvalidInput with a
    path for a malformed rule, an unknown segment or list, or segments that refer to each other in
    a circle.
    """
    plan = Plan(moment, lookup, lists, member_id)
    condition, present = plan.rule(rule)
    if not present:
        condition = exp.and_(plan.there(), condition)
    return plan.query(exp.column(MEMBER, "m"), where=condition)


def compile_many(
    rules: Sequence[Any],
    moment: Moment,
    lookup: Lookup = nothing,
    lists: Collection[str] | None = None,
) -> exp.Select:
    """One query for many rules: ``member_id`` and a column a rule, ``b0``, ``b1`` … (unknown is false).

    What the rules have in common is computed once. Raises InvalidInput as :func:`compile_rule`.
    """
    plan = Plan(moment, lookup, lists)
    met = [plan.rule(rule) for rule in rules]
    inner = plan.query(
        exp.column(MEMBER, "m"),
        exp.alias_(exp.paren(plan.there()), "there"),
        *(
            exp.alias_(exp.paren(condition, copy=False), f"b{n}", copy=False)
            for n, (condition, _) in enumerate(met)
        ),
    )
    flags = (
        exp.column(f"b{n}") if present else exp.alias_(exp.and_("there", f"b{n}"), f"b{n}")
        for n, (_, present) in enumerate(met)
    )
    return exp.select(MEMBER, *flags).from_(inner.subquery("asked", copy=False))


def depends_on(rule: Any) -> list[str]:
    """Names of the segments that a rule refers to directly."""
    return list(dict.fromkeys(segments_in(validate(rule))))


def lists_of(rule: Any) -> list[str]:
    """Names of the lists that a rule refers to directly."""
    return list(dict.fromkeys(lists_in(validate(rule))))


__all__ = [
    "MAX_CONDITIONS",
    "MAX_SEGMENT_DEPTH",
    "Lookup",
    "Moment",
    "compile_many",
    "compile_rule",
    "depends_on",
    "lists_of",
]
