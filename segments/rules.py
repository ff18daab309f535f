"""The rule language: JSON becomes a checked tree, or an error that names the offending node.

A rule is one node: ``{"all": […]}``, ``{"any": […]}``, ``{"not": node}``, a field condition
``{"field", "op", "value"}``, an event condition ``{"event", "where", "aggregate", "of", "op",
"value", "within"}``, or ``{"segment": name}``. A missing value satisfies no comparison: every
condition is true or false, so ``not`` is the plain opposite.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from core.errors import InvalidInput
from segments import settings

MAX_DEPTH = 8
MAX_LEAVES = 100
MAX_VALUES = 1000
MAX_WHERE = 20
MAX_TEXT = 500

TEXT, NUMBER, DATE, FLAG, TAGS = "text", "number", "date", "flag", "tags"
_EQUAL = ("=", "!=")
_ORDER = (">", ">=", "<", "<=", "between")
_PRESENCE = ("is_set", "is_not_set")
_WHOLE = ("=", "!=", "in", "not_in")
"""Operators that compare a text as a whole."""
OPERATORS: dict[str, tuple[str, ...]] = {
    TEXT: (*_EQUAL, "in", "not_in", "contains", "starts_with", *_PRESENCE),
    NUMBER: (*_EQUAL, *_ORDER, "in", "not_in", *_PRESENCE),
    DATE: (*_EQUAL, *_ORDER, "in_last", "in_next", "anniversary_in", *_PRESENCE),
    FLAG: ("=", *_PRESENCE),
    TAGS: ("matches_any", *_PRESENCE),
}
# An attribute's type is what its value looks like, so it takes the operators of texts and numbers.
ATTRIBUTE_OPERATORS = tuple(dict.fromkeys((*OPERATORS[TEXT], *OPERATORS[NUMBER])))
AGGREGATES = ("count", "sum", "avg", "min", "max", "distinct", "days_since")
_NAME = re.compile(r"\w[\w.\- ]{0,79}")
_SPAN = re.compile(r"([1-9][0-9]{0,4})d")


@dataclass(frozen=True)
class Field:
    """A field of a member: its type, where it comes from, and how the console calls it."""

    name: str
    type: str
    column: str
    """``table.column`` of the query: m (members), s (snapshot), p (points)."""
    en: str
    zh: str
    choices: tuple[str, ...] = ()


def _fields() -> dict[str, Field]:
    found = [
        Field(
            "lifecycle",
            TEXT,
            "s.stage",
            "Lifecycle stage",
            "生命周期阶段",
            settings.STAGES + settings.TENURE_STAGES,
        ),
        Field("lifecycle.since", DATE, "s.stage_since", "In this stage since", "进入该阶段日期"),
        Field("rfm.r", NUMBER, "s.r", "Recency score (R)", "最近消费得分 R"),
        Field("rfm.f", NUMBER, "s.f", "Frequency score (F)", "消费频次得分 F"),
        Field("rfm.m", NUMBER, "s.m", "Monetary score (M)", "消费金额得分 M"),
        Field("rfm.recency", NUMBER, "s.recency", "Days since last order", "距上次下单天数"),
        Field("rfm.frequency", NUMBER, "s.frequency", "Orders in the RFM window", "窗口期订单数"),
        Field("rfm.monetary", NUMBER, "s.monetary", "Spend in the RFM window", "窗口期消费金额"),
        Field("rfm.segment", TEXT, "s.rfm_segment", "RFM segment", "RFM 分群", tuple(settings.RFM_TITLES)),
        Field(
            "rfm.value_segment",
            TEXT,
            "s.value_segment",
            "Value segment",
            "价值分群",
            tuple(settings.VALUE_TITLES),
        ),
        Field("member_id", TEXT, "m.external_id", "Member id", "会员编号"),
        Field("gender", TEXT, "m.gender", "Gender", "性别"),
        Field("birthday", DATE, "m.birthday", "Birthday", "生日"),
        Field("city", TEXT, "m.city", "City", "城市"),
        Field("province", TEXT, "m.province", "Province", "省份"),
        Field("country", TEXT, "m.country", "Country", "国家"),
        Field("locale", TEXT, "m.locale", "Language", "语言"),
        Field("timezone", TEXT, "m.timezone", "Time zone", "时区"),
        Field("registered_at", DATE, "m.registered_at", "Registration date", "注册日期"),
        Field("has_email", FLAG, "m.has_email", "Has an e-mail address", "有邮箱"),
        Field("has_phone", FLAG, "m.has_phone", "Has a phone number", "有手机号"),
        Field("has_wechat", FLAG, "m.has_wechat", "Has WeChat", "有微信"),
        Field("tags", TAGS, "m.tags", "Tags", "标签"),
        Field("points", NUMBER, "p.balance", "Points balance", "积分余额"),
        Field("consent.email", FLAG, "c.email", "Consents to e-mail", "授权邮件营销"),
        Field("consent.sms", FLAG, "c.sms", "Consents to SMS", "授权短信营销"),
        Field("consent.wechat", FLAG, "c.wechat", "Consents to WeChat", "授权微信营销"),
    ]
    return {item.name: item for item in found}


FIELDS = _fields()
ATTRIBUTE_PREFIX = "attributes."


@dataclass(frozen=True)
class EventSource:
    """A kind of event: the fact table, its time column, and the typed properties it has."""

    table: str
    time: str
    en: str
    zh: str
    properties: Mapping[str, tuple[str, str]]
    """property → (type, column)."""
    undone: str | None = None
    """Column of the time from which on the event counts no more."""


_MONEY = (NUMBER, "net_minor")
_TOUCH = {"channel": (TEXT, "channel"), "purpose": (TEXT, "purpose")}
EVENTS: dict[str, EventSource] = {
    "order": EventSource(
        "orders",
        "ordered_at",
        "Order",
        "订单",
        {
            "amount": _MONEY,
            "discount": (NUMBER, "discount_minor"),
            "channel": (TEXT, "channel"),
            "coupon_code": (TEXT, "coupon_code"),
            "status": (TEXT, "status"),
            "category": (TEXT, "category"),
            "sku": (TEXT, "sku"),
            "brand": (TEXT, "brand"),
            "quantity": (NUMBER, "quantity"),
        },
    ),
    "message_sent": EventSource("touches", "sent_at", "Message sent", "已发送消息", _TOUCH),
    "message_opened": EventSource("touches", "opened_at", "Message opened", "打开消息", _TOUCH),
    "message_clicked": EventSource("touches", "clicked_at", "Message clicked", "点击消息", _TOUCH),
    "coupon_redeemed": EventSource(
        "redemptions",
        "redeemed_at",
        "Coupon redeemed",
        "核销优惠券",
        {"amount": (NUMBER, "discount_minor")},
        undone="rolled_back_at",
    ),
    "points_changed": EventSource(
        "points", "at", "Points changed", "积分变动", {"delta": (NUMBER, "delta"), "kind": (TEXT, "kind")}
    ),
}
LINE_PROPERTIES = ("category", "sku", "brand", "quantity")
"""Properties of an order's lines: an order condition that names one looks at lines."""
MINOR_COLUMNS = ("net_minor", "discount_minor", "amount_minor", "monetary")
"""Columns in minor units; rules speak of major units."""


