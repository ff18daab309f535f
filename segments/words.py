"""A rule in words, in English and Chinese: what the builder shows above itself."""

from __future__ import annotations

from collections.abc import Mapping
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
    Within,
    validate,
)

MAX_SHOWN = 6
"""Values of a list that are spelt out."""
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
    "matches_any": ("include", "包含"),
    "is_set": ("is known", "已知"),
    "is_not_set": ("is not known", "未知"),
    "in_last": ("is in the last", "在过去"),
    "in_next": ("is in the next", "在未来"),
    "anniversary_in": ("has its anniversary in the next", "的周年日在未来"),
}
_DATE_OPERATORS = {
    ">": ("is after", "晚于"),
    ">=": ("is not before", "不早于"),
    "<": ("is before", "早于"),
    "<=": ("is not after", "不晚于"),
}
_COUNTS = {
    "=": ("exactly {}", "恰好 {}"),
    "!=": ("any number but {}", "不是 {}"),
    ">": ("more than {}", "超过 {}"),
    ">=": ("at least {}", "至少 {}"),
    "<": ("fewer than {}", "少于 {}"),
    "<=": ("at most {}", "至多 {}"),
    "between": ("{}", "{}"),
    "in": ("exactly {}", "恰好 {}"),
    "not_in": ("any number but {}", "不是 {}"),
}
"""How often something happened, before its noun."""
_AGGREGATES = {
    "sum": ("total {}", "{}合计"),
    "avg": ("average {}", "平均{}"),
    "min": ("smallest {}", "最小{}"),
    "max": ("largest {}", "最大{}"),
    "distinct": ("number of different {}", "不同{}的个数"),
}
_NOUNS = {
    "order": ("order", "orders", "笔订单"),
    "message_sent": ("message sent", "messages sent", "次发送消息"),
    "message_opened": ("message opened", "messages opened", "次打开消息"),
    "message_clicked": ("message clicked", "messages clicked", "次点击消息"),
    "coupon_redeemed": ("coupon redeemed", "coupons redeemed", "次核销优惠券"),
    "points_changed": ("points entry", "points entries", "次积分变动"),
}
"""event → one, several, and in Chinese with its measure word."""
_PROPERTIES = {
    "amount": ("amount", "金额"),
    "discount": ("discount", "优惠金额"),
    "channel": ("channel", "渠道"),
    "coupon_code": ("coupon code", "券码"),
    "status": ("status", "状态"),
    "category": ("category", "品类"),
    "sku": ("SKU", "SKU"),
    "brand": ("brand", "品牌"),
    "quantity": ("quantity", "件数"),
    "purpose": ("purpose", "用途"),
    "delta": ("points", "积分"),
    "kind": ("kind", "类型"),
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
        inner = _words(node.node, zh, outer=True)
        return f"非（{inner}）" if zh else f"not ({inner})"
    if isinstance(node, InSegment):
        return f"属于人群“{node.name}”" if zh else f"is in the segment “{node.name}”"
    return _field(node, zh) if isinstance(node, FieldIs) else _event(node, zh)


def _label(name: str, zh: int) -> str:
    if name.startswith(ATTRIBUTE_PREFIX):
        quoted = f"“{name.removeprefix(ATTRIBUTE_PREFIX)}”"
        return f"属性{quoted}" if zh else f"attribute {quoted}"
    return (FIELDS[name].en, FIELDS[name].zh)[zh]


def _property(event: str, name: str, zh: int) -> str:
    return _PROPERTIES[name][zh] if event in EVENTS and name in _PROPERTIES else f"“{name}”"


def _number(value: float) -> str:
    return f"{int(value):,}" if value.is_integer() else f"{value:,}"


def _value(value: Any, zh: int, titles: Mapping[str, tuple[str, str]] | None = None) -> str:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, date):
        return value.isoformat()
    if titles and value in titles:
        return titles[value][zh]
    return f"“{value}”"


def _values(values: tuple[Any, ...], zh: int, titles: Mapping[str, tuple[str, str]] | None = None) -> str:
    shown = [_value(item, zh, titles) for item in values[:MAX_SHOWN]]
    comma = "、" if zh else ", "
    if len(values) > MAX_SHOWN:
        return comma.join(shown) + (f" 等 {len(values)} 项" if zh else f", … ({len(values)} in all)")
    last = shown.pop()
    joint = "或" if zh and not isinstance(values[0], float) else " 或 " if zh else " or "
    return f"{comma.join(shown)}{joint}{last}" if shown else last


