"""Conditions, benefits and stacking one by one, and the words of a refusal."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from loyalty.promotions import benefits, explain
from loyalty.promotions.conditions import TYPES, days_from_birthday
from loyalty.promotions.parse import read_request
from loyalty.promotions.prices import price_own
from tests.loyalty.promotions.cases import Json, at_least, basket, off, percent, promotion

ZONE = ZoneInfo("Asia/Shanghai")
NOW = datetime(2026, 11, 11, 4, tzinfo=UTC)


def price(given: Json, *promotions: Json, **more: Any) -> dict[str, Any]:
    return price_own(read_request({**given, **more, "promotions": list(promotions)}, NOW), ZONE)


def applied(found: dict[str, Any]) -> list[str]:
    return [one["promotion"] for one in found["applied"]]


def reasons(found: dict[str, Any]) -> dict[str, str]:
    return {one["promotion"]: one["reason"] for one in found["rejected"]}


def holds(condition: Json, given: Json | None = None, **more: Any) -> bool:
    found = price(given or basket(10000), promotion(off(1), conditions=[condition]), **more)
    assert len(found["applied"]) + len(found["rejected"]) == 1
    return bool(found["applied"])


@pytest.mark.parametrize(
    ("condition", "member", "expected"),
    [
        ({"type": "min_subtotal", "amount": 10000}, None, True),
        ({"type": "min_subtotal", "amount": 10001}, None, False),
        ({"type": "max_subtotal", "amount": 10000}, None, True),
        ({"type": "max_subtotal", "amount": 9999}, None, False),
        ({"type": "min_quantity", "quantity": 1}, None, True),
        ({"type": "min_quantity", "quantity": 2}, None, False),
        ({"type": "min_quantity", "quantity": 1, "scope": {"skus": ["other"]}}, None, False),
        ({"type": "nth_order", "n": 5}, {"orders_placed": 4}, True),
        ({"type": "nth_order", "n": 4}, {"orders_placed": 4}, False),
        ({"type": "nth_order", "n": 1}, {}, False),
        ({"type": "nth_order", "n": 1}, None, False),
        ({"type": "first_order"}, {"orders_placed": 0}, True),
        ({"type": "first_order"}, {"orders_placed": 1}, False),
        ({"type": "first_order"}, {}, False),
        ({"type": "first_order"}, None, False),
        ({"type": "tier", "in": ["gold", "silver"]}, {"tier": "gold"}, True),
        ({"type": "tier", "in": ["silver"]}, {"tier": "gold"}, False),
        ({"type": "tier", "in": ["silver"]}, {}, False),
        ({"type": "segment", "in": ["a", "b"]}, {"segments": ["b", "c"]}, True),
        ({"type": "segment", "in": ["a"]}, {"segments": []}, False),
        ({"type": "segment", "in": ["a"]}, None, False),
        ({"type": "weekday", "in": [3]}, None, True),
        ({"type": "weekday", "in": ["wed", "sun"]}, None, True),
        ({"type": "weekday", "in": [2, 4]}, None, False),
        ({"type": "member_day", "day": 11}, None, True),
        ({"type": "member_day", "day": 12}, None, False),
        ({"type": "birthday", "within_days": 3}, {"birthday": "1990-11-14"}, True),
        ({"type": "birthday", "within_days": 3}, {"birthday": "11-08"}, True),
        ({"type": "birthday", "within_days": 3}, {"birthday": "1990-11-15"}, False),
        ({"type": "birthday", "within_days": 0}, {"birthday": "1990-11-11"}, True),
        ({"type": "birthday", "within_days": 182}, {}, False),
        ({"type": "any", "conditions": [{"type": "first_order"}, at_least(1)]}, None, True),
        ({"type": "any", "conditions": [{"type": "first_order"}, at_least(20000)]}, None, False),
        ({"type": "all", "conditions": [{"type": "first_order"}, at_least(1)]}, None, False),
        ({"type": "all", "conditions": [at_least(2), at_least(1)]}, None, True),
        ({"type": "not", "condition": {"type": "first_order"}}, None, True),
        ({"type": "not", "condition": at_least(1)}, None, False),
        ({"type": "not", "conditions": [at_least(20000)]}, None, True),
    ],
)
def test_a_condition_holds_or_not(condition: Json, member: Json | None, expected: bool) -> None:
    assert holds(condition, member=member) is expected


def test_days_are_the_shops_and_not_the_clients() -> None:
    # 16:30 UTC on Tuesday the 10th is 00:30 on Wednesday the 11th in Shanghai, whatever offset was sent.
    for at in ("2026-11-10T16:30:00Z", "2026-11-10T08:30:00-08:00", "2026-11-11T00:30:00+08:00"):
        assert holds({"type": "member_day", "day": 11}, at=at)
        assert holds({"type": "weekday", "in": ["wed"]}, at=at)
    assert not holds({"type": "member_day", "day": 11}, at="2026-11-11T16:00:00Z")


def test_the_31st_of_a_shorter_month_is_its_last_day() -> None:
    assert holds({"type": "member_day", "day": 31}, at="2026-11-30T12:00:00+08:00")
    assert holds({"type": "member_day", "day": 31}, at="2026-02-28T12:00:00+08:00")
    assert not holds({"type": "member_day", "day": 31}, at="2026-12-30T12:00:00+08:00")
    assert not holds({"type": "member_day", "day": 28}, at="2026-02-27T12:00:00+08:00")


def test_birthdays_are_near_across_the_new_year_and_on_29_february() -> None:
    assert days_from_birthday(date(2026, 1, 2), 12, 30) == 3
    assert days_from_birthday(date(2026, 12, 30), 1, 2) == 3
    assert days_from_birthday(date(2026, 2, 28), 2, 29) == 0
    assert days_from_birthday(date(2028, 2, 28), 2, 29) == 1
    assert days_from_birthday(date(2026, 7, 1), 12, 31) == 182


def test_a_time_limited_promotion_is_half_open() -> None:
    sale = promotion(off(100), starts_at="2026-11-11T00:00:00+08:00", ends_at="2026-11-12T00:00:00+08:00")
    seen = {
        at: applied(price(basket(1000), sale, at=at)) or reasons(price(basket(1000), sale, at=at))["p"]
        for at in (
            "2026-11-10T15:59:59.999999Z",
            "2026-11-10T16:00:00Z",
            "2026-11-11T15:59:59.999999Z",
            "2026-11-11T16:00:00Z",
        )
    }
    assert list(seen.values()) == ["not_started", ["p"], ["p"], "ended"]


def test_a_code_is_needed_and_compared_without_case_and_blanks() -> None:
    secret = promotion(off(100), code="Spring")
    assert reasons(price(basket(1000), secret)) == {"p": "code"}
    assert reasons(price(basket(1000), secret, codes=["SPRINGS"])) == {"p": "code"}
    assert applied(price(basket(1000), secret, codes=["x", " spring "])) == ["p"]


def test_a_stock_that_is_used_up_rejects() -> None:
    assert applied(price(basket(1000), promotion(off(1), limits={"stock": 5, "used": 4}))) == ["p"]
    assert reasons(price(basket(1000), promotion(off(1), limits={"stock": 5, "used": 5}))) == {
        "p": "sold_out"
    }
    assert reasons(price(basket(1000), promotion(off(1), limits={"stock": 0}))) == {"p": "sold_out"}


def test_scopes_include_by_sku_or_category_and_exclude_either() -> None:
    given = basket(1000, 1000, 1000)
    for line, category in zip(given["lines"], ("mugs", "tea", "mugs"), strict=True):
        line["category"] = category

    def hit(scope: Json) -> str:
        found = price(given, promotion(percent(10, scope=scope)))
        return "".join(line["id"] for line in found["lines"] if line["discount"])

    assert hit({}) == "abc"
    assert hit({"skus": ["sku-b"]}) == "b"
    assert hit({"categories": ["mugs"]}) == "ac"
    assert hit({"skus": ["sku-b"], "categories": ["mugs"]}) == "abc"
    assert hit({"categories": ["mugs"], "exclude_skus": ["sku-a"]}) == "c"
    assert hit({"exclude_categories": ["mugs"]}) == "b"
    found = price(given, promotion(percent(10, scope={"skus": ["none"]})))
    assert reasons(found) == {"p": "scope"}


def test_priority_descends_then_the_id_decides() -> None:
    names = [("b", 1), ("a", 1), ("c", 2), ("B", 1), ("a2", 1)]
    found = price(basket(10000), *(promotion(off(1), name, priority=priority) for name, priority in names))
    assert applied(found) == ["c", "B", "a", "a2", "b"]


def test_an_applicable_exclusive_promotion_applies_alone_and_the_first_of_several() -> None:
    found = price(
        basket(10000),
        promotion(off(100), "plain", priority=9),
        promotion(off(200), "second", exclusive=True),
        promotion(off(300), "first", priority=1, exclusive=True),
        promotion(off(400), "best", priority=5, exclusive=True, conditions=[at_least(10001)]),
        promotion(off(1), "coded", code="X"),
    )
    assert applied(found) == ["first"]
    assert found["discount"] == 300
    assert reasons(found) == {
        "plain": "exclusive", "second": "exclusive", "best": "min_subtotal", "coded": "code"
    }  # fmt: skip
    details = {one["promotion"]: one["detail"] for one in found["rejected"]}
    assert details["plain"] == "“first” applies alone."


def test_an_exclusive_promotion_without_any_effect_shuts_nobody_out() -> None:
    found = price(
        basket(1000),
        promotion({"type": "free_shipping"}, "ship", exclusive=True, priority=9),
        promotion(off(100), "plain"),
    )
    assert (applied(found), reasons(found)) == (["plain"], {"ship": "no_shipping"})


def test_of_a_group_the_first_applicable_wins() -> None:
    found = price(
        basket((600, 3)),
        promotion(off(50), "late", group="g"),
        promotion({"type": "fixed_price", "count": 3, "price": 2000}, "bundle", group="g", priority=9),
        promotion(off(70), "coded", group="g", priority=8, code="X"),
        promotion(off(60), "early", group="g", priority=1),
        promotion(off(10), "other", group="h"),
    )
    assert applied(found) == ["early", "other"]
    assert reasons(found) == {"bundle": "no_effect", "coded": "code", "late": "group"}


def test_conditions_are_tested_on_what_earlier_promotions_left() -> None:
    half = promotion(percent(50), "half", priority=2)
    small = promotion(off(100), "small", conditions=[{"type": "max_subtotal", "amount": 5000}])
    large = promotion(off(100), "large", conditions=[at_least(5001)])
    found = price(basket(10000), half, small, large)
    assert (applied(found), reasons(found)) == (["half", "small"], {"large": "min_subtotal"})


def test_per_unit_amounts_hit_the_dearest_first_and_stop_at_the_floor() -> None:
    given = basket((500, 2), (300, 2))
    given["lines"][1]["floor_price"] = 250
    each = {"type": "fixed_each", "amount": 100}
    assert [line["discount"] for line in price(given, promotion(each))["lines"]] == [200, 100]
    assert [line["discount"] for line in price(given, promotion(each | {"max_units": 3}))["lines"]] == [
        200,
        50,
    ]


def test_bundles_take_the_dearest_and_share_by_what_their_own_units_cost() -> None:
    given = basket((1000, 1), (800, 3), (100, 9))
    bundle = promotion({"type": "fixed_price", "count": 2, "price": 1500})
    found = price(given, bundle)  # (1000, 800), (800, 800); the next would cost 200 without it
    assert [line["discount"] for line in found["lines"]] == [118, 282, 0]
    assert found["discount"] == 300 + 100
    assert price(given, promotion({**bundle["benefit"], "max_times": 1}))["discount"] == 300
    large = basket((1000, 1_000_000))
    assert price(large, bundle)["discount"] == 500 * 500_000


def test_buy_x_get_y_with_a_percentage_rounds_by_the_unit() -> None:
    half = {"type": "buy_x_get_y", "buy": 1, "get": 1, "percent": 50}
    found = price(basket((105, 4)), promotion(half))
    assert found["discount"] == 2 * 53
    assert reasons(price(basket(100), promotion(half))) == {"p": "units"}
    cheapest = price(
        basket(100, 200, 300, 400, 500, 600), promotion({"type": "buy_x_get_y", "buy": 2, "get": 1})
    )
    assert [line["discount"] for line in cheapest["lines"]] == [100, 200, 0, 0, 0, 0]


def test_after_a_free_unit_the_units_of_a_line_count_as_equally_dear() -> None:
    free = promotion({"type": "buy_x_get_y", "buy": 2, "get": 1}, "free", priority=9)
    each = promotion({"type": "fixed_price", "count": 1, "price": 650, "max_times": 2}, "one")
    found = price(basket((1000, 3)), free, each)  # 2000 over 3 units: 667, 667, 666
    assert found["lines"][0]["adjustments"] == [
        {"promotion": "free", "amount": 1000}, {"promotion": "one", "amount": 34}
    ]  # fmt: skip


def test_every_full_hundred_takes_ten_off_with_repeat_and_the_highest_tier_without() -> None:
    tiers = [{"from": 10000, "off": 1000}, {"from": 30000, "off": 5000}]
    step = {"type": "tiered", "by": "amount", "tiers": tiers[:1], "repeat": True}
    assert [price(basket(n), promotion(step))["discount"] for n in (9999, 10000, 19999, 35000)] == [
        0,
        1000,
        1000,
        3000,
    ]
    once = {"type": "tiered", "by": "amount", "tiers": list(reversed(tiers))}
    assert [price(basket(n), promotion(once))["discount"] for n in (9999, 10000, 29999, 99999)] == [
        0,
        1000,
        1000,
        5000,
    ]
    assert price(basket(65000), promotion({**step, "tiers": tiers}))["discount"] == 2 * 5000
    rate = {
        "type": "tiered",
        "by": "quantity",
        "tiers": [{"from": 2, "percent": 10}, {"from": 3, "percent": "12.5"}],
    }
    assert [price(basket((999, n)), promotion(rate))["discount"] for n in (1, 2, 3)] == [0, 200, 375]
    assert reasons(price(basket(100), promotion(rate))) == {"p": "tier_quantity"}


def test_shipping_gifts_and_points_are_given_once_each() -> None:
    found = price(
        basket(12345),
        promotion({"type": "free_shipping"}, "s1"),
        promotion({"type": "free_shipping"}, "s2"),
        promotion({"type": "gift", "sku": "bag", "quantity": 2}, "g"),
        promotion({"type": "points", "amount": 50}, "p1"),
        promotion({"type": "points", "times": 2}, "p2"),
        promotion({"type": "points", "times": "1.5"}, "p3"),
        promotion(off(1000), "zz"),
        shipping=800,
    )
    assert (found["shipping"], found["shipping_discount"], found["total"]) == (800, 800, 11345)
    assert reasons(found) == {"s2": "no_shipping"}
    assert found["gifts"] == [{"promotion": "g", "sku": "bag", "quantity": 2}]
    # 113.45 of goods earn 113 points: 50 more, 113 more by 2 times, 56 more by 1.5 times.
    assert found["points"] == 50 + 113 + 56
    assert {one["promotion"]: one["amount"] for one in found["applied"]}["s1"] == 800


def test_points_are_multiplied_at_the_rate_that_the_request_names() -> None:
    double = promotion({"type": "points", "times": 2})
    for rate, points in ((0, 0), ("0.5", 50), (3, 302), (None, 100)):
        assert price(basket(10099), double, points_per_unit=rate)["points"] == points


def test_a_percentage_is_capped_and_a_floor_sends_its_part_to_the_others() -> None:
    assert price(basket(10000), promotion(percent(50, max_amount=1200)))["discount"] == 1200
    given = basket(1000, 1000)
    given["lines"][0]["floor_price"] = 950
    found = price(given, promotion(percent(10)))
    assert [line["discount"] for line in found["lines"]] == [50, 150]
    by_line = price(given, promotion(percent(10, round="line")))
    assert [line["discount"] for line in by_line["lines"]] == [50, 100]
    limited = price(given, promotion(percent(10, round="line", max_amount=75)))
    assert [line["discount"] for line in limited["lines"]] == [38, 37]
    given["lines"][1]["floor_price"] = 1000
    given["lines"][0]["floor_price"] = 9999
    assert reasons(price(given, promotion(percent(10)))) == {"p": "no_effect"}


def test_an_empty_basket_is_priced_at_its_shipping() -> None:
    found = price(basket(shipping=500), promotion(percent(10)), promotion(off(1), "q"))
    assert (found["total"], reasons(found)) == (500, {"p": "scope", "q": "scope"})


def test_every_reason_has_words_in_both_languages() -> None:
    seen = set()
    cases = [
        ({"conditions": [{"type": "tier", "in": list("abcdefg")}]}, {}),
        ({"conditions": [{"type": "weekday", "in": [1, 7]}]}, {}),
        ({"conditions": [{"type": "member_day", "day": 8}]}, {}),
        ({"conditions": [{"type": "birthday", "within_days": 7}]}, {}),
        ({"conditions": [{"type": "nth_order", "n": 3}]}, {}),
        ({"conditions": [{"type": "nth_order", "n": 3}]}, {"member": {"orders_placed": 0}}),
        ({"conditions": [{"type": "first_order"}]}, {}),
        ({"conditions": [{"type": "segment", "in": ["x"]}]}, {}),
        ({"conditions": [at_least(20000)]}, {}),
        ({"conditions": [{"type": "max_subtotal", "amount": 1}]}, {}),
        ({"conditions": [{"type": "min_quantity", "quantity": 5}]}, {}),
        ({"conditions": [{"type": "any", "conditions": [at_least(20000), {"type": "first_order"}]}]}, {}),
        ({"conditions": [{"type": "not", "condition": at_least(1)}]}, {}),
        ({"starts_at": "2030-01-01T00:00:00Z"}, {}),
        ({"ends_at": "2020-01-01T00:00:00Z"}, {}),
        ({"code": "X"}, {}),
        ({"limits": {"stock": 0}}, {}),
        ({"limits": {"per_member": 2, "per_day": 1}}, {}),
        ({"benefit": off(1, scope={"skus": ["none"]})}, {}),
        ({"benefit": {"type": "free_shipping"}}, {}),
        ({"benefit": {"type": "fixed_price", "count": 1, "price": 10000}}, {}),
        ({"benefit": {"type": "fixed_price", "count": 2, "price": 10000}}, {}),
        ({"benefit": {"type": "tiered", "by": "amount", "tiers": [{"from": 20000, "off": 1}]}}, {}),
        ({"benefit": {"type": "tiered", "by": "quantity", "tiers": [{"from": 2, "off": 1}]}}, {}),
        ({"group": "g"}, {"others": [promotion(off(1), "a", group="g", priority=1)]}),
        ({}, {"others": [promotion(off(1), "a", exclusive=True)]}),
    ]
    for changes, more in cases:
        others = more.pop("others", [])
        found = price(basket(10000), promotion(**{"benefit": off(1), **changes}), *others, **more)
        (one,) = found["rejected"]
        seen.add(one["reason"])
        assert not any("\u4e00" <= char <= "\u9fff" for char in one["detail"])
        assert any("\u4e00" <= char <= "\u9fff" for char in one["detail_zh"])
        assert "None " not in (one["detail"] + one["detail_zh"]).replace("None of the goods", "")
    assert seen | {"currency"} == set(explain.REASONS)


def test_the_parser_and_the_engine_know_the_same_types() -> None:
    from loyalty.promotions import rules

    assert set(TYPES) == {*rules._CONDITIONS, "any", "all", "not"}
    assert len(rules._BENEFITS) == len(benefits._EFFECTS) == 9
