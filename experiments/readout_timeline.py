"""How an effect built up: the cumulative difference by day since assignment, for one look and for any.

Guarantees: one query; a day counts the members assigned at least that long ago, all of them, so that no day
mixes whole and unfinished windows; moments of buyers are merged with those of the zeros, never summed up; by
CUPED where the headline is, with the same covariate and a θ of each day from all arms, or raw as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from core.errors import InvalidInput
from core.warehouse.engine import Engine
from experiments import readout_cuped
from experiments.moments import (
    ASSIGNMENTS_SCHEMA,
    CONVERTED,
    ORDERS,
    REVENUE,
    ArmMoments,
    Moments,
    PairMoments,
)
from experiments.readout_form import Curve, Point, Timeline
from experiments.readout_scan import BEFORE, COVARIATE_DAYS
from experiments.stats import estimate, sequential
from experiments.stats.estimate import Estimate

MAX_POINTS = 30
METRICS = (REVENUE, ORDERS, CONVERTED)
Days = dict[str, dict[int, ArmMoments]]
"""arm → day → moments of :data:`METRICS`, with those of before beside them in its pairs."""

# Members without an order by a day are only counted, by the last day of which that is so: most have none,
# and would be thirty rows each. ``quiet`` is that number of days; a member is one of the zeros of every day
# up to it. Days are of 24 hours, as windows are.
_BOUGHT = """
WITH days AS (SELECT UNNEST($days) AS day),
seen AS (
  SELECT a.arm, a.member_id,
    date_diff('microsecond', a."at", o.ordered_at) // 86400000000 AS after,
    o.ordered_at < a."at" AS early, o.net_minor
  FROM assignments a JOIN orders o ON o.member_id = a.member_id
  WHERE o.ordered_at >= a."at" - to_days(CAST($before AS INTEGER)) AND o.ordered_at < $as_of
    AND o.ordered_at < a."at" + to_days(CAST($last AS INTEGER))
),
known AS (
  SELECT member_id, MIN(after) FILTER (NOT early) AS first_day,
    CAST(COALESCE(SUM(net_minor) FILTER (early), 0) AS DOUBLE) AS revenue_before,
    CAST(COUNT(*) FILTER (early AND net_minor > 0) AS DOUBLE) AS orders_before,
    CAST(COUNT(*) FILTER (early AND net_minor > 0) > 0 AS DOUBLE) AS converted_before
  FROM seen GROUP BY member_id
),
units AS (
  SELECT a.arm, a.member_id, date_diff('microsecond', a."at", $as_of) // 86400000000 AS closed,
    k.first_day, COALESCE(k.revenue_before, 0) AS revenue_before,
    COALESCE(k.orders_before, 0) AS orders_before,
    COALESCE(k.converted_before, 0) AS converted_before
  FROM assignments a LEFT JOIN known k USING (member_id)
),
sums AS (
  SELECT s.arm, d.day, s.member_id, CAST(SUM(s.net_minor) AS DOUBLE) AS revenue,
    CAST(COUNT(*) FILTER (s.net_minor > 0) AS DOUBLE) AS orders,
    CAST(COUNT(*) FILTER (s.net_minor > 0) > 0 AS DOUBLE) AS converted
  FROM seen s CROSS JOIN days d WHERE NOT s.early AND s.after < d.day
  GROUP BY s.arm, d.day, s.member_id
)
"""


def _sql() -> str:
    # Names come from the constants above only.
    zeros = [
        f"0 AS mean_{m}, 0 AS var_{m}, 0 AS cov_{m}, AVG({m}_before) AS mean_{m}_before, "
        f"COALESCE(VAR_SAMP({m}_before), 0) AS var_{m}_before"
        for m in METRICS
    ]
    buyers = [
        f"AVG(s.{m}), COALESCE(VAR_SAMP(s.{m}), 0), COALESCE(COVAR_SAMP(s.{m}, u.{m}_before), 0), "
        f"AVG(u.{m}_before), COALESCE(VAR_SAMP(u.{m}_before), 0)"
        for m in METRICS
    ]
    quiet = "LEAST(closed, COALESCE(first_day, closed), $last)"
    return f"""{_BOUGHT}
