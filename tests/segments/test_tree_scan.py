"""The weeks of the tree out of the warehouse: every sum as counted by hand, groups that add up, a drop that is found."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from core.errors import InvalidInput
from core.settings import Settings
from core.times import instant
from core.warehouse.engine import DuckEngine
from segments import tree
from segments.facts import open_engine
from segments.tree_alerts import anomalies, causes, divide
from segments.tree_scan import GROUPS, groups, last_whole, monday, series

ZONE = ZoneInfo("Asia/Shanghai")
LAST = date(2026, 2, 23)
NOW = datetime(2026, 3, 3, 4, tzinfo=UTC)


class Made:
    """A warehouse that is written row by row."""

    def __init__(self, settings: Settings) -> None:
        self.engine: DuckEngine = open_engine(settings)
        self.rows: dict[str, list[dict[str, object]]] = {
            "orders": [],
            "order_lines": [],
            "events": [],
            "members": [],
        }

    def member(self, number: int, **columns: object) -> None:
        self.rows["members"].append({"member_id": number, **columns})

    def order(
        self,
        member: int,
        at: datetime,
        total: int,
        *,
        units: int = 1,
        status: str = "paid",
        back: int = 0,
        channel: str = "web",
    ) -> None:
        number = len(self.rows["orders"]) + 1
        net = 0 if status == "cancelled" else total - back
        self.rows["orders"].append(
            {"order_id": number, "member_id": member, "ordered_at": at, "status": status, "total_minor": total,
             "refunded_minor": back, "net_minor": net, "channel": channel}
        )  # fmt: skip
        self.rows["order_lines"].append(
            {"order_id": number, "member_id": member, "ordered_at": at, "status": status, "quantity": units}
        )

    def visit(self, member: int, at: datetime) -> None:
        self.rows["events"].append({"member_id": member, "kind": "view", "occurred_at": at})

    def write(self) -> DuckEngine:
        for name, rows in self.rows.items():
            schema = self.engine.replica.facts[name].schema
            full = [{column: row.get(column) for column in schema.names} for row in rows]
            self.engine.replica.write(pa.Table.from_pylist(full, schema), name, "all.parquet")
        return self.engine


def at(day: date, hour: int = 12, zone: ZoneInfo = ZONE) -> datetime:
    return (datetime.combine(day, datetime.min.time(), zone) + timedelta(hours=hour)).astimezone(UTC)


@pytest.fixture
def made(settings: Settings) -> Made:
    return Made(settings)


def test_every_sum_of_a_week_is_what_was_written(made: Made) -> None:
    before = LAST - timedelta(days=7)
    for number, since in (
        (1, before - timedelta(days=300)),
        (2, before),
        (3, LAST),
        (4, None),
        (5, LAST + timedelta(days=7)),
    ):
        made.member(number, registered_at=at(since) if since else None)
    made.order(1, at(before - timedelta(days=100)), 500)
    made.order(1, at(before), 1000, units=2)
    made.order(1, at(LAST), 2000, units=3, back=500)
    made.order(1, at(LAST + timedelta(days=6), 23), 300)
    made.order(2, at(LAST, 0), 700)
    made.order(3, at(LAST), 900, status="cancelled")
    made.visit(3, at(LAST))
    made.visit(3, at(LAST + timedelta(days=1)))
    made.visit(4, at(before))
    made.order(2, at(LAST + timedelta(days=7), 0), 5000)
    earlier, week = series(made.write(), LAST, ZONE, NOW, 2)
    assert (earlier.visitors, earlier.members, earlier.events, earlier.buyers, earlier.new_buyers) == (
        2,
        3,
        1,
        1,
        0,
    )
    assert (earlier.orders, earlier.gmv, earlier.refunds, earlier.units) == (1, 1000, 0, 2)
    assert (week.visitors, week.members, week.events, week.buyers, week.new_buyers) == (3, 4, 1, 2, 1)
    assert (week.orders, week.gmv, week.refunds, week.units, week.net) == (3, 3000, 500, 5, 2500)


def test_weeks_begin_on_monday_of_the_shops_zone_also_when_the_clock_changes(made: Made) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    last = date(2026, 4, 6)  # the clock went forward on Sunday, March 29
    starts = [last - timedelta(weeks=back) for back in range(45)]
    for number, start in enumerate(starts, 1):
        made.member(number)
        for moment in (
            instant(start, berlin),
            instant(start + timedelta(days=7), berlin) - timedelta(microseconds=1),
        ):
            made.order(number, moment, number)
    found = series(made.write(), last, berlin, datetime(2026, 5, 1, tzinfo=UTC), 45)
    assert [(week.start, week.orders, week.gmv) for week in found] == [
        (start, 2, 2 * number) for number, start in reversed(list(enumerate(starts, 1)))
    ]


def test_a_week_that_runs_counts_up_to_now_and_an_empty_shop_is_all_zeros(made: Made) -> None:
    made.member(1)
    made.order(1, at(LAST), 100)
    made.order(1, at(LAST, 20), 200)
    assert series(made.write(), LAST, ZONE, at(LAST, 15), 1)[0].gmv == 100
    assert series(made.engine, LAST, ZONE, NOW, 1)[0].gmv == 300
    empty = Made(Settings(home=made.engine.replica.root + "/other", _env_file=None)).engine
    assert [week.gmv for week in series(empty, LAST, ZONE, NOW, 3)] == [0, 0, 0]


def test_a_new_replica_is_read_anew(made: Made) -> None:
    made.member(1)
    made.order(1, at(LAST), 100)
    assert series(made.write(), LAST, ZONE, NOW)[-1].gmv == 100
    made.order(1, at(LAST), 50)
    assert series(made.write(), LAST, ZONE, NOW)[-1].gmv == 150


def test_groups_divide_the_members_so_that_their_sums_are_those_of_all(made: Made) -> None:
    luck = random.Random(2)
    for number in range(1, 200):
        made.member(
            number,
            city=luck.choice(["Wuhan", "Xi'an", None]),
            registered_at=at(LAST - timedelta(days=luck.randint(-9, 400))),
        )
        for _ in range(luck.randint(0, 4)):
            day = LAST - timedelta(days=luck.randint(-6, 40))
            made.order(
                number,
                at(day),
                luck.randint(1, 900),
                units=luck.randint(1, 3),
                channel=luck.choice(["web", "app"]),
            )
        made.visit(number, at(LAST - timedelta(days=luck.randint(-6, 10))))
    before = LAST - timedelta(days=14)
    weeks = series(made.write(), LAST, ZONE, NOW, 3)
    names = ("visitors", "members", "events", "buyers", "new_buyers", "orders", "gmv", "refunds", "units")
    for by in GROUPS:
        found = groups(made.engine, by, before, LAST, ZONE, NOW)
        for whole, divided in ((weeks[0], found.before), (weeks[-1], found.after)):
            for name in names:
                assert sum(getattr(week, name) for week in divided.values()) == getattr(whole, name), (
                    by,
                    name,
                )
    assert set(groups(made.engine, "city", before, LAST, ZONE, NOW).after) == {"Wuhan", "Xi'an", ""}
    assert {"web", "app"} <= set(groups(made.engine, "first_channel", before, LAST, ZONE, NOW).after)


def test_a_drop_in_one_city_is_found_and_the_city_is_named(made: Made) -> None:
    luck = random.Random(8)
    cities = [f"city-{n}" for n in range(10)]
    for number in range(1, 1001):
        made.member(number, city=cities[number % 10], registered_at=at(LAST - timedelta(days=900)))
    for back in range(20):
        start = LAST - timedelta(weeks=back)
        for number in range(1, 1001):
            day = start + timedelta(days=luck.randint(0, 6))
            if luck.random() < 0.6:
                made.visit(number, at(day))
            gone = back == 0 and number % 10 == 3
            if luck.random() < (0.02 if gone else 0.4):
                made.order(number, at(day), luck.randint(900, 1100))
    engine = made.write()
    weeks = series(engine, LAST, ZONE, NOW)
    found = {one.node: one for one in anomalies(weeks[-20:], NOW, ZONE)}
    assert found == {}, "a tenth of the shop does not stand out among all"
    for number in range(1, 1001):
        if number % 10 == 3 and luck.random() < 0.9:
            made.rows["orders"] = [
                row for row in made.rows["orders"]
                if row["member_id"] not in (number, number + 1, number + 2) or row["ordered_at"] < at(LAST, 0)  # type: ignore[operator]
            ]  # fmt: skip
    engine = made.write()
    weeks = series(engine, LAST, ZONE, NOW)
    found = {one.node: one for one in anomalies(weeks, NOW, ZONE)}
    assert tree.GMV in found
    named = causes(found[tree.GMV], divide(engine, LAST - timedelta(days=7), LAST, ZONE, NOW))
    assert {cause.part.group for cause in named[:3]} == {"city-3", "city-4", "city-5"}
    assert {cause.by for cause in named[:3]} == {"city"}


def test_the_newest_whole_week_is_the_shops_and_other_days_are_refused(made: Made) -> None:
    assert last_whole(datetime(2026, 3, 1, 15, 59, tzinfo=UTC), ZONE) == LAST - timedelta(days=7)
    assert last_whole(datetime(2026, 3, 1, 16, tzinfo=UTC), ZONE) == LAST
    assert monday(date(2026, 3, 1)) == LAST
    for call in (
        lambda: series(made.engine, LAST + timedelta(days=1), ZONE, NOW),
        lambda: series(made.engine, LAST, ZONE, NOW, 61),
        lambda: groups(made.engine, "shoe size", LAST - timedelta(days=7), LAST, ZONE, NOW),
        lambda: groups(made.engine, "city", LAST, LAST, ZONE, NOW),
    ):
        with pytest.raises(InvalidInput):
            call()


def test_a_division_is_kept_until_the_files_change(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for member in (1, 2):
        made.member(member, city="Beijing")
        made.order(member, at(LAST), 1000)
    engine = made.write()
    before, asked = LAST - timedelta(days=7), []
    query = engine.query
    monkeypatch.setattr(engine, "query", lambda *given: asked.append(1) or query(*given))
    first = [groups(engine, by, before, LAST, ZONE, NOW) for by in GROUPS]
    assert len(asked) == len(GROUPS)
    # A week that is over is the same at any later moment.
    later = NOW + timedelta(days=3)
    assert [groups(engine, by, before, LAST, ZONE, later) for by in GROUPS] == first
    assert len(asked) == len(GROUPS)
    made.order(1, at(LAST), 500)
    made.write()
    changed = groups(engine, "city", before, LAST, ZONE, NOW)
    assert changed.after["Beijing"].gmv == 2500
    assert len(asked) == len(GROUPS) + 1
