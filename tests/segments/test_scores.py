"""RFM and lifecycle: exactly as defined, whatever the order of rows and the ties among them."""

from __future__ import annotations

import random
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segments.settings import CELLS, Scoring, cells
from tests.segments.conftest import AS_OF, Shop, ago


def by_member(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row["member_id"]: row for row in rows}


def test_measures_are_days_orders_and_money_net_of_refunds(shop: Shop) -> None:
    shop.member(1)
    shop.order(1, 0.5, 1000)
    shop.order(1, 10, 2000, net_minor=500, refunded_minor=1500, status="refunded")
    shop.order(1, 20, 3000, net_minor=0, status="cancelled")
    shop.order(1, 800, 9999)
    shop.order(1, -0.1, 7777)  # after the as-of date
    row = shop.snapshot()[0]
    assert (row["recency"], row["frequency"], row["monetary"]) == (1, 2, 1500)
    assert row["orders"] == 3, "the lifetime count reaches beyond the window"


def test_the_window_ends_before_the_as_of_day_and_days_are_the_shops(shop: Shop) -> None:
    for member, days in ((1, 0.0001), (2, 1.0), (3, 1.0001), (4, 730), (5, 730.0001)):
        shop.member(member)
        shop.order(member, days)
    rows = by_member(shop.snapshot())
    assert [rows[n]["recency"] for n in (1, 2, 3, 4, 5)] == [1, 1, 2, 730, None]


def test_same_day_orders_count_once_when_asked(shop: Shop) -> None:
    shop.member(1)
    for days in (5.1, 5.2, 6.5):
        shop.order(1, days)
    assert shop.snapshot()[0]["frequency"] == 3
    assert shop.snapshot(Scoring(same_day_once=True))[0]["frequency"] == 2


