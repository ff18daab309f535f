"""How an effect built up: the cumulative difference by day since assignment, for one look and for any.

Guarantees: one query; a day counts the members assigned at least that long ago, all of them, so that no day
mixes whole and unfinished windows; moments of buyers are merged with those of the zeros, never summed up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from core.errors import InvalidInput
from core.warehouse.engine import Engine
from experiments.moments import ASSIGNMENTS_SCHEMA, CONVERTED, ORDERS, REVENUE, Moments
from experiments.readout_form import Curve, Point, Timeline
from experiments.stats import estimate, sequential
from experiments.stats.estimate import Estimate

MAX_POINTS = 30
METRICS = (REVENUE, ORDERS, CONVERTED)
Days = dict[str, dict[int, dict[str, Moments]]]
"""arm → day → metric → moments."""

# Members without an order by a day are only counted: most have none, and would be thirty rows each.
_SQL = """
WITH days AS (SELECT UNNEST($days) AS day),
sizes AS (
  SELECT a.arm, d.day, COUNT(*) AS n FROM assignments a CROSS JOIN days d
  WHERE a."at" + to_days(CAST(d.day AS INTEGER)) <= $as_of GROUP BY a.arm, d.day
),
bought AS (
  SELECT a.arm, a.member_id, a."at", o.ordered_at, o.net_minor
  FROM assignments a JOIN orders o ON o.member_id = a.member_id
  WHERE o.ordered_at >= a."at" AND o.ordered_at < $as_of
    AND o.ordered_at < a."at" + to_days(CAST($last AS INTEGER))
),
sums AS (
  SELECT b.arm, d.day, b.member_id, CAST(SUM(b.net_minor) AS DOUBLE) AS revenue,
    CAST(COUNT(*) FILTER (b.net_minor > 0) AS DOUBLE) AS orders,
    CAST(COUNT(*) FILTER (b.net_minor > 0) > 0 AS DOUBLE) AS converted
  FROM bought b CROSS JOIN days d
  WHERE b.ordered_at < b."at" + to_days(CAST(d.day AS INTEGER))
    AND b."at" + to_days(CAST(d.day AS INTEGER)) <= $as_of
  GROUP BY b.arm, d.day, b.member_id
),
buyers AS (
  SELECT arm, day, COUNT(*) AS buyers,
    AVG(revenue) AS mean_revenue, COALESCE(VAR_SAMP(revenue), 0) AS var_revenue,
    AVG(orders) AS mean_orders, COALESCE(VAR_SAMP(orders), 0) AS var_orders,
    AVG(converted) AS mean_converted, COALESCE(VAR_SAMP(converted), 0) AS var_converted
  FROM sums GROUP BY arm, day
)
SELECT s.arm, s.day, s.n, b.* EXCLUDE (arm, day)
FROM sizes s LEFT JOIN buyers b ON b.arm = s.arm AND b.day = s.day ORDER BY s.arm, s.day
"""


def days_of(window_days: int) -> list[int]:
    """At most :data:`MAX_POINTS` days, evenly spread, the last day of the window among them."""
    if window_days < 1:
        raise InvalidInput("The window has a day or more.", "window_days")
    points = min(window_days, MAX_POINTS)
    return sorted({round(window_days * k / points) for k in range(1, points + 1)})


def scan(engine: Engine, assignments: pa.Table, *, window_days: int, as_of: datetime) -> Days:
    """Cumulative moments by arm and day, of members assigned at least that many days before ``as_of``."""
    days = days_of(window_days)
    table = assignments.select(ASSIGNMENTS_SCHEMA.names).cast(ASSIGNMENTS_SCHEMA)
    params = {"days": days, "last": days[-1], "as_of": as_of}
    found: Days = {}
    for row in engine.query(_SQL, params, {"assignments": table}).to_pylist():
        found.setdefault(row["arm"], {})[int(row["day"])] = {name: _moments(row, name) for name in METRICS}
    return found


def _moments(row: Mapping[str, Any], name: str) -> Moments:
    n, buyers = int(row["n"]), int(row["buyers"] or 0)
    zeros = Moments(n - buyers, 0.0, 0.0)
    return zeros if not buyers else Moments(buyers, row[f"mean_{name}"], row[f"var_{name}"]).merge(zeros)


def timeline(
    found: Days, metric: str, arms: Sequence[str], control: str, alpha: float, tuning: float
) -> Timeline | None:
    """The curves of every arm; days on which nothing can be compared are left out. None: no day at all."""
    if metric not in METRICS:
        return None
    curves = []
    for arm in arms:
        points = []
        for day in sorted(found.get(arm, {})):
            pair = (found[arm][day][metric], found.get(control, {}).get(day, {}).get(metric))
            point = None if pair[1] is None else _point(day, pair[0], pair[1], alpha, tuning)
            points += [point] if point is not None else []
        if points:
            curves.append(Curve(arm, points))
    return Timeline(metric, tuning, curves) if curves else None


def _point(day: int, treated: Moments, control: Moments, alpha: float, tuning: float) -> Point | None:
    pair = Estimate.of_mean(treated), Estimate.of_mean(control)
    try:
        fixed = estimate.compare(*pair, alpha).absolute
        always = sequential.compare(*pair, alpha, tuning).absolute
    except InvalidInput:
        return None  # the first days may have no order in either arm
    return Point(day, treated.n, control.n, fixed, always)
