"""Who entered and who left: exact per date, whatever is repeated."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from core.db import Database
from core.imports import load_rows, numbered
from core.models import Member
from core.settings import Settings
from core.times import instant
from loyalty import earn_rules
from loyalty.earn_rules import EarnRule
from loyalty.models import PointsSegmentMember
from segments import erasure, memberships, point_members, segments
from segments.compile import Moment
from segments.memberships import MEMBERSHIPS
from segments.models import Refresh, Segment, SegmentChange
from segments.refresh import Refreshed, refresh
from segments.scores import snapshot_path
from tests.conftest import count
from tests.segments.conftest import AS_OF, ZONE, Shop, ago

BUYERS: dict[str, Any] = {"event": "order", "op": ">=", "value": 1, "within": {"last": "10d"}}


def day(number: int) -> date:
    return AS_OF + timedelta(days=number)


class Clock:
    """A database with members m1 … m4, refreshed day by day."""

    def __init__(self, database: Database, settings: Settings, folder: Path) -> None:
        self.database, self.settings = database, settings
        self.engine = Shop(folder).engine
        self.load("members", [{"member_id": f"m{n}", "city": "x"} for n in range(1, 5)])
        with database.read() as session:
            self.ids = {
                name: number for number, name in session.execute(sa.select(Member.id, Member.external_id))
            }

    def load(self, kind: str, rows: list[dict[str, Any]]) -> None:
        report = load_rows(
            self.database, kind, numbered(rows), settings=self.settings, source="shop",
            now=instant(AS_OF, ZONE), consents=lambda _session, _changes: None,
        )  # fmt: skip
        assert report.rejected == 0

    def order(self, member: str, days: float) -> None:
        number = count(self.database, "orders")
        row = {
            "order_id": f"o{number}",
            "member_id": member,
            "ordered_at": ago(days).isoformat(),
            "amount": "1",
        }
        self.load("orders", [row])

    def segment(self, name: str, rule: dict[str, Any]) -> None:
        with self.database.write() as session:
            segments.save(session, name=name, title=name, rule=rule, by="t", now=instant(AS_OF, ZONE))

    def refresh(self, number: int) -> Refreshed:
        now = instant(day(number), ZONE)
        return refresh(self.database, self.engine, moment=Moment(day(number), ZONE), now=now)

    def changes(self, number: int) -> set[tuple[str, bool]]:
        """(member, entered) of a date."""
        names = {number: name for name, number in self.ids.items()}
        with self.database.read() as session:
            rows = session.scalars(sa.select(SegmentChange).where(SegmentChange.as_of == day(number)))
            return {(names[row.member_id], row.entered) for row in rows}

    def since(self, member: str) -> dict[str, date]:
        with self.database.read() as session:
            found = memberships.of_member(session, self.engine, self.ids[member])
        return {one.name: one.since for one in found}


@pytest.fixture
def shop(db: Database, settings: Settings, tmp_path: Path) -> Clock:
    return Clock(db, settings, tmp_path)


def test_the_first_evaluation_is_a_baseline_and_then_only_moves_count(shop: Clock) -> None:
    shop.order("m1", 5)
    shop.order("m2", 9)
    shop.segment("buyers", BUYERS)
    assert shop.refresh(0).segments == {"buyers": {"count": 2, "entered": 2, "exited": 0}}
    assert shop.changes(0) == set(), "making a segment triggers nobody's journey"
    shop.order("m3", -0.5)
    assert shop.refresh(1).segments == {"buyers": {"count": 3, "entered": 1, "exited": 0}}
    assert shop.changes(1) == {("m3", True)}
    assert shop.refresh(2).segments == {"buyers": {"count": 2, "entered": 0, "exited": 1}}
    assert shop.changes(2) == {("m2", False)}
    assert shop.since("m1") == {"buyers": day(0)}
    assert shop.since("m3") == {"buyers": day(1)}
    assert shop.since("m2") == {}


def test_who_comes_back_is_a_member_since_then(shop: Clock) -> None:
    shop.order("m1", 9)
    shop.segment("buyers", BUYERS)
    shop.refresh(0)
    shop.refresh(3)
    assert shop.changes(3) == {("m1", False)}
    shop.order("m1", -3.5)
    shop.refresh(4)
    assert shop.changes(4) == {("m1", True)}
    assert shop.since("m1") == {"buyers": day(4)}


def test_a_segment_that_was_empty_has_had_its_baseline(shop: Clock) -> None:
    """Whoever enters an empty segment enters it: the first member of all is no baseline."""
    shop.segment("buyers", BUYERS)
    assert shop.refresh(0).segments == {"buyers": {"count": 0, "entered": 0, "exited": 0}}
    shop.order("m1", -0.5)
    assert shop.refresh(1).segments == {"buyers": {"count": 1, "entered": 1, "exited": 0}}
    assert shop.changes(1) == {("m1", True)}


def test_a_segment_added_later_has_a_baseline_of_its_own(shop: Clock) -> None:
    shop.order("m1", 1)
    shop.segment("buyers", BUYERS)
    shop.refresh(0)
    shop.segment("all", {"field": "city", "op": "=", "value": "x"})
    assert shop.refresh(1).segments["all"] == {"count": 4, "entered": 4, "exited": 0}
    assert shop.changes(1) == set()
    assert shop.since("m1") == {"buyers": day(0), "all": day(1)}


def test_the_same_date_again_replaces_its_rows_by_equal_ones(shop: Clock) -> None:
    shop.order("m1", 1)
    shop.segment("buyers", BUYERS)
    shop.refresh(0)
    shop.order("m2", -0.5)
    first = shop.refresh(1)
    path = snapshot_path(shop.engine, MEMBERSHIPS, day(1))
    assert path is not None
    before, changes = pq.read_table(path), shop.changes(1)
    again = shop.refresh(1)
    assert (again.segments, shop.changes(1)) == (first.segments, changes)
    assert pq.read_table(path) == before
    assert count(shop.database, "segment_changes") == 1
    with shop.database.read() as session:
        assert session.scalars(sa.select(Refresh.as_of).order_by(Refresh.as_of)).all() == [day(0), day(1)]


def test_late_facts_change_the_date_when_it_is_refreshed_again(shop: Clock) -> None:
    shop.segment("buyers", BUYERS)
    shop.refresh(0)
    shop.order("m1", -0.5)
    shop.refresh(1)
    shop.order("m2", -0.5)
    shop.refresh(1)
    assert shop.changes(1) == {("m1", True), ("m2", True)}


def test_a_date_compares_with_the_one_before_it_not_with_the_newest(shop: Clock) -> None:
    shop.order("m1", 9)
    shop.segment("buyers", BUYERS)
    shop.refresh(0)
    shop.refresh(5)
    assert shop.changes(5) == {("m1", False)}
    assert shop.refresh(1).segments["buyers"] == {"count": 1, "entered": 0, "exited": 0}
    assert shop.changes(1) == set()


def test_archived_segments_are_not_evaluated_and_start_anew(shop: Clock) -> None:
    shop.order("m1", 1)
    shop.segment("buyers", BUYERS)
    shop.refresh(0)
    with shop.database.write() as session:
        segments.archive(session, "buyers", "t", instant(AS_OF, ZONE))
    assert shop.refresh(1).segments == {}
    assert shop.changes(1) == set()
    with shop.database.write() as session:
        segments.restore(session, "buyers", "t", instant(AS_OF, ZONE))
    assert shop.refresh(2).segments["buyers"] == {"count": 1, "entered": 1, "exited": 0}
    assert shop.changes(2) == set()


def test_who_is_erased_leaves_every_segment(shop: Clock) -> None:
    shop.order("m1", 1)
    shop.segment("buyers", BUYERS)
    shop.refresh(0)
    with shop.database.write() as session:
        erasure.erase(session, shop.ids["m1"], "ann", instant(AS_OF, ZONE))
    assert shop.refresh(1).segments == {"buyers": {"count": 0, "entered": 0, "exited": 1}}
    assert shop.since("m1") == {}


def test_a_lost_warehouse_starts_with_a_baseline(shop: Clock) -> None:
    """Nobody “enters” just because the snapshot they were in is gone."""
    shop.order("m1", 1)
    shop.segment("buyers", BUYERS)
    shop.refresh(0)
    path = snapshot_path(shop.engine, MEMBERSHIPS, day(0))
    assert path is not None
    Path(path).unlink()
    shop.refresh(1)
    assert shop.changes(1) == set()


def test_segments_in_segments_move_together(shop: Clock) -> None:
    shop.order("m1", 1)
    shop.segment("buyers", BUYERS)
    shop.segment("others", {"not": {"segment": "buyers"}})
    shop.refresh(0)
    shop.order("m2", -0.5)
    assert shop.refresh(1).segments == {
        "buyers": {"count": 2, "entered": 1, "exited": 0},
        "others": {"count": 2, "entered": 0, "exited": 1},
    }


def test_a_refresh_brings_loyalty_the_members_of_the_segments_that_multiply_points(shop: Clock) -> None:
    now = instant(AS_OF, ZONE)
    shop.order("m1", 5)
    shop.order("m2", 9)
    shop.segment("buyers", BUYERS)
    shop.segment("all", {"field": "city", "op": "=", "value": "x"})
    shop.refresh(0)
    assert count(shop.database, "points_segment_members") == 0, "no rule names a segment"

    def members() -> set[tuple[str, int]]:
        with shop.database.read() as session:
            rows = session.execute(sa.select(PointsSegmentMember.segment, PointsSegmentMember.member_id))
            return {(name, number) for name, number in rows}

    with shop.database.write() as session:
        rule = EarnRule(segment_times={"buyers": "2", "never-made": "3"})
        earn_rules.save_rule(session, rule, "ann", now)
    m1, m2, m3 = (shop.ids[name] for name in ("m1", "m2", "m3"))
    assert point_members.bring(shop.database, shop.engine, now) == 2
    assert members() == {("buyers", m1), ("buyers", m2)}
    shop.order("m3", -1.5)
    shop.refresh(2)
    assert members() == {("buyers", m1), ("buyers", m3)}
    with shop.database.write() as session:
        session.execute(sa.update(Segment).values(archived_at=now))
    assert point_members.bring(shop.database, shop.engine, now) == 2
    assert members() == set()
