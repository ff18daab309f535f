"""Rules evaluated in plain Python, one member at a time, from the documentation and not from the compiler."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from tests.segments.conftest import AS_OF, MIDNIGHT, ZONE

Row = Mapping[str, Any]
_MONEY = {"amount": "net_minor", "discount": "discount_minor"}


def matches(rule: Any, member: Row, facts: Mapping[str, list[Row]]) -> bool:
    """Whether a member matches; ``facts`` holds the member's own orders and events."""
    if "all" in rule:
        return all(matches(child, member, facts) for child in rule["all"])
    if "any" in rule:
        return any(matches(child, member, facts) for child in rule["any"])
    if "not" in rule:
        return not matches(rule["not"], member, facts)
    if "sequence" in rule:
        return _sequence(rule, facts)
    if "list" in rule:
        return rule["list"] in member["lists"]
    if "event" in rule:
        if rule.get("aggregate") in ("first", "last"):
            return _extreme(rule, facts)
        return _compare(_aggregate(rule, facts), rule["op"], rule["value"])
    return _field(rule, member)


def _field(rule: Row, member: Row) -> bool:
    name, op, value = rule["field"], rule["op"], rule.get("value")
    if name == "tags":
        tags = json.loads(member["tags"])
        if op in ("is_set", "is_not_set"):
            return bool(tags) == (op == "is_set")
        return any(tag in tags for tag in value)
    if name.startswith("attributes."):
        return _json_value(json.loads(member["attributes"]).get(name.removeprefix("attributes.")), op, value)
    found = member[name]
    if name == "registered_at" and found is not None:
        found = found.astimezone(ZONE).date()
    if name in ("birthday", "registered_at"):
        return _by_day(found, op, value)
    return _compare(found, op, value)


def _by_day(found: date | None, op: str, value: Any) -> bool:
    if op in ("in_last", "in_next", "anniversary_in"):
        return found is not None and _near(found, op, int(value[:-1]))
    if value is not None:
        value = [_day(one) for one in value] if isinstance(value, list) else _day(value)
    return _compare(found, op, value)


def _day(text: str) -> date:
    return date.fromisoformat(text) if len(text) == 10 else AS_OF


def _near(found: date, op: str, days: int) -> bool:
    if op == "in_last":
        return 1 <= (AS_OF - found).days <= days
    if op == "in_next":
        return 0 <= (found - AS_OF).days < days
    for ahead in range(days):
        day = AS_OF + timedelta(days=ahead)
        celebrated = {(day.month, day.day)}
        if (day.month, day.day) == (2, 28) and (day + timedelta(days=1)).month == 3:
            celebrated.add((2, 29))
        if (found.month, found.day) in celebrated:
            return True
    return False


def _json_value(found: Any, op: str, value: Any) -> bool:
    text = found if isinstance(found, str) or found is None else json.dumps(found)
    sample = value[0] if isinstance(value, list) else value
    return _compare(_number(text) if isinstance(sample, int | float) else text, op, value)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _compare(found: Any, op: str, value: Any) -> bool:
    if op in ("is_set", "is_not_set"):
        return (found is not None) == (op == "is_set")
    if found is None:
        return False
    return bool({
        "=": lambda: found == value,
        "!=": lambda: found != value,
        ">": lambda: found > value,
        ">=": lambda: found >= value,
        "<": lambda: found < value,
        "<=": lambda: found <= value,
        "between": lambda: value[0] <= found <= value[1],
        "in": lambda: found in value,
        "not_in": lambda: found not in value,
        "contains": lambda: value in found,
        "starts_with": lambda: found.startswith(value),
    }[op]())  # fmt: skip


def _aggregate(rule: Row, facts: Mapping[str, list[Row]]) -> Any:
    order = rule["event"] == "order"
    time = _time(rule["event"])
    rows = _rows(rule, facts, rule.get("within"))
    aggregate = rule.get("aggregate", "count")
    if aggregate == "count":
        return len(rows)
    if aggregate == "days_since":
        return (AS_OF - max(row[time] for row in rows).astimezone(ZONE).date()).days if rows else None
    if aggregate in ("first", "last"):
        rows.sort(key=lambda row: (row[time], row["order_id" if order else "event_id"]))
        chosen = rows[0 if aggregate == "first" else -1] if rows else None
        if chosen is None:
            return None
        if "of" not in rule:
            return chosen[time].astimezone(ZONE).date()
        found = _property(chosen, rule["of"], order, text=True)
        return found / 100 if rule["of"] in _MONEY and order and found is not None else found
    if aggregate == "distinct":
        return len(
            {text for row in rows if (text := _property(row, rule["of"], order, text=True)) is not None}
        )
    values = [value for row in rows if (value := _property(row, rule["of"], order)) is not None]
    scale = 100 if order else 1
    if aggregate == "sum":
        return math.fsum(values) / scale if order else math.fsum(values)
    if not values:
        return None
    return {"avg": math.fsum(values) / len(values), "min": min(values), "max": max(values)}[aggregate] / scale


