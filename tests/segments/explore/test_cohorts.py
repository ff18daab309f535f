"""Cohorts: hand-worked cells, edges of months in the shop's zone, partial periods, filters."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from core.errors import InvalidInput
from segments.explore.cohorts import Average, Cell, Cohorts, channels, cohorts, periods
from tests.segments.conftest import ZONE, Shop

AS_OF = date(2026, 3, 15)


def at(text: str) -> datetime:
    """A time of the shop's zone."""
    return datetime.fromisoformat(text).replace(tzinfo=ZONE).astimezone(UTC)


def order(shop: Shop, member: int, when: str, amount: int = 1000, **columns: object) -> None:
    shop.order(member, 0, amount, ordered_at=at(when), **columns)


@pytest.fixture
def small(shop: Shop) -> Shop:
    """January: 1, 2, 3; February: 4; March, which is not over: 5."""
    order(shop, 1, "2026-01-05T10:00", 100)
    order(shop, 1, "2026-01-20T10:00", 200)
    order(shop, 1, "2026-02-03T10:00", 400)
    order(shop, 2, "2026-01-31T23:59", 1000)
    order(shop, 2, "2026-03-02T10:00", 50)
    order(shop, 3, "2026-01-10T10:00", 10)
    order(shop, 4, "2026-02-01T00:00", 70)
    order(shop, 4, "2026-03-14T23:59", 30)
    order(shop, 5, "2026-03-01T10:00", 5)
    shop.write()
    return shop


def found(shop: Shop, **options: object) -> Cohorts:
    return cohorts(shop.engine, AS_OF, ZONE, **options)  # type: ignore[arg-type]


def test_cells_say_who_ordered_how_often_and_for_how_much(small: Shop) -> None:
    result = found(small)
    assert [(one.start, one.end, one.size) for one in result.cohorts] == [
        (date(2026, 1, 1), date(2026, 2, 1), 3),
        (date(2026, 2, 1), date(2026, 3, 1), 1),
        (date(2026, 3, 1), date(2026, 4, 1), 1),
    ]
    assert result.cohorts[0].cells == (
        Cell(0, 3, 4, 1310, False),
        Cell(1, 1, 1, 400, False),
        Cell(2, 1, 1, 50, True),
    )
    assert result.cohorts[1].cells == (Cell(0, 1, 1, 70, False), Cell(1, 1, 1, 30, True))
    assert result.cohorts[2].cells == (Cell(0, 1, 1, 5, True),)
    assert result.members == 5


def test_averages_weigh_cohorts_by_their_size_and_leave_partial_periods_out(small: Shop) -> None:
    assert found(small).averages == (Average(0, 4, 4, 5, 1380), Average(1, 3, 1, 1, 400))


def test_a_whole_period_without_orders_is_nought_and_a_later_one_is_not_there(shop: Shop) -> None:
    order(shop, 1, "2025-12-05T10:00")
    shop.write()
    (cohort,) = [one for one in found(shop).cohorts if one.size]
    assert [(cell.offset, cell.members, cell.partial) for cell in cohort.cells] == [
        (0, 1, False),
        (1, 0, False),
        (2, 0, False),
        (3, 0, True),
    ]


def test_the_period_is_over_when_the_date_is_the_first_of_the_next(small: Shop) -> None:
    result = cohorts(small.engine, date(2026, 3, 1), ZONE)
    assert [one.start for one in result.cohorts] == [date(2026, 1, 1), date(2026, 2, 1)]
    assert not any(cell.partial for one in result.cohorts for cell in one.cells)
    assert result.cohorts[0].cells[1].members == 1


def test_nothing_on_or_after_the_date_counts(small: Shop) -> None:
    result = cohorts(small.engine, date(2026, 3, 2), ZONE)
    assert result.cohorts[0].cells[2] == Cell(2, 0, 0, 0, True)
    assert result.cohorts[2].cells == (Cell(0, 1, 1, 5, True),)


def test_a_first_order_before_the_first_shown_period_keeps_a_member_out(small: Shop) -> None:
    result = found(small, count=2)
    assert [(one.start, one.size) for one in result.cohorts] == [(date(2026, 2, 1), 1), (date(2026, 3, 1), 1)]


