"""Promotions that meet in one basket: which pairs do, what happens then, and what is too much together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import Database
from core.errors import InvalidInput
from core.models import AuditEntry
from loyalty.promotions import ceiling
from loyalty.promotions.conflicts import MAX_COMPARED, Conflict, conflicts, in_words
from loyalty.promotions.model import Promotion, Scope
from loyalty.promotions.overlaps import scopes_meet
from loyalty.promotions.parse import read_promotion, read_request
from loyalty.promotions.stacking import evaluate
from tests.loyalty.data import NOW
from tests.loyalty.promotions.cases import ZONE, Json, at_least, basket, off, percent, promotion

TIER = {"type": "tier", "in": ["gold"]}
FREE: Json = {"type": "free_shipping"}


def one(benefit: Json, name: str, **more: Any) -> Promotion:
    return read_promotion(promotion(benefit, name, **more))


def kinds(*promotions: Promotion, **options: Any) -> list[tuple[str, ...]]:
    return [(found.kind, *found.names) for found in conflicts(promotions, ZONE, **options)]


def words(*promotions: Promotion, **options: Any) -> tuple[str, str]:
    (found,) = conflicts(promotions, ZONE, **options)
    return in_words(found, {"a": "Spring", "b": "Members"})


def test_two_that_stack_are_told_in_their_order() -> None:
    a, b = one(percent(10), "b"), one(off(500), "a", priority=10)
    assert words(a, b) == (
        "Both apply: “Spring” first (priority 10), then “Members” on what is left.",
        "同时生效：先 “Spring”（优先级 10），再按剩余金额计算 “Members”。",
    )


def test_an_exclusive_one_shuts_the_other_out_whatever_its_priority_and_goods() -> None:
    a = one(off(1, scope={"skus": ["x"]}), "a", priority=9)
    b = one(off(1, scope={"skus": ["y"]}), "b", exclusive=True)
    assert kinds(a, b) == [("exclusive", "b", "a")]
    assert words(a, b)[0] == "Only “Members”: it is exclusive, so “Spring” does not apply beside it."
    assert kinds(one(off(1), "a", exclusive=True), b) == [("exclusive", "a", "b")]


def test_of_a_group_only_the_first() -> None:
    a, b = one(off(1), "a", group="spring"), one(off(1), "b", group="spring", priority=5)
    assert kinds(a, b) == [("group", "b", "a")]
    assert words(a, b) == (
        "Only “Members”: “Spring” is of the same group “spring”.",
        "仅 “Members” 生效：“Spring” 与它同属“spring”组。",
    )
    assert kinds(a, one(off(1), "b", group="summer")) == [("both", "a", "b")]


def test_a_basket_brought_under_the_others_minimum_is_named_with_its_figures() -> None:
    a, b = one(percent(10), "a", priority=1), one(off(2000), "b", conditions=[at_least(10000)])
    assert words(a, b) == (
        "“Members” cannot apply to a basket of 100.00 CNY: “Spring” brings it to 90.00 CNY, "
        "under its minimum of 100.00 CNY.",
        "购物车为 100 元 时 “Members” 无法生效：“Spring” 使金额降至 90 元，低于其门槛 100 元。",
    )
    priced = evaluate(read_request(basket(10000), NOW).basket, [a, b], ZONE)
    assert [(r.promotion, r.reason.code) for r in priced.rejected] == [("b", "min_subtotal")]
    # In the other order both apply.
    assert kinds(one(percent(10), "a"), one(off(1), "b", conditions=[at_least(10000)], priority=1)) == [
        ("both", "b", "a")
    ]
    tiers = {"type": "tiered", "by": "amount", "tiers": [{"from": 10000, "off": 1000}]}
    assert kinds(a, one(tiers, "b")) == [("under_minimum", "a", "b")]
    shipping = one(FREE, "b", conditions=[at_least(10000)])
    assert kinds(a, shipping) == [("under_minimum", "a", "b")]
    elsewhere = one(FREE, "b", conditions=[at_least(10000, scope={"skus": ["x"]})])
    assert kinds(one(percent(10, scope={"skus": ["y"]}), "a", priority=1), elsewhere) == []


def test_the_second_of_two_that_lower_the_same_thing_to_nothing() -> None:
    assert kinds(one(FREE, "a"), one(FREE, "b")) == [("nothing_left", "a", "b")]
    assert kinds(one(percent(100), "a"), one(off(5), "b")) == [("nothing_left", "a", "b")]
    assert kinds(one({"type": "points", "times": 2}, "a"), one({"type": "points", "amount": 9}, "b")) == [
        ("both", "a", "b")
    ]
    gift = one({"type": "gift", "sku": "bag"}, "a")
    assert kinds(gift, one(off(5), "b")) == kinds(gift, one(FREE, "b")) == []


@pytest.mark.parametrize(
    ("a", "b", "meet"),
    [
        ({}, {}, True),
        ({"ends_at": "2026-01-01T00:00:00Z"}, {"starts_at": "2026-01-01T00:00:00Z"}, False),
        ({"ends_at": "2026-01-01T00:00:01Z"}, {"starts_at": "2026-01-01T00:00:00Z"}, True),
        ({"starts_at": "2026-01-01T00:00:00Z"}, {"starts_at": "2027-01-01T00:00:00Z"}, True),
        ({"ends_at": "2026-01-01T00:00:00Z"}, {}, True),
        ({"currency": "CNY"}, {"currency": "USD"}, False),
        ({"currency": "CNY"}, {}, True),
        ({"conditions": [TIER]}, {"conditions": [{"type": "tier", "in": ["silver"]}]}, False),
        ({"conditions": [TIER]}, {"conditions": [{"type": "tier", "in": ["silver", "gold"]}]}, True),
        ({"conditions": [TIER]}, {"conditions": [{"type": "not", "condition": TIER}]}, False),
        (
            {"conditions": [{"type": "all", "conditions": [TIER]}]},
            {"conditions": [{"type": "any", "conditions": [{"type": "tier", "in": ["basic"]}]}]},
            False,
        ),
        ({"conditions": [{"type": "first_order"}]}, {"conditions": [{"type": "nth_order", "n": 2}]}, False),
        ({"conditions": [{"type": "first_order"}]}, {"conditions": [{"type": "nth_order", "n": 1}]}, True),
        (
            {"conditions": [{"type": "first_order"}]},
            {"conditions": [{"type": "not", "condition": {"type": "first_order"}}]},
            False,
        ),
        (
            {"conditions": [{"type": "weekday", "in": ["sat"]}]},
            {"conditions": [{"type": "weekday", "in": ["sun"]}]},
            False,
        ),
        (
            {"conditions": [{"type": "weekday", "in": ["sat"]}]},
            {"conditions": [{"type": "weekday", "in": ["sat", "sun"]}]},
            True,
        ),
        (
            {"conditions": [{"type": "member_day", "day": 8}]},
            {"conditions": [{"type": "member_day", "day": 9}]},
            False,
        ),
        (  # the 31st of a shorter month is its last day
            {"conditions": [{"type": "member_day", "day": 31}]},
            {"conditions": [{"type": "member_day", "day": 30}]},
            True,
        ),
        (
            {"conditions": [{"type": "member_day", "day": 8}]},
            {"conditions": [{"type": "weekday", "in": ["sun"]}]},
            True,
        ),
        (  # 8 November 2026 is a Sunday, and there is no other 8th in the time of both
            {"conditions": [{"type": "member_day", "day": 8}], "starts_at": "2026-11-01T00:00:00+08:00"},
            {"conditions": [{"type": "weekday", "in": ["mon"]}], "ends_at": "2026-12-01T00:00:00+08:00"},
            False,
        ),
        (
            {"conditions": [{"type": "member_day", "day": 8}], "starts_at": "2026-11-01T00:00:00+08:00"},
            {"conditions": [{"type": "weekday", "in": ["sun"]}], "ends_at": "2026-12-01T00:00:00+08:00"},
            True,
        ),
        (  # the day is the shop's: in Shanghai it is already Monday
            {"starts_at": "2026-11-08T16:00:00Z", "ends_at": "2026-11-09T15:59:59Z"},
            {"conditions": [{"type": "weekday", "in": ["sun"]}]},
            False,
        ),
        ({"conditions": [{"type": "segment", "in": ["x"]}]}, {"conditions": [TIER]}, True),
    ],
)
def test_only_what_can_meet_is_a_conflict(a: Json, b: Json, meet: bool) -> None:
    pair = one(off(1), "a", **a), one(off(1), "b", **b)
    assert bool(kinds(*pair)) is bool(kinds(*reversed(pair))) is meet


@pytest.mark.parametrize(
    ("a", "b", "meet"),
    [
        ({}, {}, True),
        ({"skus": ["x"]}, {}, True),
        ({"skus": ["x"]}, {"skus": ["y"]}, False),
        ({"skus": ["x", "y"]}, {"skus": ["y"]}, True),
        ({"skus": ["x"]}, {"exclude_skus": ["x"]}, False),
        ({"categories": ["tea"]}, {"categories": ["mugs"]}, False),
        ({"categories": ["tea"]}, {"exclude_categories": ["tea"]}, False),
        ({"categories": ["tea"]}, {"exclude_skus": ["x"]}, True),
        ({"categories": ["tea", "mugs"]}, {"categories": ["mugs"], "exclude_categories": ["tea"]}, True),
        ({"skus": ["x"]}, {"categories": ["mugs"]}, True),  # x may be a mug
        ({"skus": ["tea-1"]}, {"categories": ["mugs"]}, False),  # the catalog knows that it is a tea
        ({"skus": ["tea-1"]}, {"categories": ["tea"]}, True),
        ({"skus": ["tea-1"]}, {"exclude_categories": ["tea"]}, False),
        ({"skus": ["x"], "categories": ["tea"]}, {"exclude_skus": ["x"]}, True),
    ],
)
def test_scopes_meet_where_a_good_may_be_in_both(a: Json, b: Json, meet: bool) -> None:
    scopes = [Scope(**{name: frozenset(values) for name, values in sent.items()}) for sent in (a, b)]
    catalog = {"tea-1": "tea"}
    assert scopes_meet(scopes[0], scopes[1], catalog) is scopes_meet(scopes[1], scopes[0], catalog) is meet


def test_percentages_that_take_too_much_together_are_named() -> None:
    a, b, c = one(percent(30), "a"), one(percent(30), "b"), one(percent(10), "c")
    found = conflicts([a, b, c], ZONE, max_points=5000)[-1]
    assert found == Conflict("deep", "a", "b", {"points": 5590, "most": 5000}, ("c",))  # 1 − .7 × .7 × .9
    assert in_words(found, {}) == (
        "“a”, “b” and “c” take up to 55.9 % off together; more than 50 % is to be looked at.",
        "“a”、“b”、“c” 叠加最多优惠 55.9%，超过设定的 50%，请确认。",
    )
    deep = {"max_points": 5000}
    assert ("deep", "a", "b", "c") not in kinds(a, b, c, max_points=5590)
    assert "deep" not in {kind for kind, *_ in kinds(a, c, **deep)}
    assert "deep" not in {kind for kind, *_ in kinds(one(percent(60), "a"), **deep)}
    tiers = {
        "type": "tiered",
        "by": "quantity",
        "tiers": [{"from": 2, "percent": 10}, {"from": 3, "percent": 40}],
    }
    buy = {"type": "buy_x_get_y", "buy": 1, "get": 1, "percent": 50}  # a quarter of each pair
    assert kinds(one(tiers, "a"), one(buy, "b"), **deep)[-1] == ("deep", "a", "b")


@pytest.mark.parametrize(
    "changes",
    [
        ({"group": "g"}, {"group": "g"}),
        ({"exclusive": True}, {}),
        ({"ends_at": "2026-01-01T00:00:00Z"}, {"starts_at": "2026-01-01T00:00:00Z"}),
        ({"conditions": [TIER]}, {"conditions": [{"type": "tier", "in": ["silver"]}]}),
    ],
)
def test_what_never_stacks_is_never_too_much(changes: tuple[Json, Json]) -> None:
    found = kinds(one(percent(40), "a", **changes[0]), one(percent(40), "b", **changes[1]), max_points=5000)
    assert "deep" not in {kind for kind, *_ in found}


def test_a_hundred_promotions_are_compared_in_a_moment() -> None:
    many = [one(percent(1 + number % 50), f"p{number:03}") for number in range(MAX_COMPARED + 20)]
    begun = datetime.now(UTC)
    found = conflicts(many, ZONE)
    assert len(found) == MAX_COMPARED * (MAX_COMPARED - 1) // 2
    assert (datetime.now(UTC) - begun).total_seconds() < 10


def test_the_ceiling_is_kept_as_a_preference(db: Database) -> None:
    with db.write() as session:
        assert ceiling.load(session) == 5000
        ceiling.save(session, 6500, "ann", NOW)
    with db.read() as session:
        assert ceiling.load(session) == 6500
        assert _audited(session) == [{"basis_points": 6500}]
    for wrong in (0, 10_001, True):
        with db.write() as session, pytest.raises(InvalidInput):
            ceiling.save(session, wrong, "ann", NOW)


def _audited(session: Session) -> list[Any]:
    return list(
        session.scalars(sa.select(AuditEntry.detail).where(AuditEntry.object_id == ceiling.PREFERENCE))
    )
