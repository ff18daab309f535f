"""The metrics tree: parts that sum to the change, symmetric, whatever is zero; groups that add up; alerts."""

from __future__ import annotations

import math
import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from segments import tree
from segments.tree import Week
from segments.tree_alerts import Anomaly, anomalies, causes, judge
from segments.tree_scan import Groups

MONDAY = date(2026, 2, 23)
NUMBERS = st.one_of(st.none(), st.just(0.0), st.floats(1e-6, 1e9))
ZONE = ZoneInfo("Asia/Shanghai")


def week(start: date = MONDAY, **sums: int) -> Week:
    usual = {
        "visitors": 1000, "members": 5000, "events": 900, "buyers": 100, "new_buyers": 20, "orders": 120,
        "gmv": 1_200_000, "refunds": 50_000, "units": 240,
    }  # fmt: skip
    return Week(start, **{**usual, **sums})


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_the_parts_of_a_change_sum_to_it(pairs: list[tuple[float | None, float | None]]) -> None:
    before, after = ({str(n): pair[side] for n, pair in enumerate(pairs)} for side in (0, 1))
    found = tree.decompose(before, after)
    scale = max(abs(found.before), abs(found.after), 1.0, *(abs(factor.part) for factor in found.factors))
    assert abs(math.fsum(factor.part for factor in found.factors) - found.change) <= 1e-9 * scale


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_exchanged_weeks_have_the_opposite_parts(pairs: list[tuple[float | None, float | None]]) -> None:
    before, after = ({str(n): pair[side] for n, pair in enumerate(pairs)} for side in (0, 1))
    there, back = tree.decompose(before, after), tree.decompose(after, before)
    assert there.method == back.method
    scale = max(abs(there.before), abs(there.after), 1.0, *(abs(factor.part) for factor in there.factors))
    for one, other in zip(there.factors, back.factors, strict=True):
        assert abs(one.part + other.part) <= 1e-9 * scale


def test_a_change_of_one_factor_is_all_its_own_and_equal_changes_share_alike() -> None:
    alone = tree.decompose({"a": 2.0, "b": 3.0}, {"a": 2.0, "b": 4.5})
    assert (alone.method, alone.part("a"), alone.part("b")) == (tree.LMDI, 0.0, pytest.approx(3.0))
    both = tree.decompose({"a": 2.0, "b": 5.0}, {"a": 4.0, "b": 10.0})
    assert both.part("a") == pytest.approx(15.0) == both.part("b")


def test_the_logarithmic_mean_is_the_published_one() -> None:
    found = tree.decompose({"q": 10.0, "s": 3.0}, {"q": 12.0, "s": 2.0})
    mean = (24 - 30) / (math.log(24) - math.log(30))
    assert found.part("q") == pytest.approx(mean * math.log(1.2), rel=1e-12)
    assert found.part("s") == pytest.approx(mean * math.log(2 / 3), rel=1e-12)


def test_a_week_without_buyers_falls_back_and_blames_conversion_alone() -> None:
    found = tree.change_of(week(), week(buyers=0, new_buyers=0, orders=0, gmv=0, refunds=0, units=0))
    assert found.method == tree.SHAPLEY
    assert found.change == pytest.approx(-1_200_000)
    assert found.part(tree.CONVERSION) == pytest.approx(-1_200_000)
    assert found.part(tree.REPURCHASE) == found.part(tree.BASKET) == found.part(tree.VISITORS) == 0


def test_the_basket_is_units_and_price_together() -> None:
    before, after = week(), week(gmv=1_500_000, units=200, orders=110, buyers=105)
    plain, deep = tree.change_of(before, after), tree.change_of(before, after, deep=True)
    assert deep.part(tree.UNITS_AN_ORDER) + deep.part(tree.PRICE) == pytest.approx(plain.part(tree.BASKET))
    assert deep.part(tree.CONVERSION) == pytest.approx(plain.part(tree.CONVERSION))
    assert [factor.name for factor in tree.change_of(before, week(units=0), deep=True).factors] == [
        *tree.FACTORS
    ]


def test_without_events_visitors_are_the_members() -> None:
    silent = week(events=0)
    assert tree.basis_of((week(), week())) == tree.VISITS
    assert tree.basis_of((week(), silent)) == tree.MEMBERS == tree.basis_of(())
    assert silent.node(tree.CONVERSION, tree.MEMBERS) == 100 / 5000
    assert tree.change_of(week(), silent).factors[0].before == 5000


def test_what_makes_no_sense_is_refused() -> None:
    for before, after in (
        ({}, {}),
        ({"a": 1.0}, {"b": 1.0}),
        ({"a": -1.0}, {"a": 1.0}),
        ({"a": math.inf}, {"a": 1.0}),
    ):
        with pytest.raises(InvalidInput):
            tree.decompose(before, after)
    with pytest.raises(InvalidInput):
        week().node("luck", tree.VISITS)
    with pytest.raises(InvalidInput):
        tree.explain("luck", {}, {}, tree.VISITS)


