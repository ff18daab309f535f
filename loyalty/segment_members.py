"""Who is in the segments that multiply points, as rows: the segments, which stand above, bring them.

Guarantees: only segments that the rule of orders or a multiplier names are kept, each as of the newest
refresh; bringing the same members again writes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import among
from loyalty.earn_rules import load_rule
from loyalty.models import PointsMultiplier, PointsSegmentMember

KEPT_AFTER = timedelta(days=30)
"""Orders of a campaign's time that are imported late are multiplied too."""


def wanted(session: Session, now: datetime) -> frozenset[str]:
    """Names of the segments whose members decide what an order earns."""
    lists = session.scalars(
        sa.select(PointsMultiplier.segments).where(
            PointsMultiplier.archived_at.is_(None), PointsMultiplier.ends_at > now - KEPT_AFTER
        )
    )
    return frozenset(load_rule(session).segment_times).union(*(names or () for names in lists))


def replace(session: Session, members: Mapping[str, Collection[int]]) -> int:
    """Segment → its members now, whole: whoever is in none of them has no row; how many rows changed."""
    before = defaultdict(set)
    for segment, member_id in session.execute(
        sa.select(PointsSegmentMember.segment, PointsSegmentMember.member_id)
    ):
        before[segment].add(member_id)
    after = {segment: set(ids) for segment, ids in members.items()}
    changed = 0
    for segment, ids in before.items():  # a statement for each of a few segments
        if gone := ids - after.get(segment, set()):
            changed += len(gone)
            session.execute(
                sa.delete(PointsSegmentMember).where(
                    PointsSegmentMember.segment == segment,
                    among(session, PointsSegmentMember.member_id, gone),
                ),
                execution_options={"synchronize_session": False},
            )
    rows = [
        (segment, member_id)
        for segment, ids in sorted(after.items())
        for member_id in sorted(ids - before.get(segment, set()))
    ]
    columns = ("segment", "member_id")
    bulk_insert(session, PointsSegmentMember.__table__, columns, rows, conflict=columns)
    return changed + len(rows)


def of(session: Session, member_ids: Iterable[int]) -> dict[int, frozenset[str]]:
    """Member → the kept segments they are in; members in none are left out."""
    found = defaultdict(set)
    for member_id, segment in session.execute(
        sa.select(PointsSegmentMember.member_id, PointsSegmentMember.segment).where(
            among(session, PointsSegmentMember.member_id, member_ids)
        )
    ):
        found[member_id].add(segment)
    return {member_id: frozenset(names) for member_id, names in found.items()}


def counts(session: Session) -> dict[str, int]:
    """Segment → members kept."""
    rows = session.execute(
        sa.select(PointsSegmentMember.segment, sa.func.count()).group_by(PointsSegmentMember.segment)
    )
    return {segment: int(number) for segment, number in rows}


def forget(session: Session, member_id: int) -> None:
    """Delete a member's rows: for an erasure."""
    session.execute(
        sa.delete(PointsSegmentMember).where(PointsSegmentMember.member_id == member_id),
        execution_options={"synchronize_session": False},
    )
