"""The catalogue of metrics: what every shop wants, changes with their trace, and how a metric has looked.

Guarantees: a metric is archived, never deleted, so that plans and read-outs keep their meaning; every
version's definition stays in the audit trail; the ready-made metrics are added on demand and never
overwrite what the shop has made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlglot import errors, transpile

from core import audit
from core.errors import Conflict, NotFound
from core.models import AuditEntry
from core.warehouse.engine import Engine
from core.warehouse.replica import Fact
from experiments import metric_scan, metrics
from experiments.metrics import (
    COUNT,
    IS_SET,
    MARGIN_COLUMN,
    MEAN,
    PROPORTION,
    QUANTILE,
    RATIO,
    RETENTION,
    ROWS,
    Condition,
    MetricSpec,
)
from experiments.models import Metric

OBJECT = "metric"
WEEKS = 12
MAX_WEEKS = 104
MAX_VERSIONS = 50
_KEPT = (Condition("net_minor", ">", 0),)
_LINES = (Condition("status", "!=", "cancelled"), Condition("refunded", "=", False))
BUILT_IN = (
    MetricSpec("revenue", MEAN, "orders", "net_minor", covariate_days=30),
    MetricSpec("margin", MEAN, "order_lines", MARGIN_COLUMN, covariate_days=30),
    MetricSpec("orders", COUNT, "orders", where=_KEPT, covariate_days=30),
    MetricSpec("converted", PROPORTION, "orders", where=_KEPT, covariate_days=30),
    MetricSpec("order_value", RATIO, "orders", "net_minor", ROWS, where=_KEPT),
    MetricSpec("units", MEAN, "order_lines", "quantity", where=_LINES, covariate_days=30),
    MetricSpec(
        "return_rate", RATIO, "orders", "refunded_minor", "total_minor", margin=0.1, higher_is_better=False
    ),
    MetricSpec(
        "unsubscribes",
        PROPORTION,
        "touches",
        where=(Condition("unsubscribed_at", IS_SET, True),),
        margin=0.2,
        higher_is_better=False,
    ),
    MetricSpec("repurchase", RETENTION, "orders", where=_KEPT, from_day=30, until_day=60),
)
"""Net revenue, margin, orders that were kept, buyers, value of an order, units, the returned share of
revenue and unsubscribing as guardrails, and coming back in the second month."""

UnitKind = Literal["money", "share", "number"]


def unit_of(spec: MetricSpec) -> UnitKind:
    """What its value is: an amount in minor units, a share, or a number."""
    money = (spec.value or "").endswith("_minor")
    if spec.kind in (PROPORTION, RETENTION):
        return "share"
    if spec.kind == RATIO and money:
        return "share" if (spec.denominator or "").endswith("_minor") else "money"
    return "money" if money else "number"


def listing(session: Session, *, archived: bool = False) -> list[Metric]:
    """Stored metrics by name: those in use, or the archived ones."""
    wanted = Metric.archived_at.is_not(None) if archived else Metric.archived_at.is_(None)
    return list(session.scalars(sa.select(Metric).where(wanted).order_by(Metric.name)))


def by_name(session: Session, name: str, *, lock: bool = False) -> Metric:
    """A stored metric, archived ones too. NotFound: none of that name."""
    query = sa.select(Metric).where(Metric.name == name)
    found = session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound(f"There is no metric “{name}”; make it first.")
    return found


def spec_of(row: Metric) -> MetricSpec:
    """A stored metric's definition."""
    return metrics.from_json(row.name, row.spec)


def create(session: Session, spec: MetricSpec, facts: Mapping[str, Fact], by: str, now: datetime) -> Metric:
    """A new metric. Conflict: there is one of that name; InvalidInput: it cannot be computed."""
    metrics.check(spec, facts)
    if session.scalar(sa.select(Metric.id).where(Metric.name == spec.name)) is not None:
        raise Conflict(f"There is already a metric “{spec.name}”, perhaps archived; choose another name.")
    row = metrics.save(session, spec, facts, now)
    _record(session, "create", row, by, now)
    return row


