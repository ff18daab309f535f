"""Thousands of made-up baskets: what holds for every one of them, and the slow oracle's answers."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty.promotions.allocate import allocate, part
from loyalty.promotions.explain import REASONS
from loyalty.promotions.parse import read_request
from loyalty.promotions.prices import price_own
from tests.loyalty.promotions import oracle
from tests.loyalty.promotions.cases import Json

ZONE = ZoneInfo("Asia/Shanghai")
NOW = datetime(2026, 11, 11, tzinfo=UTC)
MANY = settings(max_examples=1500, deadline=None)
SOME = settings(max_examples=400, deadline=None)
SKUS, CATEGORIES = ("s1", "s2", "s3", "s4"), ("mugs", "tea", None)
AMOUNTS = st.sampled_from([1, 3, 7, 50, 99, 100, 333, 1000, 2500, 10_000]) | st.integers(1, 20_000)
PERCENTS = st.sampled_from([10, 20, 50, 100, 33.33, "12.5", "0.01"])


def fields(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries(required, optional=optional)


SCOPES = st.just({}) | fields(
    {},
    {
        "skus": st.lists(st.sampled_from(SKUS), min_size=1, max_size=2),
        "categories": st.lists(st.sampled_from(CATEGORIES[:2]), min_size=1, max_size=1),
        "exclude_skus": st.lists(st.sampled_from(SKUS), min_size=1, max_size=1),
        "exclude_categories": st.lists(st.sampled_from(CATEGORIES[:2]), min_size=1, max_size=1),
    },
)
FEW = st.integers(1, 4)
TIERS = st.lists(
    st.tuples(AMOUNTS, st.booleans(), AMOUNTS, PERCENTS),
    min_size=1,
    max_size=3,
    unique_by=lambda tier: tier[0],
)


@st.composite
def tiered(draw: Any) -> Json:
    by, repeat = draw(st.sampled_from(["amount", "quantity"])), draw(st.booleans())
    tiers = [
        {"from": start if by == "amount" else start % 9 + 1}
        | ({"percent": rate} if with_rate and not repeat else {"off": off})
        for start, with_rate, off, rate in draw(TIERS)
    ]
    unique = {tier["from"]: tier for tier in tiers}
    return {
        "type": "tiered",
        "by": by,
        "tiers": list(unique.values()),
        "repeat": repeat,
        "scope": draw(SCOPES),
    }


BENEFITS = st.one_of(
    fields(
        {"type": st.just("percent"), "percent": PERCENTS},
        {"scope": SCOPES, "max_amount": AMOUNTS, "round": st.sampled_from(["total", "line"])},
    ),
    fields({"type": st.just("fixed"), "amount": AMOUNTS}, {"scope": SCOPES}),
    fields({"type": st.just("fixed_each"), "amount": AMOUNTS}, {"scope": SCOPES, "max_units": FEW}),
    fields(
        {"type": st.just("fixed_price"), "count": FEW, "price": AMOUNTS | st.just(0)},
        {"scope": SCOPES, "max_times": FEW},
    ),
    fields(
        {"type": st.just("buy_x_get_y"), "buy": FEW, "get": FEW},
        {"scope": SCOPES, "max_times": FEW, "percent": PERCENTS},
    ),
    tiered(),
    st.just({"type": "free_shipping"}),
    st.just({"type": "gift", "sku": "bag", "quantity": 1}),
    st.just({"type": "points", "amount": 5}),
)
SIMPLE = st.one_of(
    fields({"type": st.just("min_subtotal"), "amount": AMOUNTS}, {"scope": SCOPES}),
    fields({"type": st.just("max_subtotal"), "amount": AMOUNTS}, {"scope": SCOPES}),
    fields({"type": st.just("min_quantity"), "quantity": st.integers(1, 9)}, {"scope": SCOPES}),
    fields({"type": st.just("tier"), "in": st.just(["gold", "silver"])}, {}),
    fields({"type": st.just("segment"), "in": st.sampled_from([["loyal"], ["new"]])}, {}),
    fields({"type": st.just("nth_order"), "n": st.integers(1, 3)}, {}),
    st.just({"type": "first_order"}),
)
CONDITIONS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        fields(
            {"type": st.sampled_from(["any", "all"]), "conditions": st.lists(inner, min_size=1, max_size=3)},
            {},
        ),
        fields({"type": st.just("not"), "condition": inner}, {}),
    ),
    max_leaves=4,
)
PROMOTIONS = st.lists(
    fields(
        {"id": st.sampled_from("pqrstuvw"), "benefit": BENEFITS},
        {
            "priority": st.integers(-2, 2),
            "conditions": st.lists(CONDITIONS, max_size=2),
            "exclusive": st.sampled_from([False, False, False, True]),
            "group": st.sampled_from(["g", "h"]),
            "code": st.sampled_from(["SPRING", "OTHER"]),
        },
    ),
    max_size=6,
    unique_by=lambda one: one["id"],
)
LINES = st.lists(
    fields(
        {
            "sku": st.sampled_from(SKUS),
            "unit_price": st.sampled_from([0, 1, 2, 99, 100]) | st.integers(0, 5000),
            "quantity": st.sampled_from([1, 1, 2, 3]) | st.integers(1, 12),
        },
        {"category": st.sampled_from(CATEGORIES), "floor_price": st.integers(0, 3000)},
    ),
    max_size=7,
)


@st.composite
def baskets(draw: Any) -> Json:
    lines = [{"id": f"l{number}", **line} for number, line in enumerate(draw(LINES))]
    found: Json = {"currency": "CNY", "lines": lines, "shipping": draw(st.sampled_from([0, 1000]))}
    member = {"tier": draw(st.sampled_from(["gold", "none"])), "orders_placed": draw(st.integers(0, 2))}
    found |= draw(st.sampled_from([{}, {"member": {**member, "segments": ["loyal"]}}]))
    return found | {"codes": ["SPRING"], "promotions": draw(PROMOTIONS)}


def price(request: Json) -> dict[str, Any]:
    return price_own(read_request(request, NOW), ZONE)


@MANY
@given(baskets())
def test_the_engine_answers_what_the_oracle_answers(request: Json) -> None:
    found, expected = price(request), oracle.evaluate(request)
    assert [line["total"] for line in found["lines"]] == expected["totals"]
    assert found["shipping"] - found["shipping_discount"] == expected["shipping"]
    assert [(one["promotion"], one["amount"]) for one in found["applied"]] == expected["applied"]


@MANY
@given(baskets())
def test_sums_are_exact_nothing_is_negative_and_floors_are_kept(request: Json) -> None:
    found = price(request)
    taken = dict.fromkeys((one["id"] for one in request["promotions"]), 0)
    for line, sent in zip(found["lines"], request["lines"], strict=True):
        assert line["subtotal"] == sent["unit_price"] * sent["quantity"]
        assert line["total"] == line["subtotal"] - line["discount"]
        assert line["discount"] == sum(one["amount"] for one in line["adjustments"])
        assert all(one["amount"] > 0 for one in line["adjustments"])
        floor = min(sent["unit_price"], sent.get("floor_price", 0)) * sent["quantity"]
        assert 0 <= floor <= line["total"] <= line["subtotal"]
        for one in line["adjustments"]:
            taken[one["promotion"]] += one["amount"]
    for name in ("subtotal", "discount"):
        assert found[name] == sum(line[name] for line in found["lines"])
    assert 0 <= found["shipping_discount"] <= found["shipping"] == request["shipping"]
    assert (
        found["total"]
        == found["subtotal"] - found["discount"] + found["shipping"] - found["shipping_discount"]
    )
    assert found["total"] >= 0
    assert sum(one["amount"] for one in found["applied"]) == found["discount"] + found["shipping_discount"]
    shipped = {one["promotion"]: one["amount"] - taken[one["promotion"]] for one in found["applied"]}
    assert sum(shipped.values()) == found["shipping_discount"]
    judged = [one["promotion"] for one in (*found["applied"], *found["rejected"])]
    assert sorted(judged) == sorted(taken)
    for one in found["rejected"]:
        assert one["reason"] in REASONS
        assert one["detail"] != one["detail_zh"] != ""


@SOME
@given(baskets(), st.randoms(use_true_random=False))
def test_the_order_of_the_promotions_sent_changes_nothing(request: Json, chance: random.Random) -> None:
    shuffled = list(request["promotions"])
    chance.shuffle(shuffled)
    assert price({**request, "promotions": shuffled}) == price(request)


@SOME
@given(baskets())
def test_only_ties_go_by_the_order_of_the_lines(request: Json) -> None:
    """One promotion: turned round, the lines share the same sum, and only equal ones may differ, by one."""
    for promotion in request["promotions"]:
        by_unit = promotion["benefit"]["type"] in ("fixed_each", "fixed_price", "buy_x_get_y")
        # Units of one price are a tie, and the chosen one may be the one that stands on its floor.
        lines = [{**line, "floor_price": 0} if by_unit else line for line in request["lines"]]
        here = price({**request, "lines": lines, "promotions": [promotion]})
        there = price({**request, "lines": lines[::-1], "promotions": [promotion]})
        for name in ("discount", "total", "applied", "gifts", "points"):
            assert here[name] == there[name]
        if not by_unit:
            back = {line["id"]: line["total"] for line in there["lines"]}
            assert all(abs(back[line["id"]] - line["total"]) <= 1 for line in here["lines"])


@SOME
@given(baskets())
def test_no_promotion_alone_ever_costs_the_customer(request: Json) -> None:
    full = price({**request, "promotions": []})["total"]
    for promotion in request["promotions"]:
        assert price({**request, "promotions": [promotion]})["total"] <= full


@SOME
@given(baskets(), AMOUNTS, AMOUNTS)
def test_a_larger_amount_or_a_lower_floor_never_takes_off_less(request: Json, amount: int, more: int) -> None:
    def discount(off: int, lines: list[Json]) -> int:
        promotion = {"id": "p", "benefit": {"type": "fixed", "amount": off}}
        return int(price({**request, "lines": lines, "promotions": [promotion]})["discount"])

    lines = request["lines"]
    assert discount(amount, lines) <= discount(amount + more, lines)
    without = [{**line, "floor_price": 0} for line in lines]
    assert discount(amount, lines) <= discount(amount, without)


PLACES = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=12)


@MANY
@given(st.integers(-5, 20_000), PLACES)
def test_shares_are_exact_capped_and_the_oracles(amount: int, places: list[tuple[int, int]]) -> None:
    weights = [max(pair) for pair in places]
    caps = [min(pair) for pair in places]
    shares = allocate(amount, weights, caps)
    assert sum(shares) == min(max(amount, 0), sum(caps))
    assert all(0 <= share <= cap for share, cap in zip(shares, caps, strict=True))
    assert shares == oracle.water(max(amount, 0), weights, caps)


@SOME
@given(st.integers(0, 20_000), PLACES)
def test_lines_that_no_cap_binds_are_within_one_unit_of_their_proportion(
    amount: int, places: list[tuple[int, int]]
) -> None:
    weights = [max(pair) for pair in places]
    caps = [min(pair) for pair in places]
    shares = allocate(amount, weights, caps)
    free = [n for n in range(len(caps)) if shares[n] < caps[n]]
    rest, weight = sum(shares[n] for n in free), sum(weights[n] for n in free)
    for n in free:
        assert abs(shares[n] - Fraction(rest * weights[n], weight)) < 2


def test_the_cases_that_break_other_rules() -> None:
    assert allocate(4, [1000] * 7, [1000] * 7) == [1, 1, 1, 1, 0, 0, 0]
    assert allocate(5, [1, 1, 1000], [1, 1, 1000]) == [0, 0, 5]
    assert allocate(100, [0, 50, 50], [0, 50, 50]) == [0, 50, 50]
    assert allocate(30, [100, 100, 100], [2, 100, 100]) == [2, 14, 14]
    assert allocate(10, [], []) == []
    big = [10**15 // 3] * 3
    assert sum(allocate(10**15 - 5, big, big)) == 10**15 - 5


def test_halves_go_up() -> None:
    assert [part(amount, 5_000) for amount in (1, 2, 3, 5)] == [1, 1, 2, 3]
    assert part(10**15, 3_333) == 333_300_000_000_000
    assert part(50, 100) == 1
    assert part(49, 100) == 0