def reference_scores(values: list[int], reverse: bool) -> list[int]:
    """The definition, word for word: quantile_disc cut points, 1 plus the number exceeded."""
    ordered = sorted(values)
    # quantile_disc(p): the first value whose cumulative share reaches p
    cuts = [ordered[max(0, -(-len(ordered) * share // 100) - 1)] for share in (20, 40, 60, 80)]
    scores = [1 + sum(value > cut for cut in cuts) for value in values]
    return [6 - score for score in scores] if reverse else scores


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.lists(
        st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=5),
        min_size=1,
        max_size=40,
    ),
    seed=st.integers(0, 100),
)
def test_scores_follow_the_definition_and_ignore_row_order(
    tmp_path_factory: pytest.TempPathFactory, members: list[list[tuple[int, int]]], seed: int
) -> None:
    shop = Shop(tmp_path_factory.mktemp("rfm"))
    for number, orders in enumerate(members, 1):
        shop.member(number)
        for days, amount in orders:
            shop.order(number, days, amount)
    rows = shop.snapshot()
    recency = [min(days for days, _ in orders) for orders in members]
    money = [sum(amount for _, amount in orders) for orders in members]
    assert [row["r"] for row in rows] == reference_scores(recency, reverse=True)
    assert [row["f"] for row in rows] == reference_scores([len(orders) for orders in members], reverse=False)
    assert [row["m"] for row in rows] == reference_scores(money, reverse=False)
    for name, values, sign in (("r", recency, -1), ("m", money, 1)):
        pairs = sorted((sign * value, row[name]) for value, row in zip(values, rows, strict=True))
        assert [score for _, score in pairs] == sorted(score for _, score in pairs), "monotone, ties alike"
    for facts in shop.rows.values():
        random.Random(seed).shuffle(facts)
    assert shop.snapshot() == rows


def test_fixed_cut_points_replace_the_quantiles(shop: Shop) -> None:
    for member, amount in ((1, 100), (2, 200), (3, 300)):
        shop.member(member)
        shop.order(member, member * 10, amount)
    points = {"recency": [5, 10, 20, 30], "frequency": [1, 2, 3, 4], "monetary": [50, 100, 150, 250]}
    rows = shop.snapshot(Scoring(cut_points=points))
    assert [(row["r"], row["f"], row["m"]) for row in rows] == [(4, 1, 2), (3, 1, 4), (2, 1, 5)]
    assert shop.read_out["fixed"] is True


def test_coinciding_cut_points_are_said(shop: Shop) -> None:
    for member in range(1, 11):
        shop.member(member)
        shop.order(member, member)
    rows = shop.snapshot()
    assert {row["f"] for row in rows} == {1}
    assert any("frequency" in note and "skipped" in note for note in shop.read_out["notes"])


def test_every_cell_has_one_name() -> None:
    table = cells().to_pylist()
    assert len(table) == 25
    assert len({(row["r"], row["f"]) for row in table}) == 25
    assert {row["segment"] for row in table} == set(CELLS)
    named = {(row["r"], row["f"]): row["segment"] for row in table}
    assert (named[5, 5], named[1, 5], named[3, 3], named[4, 1]) == (
        "champions",
        "cant_lose",
        "need_attention",
        "promising",
    )


def test_the_eight_value_segments_compare_with_the_means(shop: Shop) -> None:
    recent, old = 5, 95
    for member, (days, count, amount) in enumerate(
        [(recent, 4, 900), (recent, 1, 3600), (old, 4, 900), (old, 1, 3600),
         (recent, 4, 10), (recent, 1, 10), (old, 4, 10), (old, 1, 10)], 1,
    ):  # fmt: skip
        shop.member(member)
        for _ in range(count):
            shop.order(member, days, amount)
    assert [row["value_segment"] for row in shop.snapshot()] == [
        "important_value", "important_develop", "important_keep", "important_win_back",
        "general_value", "general_develop", "general_keep", "general_win_back",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("orders", "stage"),
    [
        ([], "prospect"),
        ([3], "new"),
        ([30], "new"),
        ([30.01], "active"),
        ([90], "active"),
        ([90.01], "dormant"),
        ([365], "dormant"),
        ([365.01], "churned"),
        ([5, 200], "reactivated"),
        ([5, 20, 111], "reactivated"),
        ([5, 20, 109], "active"),  # 89 days of silence are no dormancy
        ([31, 200], "active"),  # came back, but not within the last 30 days
        ([41, 50, 60, 70], "at_risk"),  # silent 41 days, usually 10
        ([20, 30, 40, 50], "active"),  # silent twice its usual gap, not longer
        ([41, 50], "active"),  # two orders tell no rhythm
    ],
)
def test_stages_follow_the_table(shop: Shop, orders: list[float], stage: str) -> None:
    shop.member(1)
    for days in orders:
        shop.order(1, days)
    for other in range(2, 8):  # big spenders, so that member 1 is not in the top share
        shop.member(other)
        shop.order(other, 50, 90_000)
    assert by_member(shop.snapshot())[1]["stage"] == stage


def test_the_top_fifth_of_the_active_are_of_high_value(shop: Shop) -> None:
    for member in range(1, 11):
        shop.member(member)
        shop.order(member, 50, member * 100)
    stages = {row["member_id"]: row["stage"] for row in shop.snapshot()}
    assert [member for member, stage in stages.items() if stage == "high_value"] == [9, 10]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(days=st.lists(st.integers(1, 90), min_size=3, max_size=8))
def test_silence_is_measured_by_the_members_own_median_gap(
    tmp_path_factory: pytest.TempPathFactory, days: list[int]
) -> None:
    shop = Shop(tmp_path_factory.mktemp("stage"))
    shop.member(1)
    for day in days:
        shop.order(1, day, 1)
    shop.member(2)
    shop.order(2, 50, 90_000)
    ordered = sorted(days)
    gaps = [later - earlier for earlier, later in pairwise(ordered)]
    expected = "at_risk" if ordered[0] > 2 * median(gaps) else "active"
    assert by_member(shop.snapshot())[1]["stage"] == expected


@pytest.mark.parametrize(
    ("days", "stage"),
    [
        ([20, 21, 35], "at_risk"),  # gaps 1 and 14: half are short, and twice their mean, 15, is too
        ([20, 21, 40], "active"),  # 1 and 19: twice the mean is the silence itself
        ([20, 21, 41], "active"),
        ([20, 21, 22, 40, 60], "at_risk"),  # 1, 1, 18, 20: the two in the middle are 1 and 18
        ([20, 21, 22, 41, 60], "active"),  # 1, 1, 19, 19: in the middle 1 and 19
    ],
)
def test_an_even_number_of_gaps_has_the_mean_of_the_two_in_the_middle(
    shop: Shop, days: list[int], stage: str
) -> None:
    shop.member(1)
    for day in days:
        shop.order(1, day, 1)
    shop.member(2)
    shop.order(2, 50, 90_000)
    assert by_member(shop.snapshot())[1]["stage"] == stage


def test_the_tenure_preset_bands_the_last_activity(shop: Shop) -> None:
    for member, days in ((1, 3), (2, 20), (3, 60), (4, 200), (5, 390)):
        shop.member(member)
        shop.order(member, days)
    shop.member(6, registered_at=ago(5))
    stages = [row["stage"] for row in shop.snapshot(Scoring(preset="tenure"))]
    assert stages == ["days_0_7", "days_7_30", "days_30_90", "days_90_365", "days_over_365", "days_0_7"]


def test_a_stage_remembers_since_when_it_lasts(shop: Shop) -> None:
    shop.member(1)
    shop.order(1, 60)
    shop.member(2)
    shop.order(2, 95)
    earlier = AS_OF - timedelta(days=10)
    shop.snapshot(as_of=earlier)
    rows = by_member(shop.snapshot(previous=earlier))
    assert (rows[1]["stage"], rows[1]["stage_since"], rows[1]["previous_stage"]) == (
        "active",
        earlier,
        "active",
    )
    assert (rows[2]["stage"], rows[2]["stage_since"], rows[2]["previous_stage"]) == (
        "dormant",
        AS_OF,
        "active",
    )


def test_who_was_not_there_yet_is_not_in_the_snapshot(shop: Shop) -> None:
    shop.member(1, registered_at=ago(-1))
    shop.member(2, registered_at=None)
    assert [row["member_id"] for row in shop.snapshot()] == [2]


def test_an_empty_shop_has_an_empty_snapshot(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    assert shop.snapshot(as_of=date(2026, 1, 1)) == []
    assert shop.read_out["scored"] == 0