def change(session: Session, spec: MetricSpec, facts: Mapping[str, Fact], by: str, now: datetime) -> Metric:
    """A new version of a metric where it differs. Conflict: it is archived; NotFound: there is none."""
    before = by_name(session, spec.name, lock=True).version
    row = metrics.save(session, spec, facts, now)
    if row.version != before:
        _record(session, "change", row, by, now)
    return row


def archive(session: Session, name: str, by: str, now: datetime) -> None:
    """Offered no more; plans and read-outs that name it still know what it was."""
    row = by_name(session, name, lock=True)
    if row.archived_at is None:
        row.archived_at = row.updated_at = now
        _record(session, "archive", row, by, now)


def restore(session: Session, name: str, by: str, now: datetime) -> None:
    """In use again."""
    row = by_name(session, name, lock=True)
    if row.archived_at is not None:
        row.archived_at, row.updated_at = None, now
        _record(session, "restore", row, by, now)


def add_built_in(session: Session, facts: Mapping[str, Fact], by: str, now: datetime) -> list[str]:
    """Add the ready-made metrics that the shop has not; answers the names of those that were new."""
    there = set(session.scalars(sa.select(Metric.name)))
    wanted = [spec for spec in BUILT_IN if spec.name not in there and spec.fact in facts]
    for spec in wanted:
        _record(session, "create", metrics.save(session, spec, facts, now), by, now)
    return [spec.name for spec in wanted]


def _record(session: Session, action: str, row: Metric, by: str, now: datetime) -> None:
    audit.record(session, by, action, OBJECT, row.name, now, {"version": row.version, "spec": row.spec})


def spec_at(session: Session, name: str, version: int) -> MetricSpec | None:
    """A metric as that version defined it (0: the ready-made one), also where it has changed or is archived
    since; None where nobody knows it any more."""
    if version == 0:
        return next((spec for spec in BUILT_IN if spec.name == name), None)
    row = session.scalar(sa.select(Metric).where(Metric.name == name))
    if row is not None and row.version == version:
        return spec_of(row)
    query = sa.select(AuditEntry.detail).where(AuditEntry.object_type == OBJECT, AuditEntry.object_id == name)
    details = session.scalars(query.order_by(AuditEntry.id.desc()).limit(MAX_VERSIONS))
    spec = next((one["spec"] for one in details if one and one.get("version") == version), None)
    return None if spec is None else metrics.from_json(name, spec)


@dataclass(frozen=True)
class Version:
    """A version of a metric: who made it when, and the fields that it changed (field → before, after)."""

    number: int
    by: str
    at: datetime
    changed: dict[str, tuple[Any, Any]]


def versions(session: Session, name: str) -> list[Version]:
    """The versions of a metric, the newest first, of what the audit trail kept."""
    query = (
        sa.select(AuditEntry)
        .where(
            AuditEntry.object_type == OBJECT,
            AuditEntry.object_id == name,
            AuditEntry.action.in_(("create", "change")),
        )
        .order_by(AuditEntry.id.desc())
        .limit(MAX_VERSIONS)
    )
    found: list[Version] = []
    before: dict[str, Any] | None = None
    for entry in reversed(session.scalars(query).all()):
        spec = entry.detail.get("spec") or {}
        old = before or {}
        fields = {} if before is None else {
            key: (old.get(key), spec.get(key)) for key in spec if old.get(key) != spec.get(key)
        }  # fmt: skip
        found.append(Version(entry.detail.get("version", 0), entry.actor, entry.at, fields))
        before = spec
    return found[::-1]


def shown_sql(spec: MetricSpec, facts: Mapping[str, Fact], as_of: datetime) -> tuple[str, dict[str, Any]]:
    """The query of an experiment's read-out of this metric, laid out to be read, and its parameters."""
    query = metric_scan.compile_query([spec], facts, as_of)
    try:
        text = transpile(query.sql, read="duckdb", write="duckdb", pretty=True)[0]
    except errors.SqlglotError:
        text = query.sql.strip()
    return text, query.params


