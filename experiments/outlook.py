"""What an experiment over an audience could find, from what these members did just before.

Guarantees: one scan of the warehouse whatever the number of durations and members; the variance of each
duration is that of a window of this length, never scaled from another (retention: of its own days, whatever
the duration); what is not known of the past (a
history shorter than the window) is said beside the number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import special

from core.errors import InvalidInput
from core.warehouse.engine import Engine
from experiments import metric_scan, metrics
from experiments.metric_scan import BEFORE, BELOW, BELOW_BEFORE, VALUE
from experiments.metrics import MARGIN_COLUMN, PROPORTION, QUANTILE, RATIO, RETENTION, MetricSpec
from experiments.moments import DEFAULT_MARGIN, MAX_WINDOW_DAYS
from experiments.stats import cuped, power, quantile, sequential
from experiments.stats.joint import Joint, Mean, Ratio, value_and_gradient

FIXED, SEQUENTIAL = "fixed", "sequential"
METHODS = (FIXED, SEQUENTIAL)
HOLDOUTS = (0.05, 0.1, 0.2, 0.3, 0.5)
DURATIONS = (7, 14, 28, 56)
"""Days: 1, 2, 4 and 8 weeks."""
MAX_DURATIONS = 8
MIN_TUNING, MAX_TUNING = 100, 1_000_000_000
_MONEY = "revenue"
_Z = -float(special.ndtri(0.025))
"""Of the interval at 95 % whose width says a quantile's standard error."""


@dataclass(frozen=True)
class History:
    """A metric over an audience in the ``days`` before a moment, a member's window each.

    ``variance`` is that of one member's value (of a ratio: linearised; of a quantile: n times its squared
    standard error, by order statistics), ``adjusted`` what CUPED leaves of
    it with the same metric in the window of equal length before; ``rho`` their correlation, so that
    adjusted = (1 − rho²)·variance. ``zeros``: share of members with a value of 0 (of a ratio: without a
    denominator). ``revenue``: net minor units a member. ``short``: the facts do not reach back so far.
    """

    days: int
    n: int
    mean: float
    variance: float
    adjusted: float
    zeros: float
    rho: float
    revenue: float
    short: bool = False

    @property
    def sd(self) -> float:
        return math.sqrt(self.variance)

    @property
    def gain(self) -> float:
        """The share of the variance that CUPED takes away, rho²."""
        return self.rho**2


def history(
    engine: Engine, members: pa.Table, spec: MetricSpec, now: datetime, days: Sequence[int] = DURATIONS
) -> list[History]:
    """The metric over ``members`` (a column member_id) in each of the windows [now − days, now).

    The metric's own window is not used, but for the length of retention's; its conditions and winsorising
    are.
    InvalidInput: an audience of fewer than two, a metric that cannot be computed, or lengths that are none.
    """
    metrics.check(spec, engine.replica.facts)
    if not 1 <= len(days) <= MAX_DURATIONS or not all(1 <= one <= MAX_WINDOW_DAYS for one in days):
        raise InvalidInput(
            f"Give 1 to {MAX_DURATIONS} durations of 1 to {MAX_WINDOW_DAYS} days.", "duration_days"
        )
    if members.num_rows < 2:
        raise InvalidInput("The audience has fewer than two members; choose a wider one.", "audience")
    params: dict[str, Any] = {"now": now}
    sql = _sql(engine, spec, days, len(members["member_id"].unique()), params)
    row = engine.query(sql, params, {"audience": members.select(["member_id"])}).to_pylist()[0]
    return [_history(spec, one, row, now) for one in days]


def _roles(spec: MetricSpec) -> list[str]:
    if spec.kind in (QUANTILE, RETENTION):
        return [VALUE]  # neither has a covariate
    return [VALUE, BELOW, BEFORE, BELOW_BEFORE] if spec.kind == RATIO else [VALUE, BEFORE]


def _length(spec: MetricSpec, days: int) -> int:
    """The window's length of a plan of so many days."""
    return spec.until_day - spec.from_day if spec.kind == RETENTION else days