@dataclass(frozen=True)
class All:
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Any_:
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    node: Node


@dataclass(frozen=True)
class FieldIs:
    field: str
    op: str
    value: Any


@dataclass(frozen=True)
class Where:
    """A condition on an event's property."""

    property: str
    op: str
    value: Any


@dataclass(frozen=True)
class Within:
    """Half-open window: the last N days before as_of, or dates; all None: ever before as_of."""

    last_days: int | None = None
    start: date | None = None
    end: date | None = None


@dataclass(frozen=True)
class EventIs:
    event: str
    where: tuple[Where, ...]
    aggregate: str
    of: str | None
    op: str
    value: Any
    within: Within


@dataclass(frozen=True)
class InSegment:
    name: str


Node = All | Any_ | Not | FieldIs | EventIs | InSegment


def validate(rule: Any) -> Node:
    """The rule as a tree. Raises InvalidInput whose ``field`` is the path of the offending node."""
    leaves = [0]
    return _node(rule, "", 1, leaves)


def segments_in(node: Node) -> Iterator[str]:
    """Names of the segments that a rule refers to."""
    if isinstance(node, InSegment):
        yield node.name
    elif isinstance(node, Not):
        yield from segments_in(node.node)
    elif isinstance(node, All | Any_):
        for child in node.nodes:
            yield from segments_in(child)


def _fail(path: str, message: str) -> InvalidInput:
    return InvalidInput(f"{path or 'the rule'}: {message}", path or "rule")


def _only(rule: Mapping[str, Any], path: str, allowed: tuple[str, ...]) -> None:
    for key in rule:
        if key not in allowed:
            raise _fail(path, f"“{key}” is not known here; a condition like this has {', '.join(allowed)}.")


