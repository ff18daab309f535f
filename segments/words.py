"""A rule in words, in English and Chinese: what the builder shows above itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from segments import settings
from segments.language.tree import (
    All,
    Any_,
    EventIs,
    FieldIs,
    Happening,
    InList,
    InSegment,
    Node,
    Not,
    Sequence,
    Span,
    Step,
    Within,
)
from segments.language.vocabulary import ATTRIBUTE_PREFIX, EVENTS, FIELDS
from segments.rules import validate

MAX_SHOWN = 6
"""Values of a list that are spelt out."""
_TITLED = {"lifecycle": "stage", "rfm.segment": "rfm", "rfm.value_segment": "value"}
"""Fields whose values have titles, and of which kind."""
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
    "first": ("{} of the first", "首次{}的"),
    "last": ("{} of the last", "最近一次{}的"),
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
_DEEDS = {
    "order": ("placed an order", "place an order", "下单"),
    "message_sent": ("was sent a message", "get a message", "收到消息"),
    "message_opened": ("opened a message", "open a message", "打开消息"),
    "message_clicked": ("clicked a message", "click a message", "点击消息"),
    "coupon_redeemed": ("redeemed a coupon", "redeem a coupon", "核销优惠券"),
    "points_changed": ("had points changed", "have points changed", "发生积分变动"),
    "view": ("viewed", "view", "浏览"),
    "search": ("searched", "search", "搜索"),
    "add_to_cart": ("added to cart", "add to cart", "加入购物车"),
    "favourite": ("marked a favourite", "mark a favourite", "收藏"),
    "favorite": ("marked a favourite", "mark a favourite", "收藏"),
    "share": ("shared", "share", "分享"),
    "checkout": ("went to the checkout", "go to the checkout", "进入结算"),
    "pay": ("paid", "pay", "支付"),
    "visit": ("visited", "visit", "访问"),
    "login": ("logged in", "log in", "登录"),
    "sign_up": ("signed up", "sign up", "注册"),
    "review": ("wrote a review", "write a review", "评价"),
}
"""event → what the member did, did not, and in Chinese: the steps of a sequence."""
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


def in_words(rule: Any, locale: str, titles: settings.Titles = settings.TITLES) -> str:
    """One sentence for a rule, with the shop's ``titles`` (:func:`segments.settings.titles`).

    Raises InvalidInput for a malformed one.
    """
    return of_node(validate(rule), locale, titles)


def of_node(node: Node, locale: str, titles: settings.Titles = settings.TITLES) -> str:
    """A part of a rule in words."""
    return _words(node, 1 if locale.lower().startswith("zh") else 0, titles, outer=True)


def _words(node: Node, zh: int, titles: settings.Titles, *, outer: bool = False) -> str:
    if isinstance(node, All | Any_):
        joint = ((" and ", "且"), (" or ", "或"))[isinstance(node, Any_)][zh]
        text = joint.join(_words(child, zh, titles) for child in node.nodes)
        if outer or len(node.nodes) == 1:
            return text
        return f"（{text}）" if zh else f"({text})"
    if isinstance(node, Not):
        if isinstance(node.node, InSegment | InList):
            return _inside(node.node, zh, negated=True)
        inner = _words(node.node, zh, titles, outer=True)
        return f"非（{inner}）" if zh else f"not ({inner})"
    if isinstance(node, InSegment | InList):
        return _inside(node, zh, negated=False)
    if isinstance(node, Sequence):
        text = _sequence(node, zh)
        # Its commas would run into what stands beside it.
        return text if outer else f"（{text}）" if zh else f"({text})"
    return _field(node, zh, titles) if isinstance(node, FieldIs) else _event(node, zh)


def _inside(node: InSegment | InList, zh: int, *, negated: bool) -> str:
    name = f"“{node.name}”"
    if isinstance(node, InSegment):
        return f"{'不' * negated}属于人群{name}" if zh else f"is {'not ' * negated}in the segment {name}"
    return f"{'不' * negated}在名单{name}中" if zh else f"is {'not ' * negated}on the list {name}"


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


def _field(node: FieldIs, zh: int, titles: settings.Titles) -> str:
    label = _label(node.field, zh)
    if isinstance(node.value, bool):
        return f"{label}{('：', ': ')[not zh]}{(('no', '否'), ('yes', '是'))[node.value][zh]}"
    kind = _TITLED.get(node.field)
    return _comparison(label, node.op, node.value, zh, titles[kind] if kind else None)


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


def _filters(what: Happening, zh: int) -> str:
    where = [_comparison(_property(what.event, w.property, zh), w.op, w.value, zh) for w in what.where]
    if not where:
        return ""
    return f"（{'，'.join(where)}）" if zh else f" ({', '.join(where)})"


def _span(span: Span, zh: int) -> str:
    if zh:
        return f"{span.amount} {'天' if span.unit == 'd' else '小时'}"
    return f"{span.amount} {'day' if span.unit == 'd' else 'hour'}{'s' * (span.amount != 1)}"


def _bound(bound: date | Span, zh: int) -> str:
    if isinstance(bound, date):
        return bound.isoformat()
    return f"{_span(bound, zh)}前" if zh else f"{_span(bound, zh)} ago"


def _within(within: Within, zh: int) -> str:
    """The window before its event in Chinese, behind it in English; nothing where it is all time."""
    if within.since is not None:
        return _since(within, zh)
    if within.kind == "last" and isinstance(within.start, Span):
        return f"过去 {_span(within.start, zh)}内" if zh else f" in the last {_span(within.start, zh)}"
    if within.start is not None and within.end is not None:
        start, end = _bound(within.start, zh), _bound(within.end, zh)
        if isinstance(within.start, Span):
            return f"{start}至 {end}之间" if zh else f" between {start} and {end}"
        return f"{start} 至 {end}（不含）" if zh else f" from {start} to before {end}"
    if within.end is None:
        return ""
    if isinstance(within.end, Span):
        return f"{_span(within.end, zh)}以前" if zh else f" more than {_bound(within.end, zh)}"
    return f"{within.end} 之前" if zh else f" before {within.end}"


def _since(within: Within, zh: int) -> str:
    since = within.since
    assert since is not None
    did, _, deed = _deed(since.anchor.event)
    filters = _filters(since.anchor, zh)
    if zh:
        which = "上次" if since.which == "last" else "首次"
        limit = f"的 {_span(since.limit, zh)}内" if since.limit else ""
        return f"{which}{deed}{filters}之后{limit}"
    limit = f"in the {_span(since.limit, zh)} " if since.limit else ""
    return f" {limit}after they {since.which} {did}{filters}"


def _deed(event: str) -> tuple[str, str, str]:
    """What the member did, did not, and in Chinese."""
    return _DEEDS.get(event, (f"did “{event}”", f"do “{event}”", f"发生“{event}”"))


def _nouns(event: str) -> tuple[str, str, str]:
    """One, several, and in Chinese with its measure word."""
    return _NOUNS.get(event, (f"“{event}” event", f"“{event}” events", f"次“{event}”事件"))


def _event(node: EventIs, zh: int) -> str:
    filters = _filters(node.what, zh)
    window = _within(node.within, zh)
    one, several, measured = _nouns(node.event)
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
    elif node.aggregate in ("first", "last"):
        label = _extreme(node, zh, filters, window)
    else:
        of = _AGGREGATES[node.aggregate][zh].format(_property(node.event, node.of or "", zh))
        label = f"{window}{plain}{filters}的{of}" if zh else f"{of} of {several}{filters}{window}"
    return _comparison(label, node.op, node.value, zh)


def _extreme(node: EventIs, zh: int, filters: str, window: str) -> str:
    """The first or last event's property, or its date."""
    one, _, measured = _nouns(node.event)
    if node.of is None:
        of = ("date", "日期")[zh]
    else:
        of = _property(node.event, node.of, zh)
    if zh:
        return f"{window}{_AGGREGATES[node.aggregate][1].format(measured[1:] + filters)}{of}"
    return f"{_AGGREGATES[node.aggregate][0].format(of)} {one}{filters}{window}"


