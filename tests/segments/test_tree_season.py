"""A swing that last year had as well is no alert of the metrics tree; one that it had not, is."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from segments import tree
from segments.tree import Week
from segments.tree_alerts import anomalies, explained, judge, last_year
from tests.segments.test_tree import MONDAY, OVER, ZONE, past

S = 0.1


def scaled(week: Week, factor: float) -> Week:
    """The same week with so many times the buyers, orders and revenue."""
    return replace(
        week,
        visitors=round(week.visitors * factor),
        buyers=round(week.buyers * factor),
        new_buyers=round(week.new_buyers * factor),
        orders=round(week.orders * factor),
        units=round(week.units * factor),
        gmv=round(week.gmv * factor),
    )


def peak(weeks: list[Week], back: int, factor: float) -> None:
    weeks[-1 - back] = scaled(weeks[-1 - back], factor)


def alarmed(weeks: list[Week]) -> set[str]:
    return {one.node for one in anomalies(weeks, OVER, ZONE)}


@pytest.mark.parametrize("back", [51, 52, 53])
def test_a_peak_of_last_years_same_week_or_of_its_neighbours_explains_this_one(back: int) -> None:
    weeks = past(60, random.Random(7))
    peak(weeks, 0, 3)
    assert tree.GMV in alarmed(weeks)
    peak(weeks, back, 3)
    assert tree.GMV not in alarmed(weeks)
    assert tree.VISITORS not in alarmed(weeks)


@pytest.mark.parametrize(("back", "factor"), [(50, 3.0), (54, 3.0), (51, 1 / 3), (52, 1.3)])
def test_another_week_another_direction_or_a_small_swing_explains_nothing(back: int, factor: float) -> None:
    weeks = past(60, random.Random(7))
    peak(weeks, 0, 3)
    peak(weeks, back, factor)
    assert tree.GMV in alarmed(weeks)


def test_an_alert_says_what_last_year_had_and_without_a_year_the_recent_weeks_decide() -> None:
    weeks = past(60, random.Random(7))
    peak(weeks, 0, 3)
    found = {one.node: one for one in anomalies(weeks, OVER, ZONE)}[tree.GMV]
    assert (found.year_before, found.year) == (weeks[-54].gmv, weeks[-53].gmv)
    for short in (weeks[-54:], weeks[-30:]):  # the week before last year's, or all of it, is missing
        alone = {one.node: one for one in anomalies(short, OVER, ZONE)}[tree.GMV]
        assert (alone.year_before, alone.year) == (None, None)
        assert alone.expected == found.expected


def test_last_year_is_found_by_its_date_not_by_its_place() -> None:
    weeks = past(60, random.Random(7))
    peak(weeks, 0, 3)
    peak(weeks, 52, 3)
    gone = [week for week in weeks if week.start != MONDAY - timedelta(weeks=40)]
    assert judge(tree.GMV, gone, tree.VISITS) is None
    # Visits of before there were events are not those of a year ago; what was bought then is known.
    unseen = [replace(week, events=0) if place < 20 else week for place, week in enumerate(weeks)]
    assert tree.GMV not in alarmed(unseen)
    assert tree.VISITORS in alarmed(unseen)


def test_weeks_of_nothing_are_no_last_year() -> None:
    weeks = {week.start: week for week in past(60, random.Random(7))}
    assert last_year(tree.GMV, MONDAY, weeks, tree.VISITS) is not None
    then = MONDAY - timedelta(weeks=52)
    weeks[then] = replace(weeks[then], gmv=0)
    assert last_year(tree.GMV, MONDAY, weeks, tree.VISITS) is None


@pytest.mark.parametrize(
    ("change", "swing", "expected"),
    [
        (0.6, 0.6, True),  # the same
        (0.6, 2.0, True),  # last year's was larger
        (0.6, 0.31, True),  # more than half of it, and 0.29 is left over
        (0.6, 0.29, False),  # less than half
        (1.0, 0.64, False),  # 0.36 is left over
        (-0.6, -0.6, True),
        (-0.6, 0.6, False),
    ],
)
def test_the_rule_is_half_the_swing_and_no_more_than_the_cut_left_over(
    change: float, swing: float, expected: bool
) -> None:
    then = (1.0, 1.0, math.exp(swing), math.exp(swing))
    assert explained(change, then, 0.0, S) is expected
