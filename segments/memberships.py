"""Who is in which segment: Parquet snapshots per date, entries and exits as rows.

The first evaluation of a segment is its baseline: everybody found is in the snapshot, but
nobody "enters", so that making a segment of a million members triggers no million journeys.
Which segments a snapshot evaluated stands in its file, as a segment may have had no member.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.warehouse.engine import DuckEngine
from segments.compile import Moment, compile_many
from segments.models import Refresh, Segment, SegmentChange
from segments.predict.snapshot import PREDICTION_SCHEMA, PREDICTIONS
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, snapshot_path

MEMBERSHIPS = "memberships"
EVALUATED = "segments"
"""Key of the snapshot's metadata: the ids of the segments that were evaluated, joined by commas."""
SCHEMA = pa.schema([("segment_id", pa.int64()), ("member_id", pa.int64()), ("since", pa.date32())])


@dataclass(frozen=True)
class Moves:
    """A segment after an evaluation, and what changed since the one before."""

    segment_id: int
    name: str
    count: int
    baseline: bool
    entries: list[int]
    exits: list[int]

    @property
    def entered(self) -> int:
        return self.count if self.baseline else len(self.entries)

    @property
    def exited(self) -> int:
        return len(self.exits)


def evaluate_all(
    engine: DuckEngine,
    segments: Sequence[Segment],
    moment: Moment,
    previous: date | None,
    lists: Collection[str] | None = None,
) -> list[Moves]:
    """Evaluate every segment as of the moment, write the snapshot, compare with the previous one.

    All rules are one query: what they have in common is scanned and computed once. Within a segment
    the snapshot's rows have no order.
    """
    rules = {segment.name: segment.rule for segment in segments}
    with engine.connect() as connection:
        for name, kind, schema in (
            ("snapshot", SNAPSHOT, SNAPSHOT_SCHEMA),
            ("predictions", PREDICTIONS, PREDICTION_SCHEMA),
        ):
            engine.add_view(connection, name, snapshot_path(engine, kind, moment.as_of), schema)
        engine.add_view(connection, "before", snapshot_path(engine, MEMBERSHIPS, previous), SCHEMA)
        if segments:
            flags = compile_many([segment.rule for segment in segments], moment, rules.get, lists)
            connection.execute(f"CREATE TEMP TABLE flags AS {flags.sql('duckdb')}")
        connection.execute(f"CREATE TEMP TABLE found AS {_found(segments)}")
        evaluated = ",".join(str(int(segment.id)) for segment in segments)
        today = f"DATE '{moment.as_of.isoformat()}'"
        with engine.replica.replacing(
            "snapshots", MEMBERSHIPS, f"{moment.as_of.isoformat()}.parquet"
        ) as temporary:
            connection.execute(
                f"""COPY (SELECT segment_id, member_id, coalesce(since, {today}) AS since FROM found)
                TO {engine.quoted(temporary)} (FORMAT parquet, KV_METADATA {{{EVALUATED}: '{evaluated}'}})"""
            )
        counts = dict(connection.execute("SELECT segment_id, count(*) FROM found GROUP BY 1").fetchall())
        known = _evaluated(engine, connection, previous)
        entries, exits = _moves(connection, known)
    entered, left = _by_segment(entries), _by_segment(exits)
    return [
        Moves(
            segment.id,
            segment.name,
            counts.get(segment.id, 0),
            segment.id not in known,
            entered[segment.id],
            left[segment.id],
        )
        for segment in segments
    ]


def _found(segments: Sequence[Segment]) -> str:
    """(segment_id, member_id, since): ``since`` as in the snapshot before, or NULL for who is new."""
    if not segments:
        return "SELECT segment_id, member_id, since FROM before WHERE false"
    parts = (
        f"""SELECT CAST({int(segment.id)} AS BIGINT) AS segment_id, f.member_id, b.since
            FROM flags AS f
            LEFT JOIN (SELECT member_id, since FROM before WHERE segment_id = {int(segment.id)}) AS b
                ON b.member_id = f.member_id
            WHERE f.b{number}"""
        for number, segment in enumerate(segments)
    )
    return " UNION ALL ".join(parts)


def _moves(
    connection: duckdb.DuckDBPyConnection, known: set[int]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """(segment_id, member_id) of who entered and who left a segment that the snapshot before knows."""
    if not known:
        return [], []
    ids = ", ".join(map(str, sorted(known)))
    entries = connection.execute(
        f"SELECT segment_id, member_id FROM found WHERE since IS NULL AND segment_id IN ({ids}) ORDER BY 1, 2"
    ).fetchall()
    exits = connection.execute(
        f"""SELECT segment_id, member_id FROM before WHERE segment_id IN ({ids}) AND NOT EXISTS (
                SELECT 1 FROM found
                WHERE found.segment_id = before.segment_id AND found.member_id = before.member_id)
            ORDER BY 1, 2"""
    ).fetchall()
    return entries, exits


def _evaluated(engine: DuckEngine, connection: duckdb.DuckDBPyConnection, as_of: date | None) -> set[int]:
    """Ids of the segments that the snapshot of a date evaluated, those without members included."""
    path = snapshot_path(engine, MEMBERSHIPS, as_of)
    if path is None:
        return set()
    rows = connection.execute(
        f"SELECT decode(value) FROM parquet_kv_metadata({engine.quoted(path)}) "
        f"WHERE decode(key) = '{EVALUATED}'"
    ).fetchall()
    return {int(number) for (text,) in rows for number in text.split(",") if number}


def _by_segment(rows: list[tuple[Any, ...]]) -> defaultdict[int, list[int]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    for segment_id, member_id in rows:
        found[segment_id].append(member_id)
    return found


def store(session: Session, as_of: date, moves: Sequence[Moves]) -> None:
    """Replace the date's entries and exits."""
    session.execute(sa.delete(SegmentChange).where(SegmentChange.as_of == as_of))
    rows = [
        (move.segment_id, member, as_of, entered)
        for move in moves
        for members, entered in ((move.entries, True), (move.exits, False))
        for member in members
    ]
    bulk_insert(session, SegmentChange.__table__, ("segment_id", "member_id", "as_of", "entered"), rows)


@dataclass(frozen=True)
class Membership:
    name: str
    title: str
    since: date


def of_member(session: Session, engine: DuckEngine, member_id: int) -> list[Membership]:
    """The segments that a member is in as of the latest refresh, and since when."""
    latest = session.scalar(sa.select(sa.func.max(Refresh.as_of)))
    path = snapshot_path(engine, MEMBERSHIPS, latest)
    if path is None:
        return []
    with engine.connect() as connection:
        engine.add_view(connection, "now", path, SCHEMA)
        found = connection.execute(
            "SELECT segment_id, since FROM now WHERE member_id = ?", [member_id]
        ).fetchall()
    since: dict[int, date] = dict(found)
    rows = session.execute(sa.select(Segment.id, Segment.name, Segment.title).where(Segment.id.in_(since)))
    return [Membership(name, title, since[segment_id]) for segment_id, name, title in rows]
