"""A whole read-out from the warehouse: two scans, those of the catalogue's metrics, then pure statistics.

Writes nothing. Guarantees: the timeline and the groups are of the goal, adjusted as its headline is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from core.warehouse.engine import Engine
from experiments import (
    readout_catalogue,
    readout_cuped,
    readout_dimensions,
    readout_scan,
    readout_timeline,
)
from experiments.moments import DEFAULT_MARGIN, REVENUE
from experiments.readout import Known, ReadOut, read_out
from experiments.readout_catalogue import Goal
from experiments.readout_form import Timeline

ONCE = timedelta(days=1)
"""Members who came within so long came all at once: there is no pace."""


@dataclass(frozen=True)
class Wanted:
    """What is measured: arms with their weights, and what the read-out is about: ``goal``, or ``metric``, one
    of the read-out's own."""

    weights: Mapping[str, float]
    control: str
    window_days: int
    as_of: datetime
    metric: str = REVENUE
    alpha: float = 0.05
    currency: str | None = None
    default_margin: float = DEFAULT_MARGIN
    covariate_days: int = readout_scan.COVARIATE_DAYS
    goal: Goal | None = None


@dataclass(frozen=True)
class Measured:
    """The read-out, and beside its own timeline that of revenue, of which a payback is computed."""

    readout: ReadOut
    revenue: Timeline | None


def measure(engine: Engine, assignments: pa.Table, wanted: Wanted, known: Known) -> Measured:
    """Read out the ``assignments`` (member_id, arm, at, and dimensions as further columns of text)."""
    arms, cells = readout_scan.scan(
        engine,
        assignments,
        window_days=wanted.window_days,
        as_of=wanted.as_of,
        covariate_days=wanted.covariate_days,
        default_margin=wanted.default_margin,
    )
    days = readout_timeline.scan(
        engine,
        assignments,
        window_days=wanted.window_days,
        as_of=wanted.as_of,
        covariate_days=wanted.covariate_days,
    )
    known = replace(
        known,
        pace=pace(assignments, wanted.as_of) if known.pace is None else known.pace,
        covariate_days=wanted.covariate_days,
    )
    goal = wanted.goal or Goal(wanted.metric, None)
    treated = [arm for arm in wanted.weights if arm != wanted.control]
    more = readout_catalogue.measure(
        engine,
        assignments,
        goal,
        treated,
        wanted.control,
        as_of=wanted.as_of,
        alpha=wanted.alpha,
        tuning=known.tuning,
    )
    found = read_out(
        arms,
        wanted.weights,
        wanted.control,
        wanted.alpha,
        currency=wanted.currency,
        known=known,
        goal=goal.key,
        more=more.more,
    )

    def timeline(metric: str) -> Timeline | None:
        adjusted = readout_cuped.slope(arms, metric) is not None
        return readout_timeline.timeline(
            days, metric, treated, wanted.control, wanted.alpha, known.tuning, adjusted=adjusted
        )

    if goal.asked is not None:
        found = replace(found, timeline=more.timeline, dimensions=more.dimensions)
    elif arms:
        slope = readout_cuped.slope(arms, goal.key)
        theta = None if slope is None else slope.theta
        found = replace(
            found,
            timeline=timeline(goal.key),
            dimensions=readout_dimensions.dimensions(
                cells, goal.key, treated, wanted.control, wanted.alpha, theta
            ),
        )
    return Measured(replace(found, window_days=wanted.window_days), timeline(REVENUE))


def pace(assignments: pa.Table, as_of: datetime) -> float | None:
    """New members a day since the first; None where they came all at once, or none came for as long as they
    had been coming."""
    if not assignments.num_rows:
        return None
    ends = pc.min_max(assignments["at"]).as_py()
    first, last = ends["min"], ends["max"]
    span = last - first
    if span < ONCE or as_of - last > span:
        return None
    return float(assignments.num_rows / ((as_of - first) / ONCE))