def _field(node: FieldIs, zh: int) -> str:
    label = _label(node.field, zh)
    if isinstance(node.value, bool):
        return f"{label}{('：', ': ')[not zh]}{(('no', '否'), ('yes', '是'))[node.value][zh]}"
    return _comparison(label, node.op, node.value, zh, _TITLES.get(node.field))


def _comparison(
    label: str, op: str, value: Any, zh: int, titles: Mapping[str, tuple[str, str]] | None = None
) -> str:
    sample = value[0] if isinstance(value, tuple) else value
    operators = {**_OPERATORS, **_DATE_OPERATORS} if isinstance(sample, date) else _OPERATORS
    # Chinese sets a space between its characters and digits, and none before a quotation mark.
    quoted = isinstance(sample, str)
    gap = "" if zh and quoted else " "
    words = f"{label}{_space(label[-1], zh)}{operators[op][zh]}"
    if op in ("is_set", "is_not_set"):
        return words
    if op in ("in_last", "in_next", "anniversary_in"):
        return f"{words} {value} 天内" if zh else f"{words} {value} day{'s' * (value != 1)}"
    if op == "between":
        low, high = (_value(item, zh) for item in value)
        if zh:
            return f"{words}{gap}{low}{gap}与{gap}{high}{gap}之间"
        return f"{words} {low} and {high}"
    shown = _values(value, zh, titles) if isinstance(value, tuple) else _value(value, zh, titles)
    if zh and titles:
        gap = ""
    return f"{words}{gap}{shown}"


def _space(beside: str, zh: int) -> str:
    """Between two words; in Chinese only beside a Latin letter or a digit."""
    return " " if not zh or (beside.isascii() and beside.isalnum()) else ""


def _within(within: Within, zh: int) -> str:
    """The window before its event in Chinese, behind it in English; nothing where it is all time."""
    if within.last_days is not None:
        days = within.last_days
        return f"过去 {days} 天内" if zh else f" in the last {days} day{'s' * (days != 1)}"
    if within.start is not None:
        return (
            f"{within.start} 至 {within.end}（不含）"
            if zh
            else f" from {within.start} to before {within.end}"
        )
    if within.end is not None:
        return f"{within.end} 之前" if zh else f" before {within.end}"
    return ""


def _event(node: EventIs, zh: int) -> str:
    where = [_comparison(_property(node.event, w.property, zh), w.op, w.value, zh) for w in node.where]
    filters = "" if not where else f"（{'，'.join(where)}）" if zh else f" ({', '.join(where)})"
    window = _within(node.within, zh)
    one, several, measured = _NOUNS.get(
        node.event, (f"“{node.event}” event", f"“{node.event}” events", f"次“{node.event}”事件")
    )
    plain = measured[1:]
    if node.aggregate == "count":
        if node.op == "=" and node.value == 0:
            return f"{window}没有{plain}{filters}" if zh else f"has no {several}{filters}{window}"
        count = _count(node, zh)
        noun = one if count.endswith(" 1") else several
        return (
            f"{window}有{_space(count[0], zh)}{count} {measured}{filters}"
            if zh
            else f"has {count} {noun}{filters}{window}"
        )
    if node.aggregate == "days_since":
        label = (
            f"number of days since the last {one}{filters}{window}",
            f"{window}距上次{plain}{filters}的天数",
        )[zh]
        return _comparison(label, node.op, node.value, zh)
    of = _AGGREGATES[node.aggregate][zh].format(_property(node.event, node.of or "", zh))
    label = f"{window}{plain}{filters}的{of}" if zh else f"{of} of {several}{filters}{window}"
    return _comparison(label, node.op, node.value, zh)


def _count(node: EventIs, zh: int) -> str:
    if node.op == "between":
        low, high = map(_number, node.value)
        numbers = f"{low} 至 {high}" if zh else f"{low} to {high}"
    elif isinstance(node.value, tuple):
        numbers = _values(node.value, zh)
    else:
        numbers = _number(node.value)
    return _COUNTS[node.op][zh].format(numbers)