def _node(rule: Any, path: str, depth: int, leaves: list[int]) -> Node:
    if not isinstance(rule, dict):
        raise _fail(path, f"a condition must be a JSON object, not {type(rule).__name__}.")
    if depth > MAX_DEPTH:
        raise _fail(
            path,
            f"conditions nest deeper than {MAX_DEPTH} levels; use a segment of its own for the inner part.",
        )
    for key in ("all", "any"):
        if key in rule:
            _only(rule, path, (key,))
            children = rule[key]
            if not isinstance(children, list) or not children:
                raise _fail(_join(path, key), "a group needs at least one condition.")
            nodes = tuple(
                _node(child, f"{_join(path, key)}[{i}]", depth + 1, leaves)
                for i, child in enumerate(children)
            )
            return All(nodes) if key == "all" else Any_(nodes)
    if "not" in rule:
        _only(rule, path, ("not",))
        return Not(_node(rule["not"], _join(path, "not"), depth + 1, leaves))
    leaves[0] += 1
    if leaves[0] > MAX_LEAVES:
        raise _fail(path, f"a rule has at most {MAX_LEAVES} conditions.")
    if "field" in rule:
        return _field(rule, path)
    if "event" in rule:
        return _event(rule, path)
    if "segment" in rule:
        _only(rule, path, ("segment",))
        return InSegment(_name(rule["segment"], _join(path, "segment")))
    raise _fail(path, "a condition has one of all, any, not, field, event, segment.")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _fail(path, f"{value!r} is not a name (letters, digits, . _ - and spaces, at most 80).")
    return value


def field_type(name: str) -> str | None:
    """Type of a field; None for an attribute, whose type is its value's."""
    return None if name.startswith(ATTRIBUTE_PREFIX) else FIELDS[name].type


def _field(rule: Mapping[str, Any], path: str) -> FieldIs:
    _only(rule, path, ("field", "op", "value"))
    name = rule["field"]
    place = _join(path, "field")
    if not isinstance(name, str):
        raise _fail(place, "the name of a field is a text.")
    if name.startswith(ATTRIBUTE_PREFIX):
        _name(name.removeprefix(ATTRIBUTE_PREFIX), place)
    elif name not in FIELDS:
        raise _fail(place, f"there is no field “{name}”; there are {', '.join(FIELDS)} and attributes.….")
    op = _operator(rule, path, name, field_type(name))
    value = _value(rule, path, op, field_type(name))
    if op in _WHOLE and name in FIELDS and FIELDS[name].choices:
        _chosen(value, FIELDS[name].choices, name, _join(path, "value"))
    return FieldIs(name, op, value)


def _chosen(value: Any, choices: tuple[str, ...], name: str, place: str) -> None:
    """A stage or a segment that does not exist matches nobody, silently: it is a typing error."""
    for index, item in enumerate(value if isinstance(value, tuple) else (value,)):
        if item not in choices:
            at = f"{place}[{index}]" if isinstance(value, tuple) else place
            raise _fail(at, f"“{item}” is no {name}; there are {', '.join(choices)}.")


def _operator(rule: Mapping[str, Any], path: str, name: str, kind: str | None) -> str:
    allowed = ATTRIBUTE_OPERATORS if kind is None else OPERATORS[kind]
    op = rule.get("op")
    if op not in allowed:
        raise _fail(
            _join(path, "op"), f"“{name}” cannot be compared by {op!r}; it takes {', '.join(allowed)}."
        )
    return str(op)


def _value(rule: Mapping[str, Any], path: str, op: str, kind: str | None) -> Any:
    place = _join(path, "value")
    if op in _PRESENCE:
        if rule.get("value") is not None:
            raise _fail(place, f"{op} takes no value.")
        return None
    if "value" not in rule:
        raise _fail(place, "the value is missing.")
    value = rule["value"]
    if op in ("in", "not_in", "matches_any"):
        if not isinstance(value, list) or not value or len(value) > MAX_VALUES:
            raise _fail(place, f"{op} needs a list of 1 to {MAX_VALUES} values.")
        found = tuple(
            _scalar(item, f"{place}[{i}]", TEXT if kind == TAGS else kind) for i, item in enumerate(value)
        )
        if len({type(item) for item in found}) > 1:
            raise _fail(place, "the values are either all texts or all numbers.")
        return found
    if op in ("in_last", "in_next", "anniversary_in"):
        return _days(value, place)
    if op == "between":
        if not isinstance(value, list) or len(value) != 2:
            raise _fail(place, "between needs two values: [from, to].")
        low, high = (_scalar(item, f"{place}[{i}]", kind) for i, item in enumerate(value))
        if type(low) is not type(high) or low > high:
            raise _fail(place, "between needs the smaller value first.")
        return (low, high)
    if op in ("contains", "starts_with"):
        return _scalar(value, place, TEXT)
    if kind is None and op in _ORDER:
        return _scalar(value, place, NUMBER)
    return _scalar(value, place, kind)


