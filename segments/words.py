"""A rule in words, in English and Chinese: what the builder shows above itself."""

from __future__ import annotations

from datetime import date
from typing import Any

from segments import settings
from segments.rules import (
    ATTRIBUTE_PREFIX,
    EVENTS,
    FIELDS,
    All,
    Any_,
    EventIs,
    FieldIs,
    InSegment,
    Node,
    Not,
    Where,
    Within,
    validate,
)

_CHOICES = {**settings.STAGE_TITLES, **settings.RFM_TITLES, **settings.VALUE_TITLES}
_TITLES = {
    "lifecycle": settings.STAGE_TITLES,
    "rfm.segment": settings.RFM_TITLES,
    "rfm.value_segment": settings.VALUE_TITLES,
}
_OPERATORS = {
    "=": ("is", "为"),
    "!=": ("is not", "不为"),
    ">": ("is over", "大于"),
    ">=": ("is at least", "不小于"),
    "<": ("is under", "小于"),
    "<=": ("is at most", "不大于"),
    "between": ("is between", "介于"),
    "in": ("is", "为"),
    "not_in": ("is none of", "不属于"),
    "contains": ("contains", "包含"),
    "starts_with": ("starts with", "开头是"),
    "matches_any": ("include", "包含任一"),
    "is_set": ("is known", "已填写"),
    "is_not_set": ("is not known", "未填写"),
    "in_last": ("was in the last", "在过去"),
    "in_next": ("is in the next", "在未来"),
    "anniversary_in": ("has its anniversary in the next", "周年日在未来"),
}
_AGGREGATES = {
    "count": ("number", "次数"),
    "sum": ("sum of", "合计"),
    "avg": ("average of", "平均"),
    "min": ("smallest", "最小"),
    "max": ("largest", "最大"),
    "distinct": ("different", "去重数"),
    "days_since": ("days since the last", "距上次天数"),
}


def in_words(rule: Any, locale: str) -> str:
    """One sentence for a rule. Raises InvalidInput for a malformed one."""
    return _words(validate(rule), 1 if locale.lower().startswith("zh") else 0, outer=True)


def _words(node: Node, zh: int, *, outer: bool = False) -> str:
    if isinstance(node, All | Any_):
        joint = ((" and ", "且"), (" or ", "或"))[isinstance(node, Any_)][zh]
        text = joint.join(_words(child, zh) for child in node.nodes)
        if outer or len(node.nodes) == 1:
            return text
        return f"（{text}）" if zh else f"({text})"
    if isinstance(node, Not):
        inner = _words(node.node, zh)
        return f"非（{inner}）" if zh else f"not {inner if inner.startswith('(') else f'({inner})'}"
    if isinstance(node, InSegment):
        return f"属于人群“{node.name}”" if zh else f"in the segment “{node.name}”"
    return _field(node, zh) if isinstance(node, FieldIs) else _event(node, zh)


def _label(name: str, zh: int) -> str:
    if name.startswith(ATTRIBUTE_PREFIX):
        return name.removeprefix(ATTRIBUTE_PREFIX)
    return (FIELDS[name].en, FIELDS[name].zh)[zh]


def _value(value: Any, zh: int, titles: dict[str, tuple[str, str]] | None = None) -> str:
    if isinstance(value, bool):
        return (("no", "否"), ("yes", "是"))[value][zh]
    if isinstance(value, float):
        return f"{value:,.10g}"
    if isinstance(value, date):
        return value.isoformat()
    if titles and value in titles:
        return titles[value][zh]
    return f"“{value}”"


def _values(values: tuple[Any, ...], zh: int, titles: dict[str, tuple[str, str]] | None) -> str:
    shown = [_value(item, zh, titles) for item in values[:6]]
    if len(values) > 6:
        shown.append(f"等 {len(values)} 项" if zh else f"… ({len(values)} in all)")
    return (
        ("、" if zh else ", ").join(shown[:-1])
        + (("或" if zh else " or ") if len(shown) > 1 else "")
        + shown[-1]
    )


def _field(node: FieldIs | Where, zh: int) -> str:
    name = node.field if isinstance(node, FieldIs) else node.property
    label = _label(name, zh) if isinstance(node, FieldIs) else name
    return _comparison(label, node.op, node.value, zh, _TITLES.get(name))


def _comparison(
    label: str, op: str, value: Any, zh: int, titles: dict[str, tuple[str, str]] | None = None
) -> str:
    gap = "" if zh else " "
    words = f"{label}{gap}{_OPERATORS[op][zh]}"
    if op in ("is_set", "is_not_set"):
        return words
    if op in ("in_last", "in_next", "anniversary_in"):
        return f"{words} {value} 天内" if zh else f"{words} {value} days"
    if op == "between":
        low, high = (_value(item, zh) for item in value)
        return f"{words} {low} 与 {high} 之间" if zh else f"{words} {low} and {high}"
    if isinstance(value, tuple):
        return f"{words}{gap}{_values(value, zh, titles)}"
    return f"{words}{' ' if zh and isinstance(value, float) else gap}{_value(value, zh, titles)}"


def _within(within: Within, zh: int) -> str:
    if within.last_days is not None:
        return f"过去 {within.last_days} 天" if zh else f"in the last {within.last_days} days"
    if within.start is not None:
        return f"{within.start} 至 {within.end}" if zh else f"from {within.start} to before {within.end}"
    if within.end is not None:
        return f"{within.end} 之前" if zh else f"before {within.end}"
    return "至今" if zh else "ever"


def _event(node: EventIs, zh: int) -> str:
    source = EVENTS.get(node.event)
    name = (source.en.lower(), source.zh)[zh] if source else f"“{node.event}”"
    conditions = [_field(where, zh) for where in node.where]
    window = _within(node.within, zh)
    what = _AGGREGATES[node.aggregate][zh]
    if zh:
        filters = f"（{'，'.join(conditions)}）" if conditions else ""
        measure = f"{what}" if node.of is None else f"{node.of} {what}"
        return _comparison(f"{window}{name}{filters}{measure}", node.op, node.value, zh)
    filters = f" with {' and '.join(conditions)}" if conditions else ""
    of = f" {node.of}" if node.of else ""
    measure = f"{what}{of} of {name} events{filters} {window}"
    if node.aggregate == "days_since":
        measure = f"{what} {name} event{filters} {window}"
    return _comparison(measure, node.op, node.value, zh)
