"""A segment's size, entries and exits at each refresh."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from segments.models import Refresh, Segment, SegmentChange

REFRESHES = 90
"""The newest that are shown: each holds the figures of every segment."""


@dataclass(frozen=True)
class Point:
    """A segment as of one refresh.

    ``baseline`` marks an evaluation without one before it (the first, or the first after the segment
    was archived): everybody found is simply there, nobody entered or left.
    """

    as_of: date
    count: int
    entered: int
    exited: int
    baseline: bool


def history(session: Session, segment: Segment, refreshes: int = REFRESHES) -> list[Point]:
    """The points of the newest refreshes that evaluated the segment, the oldest first. Two queries."""
    # One more than is shown tells whether the oldest of them is a baseline.
    newest = sa.select(Refresh.as_of, Refresh.segments).order_by(Refresh.as_of.desc()).limit(refreshes + 1)
    rows = session.execute(newest).all()[::-1]
    changes = _changes(session, segment.id, rows[0].as_of) if rows else {}
    points = []
    known = False
    for index, row in enumerate(rows):
        figures: dict[str, Any] | None = row.segments.get(segment.name)
        if figures is not None and (index or len(rows) <= refreshes):
            entered, exited = (
                (0, 0) if not known else (changes.get((row.as_of, way), 0) for way in (True, False))
            )
            points.append(Point(row.as_of, figures["count"], entered, exited, not known))
        known = figures is not None
    return points


def _changes(session: Session, segment_id: int, since: date) -> dict[tuple[date, bool], int]:
    """(date of the refresh, entered) → members."""
    query = (
        sa.select(SegmentChange.as_of, SegmentChange.entered, sa.func.count())
        .where(SegmentChange.segment_id == segment_id, SegmentChange.as_of >= since)
        .group_by(SegmentChange.as_of, SegmentChange.entered)
    )
    return {(as_of, entered): count for as_of, entered, count in session.execute(query)}