def _count(node: EventIs, zh: int) -> str:
    if node.op == "between":
        low, high = map(_number, node.value)
        numbers = f"{low} 至 {high}" if zh else f"{low} to {high}"
    elif isinstance(node.value, tuple):
        numbers = _values(node.value, zh)
    else:
        numbers = _number(node.value)
    return _COUNTS[node.op][zh].format(numbers)


def _sequence(node: Sequence, zh: int) -> str:
    window = _within(node.within, zh)
    parts: list[str] = []
    for place, step in enumerate(node.steps):
        did, do, deed = _deed(step.what.event)
        filters = _filters(step.what, zh)
        again = place > 0 and not node.steps[place - 1].happens
        if zh:
            parts.append(_step_zh(step, deed + filters, place, again=again))
        else:
            parts.append(_step_en(step, did + filters, do + filters, place, again=again))
    if zh:
        return f"{window}{'，'.join(parts)}"
    return f"{', '.join(parts)}{',' * bool(window)}{window}"


def _step_en(step: Step, did: str, do: str, place: int, *, again: bool) -> str:
    """``again``: the step before must not happen either."""
    if step.happens:
        limit = f" within {_span(step.within, 0)}" if step.within else ""
        return f"{'then ' if place else ''}{did}{limit}"
    if step.within is None:
        return f"{'and ' * again}did not {do} in between"
    return f"{'and' if again else 'then'} did not {do} within {_span(step.within, 0)}"


def _step_zh(step: Step, deed: str, place: int, *, again: bool) -> str:
    if step.happens:
        limit = f"在 {_span(step.within, 1)}内" if step.within else ""
        return f"{'之后' if place else ''}{limit}{deed}"
    if step.within is None:
        return f"其间{'也' * again}没有{deed}"
    return f"{'并且' if again else '之后'} {_span(step.within, 1)}内没有{deed}"
