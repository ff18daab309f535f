"""Refresh: facts become scores, stages, predictions and memberships as of a date.

Guarantees: running it again for the same date replaces that date's snapshots and rows by equal
ones. Snapshots are Parquet; the database gets only changes of stage and entries into and exits
from segments.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import Database
from core.warehouse.engine import DuckEngine
from segments import memberships, point_members, settings
from segments.compile import Moment
from segments.models import Refresh, Segment, StageChange
from segments.predict import settings as predict_settings
from segments.predict.snapshot import write_predictions
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, previous_refresh, snapshot_path, write_snapshot


@dataclass
class Refreshed:
    """What a refresh found: the answer of ``huiliu refresh --json``."""

    as_of: str
    members: int = 0
    scored: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    segments: dict[str, dict[str, int]] = field(default_factory=dict)
    rfm: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, Any] | None = None
    """None: not asked for."""
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        # What the plots are drawn from is for the console: it would bury the answer.
        brief = self.predictions and {
            name: self.predictions[name] for name in ("usable", "reasons", "n", "repeaters")
        }
        return {**asdict(self), "predictions": brief}


def refresh(
    database: Database,
    engine: DuckEngine,
    *,
    moment: Moment,
    now: datetime,
    sync: bool = True,
    predict: bool = True,
) -> Refreshed:
    """Bring the replica up to date, then score, stage, predict and segment everybody as of the moment.

    Without ``predict`` the predictions of that date stay as they are, or missing.
    """
    as_of = moment.as_of
    result = Refreshed(as_of.isoformat())
    if sync:
        with _timed(result, "sync"):
            engine.replica.sync(database)
    with database.read() as session:
        scoring, predicting = settings.load(session), predict_settings.load(session)
        previous = previous_refresh(session, as_of)
        wanted = session.scalars(
            sa.select(Segment).where(Segment.archived_at.is_(None)).order_by(Segment.id)
        ).all()
    with _timed(result, "scores"):
        result.rfm = write_snapshot(engine, scoring, as_of, moment.zone, previous)
    with _timed(result, "changes"):
        changes = _stage_changes(engine, as_of, result)
    if predict:
        with _timed(result, "predictions"):
            result.predictions = write_predictions(engine, predicting, as_of, moment.zone)
    with _timed(result, "segments"):
        moves = memberships.evaluate_all(engine, wanted, moment, previous)
    result.segments = {
        move.name: {"count": move.count, "entered": move.entered, "exited": move.exited} for move in moves
    }
    with _timed(result, "commit"), database.write() as session:
        _store_changes(session, as_of, changes)
        memberships.store(session, as_of, moves)
        row = _row(result, as_of, now)
        if not predict:
            row.predictions = session.scalar(sa.select(Refresh.predictions).where(Refresh.as_of == as_of))
        session.merge(row)
    with _timed(result, "points"):
        point_members.bring(database, engine, now)
    return result


@contextmanager
def _timed(result: Refreshed, part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    result.seconds[part] = round(time.perf_counter() - start, 3)


def _stage_changes(engine: DuckEngine, as_of: date, result: Refreshed) -> list[tuple[Any, ...]]:
    """Count the stages of the snapshot, and list who changed since the one before."""
    path = snapshot_path(engine, SNAPSHOT, as_of)
    with engine.connect() as connection:
        engine.add_view(connection, "snapshot", path, SNAPSHOT_SCHEMA)
        counts = connection.execute(
            "SELECT stage, count(*), count(r) FROM snapshot GROUP BY 1 ORDER BY 1"
        ).fetchall()
        changed = connection.execute(
            "SELECT member_id, previous_stage, stage FROM snapshot WHERE previous_stage <> stage ORDER BY 1"
        ).fetchall()
    result.stages = {stage: number for stage, number, _ in counts}
    result.members = sum(result.stages.values())
    result.scored = sum(scored for _, _, scored in counts)
    return [(member, as_of, before, after) for member, before, after in changed]


def _store_changes(session: Session, as_of: date, changes: list[tuple[Any, ...]]) -> None:
    session.execute(sa.delete(StageChange).where(StageChange.as_of == as_of))
    bulk_insert(session, StageChange.__table__, ("member_id", "as_of", "from_stage", "to_stage"), changes)


def _row(result: Refreshed, as_of: date, now: datetime) -> Refresh:
    return Refresh(
        as_of=as_of,
        started_at=now - timedelta(seconds=sum(result.seconds.values())),
        finished_at=now,
        members=result.members,
        scored=result.scored,
        stages=result.stages,
        segments=result.segments,
        rfm=result.rfm,
        predictions=result.predictions,
        seconds=result.seconds,
    )
