"""What rules can speak of: fields of a member, events with their properties, operators, aggregates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from segments import settings

TEXT, NUMBER, DATE, FLAG, TAGS = "text", "number", "date", "flag", "tags"
EQUAL = ("=", "!=")
ORDER = (">", ">=", "<", "<=", "between")
PRESENCE = ("is_set", "is_not_set")
WHOLE = ("=", "!=", "in", "not_in")
"""Operators that compare a text as a whole."""
LISTS = ("in", "not_in", "matches_any")
NEAR = ("in_last", "in_next", "anniversary_in")
"""Operators of dates that take a span of days."""
OPERATORS: dict[str, tuple[str, ...]] = {
    TEXT: (*EQUAL, "in", "not_in", "contains", "starts_with", *PRESENCE),
    NUMBER: (*EQUAL, *ORDER, "in", "not_in", *PRESENCE),
    DATE: (*EQUAL, *ORDER, *NEAR, *PRESENCE),
    FLAG: ("=", *PRESENCE),
    TAGS: ("matches_any", *PRESENCE),
}
# An attribute's type is what its value looks like, so it takes the operators of texts and numbers.
ATTRIBUTE_OPERATORS = tuple(dict.fromkeys((*OPERATORS[TEXT], *OPERATORS[NUMBER])))
AGGREGATES = ("count", "sum", "avg", "min", "max", "distinct", "first", "last", "days_since")
WINDOWS = ("last", "before", "between", "since_event")
MEASURES = ("sum", "avg", "min", "max")
"""Aggregates of numbers alone."""
ATTRIBUTE_PREFIX = "attributes."
PROPERTY_PREFIX = "properties."
"""May stand before a behaviour event's property; it is the same property."""


@dataclass(frozen=True)
class Field:
    """A field of a member: its type, where it comes from, and how the console calls it."""

    name: str
    type: str
    column: str
    """``table.column`` of the query: m (members), s (snapshot), r (predictions), p (points), t (tiers),
    c (consents)."""
    en: str
    zh: str
    choices: tuple[str, ...] = ()


_STAGES = settings.STAGES + settings.TENURE_STAGES
_FIELDS = (
    Field("lifecycle", TEXT, "s.stage", "Lifecycle stage", "生命周期阶段", _STAGES),
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
    Field("predictions.p_alive", NUMBER, "r.p_alive", "Probability of being a customer still", "留存概率"),
    Field("predictions.churn_risk", NUMBER, "r.churn_risk", "Churn risk", "流失风险"),
    Field(
        "predictions.expected_purchases", NUMBER, "r.expected_purchases", "Expected purchases", "预期购买次数"
    ),
    Field("predictions.expected_spend", NUMBER, "r.expected_spend", "Expected spend per order", "预期客单价"),
    Field("predictions.clv", NUMBER, "r.clv", "Customer lifetime value", "客户终身价值"),
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
    Field("tier", TEXT, "t.tier", "Tier", "会员等级"),
    Field("consent.email", FLAG, "c.email", "Consents to e-mail", "授权邮件营销"),
    Field("consent.sms", FLAG, "c.sms", "Consents to SMS", "授权短信营销"),
    Field("consent.wechat", FLAG, "c.wechat", "Consents to WeChat", "授权微信营销"),
)
FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}


@dataclass(frozen=True)
class EventSource:
    """A kind of event: the fact table, its time column, and the typed properties it has."""

    table: str
    time: str
    id: str
    """Column that tells rows of the same instant apart."""
    en: str
    zh: str
    properties: Mapping[str, tuple[str, str]]
    """property → (type, column)."""
    undone: str | None = None
    """Column of the time from which on the event counts no more."""


_TOUCH = {"channel": (TEXT, "channel"), "purpose": (TEXT, "purpose")}
_ORDER = {
    "amount": (NUMBER, "net_minor"),
    "discount": (NUMBER, "discount_minor"),
    "channel": (TEXT, "channel"),
    "coupon_code": (TEXT, "coupon_code"),
    "status": (TEXT, "status"),
    "category": (TEXT, "category"),
    "sku": (TEXT, "sku"),
    "brand": (TEXT, "brand"),
    "quantity": (NUMBER, "quantity"),
}
_POINTS = {"delta": (NUMBER, "delta"), "kind": (TEXT, "kind")}
_COUPON = {"amount": (NUMBER, "discount_minor")}
EVENTS: dict[str, EventSource] = {
    "order": EventSource("orders", "ordered_at", "order_id", "Order", "订单", _ORDER),
    "message_sent": EventSource("touches", "sent_at", "message_id", "Message sent", "已发送消息", _TOUCH),
    "message_opened": EventSource("touches", "opened_at", "message_id", "Message opened", "打开消息", _TOUCH),
    "message_clicked": EventSource(
        "touches", "clicked_at", "message_id", "Message clicked", "点击消息", _TOUCH
    ),
    "coupon_redeemed": EventSource(
        "redemptions",
        "redeemed_at",
        "redemption_id",
        "Coupon redeemed",
        "核销优惠券",
        _COUPON,
        undone="rolled_back_at",
    ),
    "points_changed": EventSource("points", "at", "entry_id", "Points changed", "积分变动", _POINTS),
}
LINE_PROPERTIES = ("category", "sku", "brand", "quantity")
"""Properties of an order's lines: an order condition that names one looks at lines."""
MINOR_COLUMNS = ("net_minor", "discount_minor", "amount_minor", "monetary", "expected_spend", "clv")
"""Columns in minor units; rules speak of major units."""


def field_type(name: str) -> str | None:
    """Type of a field; None for an attribute, whose type is its value's."""
    return None if name.startswith(ATTRIBUTE_PREFIX) else FIELDS[name].type
