"""One scan for the whole read-out: every metric after and before assignment, by arm and by dimension.

Guarantees: facts are read once however many dimensions there are; aggregates are centred; a member's windows
run from their own moment, after it [at, at + days), before it [at − days, at), so that the covariate is
nothing that the experiment could have changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from core.errors import InvalidInput
from core.warehouse.engine import Engine
from experiments.moments import (
    ASSIGNMENTS_SCHEMA,
    DEFAULT_MARGIN,
    MAX_WINDOW_DAYS,
    METRICS,
    PAIRS,
    ArmMoments,
    Moments,
    PairMoments,
)

BEFORE = ":before"
"""After a metric's name: the same metric before assignment, in an arm's pairs."""
COVARIATE_DAYS = 180
"""How far the covariate looks back: long enough that members who slept for a season had bought before."""
MAX_DIMENSIONS = 16

Cells = dict[str, dict[tuple[str, str], ArmMoments]]
"""dimension → (value, arm) → moments."""

_UNITS = """
WITH exposed AS (
  SELECT *, "at" AS from_at, "at" + to_days(CAST($days AS INTEGER)) AS until_at,
    "at" - to_days(CAST($before AS INTEGER)) AS since
  FROM assignments
),
bought AS (
  SELECT e.member_id,
    SUM(o.net_minor) FILTER (o.ordered_at >= e.from_at) AS revenue,
    COUNT(*) FILTER (o.net_minor > 0 AND o.ordered_at >= e.from_at) AS orders,
    SUM(o.net_minor) FILTER (o.ordered_at < e.from_at) AS revenue_before,
    COUNT(*) FILTER (o.net_minor > 0 AND o.ordered_at < e.from_at) AS orders_before
  FROM exposed e JOIN orders o ON o.member_id = e.member_id
  WHERE o.ordered_at >= e.since AND o.ordered_at < e.until_at AND o.ordered_at < $as_of
  GROUP BY e.member_id
),
gained AS (
  SELECT e.member_id,
    SUM(l.amount_minor * COALESCE(p.margin, $margin)) FILTER (l.ordered_at >= e.from_at) AS margin,
    SUM(l.amount_minor * COALESCE(p.margin, $margin)) FILTER (l.ordered_at < e.from_at) AS margin_before
  FROM exposed e JOIN order_lines l ON l.member_id = e.member_id
    LEFT JOIN products p ON p.source = l.source AND p.sku = l.sku
  WHERE l.ordered_at >= e.since AND l.ordered_at < e.until_at AND l.ordered_at < $as_of
    AND l.status <> 'cancelled' AND NOT l.refunded
  GROUP BY e.member_id
),
units AS (
  SELECT e.*, e.until_at > $as_of AS open_window,
    CAST(COALESCE(b.revenue, 0) AS DOUBLE) AS revenue,
    CAST(COALESCE(b.orders, 0) AS DOUBLE) AS orders,
    CAST(COALESCE(b.orders, 0) > 0 AS DOUBLE) AS converted,
    CAST(COALESCE(g.margin, 0) AS DOUBLE) AS margin,
    CAST(COALESCE(b.revenue_before, 0) AS DOUBLE) AS revenue_before,
    CAST(COALESCE(b.orders_before, 0) AS DOUBLE) AS orders_before,
    CAST(COALESCE(b.orders_before, 0) > 0 AS DOUBLE) AS converted_before,
    CAST(COALESCE(g.margin_before, 0) AS DOUBLE) AS margin_before
  FROM exposed e LEFT JOIN bought b USING (member_id) LEFT JOIN gained g USING (member_id)
)
"""


def _sql(dimensions: int) -> str:
    # Names are numbers and constants only.
    parts = ["arm", "COUNT(*) AS n", "COUNT(*) FILTER (open_window) AS open_windows"]
    for metric in METRICS:
        for name in (metric, f"{metric}_before"):
            parts.append(f"AVG({name}) AS mean_{name}, COALESCE(VAR_SAMP({name}), 0) AS var_{name}")
        parts.append(f"COALESCE(COVAR_SAMP({metric}, {metric}_before), 0) AS cov_{metric}")
    parts += [f"COALESCE(COVAR_SAMP({x}, {y}), 0) AS cov_{x}_{y}" for x, y in PAIRS]
    parts += [f"d{i}, GROUPING(d{i}) AS g{i}" for i in range(dimensions)]
    sets = ", ".join(["(arm)", *(f"(arm, d{i})" for i in range(dimensions))])
    return f"{_UNITS} SELECT {', '.join(parts)} FROM units GROUP BY GROUPING SETS ({sets}) ORDER BY arm"  # noqa: S608


def scan(
    engine: Engine,
    assignments: pa.Table,
    *,
    window_days: int,
    as_of: datetime,
    covariate_days: int = COVARIATE_DAYS,
    default_margin: float = DEFAULT_MARGIN,
) -> tuple[dict[str, ArmMoments], Cells]:
    """The moments of every arm that has members, and of every value of every dimension in it.

    ``assignments``: (member_id, arm, at), a row a member; every further column (text) is a dimension. Pairs
    hold (metric, metric + ``BEFORE``). InvalidInput: a member who is there twice, or windows that are none.
    """
    for name, days in (("window_days", window_days), ("covariate_days", covariate_days)):
        if not 1 <= days <= MAX_WINDOW_DAYS:
            raise InvalidInput(f"The window has 1 to {MAX_WINDOW_DAYS} days.", name)
    names = [name for name in assignments.column_names if name not in ASSIGNMENTS_SCHEMA.names]
    if len(names) > MAX_DIMENSIONS:
        raise InvalidInput(f"A read-out has at most {MAX_DIMENSIONS} dimensions.", "assignments")
    table = assignments.select(ASSIGNMENTS_SCHEMA.names).cast(ASSIGNMENTS_SCHEMA)
    if len(table.column("member_id").unique()) < table.num_rows:
        raise InvalidInput("Give each member one row, the first assignment.", "assignments")
    for number, name in enumerate(names):
        column = assignments[name].cast(pa.string())
        table = table.append_column(f"d{number}", column.fill_null(""))
    params = {"days": window_days, "before": covariate_days, "as_of": as_of, "margin": default_margin}
    arms: dict[str, ArmMoments] = {}
    cells: Cells = {name: {} for name in names}
    for row in engine.query(_sql(len(names)), params, {"assignments": table}).to_pylist():
        place = next((i for i in range(len(names)) if not row[f"g{i}"]), None)
        if place is None:
            arms[row["arm"]] = _arm(row)
        else:
            cells[names[place]][row[f"d{place}"], row["arm"]] = _arm(row)
    return arms, cells


def _arm(row: Mapping[str, Any]) -> ArmMoments:
    n = int(row["n"])

    def of(name: str) -> Moments:
        return Moments(n, row[f"mean_{name}"], row[f"var_{name}"])

    metrics = {metric: of(metric) for metric in METRICS}
    pairs = {(x, y): PairMoments(metrics[x], metrics[y], row[f"cov_{x}_{y}"]) for x, y in PAIRS}
    for metric in METRICS:
        before = PairMoments(metrics[metric], of(f"{metric}_before"), row[f"cov_{metric}"])
        pairs[metric, metric + BEFORE] = before
    return ArmMoments(n, metrics, pairs, int(row["open_windows"]))
