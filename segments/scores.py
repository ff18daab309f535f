"""Scores and stages: one snapshot a date, computed from the facts alone.

Guarantees: a pure function of the facts, the settings, ``as_of`` and the snapshot before it
(which only tells since when a stage has lasted); ties score alike; row order never matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.times import instant, micros
from core.warehouse.engine import DuckEngine
from segments import settings
from segments.models import Refresh
from segments.settings import MEASURES, Scoring

SNAPSHOT = "members"
DAY_US = 86_400_000_000
SNAPSHOT_SCHEMA = pa.schema(
    [
        ("member_id", pa.int64()),
        ("recency", pa.int64()),
        ("frequency", pa.int64()),
        ("monetary", pa.int64()),
        ("r", pa.int8()),
        ("f", pa.int8()),
        ("m", pa.int8()),
        ("rfm_segment", pa.string()),
        ("value_segment", pa.string()),
        ("orders", pa.int64()),
        ("first_order_at", pa.timestamp("us", tz="UTC")),
        ("last_order_at", pa.timestamp("us", tz="UTC")),
        ("stage", pa.string()),
        ("stage_since", pa.date32()),
        ("previous_stage", pa.string()),
    ]
)


def sql(name: str) -> str:
    """A query of ``segments/sql``."""
    return (Path(__file__).parent / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def previous_refresh(session: Session, as_of: date) -> date | None:
    """The date of the last refresh before ``as_of``."""
    return session.scalar(sa.select(sa.func.max(Refresh.as_of)).where(Refresh.as_of < as_of))


def latest_refresh(session: Session, as_of: date | None = None) -> Refresh | None:
    """The newest refresh, or the newest up to ``as_of``."""
    query = sa.select(Refresh).order_by(Refresh.as_of.desc()).limit(1)
    if as_of is not None:
        query = query.where(Refresh.as_of <= as_of)
    return session.scalars(query).first()


def snapshot_path(engine: DuckEngine, kind: str, as_of: date | None) -> str | None:
    """The file of a snapshot, or None where that date has none."""
    if as_of is None:
        return None
    path = engine.replica.path("snapshots", kind, f"{as_of.isoformat()}.parquet")
    return path if engine.replica.fs.exists(path) else None


def _parameters(scoring: Scoring, as_of: date, zone: ZoneInfo) -> dict[str, Any]:
    moment = micros(instant(as_of, zone))
    return {
        "as_of": moment,
        "as_of_day": as_of,
        "zone": zone.key,
        "window_start": micros(instant(as_of - timedelta(days=scoring.window_days), zone)),
        "recent_start": moment - scoring.reactivated_days * DAY_US,
        "dormant_start": moment - scoring.active_days * DAY_US,
        "new_us": scoring.new_days * DAY_US,
        "active_us": scoring.active_days * DAY_US,
        "churned_us": scoring.churned_days * DAY_US,
        "silence_orders": scoring.silence_orders,
        "silence_factor": scoring.silence_factor,
        "top_quantile": 1 - scoring.high_value_share,
        "day_us": DAY_US,
    }


def named(text: str, params: dict[str, Any]) -> dict[str, Any]:
    """Just the parameters that the statement names: DuckDB refuses the others."""
    names = set(re.findall(r"\$(\w+)", text))
    return {name: value for name, value in params.items() if name in names}


def _run(connection: duckdb.DuckDBPyConnection, text: str, params: dict[str, Any]) -> None:
    connection.execute(text, named(text, params))


@contextmanager
def scored(
    engine: DuckEngine, scoring: Scoring, as_of: date, zone: ZoneInfo, previous: date | None
) -> Iterator[Scored]:
    """Everything the snapshot's query needs, as tables of a connection that lives in the block."""
    params = _parameters(scoring, as_of, zone)
    with engine.connect({"cells": settings.cells()}) as connection:
        engine.add_view(connection, "previous", snapshot_path(engine, SNAPSHOT, previous), SNAPSHOT_SCHEMA)
        wanted = {"days": scoring.same_day_once, "silent": scoring.preset == "standard"}
        for name in ("facts", "days", "silent", "measures"):
            # A part that these settings do not ask for is an empty table of the same columns.
            rows = "" if wanted.get(name, True) else " LIMIT 0"
            _run(connection, f"CREATE TEMP TABLE {name} AS {sql(name)}{rows}", params)
        cuts = _cut_points(connection, scoring, params)
        text = sql("snapshot").replace("{stage}", sql(f"stage_{scoring.preset}"))
        for measure, letter in zip(MEASURES, "rfm", strict=True):
            params |= {
                f"{letter}{number}": point for number, point in enumerate(cuts["cut_points"][measure], 1)
            }
            params[f"mean_{measure}"] = cuts["means"][measure]
        params["top_spend"] = cuts["top_spend"]
        yield Scored(connection, text, params, cuts)


@dataclass(frozen=True)
class Scored:
    """The query of the snapshot, ready to run, and what was found on the way."""

    connection: duckdb.DuckDBPyConnection
    text: str
    params: dict[str, Any]
    cuts: dict[str, Any]
    """Cut points, means and notes for the read-out."""

    def run(self, statement: str) -> duckdb.DuckDBPyConnection:
        """Run a statement with the parameters that it names; ``{snapshot}`` in it is the query."""
        statement = statement.replace("{snapshot}", self.text)
        return self.connection.execute(statement, named(statement, self.params))


def write_snapshot(
    engine: DuckEngine, scoring: Scoring, as_of: date, zone: ZoneInfo, previous: date | None
) -> dict[str, Any]:
    """Write ``snapshots/members/<as_of>.parquet``. Answers cut points, means and notes for the read-out."""
    with (
        scored(engine, scoring, as_of, zone, previous) as ready,
        engine.replica.replacing("snapshots", SNAPSHOT, f"{as_of.isoformat()}.parquet") as temporary,
    ):
        ready.run(f"COPY ({{snapshot}}) TO {engine.quoted(temporary)} (FORMAT parquet, COMPRESSION snappy)")
    return ready.cuts


def _cut_points(
    connection: duckdb.DuckDBPyConnection, scoring: Scoring, params: dict[str, Any]
) -> dict[str, Any]:
    row = connection.sql(sql("cuts"), params=named(sql("cuts"), params)).to_arrow_table().to_pylist()[0]
    points = {measure: [int(p) for p in row[measure] or [0, 0, 0, 0]] for measure in MEASURES}
    points |= scoring.cut_points or {}
    notes = [
        f"{measure}: cut points coincide ({', '.join(map(str, points[measure]))}), so a score is skipped."
        for measure in MEASURES
        if len(set(points[measure])) < 4 and row["scored"]
    ]
    return {
        "scored": int(row["scored"]),
        "cut_points": points,
        "means": {measure: float(row[f"mean_{measure}"] or 0) for measure in MEASURES},
        "top_spend": int(row["top_spend"] or 0),
        "fixed": scoring.cut_points is not None,
        "settings": asdict(scoring),
        "notes": notes,
    }
