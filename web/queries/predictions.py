"""Predictions of the newest refresh, added up for the console, and those of one member."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from core.warehouse.engine import DuckEngine
from segments.predict.snapshot import PREDICTION_SCHEMA, PREDICTIONS
from segments.scores import snapshot_path

BANDS = 5


@dataclass(frozen=True)
class Band:
    """Buyers of a fifth of the churn risk: band 0 is below 20 %, band 4 from 80 %."""

    band: int
    buyers: int
    clv_minor: int


@dataclass(frozen=True)
class Summary:
    as_of: date
    buyers: int
    expected_purchases: float
    clv_minor: int
    bands: list[Band]


def _rows(engine: DuckEngine, as_of: date, sql: str) -> list[dict[str, Any]]:
    path = snapshot_path(engine, PREDICTIONS, as_of)
    if path is None:
        return []
    with engine.connect() as connection:
        engine.add_view(connection, "predictions", path, PREDICTION_SCHEMA)
        rows: list[dict[str, Any]] = connection.sql(sql).to_arrow_table().to_pylist()
    return rows


def summary(engine: DuckEngine, as_of: date) -> Summary | None:
    """Everybody's predictions added up, in all and by churn risk; None where there are none."""
    rows = _rows(
        engine,
        as_of,
        f"""SELECT least(CAST(floor(churn_risk * {BANDS}) AS INTEGER), {BANDS - 1}) AS band,
                   count(*) AS buyers, sum(clv) AS clv, sum(expected_purchases) AS purchases
            FROM predictions GROUP BY 1 ORDER BY 1""",  # noqa: S608
    )
    if not rows:
        return None
    known = {row["band"]: row for row in rows}
    bands = [
        Band(band, int(known[band]["buyers"]), round(known[band]["clv"]))
        if band in known
        else Band(band, 0, 0)
        for band in range(BANDS)
    ]
    return Summary(
        as_of,
        sum(one.buyers for one in bands),
        sum(row["purchases"] for row in rows),
        sum(one.clv_minor for one in bands),
        bands,
    )


def of_member(engine: DuckEngine, member_id: int, as_of: date | None) -> dict[str, Any] | None:
    """A buyer's predictions: churn_risk, expected_purchases, expected_spend and clv in minor units …"""
    if as_of is None:
        return None
    rows = _rows(engine, as_of, f"SELECT * FROM predictions WHERE member_id = {int(member_id)}")  # noqa: S608
    return rows[0] if rows else None