def _sql(engine: Engine, spec: MetricSpec, days: Sequence[int], n: int, params: dict[str, Any]) -> str:
    time = f'x."{engine.replica.facts[spec.fact].month_column}"'
    rows = metric_scan.conditions(spec, "p", params)
    columns, capped = [], []
    for one in days:
        for role in _roles(spec):
            length = _length(spec, one)
            start, end = (length, 0) if role in (VALUE, BELOW) else (2 * length, length)
            value = spec.denominator if role in (BELOW, BELOW_BEFORE) else spec.value
            test = [f"{time} >= $now - to_days({start})", f"{time} < $now - to_days({end})", *rows]
            sql = metric_scan.aggregate(spec, value, " AND ".join(test), f"v_{role}", params)
            columns.append((f"{role}_{one}", sql))
            if spec.winsorise is not None and role in (VALUE, BEFORE):
                capped.append(f"{role}_{one}")
    listed = ",\n    ".join(f"{sql} AS {name}" for name, sql in columns)
    money = ",\n    ".join(
        f"SUM(x.net_minor) FILTER (x.ordered_at >= $now - to_days({one})) AS {_MONEY}_{one}" for one in days
    )
    names = [name for name, _ in columns] + [f"{_MONEY}_{one}" for one in days]
    units = ", ".join(f"COALESCE(CAST({name} AS DOUBLE), 0) AS {name}" for name in names)
    caps = ", ".join(f"quantile_cont({name}, {spec.winsorise!r}) AS {name}" for name in capped)
    ready = ", ".join(
        f"LEAST(u.{name}, k.{name}) AS {name}" if name in capped else f"u.{name}" for name in names
    )
    answers = ",\n  ".join(part for one in days for part in _answers(spec, one, n))
    back = 2 * max(_length(spec, one) for one in days)
    return f"""
WITH asked AS (SELECT DISTINCT member_id FROM audience),
f AS (
  SELECT x.member_id,
    {listed}
  FROM {metric_scan.source(spec.fact, [spec])} x SEMI JOIN asked a ON a.member_id = x.member_id
  WHERE {time} >= $now - to_days({back}) AND {time} < $now
  GROUP BY x.member_id
),
money AS (
  SELECT x.member_id,
    {money}
  FROM orders x SEMI JOIN asked a ON a.member_id = x.member_id
  WHERE x.ordered_at >= $now - to_days({max(days)}) AND x.ordered_at < $now
  GROUP BY x.member_id
),
units AS MATERIALIZED (
  SELECT {units}
  FROM asked LEFT JOIN f USING (member_id) LEFT JOIN money USING (member_id)
){f", caps AS (SELECT {caps} FROM units)" if capped else ""},
ready AS (SELECT {ready} FROM units u{" CROSS JOIN caps k" if capped else ""})
SELECT COUNT(*) AS n, (SELECT MIN({time}) FROM "{spec.fact}" x) AS first,
  {answers}
FROM ready
"""  # noqa: S608


def _ranks(spec: MetricSpec, n: int) -> tuple[int, int] | None:
    """The order statistics between which a quantile lies; None where too few members lie beyond it."""
    q = spec.q or 0.0
    if n * min(q, 1 - q) < quantile.MIN_BEYOND:
        return None
    width = _Z * math.sqrt(n * q * (1 - q))
    return max(math.floor(n * q - width), 1), min(math.ceil(n * q + width) + 1, n)


def _answers(spec: MetricSpec, days: int, n: int) -> list[str]:
    names = [f"{role}_{days}" for role in _roles(spec)]
    tested = f"{BELOW if spec.kind == RATIO else VALUE}_{days}"
    found = [
        f"AVG({_MONEY}_{days}) AS mean_{_MONEY}_{days}",
        f"COUNT(*) FILTER ({tested} = 0) AS zeros_{days}",
    ]
    for i, one in enumerate(names):
        found += [f"AVG({one}) AS mean_{one}", f"COALESCE(VAR_SAMP({one}), 0) AS var_{one}"]
        found += [f"COALESCE(COVAR_SAMP({one}, {other}), 0) AS cov_{one}_{other}" for other in names[i + 1 :]]
    if spec.kind == QUANTILE and (ranks := _ranks(spec, n)) is not None:
        value = f"{VALUE}_{days}"
        # The order statistic of a rank is the interpolated quantile at (rank − 1) / (n − 1).
        places = {"q": spec.q or 0.0, "low": (ranks[0] - 1) / (n - 1), "high": (ranks[1] - 1) / (n - 1)}
        found += [f"quantile_cont({value}, {at!r}) AS {name}_{days}" for name, at in places.items()]
    return found


