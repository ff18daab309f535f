"""From facts to centred moments: one scan of the warehouse, a handful of numbers an arm.

Guarantees: means, variances and covariances are centred (DuckDB's Welford and Chan aggregates), never
differences of sums of squares, which lose everything at a large mean; moments add up exactly as if
their units had been counted together. Every member assigned counts, those without an order as zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.errors import InvalidInput
from core.warehouse.engine import Engine

REVENUE, ORDERS, CONVERTED, MARGIN = "revenue", "orders", "converted", "margin"
METRICS = (REVENUE, ORDERS, CONVERTED, MARGIN)
"""Per member in the window: revenue net of refunds (minor units), orders that were kept, 1 if there was
one, margin (minor units)."""
PAIRS = ((REVENUE, ORDERS),)
"""Covariances that the scan brings along: numerator and denominator of the average order value."""
DEFAULT_MARGIN = 0.3
"""Share of the price, where the catalogue does not say."""
MAX_WINDOW_DAYS = 730
ASSIGNMENTS_SCHEMA = pa.schema(
    [("member_id", pa.int64()), ("arm", pa.string()), ("at", pa.timestamp("us", tz="UTC"))]
)


@dataclass(frozen=True)
class Moments:
    """Number of units, mean, and sample variance (divisor n − 1; 0 for fewer than two units)."""

    n: int
    mean: float
    var: float

    @classmethod
    def of(cls, values: Sequence[float] | npt.NDArray[np.float64]) -> Moments:
        """Moments of numbers in memory."""
        data = np.asarray(values, dtype=np.float64)
        if not len(data):
            return cls(0, 0.0, 0.0)
        return cls(len(data), float(data.mean()), float(data.var(ddof=1)) if len(data) > 1 else 0.0)

    @classmethod
    def of_sums(cls, total: float, squares: float, n: int) -> Moments:
        """From published sums and sums of squares; loses digits at large means."""
        if n < 1:
            raise InvalidInput("Moments need at least one unit.", "n")
        mean = total / n
        return cls(n, mean, (squares - total * mean) / (n - 1) if n > 1 else 0.0)

    def merge(self, other: Moments) -> Moments:
        """Moments of both groups together (Chan, Golub and LeVeque 1979)."""
        n = self.n + other.n
        if not self.n or not other.n:
            return self if self.n else other
        delta = other.mean - self.mean
        mean = self.mean + delta * other.n / n
        squares = self.var * (self.n - 1) + other.var * (other.n - 1) + delta**2 * self.n * other.n / n
        return Moments(n, mean, squares / (n - 1))


@dataclass(frozen=True)
class PairMoments:
    """Moments of two numbers of the same units, and their sample covariance."""

    x: Moments
    y: Moments
    cov: float

    @classmethod
    def of(cls, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> PairMoments:
        cov = float(np.cov(x, y, ddof=1)[0, 1]) if len(x) > 1 else 0.0
        return cls(Moments.of(x), Moments.of(y), cov)

    def merge(self, other: PairMoments) -> PairMoments:
        n = self.x.n + other.x.n
        if not self.x.n or not other.x.n:
            return self if self.x.n else other
        cross = self.cov * (self.x.n - 1) + other.cov * (other.x.n - 1)
        cross += (other.x.mean - self.x.mean) * (other.y.mean - self.y.mean) * self.x.n * other.x.n / n
        return PairMoments(self.x.merge(other.x), self.y.merge(other.y), cross / (n - 1))


@dataclass(frozen=True)
class ArmMoments:
    """One arm: its members, their metrics, pairs of metrics, and how many windows are still open."""

    n: int
    metrics: Mapping[str, Moments]
    pairs: Mapping[tuple[str, str], PairMoments]
    open_windows: int = 0

    def merge(self, other: ArmMoments) -> ArmMoments:
        """Both together: days, segments or stores of one arm."""
        return ArmMoments(
            self.n + other.n,
            {name: found.merge(other.metrics[name]) for name, found in self.metrics.items()},
            {name: found.merge(other.pairs[name]) for name, found in self.pairs.items()},
            self.open_windows + other.open_windows,
        )


def merge_all(parts: Iterable[ArmMoments]) -> ArmMoments:
    """All parts of an arm together."""
    return reduce(ArmMoments.merge, parts)


_UNITS = """
WITH exposed AS (
  SELECT member_id, arm, "at" AS from_at, "at" + to_days(CAST($days AS INTEGER)) AS until_at
  FROM assignments
),
bought AS (
  -- An order counts from the moment of assignment on, within the member's own window.
  SELECT e.member_id, SUM(o.net_minor) AS revenue, COUNT(*) FILTER (o.net_minor > 0) AS orders
  FROM exposed e JOIN orders o ON o.member_id = e.member_id
  WHERE o.ordered_at >= e.from_at AND o.ordered_at < e.until_at AND o.ordered_at < $as_of
  GROUP BY e.member_id
),
gained AS (
  SELECT e.member_id, SUM(l.amount_minor * COALESCE(p.margin, $margin)) AS margin
  FROM exposed e JOIN order_lines l ON l.member_id = e.member_id
    LEFT JOIN products p ON p.source = l.source AND p.sku = l.sku
  WHERE l.ordered_at >= e.from_at AND l.ordered_at < e.until_at AND l.ordered_at < $as_of
    AND l.status <> 'cancelled' AND NOT l.refunded
  GROUP BY e.member_id
),
units AS (
  SELECT e.arm, e.member_id, e.until_at > $as_of AS open_window,
    CAST(COALESCE(b.revenue, 0) AS DOUBLE) AS revenue,
    CAST(COALESCE(b.orders, 0) AS DOUBLE) AS orders,
    CAST(COALESCE(b.orders, 0) > 0 AS DOUBLE) AS converted,
    CAST(COALESCE(g.margin, 0) AS DOUBLE) AS margin
  FROM exposed e LEFT JOIN bought b USING (member_id) LEFT JOIN gained g USING (member_id)
)
"""


def _scan_sql() -> str:
    # Names come from the constants above only.
    parts = [f"AVG({m}) AS mean_{m}, COALESCE(VAR_SAMP({m}), 0) AS var_{m}" for m in METRICS]
    parts += [f"COALESCE(COVAR_SAMP({x}, {y}), 0) AS cov_{x}_{y}" for x, y in PAIRS]
    return (
        f"{_UNITS} SELECT arm, COUNT(*) AS n, COUNT(*) FILTER (open_window) AS open_windows, "  # noqa: S608
        f"{', '.join(parts)} FROM units GROUP BY arm ORDER BY arm"
    )


def scan(
    engine: Engine,
    assignments: pa.Table,
    *,
    window_days: int,
    as_of: datetime,
    default_margin: float = DEFAULT_MARGIN,
) -> dict[str, ArmMoments]:
    """The moments of every arm that has members, by one query.

    ``assignments``: (member_id, arm, at), a row a member; orders count in [at, at + window_days) and
    before ``as_of``. InvalidInput: a member who is there twice, or a window that is none.
    """
    if not 1 <= window_days <= MAX_WINDOW_DAYS:
        raise InvalidInput(f"The window has 1 to {MAX_WINDOW_DAYS} days.", "window_days")
    table = assignments.select(ASSIGNMENTS_SCHEMA.names).cast(ASSIGNMENTS_SCHEMA)
    members = table.column("member_id")
    if len(members.unique()) < len(members):
        raise InvalidInput(
            "Some members are assigned more than once; give each member one row, the first assignment.",
            "assignments",
        )
    params = {"days": window_days, "as_of": as_of, "margin": default_margin}
    rows = engine.query(_scan_sql(), params, {"assignments": table}).to_pylist()
    return {row["arm"]: _arm(row) for row in rows}


def _arm(row: Mapping[str, float]) -> ArmMoments:
    n = int(row["n"])
    metrics = {m: Moments(n, row[f"mean_{m}"], row[f"var_{m}"]) for m in METRICS}
    pairs = {(x, y): PairMoments(metrics[x], metrics[y], row[f"cov_{x}_{y}"]) for x, y in PAIRS}
    return ArmMoments(n, metrics, pairs, int(row["open_windows"]))