def _extreme(rule: Row, facts: Mapping[str, list[Row]]) -> bool:
    """A comparison of ``first`` or ``last``: by day, by number or by text, as the value told is."""
    found, op, value = _aggregate(rule, facts), rule["op"], rule.get("value")
    if "of" not in rule:
        return _by_day(found, op, value)
    if rule["event"] == "order":
        return _compare(found, op, value)
    sample = value[0] if isinstance(value, list) else value
    return _compare(_number(found) if isinstance(sample, int | float) else found, op, value)


def _time(event: str) -> str:
    return "ordered_at" if event == "order" else "occurred_at"


def _rows(rule: Row, facts: Mapping[str, list[Row]], within: Row | None) -> list[Row]:
    """The member's events of a kind, with such properties, in the window."""
    order = rule["event"] == "order"
    return [
        row
        for row in facts["orders" if order else "events"]
        if _counts(row, rule)
        and _inside(row[_time(rule["event"])], within, facts)
        and all(_where(row, where, order) for where in rule.get("where", []))
    ]


def _sequence(rule: Row, facts: Mapping[str, list[Row]]) -> bool:
    """Every choice of rows for every step is tried."""
    steps, within = rule["sequence"], rule.get("within")
    times = [
        [
            row[_time((step.get("not") or step)["event"])]
            for row in _rows(step.get("not") or step, facts, window)
        ]
        for step, window in zip(steps, _step_windows(steps, within), strict=True)
    ]

    def goes_on(place: int, before: datetime) -> bool:
        barred: list[datetime] = []
        while place < len(steps) and "not" in steps[place]:
            if "within" in steps[place]:  # only what ends a sequence has one
                over = before + _span(steps[place]["within"])
                if over > MIDNIGHT or any(before < at <= over for at in times[place]):
                    return False
            else:
                barred += times[place]
            place += 1
        if place == len(steps):
            return True
        limit = _span(steps[place]["within"]) if "within" in steps[place] else None
        return any(
            at > before
            and (limit is None or at <= before + limit)
            and not any(before < no < at for no in barred)
            and goes_on(place + 1, at)
            for at in times[place]
        )

    return any(goes_on(1, at) for at in times[0])


def _step_windows(steps: list[Row], within: Row | None) -> list[Row | None]:
    """What must not happen at last may do so after the window too, up to the as-of instant."""
    found = []
    for step in steps:
        window = within
        if "not" in step and "within" in step and within is not None:
            window = (
                {"from": within["between"][0]}
                if "between" in within
                else None
                if "before" in within
                else within
            )
        found.append(window)
    return found


def _span(text: str) -> timedelta:
    return timedelta(hours=int(text[:-1]) * (24 if text[-1] == "d" else 1))


def _ago(text: str) -> datetime:
    """A bound of a window. The zone of these shops knows no summer time, so a day is 24 hours."""
    if text[-1] in "dh":
        return MIDNIGHT - _span(text)
    return datetime.combine(date.fromisoformat(text), time(), ZONE)


def _counts(row: Row, rule: Row) -> bool:
    if rule["event"] != "order":
        return bool(row["kind"] == rule["event"])
    if any(where["field"] == "status" for where in rule.get("where", [])):
        return True
    return bool(row["status"] == "paid" or row["net_minor"] > 0)


def _inside(at: datetime, within: Row | None, facts: Mapping[str, list[Row]]) -> bool:
    if at >= MIDNIGHT:
        return False
    if within is None:
        return True
    if "last" in within:
        return at >= _ago(within["last"])
    if "from" in within:
        return at >= _ago(within["from"])
    if "before" in within:
        return at < _ago(within["before"])
    if "between" in within:
        start, end = map(_ago, within["between"])
        return start <= at < end
    anchor = within["since_event"]
    times = [row[_time(anchor["event"])] for row in _rows(anchor, facts, None)]
    if not times:
        return False
    start = (max if anchor.get("which", "last") == "last" else min)(times)
    return at > start and ("for" not in within or at <= start + _span(within["for"]))


def _property(row: Row, name: str, order: bool, *, text: bool = False) -> Any:
    if order:
        return row[_MONEY.get(name, name)]
    found = json.loads(row["properties"]).get(name)
    plain = found if isinstance(found, str) or found is None else json.dumps(found)
    return plain if text else _number(plain)


def _where(row: Row, where: Row, order: bool) -> bool:
    name, op, value = where["field"], where["op"], where.get("value")
    if not order:
        return _json_value(json.loads(row["properties"]).get(name), op, value)
    found = row[_MONEY.get(name, name)]
    return _compare(found / 100 if name in _MONEY and found is not None else found, op, value)


assert datetime(2026, 2, 28, 16, tzinfo=UTC) == MIDNIGHT