def _history(spec: MetricSpec, days: int, row: dict[str, Any], now: datetime) -> History:
    roles = _roles(spec)
    names = [f"{role}_{days}" for role in roles]
    cov = np.diag([row[f"var_{name}"] for name in names]).astype(np.float64)
    for i, one in enumerate(names):
        for j in range(i + 1, len(names)):
            cov[i, j] = cov[j, i] = row[f"cov_{one}_{names[j]}"]
    n = int(row["n"])
    joint = Joint(n, tuple(roles), np.array([row[f"mean_{name}"] for name in names], np.float64), cov)
    first = row["first"]
    base = (float(row[f"mean_{_MONEY}_{days}"]), first is None or (now - first).days < _length(spec, days))
    zeros = row[f"zeros_{days}"] / n
    if spec.kind == QUANTILE:
        if _ranks(spec, n) is None:
            return History(days, n, 0.0, 0.0, 0.0, zeros, 0.0, *base)
        variance = n * ((row[f"high_{days}"] - row[f"low_{days}"]) / (2 * _Z)) ** 2
        return History(days, n, float(row[f"q_{days}"]), variance, variance, zeros, 0.0, *base)
    if spec.kind == RATIO and joint.means[1] == 0:
        return History(days, n, 0.0, 0.0, 0.0, zeros, 0.0, *base)
    metric = Ratio(VALUE, BELOW) if spec.kind == RATIO else Mean(VALUE)
    mean, gradient = value_and_gradient(joint, metric)
    variance = max(float(gradient @ cov @ gradient), 0.0)
    before = [Mean(role) for role in roles if role in (BEFORE, BELOW_BEFORE)]
    left = cuped.adjust({"all": joint}, metric, before)["all"].var * n if before else variance
    left = min(left, variance)
    rho = math.sqrt(1 - left / variance) if variance else 0.0
    return History(days, n, mean, variance, left, zeros, rho, *base)


@dataclass(frozen=True)
class Terms:
    """What the options are reckoned by.

    ``wanted``: the relative effect worth finding, also the one that the holdout forgoes; ``margin``: share
    of revenue; ``reach``: share of the audience that will be eligible; ``arm_share``: of those who are sent
    to, in the smallest variant; ``adjusted``: by CUPED.
    """

    alpha: float = 0.05
    power: float = 0.8
    wanted: float = 0.1
    margin: float = DEFAULT_MARGIN
    reach: float = 1.0
    arm_share: float = 1.0
    adjusted: bool = False
    method: str = FIXED
    tuning: float = sequential.DEFAULT_TUNING

    def check(self) -> None:
        """InvalidInput: a number that is out of bounds."""
        shares = {"wanted": self.wanted, "reach": self.reach, "arm_share": self.arm_share}
        for name, value in shares.items():
            if not 0 < value <= (10 if name == "wanted" else 1):
                raise InvalidInput(f"{name} is a share above 0; {value:g} is out of bounds.", name)
        if not 0 <= self.margin <= 1:
            raise InvalidInput("The margin is a share of the revenue between 0 and 1.", "margin")
        if not 0 < self.alpha < 1 or not 0 < self.power < 1:
            raise InvalidInput("Alpha and power lie between 0 and 1 (0.05 and 0.8 are usual).", "alpha")
        if self.method not in METHODS:
            raise InvalidInput(f"The method is one of {', '.join(METHODS)}.", "method")
        if not MIN_TUNING <= self.tuning <= MAX_TUNING:
            raise InvalidInput(f"N* is a number of members from {MIN_TUNING} to {MAX_TUNING}.", "tuning")


