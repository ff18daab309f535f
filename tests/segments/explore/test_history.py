"""A segment's history: size, entries and exits at each refresh, on both databases."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from core.db import Database
from core.models import Member
from segments.explore.history import Point, history
from segments.models import Refresh, Segment, SegmentChange

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def refresh(as_of: date, segments: dict[str, Any]) -> Refresh:
    return Refresh(
        as_of=as_of,
        started_at=NOW,
        finished_at=NOW,
        members=10,
        scored=5,
        stages={},
        segments=segments,
        rfm={},
        seconds={},
    )


def fill(db: Database, figures: dict[date, dict[str, Any]], changes: list[tuple[int, date, bool]]) -> Segment:
    """Two segments, ten members, a refresh a date, and (member, date, entered) changes of the first."""
    with db.write() as session:
        for name in ("vip", "other"):
            session.add(
                Segment(
                    name=name, title=name, rule={}, version=1, created_by="x", created_at=NOW, updated_at=NOW
                )
            )
        for number in range(10):
            session.add(
                Member(
                    source="shop",
                    external_id=f"m{number}",
                    tags=[],
                    attributes={},
                    fingerprint="",
                    created_at=NOW,
                    updated_at=NOW,
                )
            )
        session.flush()
        session.add_all(refresh(day, segments) for day, segments in figures.items())
        session.add_all(
            SegmentChange(segment_id=1, member_id=member, as_of=day, entered=entered)
            for member, day, entered in changes
        )
        session.add(SegmentChange(segment_id=2, member_id=1, as_of=max(figures), entered=True))
    with db.read() as session:
        found = session.get(Segment, 1)
    assert found is not None
    return found


def of(count: int, entered: int = 0, exited: int = 0) -> dict[str, Any]:
    return {"vip": {"count": count, "entered": entered, "exited": exited}}


def test_every_refresh_gives_the_size_and_who_came_and_went(db: Database) -> None:
    days = [date(2026, 2, day) for day in (1, 2, 3)]
    figures = {days[0]: of(4, 4), days[1]: of(5, 2, 1), days[2]: of(3, 0, 2)}
    changes = [
        (1, days[1], True),
        (2, days[1], True),
        (3, days[1], False),
        (1, days[2], False),
        (4, days[2], False),
    ]
    segment = fill(db, figures, changes)
    with db.read() as session:
        assert history(session, segment) == [
            # The refresh noted four entries, but nobody entered: it was the first to look.
            Point(days[0], 4, 0, 0, True),
            Point(days[1], 5, 2, 1, False),
            Point(days[2], 3, 0, 2, False),
        ]


def test_a_refresh_that_left_the_segment_out_makes_the_next_one_a_baseline(db: Database) -> None:
    days = [date(2026, 2, day) for day in (1, 2, 3, 4)]
    figures = {days[0]: of(4, 4), days[1]: {}, days[2]: of(6, 6), days[3]: of(7, 1)}
    segment = fill(db, figures, [(1, days[3], True)])
    with db.read() as session:
        points = history(session, segment)
    assert [(point.as_of, point.baseline, point.entered) for point in points] == [
        (days[0], True, 0),
        (days[2], True, 0),
        (days[3], False, 1),
    ]


def test_only_the_newest_refreshes_are_shown_and_the_oldest_of_them_is_no_baseline(db: Database) -> None:
    days = [date(2026, 2, day) for day in (1, 2, 3)]
    segment = fill(db, {day: of(4) for day in days}, [(5, days[1], False)])
    with db.read() as session:
        points = history(session, segment, refreshes=2)
        assert [(point.as_of, point.baseline, point.exited) for point in points] == [
            (days[1], False, 1),
            (days[2], False, 0),
        ]
        assert len(history(session, segment, refreshes=3)) == 3


def test_a_segment_that_no_refresh_has_seen_has_no_history(db: Database) -> None:
    segment = fill(db, {date(2026, 2, 1): {"other": {"count": 1, "entered": 1, "exited": 0}}}, [])
    with db.read() as session:
        assert history(session, segment) == []