GROUP = st.builds(
    lambda v, b, o, g, u: week(visitors=v + b, buyers=b, new_buyers=b // 3, orders=b and b + o, gmv=g if b else 0, units=u),
    st.integers(0, 1000), st.integers(0, 500), st.integers(0, 300), st.integers(0, 10**9), st.integers(0, 900),
)  # fmt: skip


def together(weeks: dict[str, Week]) -> Week:
    names = ("visitors", "members", "events", "buyers", "new_buyers", "orders", "gmv", "refunds", "units")
    return Week(MONDAY, **{name: sum(getattr(one, name) for one in weeks.values()) for name in names})


@given(
    st.dictionaries(st.sampled_from("abcdef"), GROUP, max_size=6),
    st.dictionaries(st.sampled_from("abcdef"), GROUP, max_size=6),
    st.sampled_from(tree.NODES),
)
def test_the_parts_of_groups_sum_to_the_change_of_every_node(
    before: dict[str, Week], after: dict[str, Week], node: str
) -> None:
    parts = tree.explain(node, before, after, tree.VISITS)
    was, now = together(before).node(node, tree.VISITS), together(after).node(node, tree.VISITS)
    if was is None or now is None:
        assert parts == ()
        return
    scale = max(abs(was), abs(now), 1.0, *(abs(value) for part in parts for value in (part.rate, part.mix)))
    assert abs(math.fsum(part.part for part in parts) - (now - was)) <= 1e-9 * scale
    for part in parts:
        assert abs(part.part - (part.rate + part.mix)) <= 1e-9 * scale


def test_a_shift_between_groups_is_mix_and_a_fall_within_one_is_rate() -> None:
    good, poor = week(visitors=100, buyers=50), week(visitors=100, buyers=10)
    moved = tree.explain(
        tree.CONVERSION,
        {"good": good, "poor": poor},
        {"good": week(visitors=50, buyers=25), "poor": week(visitors=150, buyers=15)},
        tree.VISITS,
    )
    assert {part.group: (round(part.rate, 9), round(part.mix, 9)) for part in moved} == {
        "good": (0.0, -0.0625), "poor": (0.0, -0.0375),
    }  # fmt: skip
    fell = tree.explain(
        tree.CONVERSION,
        {"good": good, "poor": poor},
        {"good": week(visitors=100, buyers=30), "poor": poor},
        tree.VISITS,
    )
    assert (fell[0].group, fell[0].part, fell[0].mix) == ("good", pytest.approx(-0.1), pytest.approx(0))


def past(number: int, luck: random.Random, spread: float = 0.05) -> list[Week]:
    """Weeks without a trend: every factor varies by itself."""
    weeks = []
    for back in range(number - 1, -1, -1):
        visitors = round(20_000 * math.exp(luck.gauss(0, spread)))
        buyers = round(visitors * 0.05 * math.exp(luck.gauss(0, spread)))
        orders = round(buyers * 1.2 * math.exp(luck.gauss(0, spread / 3)))
        units = round(orders * 2 * math.exp(luck.gauss(0, spread / 3)))
        gmv = round(units * 5000 * math.exp(luck.gauss(0, spread / 2)))
        weeks.append(
            week(
                MONDAY - timedelta(weeks=back),
                visitors=visitors,
                buyers=buyers,
                new_buyers=buyers // 5,
                orders=orders,
                gmv=gmv,
                units=units,
            )
        )
    return weeks


OVER = datetime(2026, 3, 2, 1, tzinfo=UTC)


def test_weeks_without_a_change_alarm_in_fewer_than_one_of_a_hundred_figures() -> None:
    luck = random.Random(11)
    alarms = sum(len(anomalies(past(28, luck), OVER, ZONE)) for _ in range(150))
    assert alarms / (150 * 9) < 0.01


def test_a_drop_is_found_and_the_week_that_is_not_over_is_never_judged() -> None:
    weeks = past(28, random.Random(5))
    fallen = weeks[-1]  # as usual, but for two thirds of the buyers
    weeks[-1] = week(
        fallen.start, visitors=fallen.visitors, buyers=fallen.buyers // 3, new_buyers=fallen.new_buyers // 3,
        orders=fallen.orders // 3, gmv=fallen.gmv // 3, units=fallen.units // 3,
    )  # fmt: skip
    found = {one.node: one for one in anomalies(weeks, OVER, ZONE)}
    assert {tree.GMV, tree.CONVERSION} <= set(found)
    assert not {tree.VISITORS, tree.REPURCHASE, tree.PRICE} & set(found)
    fall = found[tree.CONVERSION]
    assert fall.after < fall.low < fall.expected < fall.high
    assert fall.score < -3.5
    assert fall.weeks == 26
    midnight = datetime(2026, 3, 1, 16, tzinfo=UTC)  # of Monday, in Shanghai
    assert anomalies(weeks, midnight - timedelta(seconds=1), ZONE) == []
    assert anomalies(weeks, midnight, ZONE) != []


def test_too_short_a_past_says_nothing_and_a_small_shop_is_not_alarmed_by_chance() -> None:
    weeks = past(9, random.Random(1))
    assert judge(tree.GMV, weeks, tree.VISITS) is None
    small = [week(MONDAY - timedelta(weeks=n), buyers=4, orders=4, gmv=4000) for n in range(20, 0, -1)]
    assert judge(tree.GMV, [*small, week(buyers=1, orders=1, gmv=1000)], tree.VISITS) is None
    assert judge(tree.GMV, [*small, week(gmv=0)], tree.VISITS) is not None


def test_the_group_that_explains_more_than_its_size_comes_first() -> None:
    cities = {name: week(gmv=1_000_000, visitors=1000) for name in ("Wuhan", "Chengdu", "Xi'an", "Hefei")}
    fallen = {**cities, "Wuhan": week(gmv=100_000)}
    stages = (
        {"active": week(gmv=3_000_000), "new": week(gmv=1_000_000)},
        {"active": week(gmv=2_325_000), "new": week(gmv=775_000)},
    )
    drop = Anomaly(tree.GMV, MONDAY, 4e6, 3.1e6, 4e6, 3.8e6, 4.2e6, 26, tree.VISITS)
    found = causes(drop, [Groups("stage", *stages), Groups("city", cities, fallen)])
    assert [(cause.by, cause.part.group, cause.share, cause.size) for cause in found] == [
        ("city", "Wuhan", 1.0, 0.25)
    ]