@dataclass(frozen=True)
class Option:
    """A holdout of that size for that long: members, and the smallest difference that is found.

    ``fixed`` and ``sequential`` are in the metric's unit; ``mde`` is the chosen method's, ``relative`` its
    share of the baseline (None where that is 0). ``cost_minor``: what those held out would have brought
    with the effect that is wanted. ``needed``: members in all, eligible, for the effect that is wanted
    (fixed). None: the past has no variance to reckon with.
    """

    holdout: float
    days: int
    held: int
    treated: int
    fixed: float | None
    sequential: float | None
    mde: float | None
    relative: float | None
    cost_minor: float
    needed: float | None
    short: bool


def options(
    spec: MetricSpec, found: Sequence[History], terms: Terms, holdouts: Sequence[float] = HOLDOUTS
) -> list[Option]:
    """Every holdout × every duration, pure. By NORMAL's formula; sequential: the half width of the
    confidence sequence at the end, and the power's share of the standard error on top."""
    terms.check()
    if not all(0 < holdout < 1 for holdout in holdouts):
        raise InvalidInput("A holdout is a share between 0 and 1.", "holdout")
    return [_option(spec, one, holdout, terms) for holdout in holdouts for one in found]


def _option(spec: MetricSpec, one: History, holdout: float, terms: Terms) -> Option:
    eligible = one.n * terms.reach
    held, treated = round(eligible * holdout), round(eligible * (1 - holdout) * terms.arm_share)
    variance = one.adjusted if terms.adjusted else one.variance
    lost = effect_minor(spec, one, terms.wanted, terms.margin) * held
    if variance <= 0 or held < 2 or treated < 2:
        return Option(holdout, one.days, held, treated, None, None, None, None, lost, None, one.short)
    fixed = power.mde(variance, held, treated, terms.alpha, terms.power)
    var = variance / held + variance / treated
    z_power = float(special.ndtri(terms.power))
    wide = sequential.half_width(held + treated, var, terms.alpha, terms.tuning) + z_power * math.sqrt(var)
    mde = wide if terms.method == SEQUENTIAL else fixed
    return Option(
        holdout,
        one.days,
        held,
        treated,
        fixed,
        wide,
        mde,
        mde / one.mean if one.mean > 0 else None,
        lost,
        needed(variance, terms.wanted * one.mean, holdout, terms) if one.mean > 0 else None,
        one.short,
    )


def needed(variance: float, effect: float, holdout: float, terms: Terms) -> float:
    """Eligible members in all who show a difference of ``effect`` (in the metric's unit), by NORMAL's
    formula with ``holdout`` held out."""
    if effect <= 0:
        raise InvalidInput("The effect is above 0.", "wanted")
    z = -float(special.ndtri(terms.alpha / 2)) + float(special.ndtri(terms.power))
    return z**2 * variance / effect**2 * (1 / holdout + 1 / ((1 - holdout) * terms.arm_share))


def effect_minor(spec: MetricSpec, one: History, relative: float, margin: float) -> float:
    """What a relative effect leaves of a member, in minor units: of the revenue, by ``margin``; a metric
    that is margin already by itself. A metric without money is taken to move revenue by the same share."""
    if spec.value == MARGIN_COLUMN and spec.kind not in (RATIO, PROPORTION):
        return relative * one.mean
    if spec.fact == "orders" and spec.value == "net_minor" and spec.kind == metrics.MEAN:
        return relative * one.mean * margin
    return relative * one.revenue * margin


@dataclass(frozen=True)
class Advice:
    """The cheapest option that finds the wanted effect; where none does, the one that finds most."""

    option: Option
    finds: bool


def recommend(found: Sequence[Option], terms: Terms) -> Advice | None:
    """One option of all; None where nothing can be reckoned. Equal cost: the shorter, then the smaller."""
    known = [one for one in found if one.relative is not None]
    enough = [one for one in known if one.relative is not None and one.relative <= terms.wanted]
    if enough:
        sure = [one for one in enough if not one.short] or enough
        return Advice(min(sure, key=lambda one: (one.cost_minor, one.days, one.holdout)), True)
    if not known:
        return None
    return Advice(min(known, key=lambda one: (one.relative or 0.0, one.days)), False)