SELECT arm, FALSE AS bought, {quiet} AS day, COUNT(*) AS n, {", ".join(zeros)}
FROM units WHERE {quiet} > 0 GROUP BY arm, {quiet}
UNION ALL
SELECT s.arm, TRUE, s.day, COUNT(*), {", ".join(buyers)}
FROM sums s JOIN units u USING (member_id) WHERE s.day <= u.closed GROUP BY s.arm, s.day"""  # noqa: S608


def days_of(window_days: int) -> list[int]:
    """At most :data:`MAX_POINTS` days, evenly spread, the last day of the window among them."""
    if window_days < 1:
        raise InvalidInput("The window has a day or more.", "window_days")
    points = min(window_days, MAX_POINTS)
    return sorted({round(window_days * k / points) for k in range(1, points + 1)})


def scan(
    engine: Engine,
    assignments: pa.Table,
    *,
    window_days: int,
    as_of: datetime,
    covariate_days: int = COVARIATE_DAYS,
) -> Days:
    """Cumulative moments by arm and day, of members assigned at least that many days before ``as_of``."""
    days = days_of(window_days)
    table = assignments.select(ASSIGNMENTS_SCHEMA.names).cast(ASSIGNMENTS_SCHEMA)
    params = {"days": days, "last": days[-1], "as_of": as_of, "before": covariate_days}
    zeros: dict[str, list[tuple[int, ArmMoments]]] = {}
    buyers: dict[str, dict[int, ArmMoments]] = {}
    for row in engine.query(_sql(), params, {"assignments": table}).to_pylist():
        arm, day = row["arm"], int(row["day"])
        if row["bought"]:
            buyers.setdefault(arm, {})[day] = _moments(row)
        else:
            zeros.setdefault(arm, []).append((day, _moments(row)))
    return {
        arm: _cumulative(days, zeros.get(arm, []), buyers.get(arm, {})) for arm in sorted({*zeros, *buyers})
    }


def _cumulative(
    days: Sequence[int], zeros: Sequence[tuple[int, ArmMoments]], buyers: Mapping[int, ArmMoments]
) -> dict[int, ArmMoments]:
    """Every day that somebody reached: from the last day on, those who are zeros that long join."""
    waiting = sorted(zeros, key=lambda one: one[0])
    quiet: ArmMoments | None = None
    found: dict[int, ArmMoments] = {}
    for day in reversed(days):
        while waiting and waiting[-1][0] >= day:
            one = waiting.pop()[1]
            quiet = one if quiet is None else quiet.merge(one)
        parts = [one for one in (quiet, buyers.get(day)) if one is not None]
        if parts:
            found[day] = parts[0] if len(parts) == 1 else parts[0].merge(parts[1])
    return dict(sorted(found.items()))


def _moments(row: Mapping[str, Any]) -> ArmMoments:
    n = int(row["n"])
    metrics = {name: Moments(n, float(row[f"mean_{name}"]), float(row[f"var_{name}"])) for name in METRICS}
    pairs = {
        (name, name + BEFORE): PairMoments(
            metrics[name],
            Moments(n, row[f"mean_{name}_before"], row[f"var_{name}_before"]),
            float(row[f"cov_{name}"]),
        )
        for name in METRICS
    }
    return ArmMoments(n, metrics, pairs)


def timeline(
    found: Days,
    metric: str,
    arms: Sequence[str],
    control: str,
    alpha: float,
    tuning: float,
    *,
    adjusted: bool = False,
) -> Timeline | None:
    """The curves of every arm; days on which nothing can be compared are left out. None: no day at all.

    ``adjusted``: by CUPED, unless a day that could be compared cannot be adjusted: then all are raw.
    """
    if metric not in METRICS:
        return None
    days = {day: {arm: found[arm][day] for arm in found if day in found[arm]} for day in _days(found)}
    plain = {
        day: {arm: Estimate.of_mean(one.metrics[metric]) for arm, one in each.items()}
        for day, each in days.items()
    }
    if adjusted:
        fine = {day: readout_cuped.adjusted(each, metric) for day, each in days.items()}
        return of_estimates(metric, fine, plain, arms, control, alpha, tuning)
    return of_estimates(metric, None, plain, arms, control, alpha, tuning)


def _days(found: Days) -> list[int]:
    return sorted({day for days in found.values() for day in days})


Estimates = Mapping[int, Mapping[str, Estimate]]
"""day → arm → estimate."""


def of_estimates(
    metric: str,
    adjusted: Estimates | None,
    plain: Estimates,
    arms: Sequence[str],
    control: str,
    alpha: float,
    tuning: float,
) -> Timeline | None:
    """The curves of estimates by day: the adjusted ones where every day that has a plain point has one of
    them, else the plain ones."""
    raw = _curves(plain, arms, control, alpha, tuning)
    if adjusted is not None:
        only = {day: found for day, found in adjusted.items() if day in plain}
        fine = _curves(only, arms, control, alpha, tuning)
        if [_places(curve) for curve in fine] == [_places(curve) for curve in raw]:
            return Timeline(metric, tuning, fine, True) if fine else None
    return Timeline(metric, tuning, raw) if raw else None


def _places(curve: Curve) -> tuple[str, list[int]]:
    return curve.arm, [point.day for point in curve.points]


def _curves(
    estimates: Estimates, arms: Sequence[str], control: str, alpha: float, tuning: float
) -> list[Curve]:
    curves = []
    for arm in arms:
        points = []
        for day in sorted(estimates):
            pair = (estimates[day].get(arm), estimates[day].get(control))
            if pair[0] is not None and pair[1] is not None:
                point = _point(day, pair[0], pair[1], alpha, tuning)
                points += [point] if point is not None else []
        if points:
            curves.append(Curve(arm, points))
    return curves


def _point(day: int, treated: Estimate, control: Estimate, alpha: float, tuning: float) -> Point | None:
    try:
        fixed = estimate.compare(treated, control, alpha).absolute
        always = sequential.compare(treated, control, alpha, tuning).absolute
    except InvalidInput:
        return None  # the first days may have no order in either arm
    return Point(day, treated.n, control.n, fixed, always)