@dataclass(frozen=True)
class Week:
    """Seven days from ``start``: the metric over all members, and how many of them had a row that counts."""

    start: datetime
    value: float | None
    members: int


@dataclass(frozen=True)
class Look:
    """A metric week by week, the oldest first, over ``members`` members (all there are now)."""

    members: int
    weeks: list[Week]


def weekly(engine: Engine, spec: MetricSpec, now: datetime, weeks: int = WEEKS) -> Look:
    """How the metric would have looked over all members in each of the last ``weeks`` × 7 days.

    One scan of its fact; not winsorised, and without the metric's own window. InvalidInput: see
    :func:`experiments.metrics.check`.
    """
    metrics.check(spec, engine.replica.facts)
    weeks = max(1, min(weeks, MAX_WEEKS))
    params: dict[str, Any] = {"now": now, "weeks": weeks}
    sql = _weekly_sql(spec, engine.replica.facts[spec.fact], params)
    rows = engine.query(sql, params).to_pylist()
    members = int(rows[0]["everybody"]) if rows else 0
    found = {row["back"]: row for row in rows if row["back"] is not None}
    return Look(
        members,
        [
            Week(now - timedelta(days=7 * (back + 1)), *_week_value(spec, found.get(back), members))
            for back in reversed(range(weeks))
        ],
    )


def _week_value(spec: MetricSpec, row: Mapping[str, Any] | None, members: int) -> tuple[float | None, int]:
    if not members:
        return None, 0
    if row is None:
        return (None if spec.kind == RATIO else 0.0), 0
    total, counted = float(row["total"] or 0), int(row["members"])
    if spec.kind == RATIO:
        below = float(row["below"] or 0)
        return (total / below if below else None), counted
    if spec.kind == QUANTILE:
        return float(row["middle"] or 0), counted
    return total / members, counted


def _weekly_sql(spec: MetricSpec, fact: Fact, params: dict[str, Any]) -> str:
    time = f'x."{fact.month_column}"'
    value = metric_scan.aggregate(spec, spec.value, "TRUE", "value", params)
    below = "0"
    if spec.denominator is not None:
        below = metric_scan.aggregate(spec, spec.denominator, "TRUE", "below", params)
    where = [f"{time} > $now - to_days(CAST(7 * $weeks AS INTEGER))", f"{time} < $now"]
    where += metric_scan.conditions(spec, "p", params)
    # Members without a row are zeros of a quantile; sums and shares need not be told of them.
    whole = """
      SELECT w.back, COALESCE(b.value, 0) AS value, 0 AS below, b.value IS NOT NULL AS counted
      FROM (SELECT CAST(range AS INTEGER) AS back FROM range(CAST($weeks AS BIGINT))) w
        CROSS JOIN members m LEFT JOIN by_member b ON b.back = w.back AND b.member_id = m.member_id"""
    plain = "SELECT back, value, below, TRUE AS counted FROM by_member"
    middle = f"quantile_cont(value, {spec.q!r})" if spec.kind == QUANTILE else "NULL"
    return f"""
WITH by_member AS (
  SELECT CAST(floor((epoch($now) - epoch({time})) / 604800) AS INTEGER) AS back, x.member_id,
    CAST({value} AS DOUBLE) AS value, CAST({below} AS DOUBLE) AS below
  FROM {metric_scan.source(spec.fact, [spec])} x
  WHERE {" AND ".join(where)}
  GROUP BY 1, 2
),
weekly AS (
  SELECT back, SUM(value) AS total, SUM(below) AS below, {middle} AS middle,
    COUNT(*) FILTER (counted) AS members
  FROM ({whole if spec.kind == QUANTILE else plain}) GROUP BY back
)
SELECT e.everybody, w.back, w.total, w.below, w.middle, w.members
FROM (SELECT COUNT(*) AS everybody FROM members) e LEFT JOIN weekly w ON TRUE
"""  # noqa: S608
