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
from loyalty.earn_rules import load_rule
from loyalty.models import PointsMultiplier
from loyalty.promotions.models import PromotionRow
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


@dataclass(frozen=True)
class Users:
    """What names a segment, each as (name, title)."""

    campaigns: list[tuple[str, str]]
    segments: list[tuple[str, str]]
    promotions: list[tuple[int, str]]
    """With their id for a name."""
    multipliers: list[str]
    """Names of campaigns that multiply points."""
    earn_rule: bool
    """Whether the rule of what orders earn multiplies for it."""

    def __bool__(self) -> bool:
        return bool(self.campaigns or self.segments or self.promotions or self.multipliers or self.earn_rule)


def used_by(session: Session, name: str) -> Users:
    """What asks who is in this segment: audiences, rules, promotions, and how points are earned."""
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
    promotions = session.execute(
        sa.select(PromotionRow.id, PromotionRow.title, PromotionRow.conditions)
        .where(PromotionRow.archived_at.is_(None))
        .order_by(PromotionRow.title)
    )
    multipliers = session.execute(
        sa.select(PointsMultiplier.name, PointsMultiplier.segments)
        .where(PointsMultiplier.archived_at.is_(None))
        .order_by(PointsMultiplier.name)
    )
    return Users(
        [(row.name, row.title) for row in campaigns if _names_segment(row.spec, wanted)],
        [(row.name, row.title) for row in others if _names_segment(row.rule, wanted)],
        [(row.id, row.title) for row in promotions if _asks_for(row.conditions, name)],
        [row.name for row in multipliers if name in (row.segments or ())],
        name in load_rule(session).segment_times,
    )


def _asks_for(conditions: Any, name: str) -> bool:
    """Whether a promotion's condition, at any depth, is about this segment."""
    if isinstance(conditions, list):
        return any(_asks_for(one, name) for one in conditions)
    if not isinstance(conditions, dict):
        return False
    if conditions.get("type") == "segment" and name in (conditions.get("in") or ()):
        return True
    return any(_asks_for(value, name) for value in conditions.values())


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