def _scalar(value: Any, place: str, kind: str | None) -> Any:
    if kind is None:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise _fail(place, "an attribute is compared with a text or a number.")
        kind = TEXT if isinstance(value, str) else NUMBER
    if kind == NUMBER:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value - value != 0
            or abs(value) > 1e15
        ):
            raise _fail(place, f"{value!r} is not a number.")
        return float(value)
    if kind == FLAG:
        if not isinstance(value, bool):
            raise _fail(place, "the value is true or false.")
        return value
    if not isinstance(value, str):
        raise _fail(place, f"{value!r} is not a text.")
    if kind == DATE:
        return _date(value, place)
    if len(value) > MAX_TEXT:
        raise _fail(place, f"a text has at most {MAX_TEXT} characters.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _fail(place, "the text has half a character (a lone surrogate); write it again.") from None
    return value


def _date(value: Any, place: str) -> date:
    try:
        return datetime.fromisoformat(value).date() if len(value) > 10 else date.fromisoformat(value)
    except (TypeError, ValueError):
        raise _fail(place, f"{value!r} is not a date; write it like 2026-03-01.") from None


def _days(value: Any, place: str) -> int:
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _fail(place, f"{value!r} is not a span of days; write it like 30d.")
    return int(match.group(1))


def _event(rule: Mapping[str, Any], path: str) -> EventIs:
    _only(rule, path, ("event", "where", "aggregate", "of", "op", "value", "within"))
    event = _name(rule["event"], _join(path, "event"))
    where = [] if rule.get("where") is None else rule["where"]
    if not isinstance(where, list) or len(where) > MAX_WHERE:
        raise _fail(_join(path, "where"), f"a list of at most {MAX_WHERE} conditions is expected.")
    conditions = tuple(_where(item, f"{_join(path, 'where')}[{i}]", event) for i, item in enumerate(where))
    aggregate = rule.get("aggregate", "count")
    if aggregate not in AGGREGATES:
        raise _fail(_join(path, "aggregate"), f"{aggregate!r} is none of {', '.join(AGGREGATES)}.")
    of = rule.get("of")
    if aggregate in ("count", "days_since"):
        if of is not None:
            raise _fail(_join(path, "of"), f"{aggregate} takes no property.")
    else:
        of = _name(of, _join(path, "of"))
        kind = property_type(event, of, _join(path, "of"))
        if aggregate != "distinct" and kind not in (NUMBER, None):
            raise _fail(_join(path, "of"), f"“{of}” is a {kind}; {aggregate} needs a number.")
    op = _operator(rule, path, aggregate, NUMBER)
    if op in _PRESENCE:
        raise _fail(_join(path, "op"), f"an event is compared by its {aggregate}, for example >= 1.")
    return EventIs(event, conditions, aggregate, of, op, _value(rule, path, op, NUMBER), _within(rule, path))


def property_type(event: str, name: str, path: str) -> str | None:
    """Type of an event's property; None where only the value tells (behaviour events)."""
    source = EVENTS.get(event)
    if source is None:
        return None
    if name not in source.properties:
        raise _fail(path, f"“{event}” has no property “{name}”; it has {', '.join(source.properties)}.")
    return source.properties[name][0]


def _where(item: Any, path: str, event: str) -> Where:
    if not isinstance(item, dict):
        raise _fail(path, "a condition on an event is a JSON object.")
    _only(item, path, ("field", "op", "value"))
    name = _name(item.get("field"), _join(path, "field"))
    kind = property_type(event, name, _join(path, "field"))
    op = _operator(item, path, name, kind)
    return Where(name, op, _value(item, path, op, kind))


def _within(rule: Mapping[str, Any], path: str) -> Within:
    within = rule.get("within")
    place = _join(path, "within")
    if within is None:
        return Within()
    if not isinstance(within, dict) or len(within) != 1:
        raise _fail(place, 'a window is {"last": "30d"}, {"before": date} or {"between": [date, date]}.')
    ((kind, value),) = within.items()
    if kind == "last":
        return Within(last_days=_days(value, f"{place}.last"))
    if kind == "before":
        return Within(end=_date(value, f"{place}.before"))
    if kind == "between":
        if not isinstance(value, list) or len(value) != 2:
            raise _fail(f"{place}.between", "two dates are needed: [from, to).")
        start, end = (_date(item, f"{place}.between[{i}]") for i, item in enumerate(value))
        if start >= end:
            raise _fail(f"{place}.between", "the first date must be before the second.")
        return Within(start=start, end=end)
    raise _fail(place, f"“{kind}” is no window; there are last, before and between.")
