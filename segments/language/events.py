"""Conditions on what a member did: aggregates over events, windows, sequences; read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from segments.language.tree import EVER, EventIs, Happening, Sequence, Since, Span, Step, Where, Within
from segments.language.values import day, fail, join, kind_of, name, only, operand, operator, span
from segments.language.vocabulary import (
    AGGREGATES,
    DATE,
    EVENTS,
    MEASURES,
    NUMBER,
    PRESENCE,
    PROPERTY_PREFIX,
    WINDOWS,
)

MAX_WHERE = 20
MAX_STEPS = 5
_A_WINDOW = (
    'a window is {"last": "30d"}, {"before": "2026-03-01"}, {"between": [from, to]} or '
    '{"since_event": {"event": …}, "for": "7d"}.'
)


def event(rule: Mapping[str, Any], path: str) -> EventIs:
    """``{"event", "where", "aggregate", "of", "op", "value", "within"}``."""
    only(rule, path, ("event", "where", "aggregate", "of", "op", "value", "within"))
    what = happening(rule, path)
    aggregate = rule.get("aggregate", "count")
    if not isinstance(aggregate, str) or aggregate not in AGGREGATES:
        raise fail(join(path, "aggregate"), f"{aggregate!r} is none of {', '.join(AGGREGATES)}.")
    of, kind = _of(rule, path, what.event, aggregate)
    op = operator(rule, path, of if of is not None and aggregate in ("first", "last") else aggregate, kind)
    if op in PRESENCE and aggregate not in ("first", "last"):
        raise fail(join(path, "op"), f"an event is compared by its {aggregate}, for example >= 1.")
    value = operand(rule, path, op, kind)
    return EventIs(what, aggregate, of, op, value, within(rule, path))


def _of(rule: Mapping[str, Any], path: str, event: str, aggregate: str) -> tuple[str | None, str | None]:
    """The property that is aggregated, and the type of the result (None: a behaviour's property)."""
    place = join(path, "of")
    of = rule.get("of")
    if aggregate in ("count", "days_since"):
        if of is not None:
            raise fail(place, f"{aggregate} takes no property.")
        return None, NUMBER
    if of is None and aggregate in ("first", "last"):
        return None, DATE
    of, kind = property_of(event, of, place)
    if aggregate in MEASURES and kind not in (NUMBER, None):
        raise fail(place, f"“{of}” is a {kind}; {aggregate} needs a number.")
    return of, kind if aggregate in ("first", "last") else NUMBER


def property_of(event: str, value: Any, path: str) -> tuple[str, str | None]:
    """Name and type of an event's property; type None where only the value tells (behaviour events)."""
    found = name(value, path)
    source = EVENTS.get(event)
    if source is None:
        return name(found.removeprefix(PROPERTY_PREFIX), path), None
    if found not in source.properties:
        raise fail(path, f"“{event}” has no property “{found}”; it has {', '.join(source.properties)}.")
    return found, source.properties[found][0]


def happening(rule: Mapping[str, Any], path: str) -> Happening:
    """The ``event`` and ``where`` of a node."""
    kind = name(rule.get("event"), join(path, "event"))
    where = [] if rule.get("where") is None else rule["where"]
    if not isinstance(where, list) or len(where) > MAX_WHERE:
        raise fail(join(path, "where"), f"a list of at most {MAX_WHERE} conditions is expected.")
    return Happening(
        kind, tuple(_where(item, f"{join(path, 'where')}[{i}]", kind) for i, item in enumerate(where))
    )


def _where(item: Any, path: str, event: str) -> Where:
    if not isinstance(item, dict):
        raise fail(path, "a condition on an event is a JSON object.")
    only(item, path, ("field", "op", "value"))
    found, kind = property_of(event, item.get("field"), join(path, "field"))
    op = operator(item, path, found, kind)
    return Where(found, op, operand(item, path, op, kind))


def within(rule: Mapping[str, Any], path: str) -> Within:
    """The node's window; all time where it has none."""
    found = rule.get("within")
    place = join(path, "within")
    if found is None:
        return EVER
    if not isinstance(found, dict) or not found:
        raise fail(place, _A_WINDOW)
    kind = next((key for key in found if key in WINDOWS), None)
    if kind is None:
        raise fail(place, f"“{next(iter(found))}” is no window; there are {', '.join(WINDOWS)}.")
    if len(found) > 1 and not (kind == "since_event" and set(found) == {"since_event", "for"}):
        raise fail(place, _A_WINDOW)
    value = found[kind]
    if kind == "last":
        return Within(kind, start=span(value, f"{place}.last"))
    if kind == "before":
        return Within(kind, end=_bound(value, f"{place}.before"))
    if kind == "between":
        return _between(value, f"{place}.between")
    return _since(found, place)


def _bound(value: Any, place: str) -> date | Span:
    """A date, or a span before the as-of date."""
    looks_like_span = isinstance(value, str) and value[-1:] in ("d", "h")
    return span(value, place) if looks_like_span else day(value, place)


def _between(value: Any, place: str) -> Within:
    if not isinstance(value, list) or len(value) != 2:
        raise fail(place, "two dates are needed: [from, to); or two spans: from 60d to 30d ago.")
    start, end = (_bound(item, f"{place}[{i}]") for i, item in enumerate(value))
    if isinstance(start, Span) and isinstance(end, Span):
        if start.hours <= end.hours:
            raise fail(
                place, 'the longer span comes first: ["60d", "30d"] is from 60 days ago to 30 days ago.'
            )
    elif isinstance(start, Span) or isinstance(end, Span):
        raise fail(place, "give two dates or two spans, not one of each.")
    elif start >= end:
        raise fail(place, "the first date must be before the second.")
    return Within("between", start, end)


def _since(found: Mapping[str, Any], place: str) -> Within:
    value, path = found["since_event"], f"{place}.since_event"
    if not isinstance(value, dict):
        raise fail(path, '{"event": …} is expected, with “where” and “which” if you like.')
    only(value, path, ("event", "where", "which"))
    which = value.get("which", "last")
    if which not in ("last", "first"):
        raise fail(f"{path}.which", f"{which!r} is neither “last” nor “first”.")
    limit = span(found["for"], f"{place}.for") if found.get("for") is not None else None
    return Within("since_event", since=Since(happening(value, path), which, limit))


def sequence(rule: Mapping[str, Any], path: str) -> Sequence:
    """``{"sequence": [step, …], "within"}``."""
    only(rule, path, ("sequence", "within"))
    place = join(path, "sequence")
    listed = rule["sequence"]
    if not isinstance(listed, list) or not 2 <= len(listed) <= MAX_STEPS:
        raise fail(place, f"a sequence is a list of 2 to {MAX_STEPS} steps.")
    steps = [_step(item, f"{place}[{i}]") for i, item in enumerate(listed)]
    if not steps[0].happens:
        raise fail(f"{place}[0]", "a sequence starts with something that happens.")
    if steps[0].within is not None:
        raise fail(f"{place}[0].within", "the first step has none before it that this could count from.")
    last = max(i for i, step in enumerate(steps) if step.happens)
    for i, step in enumerate(steps):
        if step.happens:
            continue
        if i > last and step.within is None:
            raise fail(f"{place}[{i}]", "say within how long it must not happen, for example “within”: “3d”.")
        if i < last and step.within is not None:
            raise fail(
                f"{place}[{i}].within",
                "between two steps “not” means none between them; only the next step can have a “within”.",
            )
    window = within(rule, path)
    if window.since is not None:
        raise fail(
            join(path, "within"), "a sequence takes last, before or between; put the event first instead."
        )
    return Sequence(tuple(steps), window)


def _step(item: Any, path: str) -> Step:
    if not isinstance(item, dict):
        raise fail(path, f"a step is a JSON object with “event” or “not”, not {kind_of(item)}.")
    limit = span(item["within"], join(path, "within")) if item.get("within") is not None else None
    if "not" in item:
        only(item, path, ("not", "within"))
        inner = item["not"]
        if not isinstance(inner, dict):
            raise fail(join(path, "not"), f"an event is expected, not {kind_of(inner)}.")
        only(inner, join(path, "not"), ("event", "where"))
        return Step(happening(inner, join(path, "not")), False, limit)
    only(item, path, ("event", "where", "within"))
    return Step(happening(item, path), True, limit)
