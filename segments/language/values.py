"""Values of a rule: texts, numbers, dates, flags and spans, checked one by one with their place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from core.errors import InvalidInput
from segments.language.tree import Span
from segments.language.vocabulary import (
    ATTRIBUTE_OPERATORS,
    DATE,
    FLAG,
    LISTS,
    NEAR,
    NUMBER,
    OPERATORS,
    ORDER,
    PRESENCE,
    TAGS,
    TEXT,
)

MAX_VALUES = 1000
MAX_TEXT = 500
MAX_NUMBER = 1e15
_NAME = re.compile(r"\w[\w.\- ]{0,79}")
_SPAN = re.compile(r"([1-9][0-9]{0,4})([dh])")
_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}


def fail(path: str, message: str) -> InvalidInput:
    """An error about the node at ``path``; the rule itself has an empty one."""
    return InvalidInput(f"{path or 'the rule'}: {message}", path or "rule")


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def kind_of(value: Any) -> str:
    """What a JSON value is, in a marketer's words."""
    return _TYPES.get(type(value), "a number")


def only(rule: Mapping[str, Any], path: str, allowed: tuple[str, ...]) -> None:
    """Refuse keys that a node of this kind does not have: a misspelt one would be ignored silently."""
    for key in rule:
        if key not in allowed:
            raise fail(path, f"“{key}” is not known here; a condition like this has {', '.join(allowed)}.")


def name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise fail(path, f"{value!r} is not a name (letters, digits, . _ - and spaces, at most 80).")
    return value


def operator(rule: Mapping[str, Any], path: str, subject: str, kind: str | None) -> str:
    """The node's operator, of those that its type takes (None: an attribute or a behaviour's property)."""
    allowed = ATTRIBUTE_OPERATORS if kind is None else OPERATORS[kind]
    op = rule.get("op")
    if not isinstance(op, str) or op not in allowed:
        raise fail(
            join(path, "op"), f"“{subject}” cannot be compared by {op!r}; it takes {', '.join(allowed)}."
        )
    return op


def operand(rule: Mapping[str, Any], path: str, op: str, kind: str | None) -> Any:
    """The node's value: a scalar, a tuple for lists and ``between``, a number of days, or None."""
    place = join(path, "value")
    if op in PRESENCE:
        if rule.get("value") is not None:
            raise fail(place, f"{op} takes no value.")
        return None
    if "value" not in rule:
        raise fail(place, "the value is missing.")
    value = rule["value"]
    if op in LISTS:
        return _several(value, place, op, TEXT if kind == TAGS else kind)
    if op in NEAR:
        return _days(value, place)
    if op == "between":
        if not isinstance(value, list) or len(value) != 2:
            raise fail(place, "between needs two values: [from, to].")
        low, high = (scalar(item, f"{place}[{i}]", kind) for i, item in enumerate(value))
        if type(low) is not type(high) or low > high:
            raise fail(place, "between needs the smaller value first.")
        return (low, high)
    if op in ("contains", "starts_with"):
        return scalar(value, place, TEXT)
    if kind is None and op in ORDER:
        return scalar(value, place, NUMBER)
    return scalar(value, place, kind)


def _several(value: Any, place: str, op: str, kind: str | None) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value or len(value) > MAX_VALUES:
        raise fail(place, f"{op} needs a list of 1 to {MAX_VALUES} values.")
    found = tuple(scalar(item, f"{place}[{i}]", kind) for i, item in enumerate(value))
    if len({type(item) for item in found}) > 1:
        raise fail(place, "the values are either all texts or all numbers.")
    return found


def scalar(value: Any, place: str, kind: str | None) -> Any:
    """A text, a float, a date or a flag, as ``kind`` says; None: what the value looks like."""
    if kind is None:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise fail(place, "an attribute is compared with a text or a number.")
        kind = TEXT if isinstance(value, str) else NUMBER
    if kind == NUMBER:
        return _number(value, place)
    if kind == FLAG:
        if not isinstance(value, bool):
            raise fail(place, "the value is true or false.")
        return value
    if not isinstance(value, str):
        raise fail(place, f"{value!r} is not a text.")
    return day(value, place) if kind == DATE else _text(value, place)


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        raise fail(place, f"{value!r} is not a number.")
    return float(value)


def _text(value: str, place: str) -> str:
    if len(value) > MAX_TEXT:
        raise fail(place, f"a text has at most {MAX_TEXT} characters.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise fail(place, "the text has half a character (a lone surrogate); write it again.") from None
    return value


def day(value: Any, place: str) -> date:
    try:
        return datetime.fromisoformat(value).date() if len(value) > 10 else date.fromisoformat(value)
    except (TypeError, ValueError):
        raise fail(place, f"{value!r} is not a date; write it like 2026-03-01.") from None


def span(value: Any, place: str) -> Span:
    """``30d`` or ``12h``."""
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise fail(place, f"{value!r} is not a span of time; write it like 30d or 12h.")
    return Span(int(match[1]), match[2])


def _days(value: Any, place: str) -> int:
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] != "d":
        raise fail(place, f"{value!r} is not a span of days; write it like 30d.")
    return int(match[1])
