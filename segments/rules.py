"""The rule language: JSON becomes a checked tree, or an error that names the offending node.

A rule is one node: ``{"all": […]}``, ``{"any": […]}``, ``{"not": node}``, a field condition
``{"field", "op", "value"}``, an event condition ``{"event", "where", "aggregate", "of", "op",
"value", "within"}``, ``{"sequence": [step, …], "within"}``, ``{"segment": name}`` or ``{"list":
name}``. A missing value satisfies no comparison: every condition is true or false, so ``not`` is
the plain opposite. ``docs/segments.md`` is the whole reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segments.language import events
from segments.language.events import MAX_STEPS, MAX_WHERE
from segments.language.tree import (
    All,
    Any_,
    EventIs,
    FieldIs,
    InList,
    InSegment,
    Node,
    Not,
    Sequence,
    leaves,
    lists_in,
    segments_in,
)
from segments.language.values import (
    MAX_TEXT,
    MAX_VALUES,
    fail,
    join,
    kind_of,
    name,
    only,
    operand,
    operator,
)
from segments.language.vocabulary import (
    AGGREGATES,
    ATTRIBUTE_OPERATORS,
    ATTRIBUTE_PREFIX,
    EVENTS,
    FIELDS,
    OPERATORS,
    WHOLE,
    field_type,
)

MAX_DEPTH = 8
MAX_LEAVES = 100
_KINDS = "all, any, not, field, event, sequence, segment, list"


def validate(rule: Any) -> Node:
    """The rule as a tree. Raises InvalidInput whose ``field`` is the path of the offending node."""
    return _node(rule, "", 1, [0])


def _node(rule: Any, path: str, depth: int, seen: list[int]) -> Node:
    if not isinstance(rule, dict):
        raise fail(path, f"a condition must be a JSON object, not {kind_of(rule)}.")
    if depth > MAX_DEPTH:
        raise fail(
            path,
            f"conditions nest deeper than {MAX_DEPTH} levels; use a segment of its own for the inner part.",
        )
    for key in ("all", "any"):
        if key in rule:
            only(rule, path, (key,))
            children = rule[key]
            if not isinstance(children, list) or not children:
                raise fail(join(path, key), "a group needs at least one condition.")
            nodes = tuple(
                _node(child, f"{join(path, key)}[{i}]", depth + 1, seen) for i, child in enumerate(children)
            )
            return All(nodes) if key == "all" else Any_(nodes)
    if "not" in rule:
        only(rule, path, ("not",))
        return Not(_node(rule["not"], join(path, "not"), depth + 1, seen))
    return _leaf(rule, path, seen)


def _leaf(rule: Mapping[str, Any], path: str, seen: list[int]) -> Node:
    steps = rule.get("sequence")
    seen[0] += min(len(steps), MAX_STEPS) if isinstance(steps, list) and steps else 1
    if seen[0] > MAX_LEAVES:
        raise fail(path, f"a rule has at most {MAX_LEAVES} conditions (each step of a sequence is one).")
    if "field" in rule:
        return _field(rule, path)
    if "event" in rule:
        return events.event(rule, path)
    if "sequence" in rule:
        return events.sequence(rule, path)
    if "segment" in rule:
        only(rule, path, ("segment",))
        return InSegment(name(rule["segment"], join(path, "segment")))
    if "list" in rule:
        only(rule, path, ("list",))
        return InList(name(rule["list"], join(path, "list")))
    raise fail(path, f"a condition has one of {_KINDS}.")


def _field(rule: Mapping[str, Any], path: str) -> FieldIs:
    only(rule, path, ("field", "op", "value"))
    field = rule["field"]
    place = join(path, "field")
    if not isinstance(field, str):
        raise fail(place, "the name of a field is a text.")
    if field.startswith(ATTRIBUTE_PREFIX):
        name(field.removeprefix(ATTRIBUTE_PREFIX), place)
    elif field not in FIELDS:
        raise fail(place, f"there is no field “{field}”; there are {', '.join(FIELDS)} and attributes.….")
    kind = field_type(field)
    op = operator(rule, path, field, kind)
    value = operand(rule, path, op, kind)
    if op in WHOLE and field in FIELDS and FIELDS[field].choices:
        _chosen(value, FIELDS[field].choices, field, join(path, "value"))
    return FieldIs(field, op, value)


def _chosen(value: Any, choices: tuple[str, ...], field: str, place: str) -> None:
    """A stage or a segment that does not exist matches nobody, silently: it is a typing error."""
    for index, item in enumerate(value if isinstance(value, tuple) else (value,)):
        if item not in choices:
            at = f"{place}[{index}]" if isinstance(value, tuple) else place
            raise fail(at, f"“{item}” is no {field}; there are {', '.join(choices)}.")


__all__ = [
    "AGGREGATES",
    "ATTRIBUTE_OPERATORS",
    "ATTRIBUTE_PREFIX",
    "EVENTS",
    "FIELDS",
    "MAX_DEPTH",
    "MAX_LEAVES",
    "MAX_STEPS",
    "MAX_TEXT",
    "MAX_VALUES",
    "MAX_WHERE",
    "OPERATORS",
    "All",
    "Any_",
    "EventIs",
    "FieldIs",
    "InList",
    "InSegment",
    "Node",
    "Not",
    "Sequence",
    "field_type",
    "leaves",
    "lists_in",
    "segments_in",
    "validate",
]
