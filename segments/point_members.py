"""Brings loyalty the members of the segments that multiply points, from the newest snapshot."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

import sqlalchemy as sa

from core.db import Database, among
from core.warehouse.engine import DuckEngine
from loyalty import segment_members
from segments.memberships import MEMBERSHIPS, SCHEMA
from segments.models import Segment
from segments.scores import latest_refresh, snapshot_path


def bring(database: Database, engine: DuckEngine, now: datetime) -> int:
    """Store who is in the segments that a rule or a multiplier of points names; how many rows changed.

    A segment that was never evaluated, or is archived, has nobody in it. The snapshot is read between
    the transactions.
    """
    with database.read() as session:
        names = segment_members.wanted(session, now)
        kept = segment_members.counts(session)
        newest = latest_refresh(session)
        segments: dict[int, str] = dict(
            session.execute(
                sa.select(Segment.id, Segment.name).where(
                    Segment.archived_at.is_(None), among(session, Segment.name, names)
                )
            ).all()
        )
    if not names and not kept:
        return 0
    members: defaultdict[str, list[int]] = defaultdict(list)
    path = snapshot_path(engine, MEMBERSHIPS, newest.as_of if newest is not None else None)
    if path is not None and segments:
        with engine.connect() as connection:
            engine.add_view(connection, "newest", path, SCHEMA)
            rows = connection.execute(
                "SELECT segment_id, member_id FROM newest WHERE segment_id IN (SELECT unnest(?))",
                [sorted(segments)],
            ).fetchall()
        for segment_id, member_id in rows:
            members[segments[segment_id]].append(member_id)
    with database.write() as session:
        return segment_members.replace(session, members)
