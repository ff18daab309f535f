"""Rules evaluated in plain Python, one member at a time, from the documentation and not from the compiler."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
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
    if "event" in rule:
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
    if isinstance(found, date) and op in ("in_last", "in_next", "anniversary_in"):
        return _near(found, op, int(value[:-1]))
    if name in ("birthday", "registered_at") and value is not None:
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
    time = "ordered_at" if order else "occurred_at"
    rows = [
        row
        for row in (facts["orders"] if order else facts["events"])
        if _counts(row, rule)
        and _inside(row[time], rule.get("within"))
        and all(_where(row, where, order) for where in rule.get("where", []))
    ]
    aggregate = rule.get("aggregate", "count")
    if aggregate == "count":
        return len(rows)
    if aggregate == "days_since":
        return (AS_OF - max(row[time] for row in rows).astimezone(ZONE).date()).days if rows else None
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


def _counts(row: Row, rule: Row) -> bool:
    if rule["event"] != "order":
        return bool(row["kind"] == rule["event"])
    if any(where["field"] == "status" for where in rule.get("where", [])):
        return True
    return bool(row["status"] == "paid" or row["net_minor"] > 0)


def _inside(at: datetime, within: Row | None) -> bool:
    if at >= MIDNIGHT:
        return False
    local = at.astimezone(ZONE).date()
    if within is None:
        return True
    if "last" in within:
        return at >= MIDNIGHT - timedelta(days=int(within["last"][:-1]))
    if "before" in within:
        return local < date.fromisoformat(within["before"])
    start, end = map(date.fromisoformat, within["between"])
    return start <= local < end


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
