"""Rules in words, in English and Chinese."""

from __future__ import annotations

from typing import Any

import pytest

from segments import settings
from segments.words import in_words
from tests.segments.rules_shop import e, f, last, since, steps, then, without

WORDS = [
    (
        f("lifecycle", "in", ["dormant", "churned"]),
        "Lifecycle stage is Dormant or Churned",
        "生命周期阶段为沉睡或流失",
    ),
    (f("rfm.m", ">=", 4), "Monetary score (M) is at least 4", "消费金额得分 M 不小于 4"),
    (
        f("rfm.monetary", ">", 12345.5),
        "Spend in the RFM window is over 12,345.5",
        "窗口期消费金额大于 12,345.5",
    ),
    (f("rfm.segment", "!=", "loyal"), "RFM segment is not Loyal", "RFM 分群不为忠诚"),
    (f("city", "=", "北京"), "City is “北京”", "城市为“北京”"),
    (f("city", "contains", "x"), "City contains “x”", "城市包含“x”"),
    (f("city", "starts_with", "x"), "City starts with “x”", "城市开头是“x”"),
    (f("city", "not_in", ["a", "b"]), "City is none of “a” or “b”", "城市不属于“a”或“b”"),
    (
        f("city", "in", list("abcdefgh")),
        "City is “a”, “b”, “c”, “d”, “e”, “f”, … (8 in all)",
        "城市为“a”、“b”、“c”、“d”、“e”、“f” 等 8 项",
    ),
    (f("city", "is_set"), "City is known", "城市已知"),
    (f("city", "is_not_set"), "City is not known", "城市未知"),
    (f("tags", "matches_any", ["a", "b", "c"]), "Tags include “a”, “b” or “c”", "标签包含“a”、“b”或“c”"),
    (f("has_email", "=", True), "Has an e-mail address: yes", "有邮箱：是"),
    (f("consent.sms", "=", False), "Consents to SMS: no", "授权短信营销：否"),
    (
        f("points", "between", [1, 2500]),
        "Points balance is between 1 and 2,500",
        "积分余额介于 1 与 2,500 之间",
    ),
    (
        f("birthday", "anniversary_in", "7d"),
        "Birthday has its anniversary in the next 7 days",
        "生日的周年日在未来 7 天内",
    ),
    (f("registered_at", "in_last", "1d"), "Registration date is in the last 1 day", "注册日期在过去 1 天内"),
    (
        f("registered_at", ">=", "2026-01-02"),
        "Registration date is not before 2026-01-02",
        "注册日期不早于 2026-01-02",
    ),
    (
        f("registered_at", "between", ["2026-01-02", "2026-01-03"]),
        "Registration date is between 2026-01-02 and 2026-01-03",
        "注册日期介于 2026-01-02 与 2026-01-03 之间",
    ),
    (f("attributes.size", "=", "xl"), "attribute “size” is “xl”", "属性“size”为“xl”"),
    (f("attributes.size", "in", [1, 2]), "attribute “size” is 1 or 2", "属性“size”为 1 或 2"),
    ({"segment": "vip"}, "is in the segment “vip”", "属于人群“vip”"),
    ({"not": {"segment": "vip"}}, "is not in the segment “vip”", "不属于人群“vip”"),
    ({"list": "fair"}, "is on the list “fair”", "在名单“fair”中"),
    ({"not": {"list": "fair"}}, "is not on the list “fair”", "不在名单“fair”中"),
    (f("predictions.churn_risk", ">", 0.5), "Churn risk is over 0.5", "流失风险大于 0.5"),
    (
        steps("add_to_cart", without("order", "3d")),
        "added to cart, then did not place an order within 3 days",
        "加入购物车，之后 3 天内没有下单",
    ),
    (
        steps("add_to_cart", without("order", "3d"), within=last(30)),
        "added to cart, then did not place an order within 3 days, in the last 30 days",
        "过去 30 天内加入购物车，之后 3 天内没有下单",
    ),
    (
        steps("view", then("add_to_cart", "7d"), then("order", "1h"), within={"between": ["60d", "30d"]}),
        "viewed, then added to cart within 7 days, then placed an order within 1 hour, "
        "between 60 days ago and 30 days ago",
        "60 天前至 30 天前之间浏览，之后在 7 天内加入购物车，之后在 1 小时内下单",
    ),
    (
        steps("add_to_cart", without("share"), without("search"), "order"),
        "added to cart, did not share in between, and did not search in between, then placed an order",
        "加入购物车，其间没有分享，其间也没有搜索，之后下单",
    ),
    (
        steps(then("view", where=[f("sku", "=", "mug")]), without("order", "1d"), without("quiz", "2d")),
        "viewed (“sku” is “mug”), then did not place an order within 1 day, "
        "and did not do “quiz” within 2 days",
        "浏览（“sku”为“mug”），之后 1 天内没有下单，并且 2 天内没有发生“quiz”",
    ),
    (
        {"all": [steps("quiz", "order", within={"before": "2026-01-02"}), f("city", "=", "x")]},
        "(did “quiz”, then placed an order, before 2026-01-02) and City is “x”",
        "（2026-01-02 之前发生“quiz”，之后下单）且城市为“x”",
    ),
    (
        e("view", ">=", 2, within=since("order")),
        "has at least 2 “view” events after they last placed an order",
        "上次下单之后有至少 2 次“view”事件",
    ),
    (
        e("order", within=since("coupon_redeemed", which="first", limit="7d")),
        "has at least 1 order in the 7 days after they first redeemed a coupon",
        "首次核销优惠券之后的 7 天内有至少 1 笔订单",
    ),
    (
        e("view", "=", 0, within=since("order", limit="12h", where=[f("amount", ">", 50)])),
        "has no “view” events in the 12 hours after they last placed an order (amount is over 50)",
        "上次下单（金额大于 50）之后的 12 小时内没有“view”事件",
    ),
    (
        e("order", within={"before": "30d"}),
        "has at least 1 order more than 30 days ago",
        "30 天以前有至少 1 笔订单",
    ),
    (
        e("order", within={"last": "12h"}),
        "has at least 1 order in the last 12 hours",
        "过去 12 小时内有至少 1 笔订单",
    ),
    (
        e("order", "in_last", "30d", aggregate="first"),
        "date of the first order is in the last 30 days",
        "首次订单的日期在过去 30 天内",
    ),
    (
        e("order", "<", "2026-01-02", aggregate="last"),
        "date of the last order is before 2026-01-02",
        "最近一次订单的日期早于 2026-01-02",
    ),
    (
        e("order", "=", "app", aggregate="last", of="channel", within=last(90)),
        "channel of the last order in the last 90 days is “app”",
        "过去 90 天内最近一次订单的渠道为“app”",
    ),
    (
        e("view", "is_not_set", None, aggregate="first", of="properties.sku"),
        "“sku” of the first “view” event is not known",
        "首次“view”事件的“sku”未知",
    ),
    (e("order"), "has at least 1 order", "有至少 1 笔订单"),
    (e("order", "=", 0, within=last(30)), "has no orders in the last 30 days", "过去 30 天内没有订单"),
    (e("order", "=", 1), "has exactly 1 order", "有恰好 1 笔订单"),
    (e("order", "between", [1, 3]), "has 1 to 3 orders", "有 1 至 3 笔订单"),
    (e("order", "in", [1, 3]), "has exactly 1 or 3 orders", "有恰好 1 或 3 笔订单"),
    (
        e("order", "<", 3, within={"before": "2026-01-02"}),
        "has fewer than 3 orders before 2026-01-02",
        "2026-01-02 之前有少于 3 笔订单",
    ),
    (
        e("order", ">=", 2, where=[f("category", "=", "coffee"), f("amount", ">", 5)], within=last(180)),
        "has at least 2 orders (category is “coffee”, amount is over 5) in the last 180 days",
        "过去 180 天内有至少 2 笔订单（品类为“coffee”，金额大于 5）",
    ),
    (
        e(
            "order",
            ">=",
            1000,
            aggregate="sum",
            of="amount",
            within={"between": ["2026-01-01", "2026-02-01"]},
        ),
        "total amount of orders from 2026-01-01 to before 2026-02-01 is at least 1,000",
        "2026-01-01 至 2026-02-01（不含）订单的金额合计不小于 1,000",
    ),
    (
        e("order", ">", 30, aggregate="days_since", where=[f("sku", "=", "mug")]),
        "number of days since the last order (SKU is “mug”) is over 30",
        "距上次订单（SKU 为“mug”）的天数大于 30",
    ),
    (
        e("order", "<", 9.5, aggregate="avg", of="quantity"),
        "average quantity of orders is under 9.5",
        "订单的平均件数小于 9.5",
    ),
    (
        e("message_opened", within=last(14)),
        "has at least 1 message opened in the last 14 days",
        "过去 14 天内有至少 1 次打开消息",
    ),
    (e("view", "=", 0), "has no “view” events", "没有“view”事件"),
    (
        e("view", "<", 3, aggregate="distinct", of="sku"),
        "number of different “sku” of “view” events is under 3",
        "“view”事件的不同“sku”的个数小于 3",
    ),
    (
        e("points_changed", "<=", -30, aggregate="min", of="delta"),
        "smallest points of points entries is at most -30",
        "积分变动的最小积分不大于 -30",
    ),
    (
        {"all": [f("city", "=", "x"), {"any": [f("gender", "=", "f"), e("order")]}]},
        "City is “x” and (Gender is “f” or has at least 1 order)",
        "城市为“x”且（性别为“f”或有至少 1 笔订单）",
    ),
    ({"not": e("order")}, "not (has at least 1 order)", "非（有至少 1 笔订单）"),
    (
        {"not": {"any": [f("city", "=", "x"), e("order")]}},
        "not (City is “x” or has at least 1 order)",
        "非（城市为“x”或有至少 1 笔订单）",
    ),
]


def test_the_titles_of_the_shop_are_used() -> None:
    titles = {**settings.TITLES, "stage": {**settings.STAGE_TITLES, "dormant": ("Asleep", "睡着")}}
    rule = {"field": "lifecycle", "op": "in", "value": ["dormant", "new"]}
    assert in_words(rule, "en", titles) == "Lifecycle stage is Asleep or New"
    assert "睡着" in in_words(rule, "zh", titles)


@pytest.mark.parametrize(("rule", "english", "chinese"), WORDS, ids=[english[:60] for _, english, _ in WORDS])
def test_a_rule_in_words(rule: dict[str, Any], english: str, chinese: str) -> None:
    assert in_words(rule, "en") == english
    assert in_words(rule, "zh_CN") == chinese
