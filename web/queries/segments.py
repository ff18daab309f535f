"""Segments, the RFM grid and the lifecycle: counts, histories and where a segment is used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.models import Campaign
from core.warehouse.engine import DuckEngine
from segments.models import Refresh, Segment, StageChange
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, snapshot_path

CAMPAIGNS_LOOKED_AT = 1000


@dataclass(frozen=True)
class SegmentRow:
    name: str
    title: str
    description: str
    version: int
    rule: dict[str, Any]
    updated_at: datetime
    archived: bool
    count: int | None
    """None: not evaluated yet."""
    entered: int
    exited: int


@dataclass(frozen=True)
class Cell:
    r: int
    f: int
    segment: str
    members: int
    revenue_minor: int


@dataclass(frozen=True)
class Group:
    """Members of a named group and what they spent in the window."""

    name: str
    members: int
    revenue_minor: int


def latest(session: Session) -> Refresh | None:
    return session.scalars(sa.select(Refresh).order_by(Refresh.as_of.desc()).limit(1)).first()


def rows(session: Session, *, archived: bool = False) -> list[SegmentRow]:
    """Every segment by title, with its size as of the newest refresh."""
    refresh = latest(session)
    counts: dict[str, dict[str, int]] = refresh.segments if refresh else {}
    query = sa.select(Segment).order_by(Segment.title)
    query = query.where(Segment.archived_at.is_not(None) if archived else Segment.archived_at.is_(None))
    return [
        SegmentRow(
            one.name,
            one.title,
            one.description,
            one.version,
            one.rule,
            one.updated_at,
            one.archived_at is not None,
            counts.get(one.name, {}).get("count"),
            counts.get(one.name, {}).get("entered", 0),
            counts.get(one.name, {}).get("exited", 0),
        )
        for one in session.scalars(query)
    ]


def names(session: Session) -> list[tuple[str, str]]:
    """(name, title) of the live segments, for choices."""
    query = (
        sa.select(Segment.name, Segment.title).where(Segment.archived_at.is_(None)).order_by(Segment.title)
    )
    return [(row.name, row.title) for row in session.execute(query)]


def used_by(session: Session, name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(campaigns, segments) whose audience or rule names this segment, each as (name, title)."""
    wanted = json.dumps(name, ensure_ascii=False)
    campaigns = session.execute(
        sa.select(Campaign.name, Campaign.title, Campaign.spec)
        .where(Campaign.state != "archived")
        .order_by(Campaign.id.desc())
        .limit(CAMPAIGNS_LOOKED_AT)
    )
    others = session.execute(
        sa.select(Segment.name, Segment.title, Segment.rule).where(
            Segment.archived_at.is_(None), Segment.name != name
        )
    )
    return (
        [(row.name, row.title) for row in campaigns if _names_segment(row.spec, wanted)],
        [(row.name, row.title) for row in others if _names_segment(row.rule, wanted)],
    )


def _names_segment(value: Any, wanted: str) -> bool:
    """Whether ``{"segment": name}`` or a list of exclusions with the name stands somewhere inside."""
    text = json.dumps(value, ensure_ascii=False)
    return f'"segment": {wanted}' in text or (
        isinstance(value, dict) and wanted in json.dumps(value.get("exclude", []), ensure_ascii=False)
    )


def grid(engine: DuckEngine, as_of: date) -> list[Cell]:
    """Members and spend of each recency × frequency cell of the snapshot."""
    found = _snapshot(
        engine,
        as_of,
        """SELECT r, f, any_value(rfm_segment) AS segment, count(*) AS members,
                  coalesce(sum(monetary), 0) AS revenue
           FROM snapshot WHERE r IS NOT NULL GROUP BY r, f ORDER BY r DESC, f""",
    )
    return [Cell(row["r"], row["f"], row["segment"], row["members"], int(row["revenue"])) for row in found]


def groups(engine: DuckEngine, as_of: date, column: str) -> list[Group]:
    """Members and spend by ``rfm_segment``, ``value_segment`` or ``stage``, the largest first."""
    if column not in ("rfm_segment", "value_segment", "stage"):
        raise ValueError(column)
    found = _snapshot(
        engine,
        as_of,
        f"""SELECT {column} AS name, count(*) AS members, coalesce(sum(monetary), 0) AS revenue
            FROM snapshot WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY members DESC, name""",  # noqa: S608
    )
    return [Group(row["name"], row["members"], int(row["revenue"])) for row in found]


def _snapshot(engine: DuckEngine, as_of: date, sql: str) -> list[dict[str, Any]]:
    path = snapshot_path(engine, SNAPSHOT, as_of)
    if path is None:
        return []
    with engine.connect() as connection:
        engine.add_view(connection, "snapshot", path, SNAPSHOT_SCHEMA)
        rows: list[dict[str, Any]] = connection.sql(sql).to_arrow_table().to_pylist()
    return rows


def flows(session: Session, until: date, days: int) -> list[tuple[str, str, int]]:
    """(from stage, to stage, changes) of the last ``days`` days, the largest first."""
    count = sa.func.count().label("changes")
    query = (
        sa.select(StageChange.from_stage, StageChange.to_stage, count)
        .where(StageChange.as_of > until - timedelta(days=days), StageChange.as_of <= until)
        .group_by(StageChange.from_stage, StageChange.to_stage)
        .order_by(count.desc())
    )
    return [(row.from_stage, row.to_stage, row.changes) for row in session.execute(query)]