def test_cancelled_and_wholly_refunded_orders_make_no_cohort(shop: Shop) -> None:
    order(shop, 1, "2026-01-05T10:00", 500, status="cancelled", net_minor=0)
    order(shop, 1, "2026-02-05T10:00", 500, status="refunded", net_minor=0, refunded_minor=500)
    order(shop, 1, "2026-03-05T10:00", 500, status="refunded", net_minor=200, refunded_minor=300)
    shop.write()
    (cohort,) = found(shop).cohorts
    assert (cohort.start, cohort.cells) == (date(2026, 3, 1), (Cell(0, 1, 1, 200, True),))


def test_weeks_begin_on_monday(shop: Shop) -> None:
    order(shop, 1, "2026-03-01T23:00")  # a Sunday
    order(shop, 2, "2026-03-02T00:00")
    order(shop, 1, "2026-03-08T12:00")
    shop.write()
    result = found(shop, period="week", count=4)
    assert [(one.start, one.size) for one in result.cohorts] == [
        (date(2026, 2, 23), 1),
        (date(2026, 3, 2), 1),
        (date(2026, 3, 9), 0),
    ]
    assert [(cell.members, cell.partial) for cell in result.cohorts[0].cells] == [
        (1, False),
        (1, False),
        (0, True),
    ]
    assert cohorts(shop.engine, date(2026, 3, 16), ZONE, period="week", count=1).cohorts == ()


def test_months_are_those_of_a_zone_with_summer_time(shop: Shop) -> None:
    zone = ZoneInfo("America/New_York")
    for member, when in ((1, "2026-03-01T04:59:59+00:00"), (2, "2026-04-01T03:59:59+00:00")):
        shop.order(member, 0, ordered_at=datetime.fromisoformat(when))
    shop.write()
    result = cohorts(shop.engine, date(2026, 5, 1), zone)
    assert [(one.start, one.size) for one in result.cohorts if one.size] == [
        (date(2026, 2, 1), 1),
        (date(2026, 3, 1), 1),
    ]


def test_a_channel_means_that_of_the_first_order(shop: Shop) -> None:
    order(shop, 1, "2026-01-05T10:00", channel="app")
    order(shop, 1, "2026-02-05T10:00", channel="web")
    order(shop, 2, "2026-01-05T10:00", channel="web")
    order(shop, 2, "2026-02-05T10:00", channel="app")
    order(shop, 3, "2026-01-05T10:00")
    shop.write()
    result = found(shop, channel="web")
    assert result.members == 1
    assert result.cohorts[0].cells[1] == Cell(1, 1, 1, 1000, False)
    assert found(shop, channel="' OR 1 = 1 --").cohorts == ()
    assert channels(shop.engine) == ["app", "web"]


def test_only_the_members_asked_for_are_looked_at(small: Shop) -> None:
    wanted = pa.table({"member_id": [2, 4], "external_id": ["m2", "m4"]})
    result = found(small, members=wanted)
    assert [one.size for one in result.cohorts] == [1, 1, 0]
    assert found(small, members=wanted.slice(0, 0)).cohorts == ()


def test_a_shop_without_orders_has_no_cohorts(shop: Shop) -> None:
    shop.write()
    assert found(shop) == Cohorts(AS_OF, "month", (), ())
    assert channels(shop.engine) == []


def test_periods_run_up_to_the_date_and_over_the_turn_of_a_year() -> None:
    assert periods("month", 3, date(2026, 1, 1)) == [
        (date(2025, 10, 1), date(2025, 11, 1)),
        (date(2025, 11, 1), date(2025, 12, 1)),
        (date(2025, 12, 1), date(2026, 1, 1)),
    ]
    assert periods("week", 2, date(2026, 1, 2)) == [
        (date(2025, 12, 22), date(2025, 12, 29)),
        (date(2025, 12, 29), date(2026, 1, 5)),
    ]


@pytest.mark.parametrize(("options", "field"), [({"period": "day"}, "period"), ({"count": 0}, "count"), ({"count": 37}, "count"), ({"period": "week", "count": 53}, "count")])  # fmt: skip
def test_more_than_can_be_shown_is_refused(shop: Shop, options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        found(shop, **options)
    assert refused.value.field == field
