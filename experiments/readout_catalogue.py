"""Metrics of the catalogue in a read-out: the plan's goal, and what is shown beside it.

Guarantees: a metric is measured by the definition of the version that was planned, in the plan's window; one
scan for all of them, and for the goal one more a dimension and one for its days; θ of CUPED is pooled over
all arms, and the raw numbers stay where it is refused; what cannot be measured is there with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.orm import Session

from core.errors import InvalidInput
from core.warehouse.engine import Engine
from core.warehouse.replica import Fact
from experiments import catalogue, metric_scan, metrics, readout_catalogue_stats
from experiments.catalogue import BUILT_IN
from experiments.metric_scan import Cell
from experiments.metrics import QUANTILE, RETENTION, MetricSpec
from experiments.moments import ASSIGNMENTS_SCHEMA, METRICS
from experiments.planning import Plan, Shown
from experiments.readout import More
from experiments.readout_catalogue_stats import Estimated, Slope
from experiments.readout_dimensions import MAX_VALUES
from experiments.readout_dimensions import of_estimates as dimension_of
from experiments.readout_form import DAYS, OTHER, Dimension, Measure, Result, Timeline
from experiments.readout_timeline import of_estimates as timeline_of
from experiments.stats.joint import merge_all

UNKNOWN = str(
    InvalidInput("The metric of the planned version is not known any more, so it cannot be measured.")
)
"""Made as refusals are, so that they are translated with them."""
MAX_POINTS = 14
"""Days of a timeline: each is a column a member, so fewer than of the read-out's own metrics."""
MAX_ALSO = 20
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Asked:
    """A metric that is to be measured: ``key`` names it in the results; ``refused``: why it cannot be."""

    key: str
    measure: Measure
    spec: MetricSpec | None
    refused: str | None = None


@dataclass(frozen=True)
class Goal:
    """What a read-out is about: ``key`` names its results; ``asked`` where the catalogue defines it."""

    key: str
    asked: Asked | None
    also: tuple[Asked, ...] = ()

    @property
    def all(self) -> tuple[Asked, ...]:
        """What the catalogue is asked for, the goal first."""
        return (*([self.asked] if self.asked else []), *self.also)


def of_plan(
    session: Session,
    facts: Mapping[str, Fact],
    plan: Plan | None,
    also: Sequence[Shown],
    usual: str,
    window_days: int,
) -> Goal:
    """The goal of the plan that binds (else ``usual``, one of the read-out's own), and what is shown beside.

    A metric that says the same as one of the read-out's own is that one, and is not measured twice.
    """
    days = window_days if plan is None else plan.duration_days
    goal, asked = usual, None
    if plan is not None:
        asked = _asked(session, facts, plan.metric, plan.metric_version, days, plan.adjusted)
        goal = plan.metric if asked is None else asked.key
    found: dict[str, Asked] = {}
    for one in also[:MAX_ALSO]:
        more = _asked(session, facts, one.metric, one.version, days, False)
        if more is not None and more.key != goal:
            found.setdefault(more.key, more)
    return Goal(goal, asked, tuple(found.values()))


def _asked(
    session: Session, facts: Mapping[str, Fact], name: str, version: int, days: int, adjusted: bool
) -> Asked | None:
    """None: it is one of the read-out's own."""
    spec = catalogue.spec_at(session, name, version)
    if spec is not None and _own(spec):
        return None
    key = f"{name}@{version}" if name in METRICS else name
    if spec is None:
        return Asked(key, Measure(name, version, metrics.MEAN, "number", 0, days), None, UNKNOWN)
    window = _windowed(spec, days, adjusted)
    measure = Measure(
        name, version, spec.kind, unit_of(spec), window.from_day, window.until_day, window.covariate_days,
        spec.higher_is_better,
    )  # fmt: skip
    try:
        metrics.check(window, facts)
    except InvalidInput as refusal:
        return Asked(key, measure, None, str(refusal))
    return Asked(key, measure, window)


def _own(spec: MetricSpec) -> bool:
    """Whether it says what the read-out's own metric of that name says, whatever its window."""
    ready = next((one for one in BUILT_IN if one.name == spec.name and spec.name in METRICS), None)
    if ready is None or spec.from_day:
        return False
    return (
        replace(spec, until_day=ready.until_day, covariate_days=ready.covariate_days, margin=ready.margin)
        == ready
    )


def _windowed(spec: MetricSpec, days: int, adjusted: bool) -> MetricSpec:
    """The definition in the plan's window. Retention has its own days, which are what it measures; others
    begin where theirs does, unless the plan's window is over by then."""
    if spec.kind == RETENTION:
        return spec
    before = spec.covariate_days
    if before is None and adjusted and spec.kind != QUANTILE:
        before = days  # the plan reckoned with what was before, by windows of equal length
    start = spec.from_day if spec.from_day < days else 0
    return replace(spec, from_day=start, until_day=days, covariate_days=before)


def unit_of(spec: MetricSpec) -> str:
    """``money`` (minor units), ``share``, ``days`` or ``number``."""
    unit = catalogue.unit_of(spec)
    column = (spec.value or "").removeprefix(metrics.PROPERTY)
    return DAYS if unit == "number" and (column == "days" or column.endswith("_days")) else unit


@dataclass(frozen=True)
class Measured:
    """What was measured: for the read-out, and of the goal its days and its groups."""

    more: More
    timeline: Timeline | None
    dimensions: list[Dimension]


def measure(
    engine: Engine,
    assignments: pa.Table,
    goal: Goal,
    arms: Sequence[str],
    control: str,
    *,
    as_of: datetime,
    alpha: float,
    tuning: float,
) -> Measured:
    """Everything that the catalogue is asked for. ``assignments`` as in
    :func:`experiments.readout_scan.scan`: further columns are dimensions; ``arms`` are the treated ones."""
    cells = _scan(engine, assignments, goal.all, as_of, alpha)
    results: list[Result] = []
    estimated: Estimated | None = None
    for one in goal.all:
        found = readout_catalogue_stats.estimates(one.spec, cells.get(one.key, {}), one.refused)
        results += readout_catalogue_stats.results(
            one.key, one.measure, found, cells.get(one.key, {}), arms, control, alpha, tuning
        )
        if goal.asked is not None and one.key == goal.key:
            estimated = found
    open_windows = sum(cell.open_windows for cell in cells.get(goal.key, {}).values())
    more = More({one.key: one.measure for one in goal.all}, tuple(results), open_windows)
    asked = goal.asked
    if asked is None or asked.spec is None or estimated is None or estimated.refused:
        return Measured(more, None, [])
    slope = estimated.slope
    return Measured(
        more,
        _timeline(engine, assignments, asked, slope, arms, control, as_of, alpha, tuning),
        _dimensions(engine, assignments, asked, slope, arms, control, as_of, alpha),
    )


def _scan(
    engine: Engine, assignments: pa.Table, asked: Sequence[Asked], as_of: datetime, alpha: float
) -> dict[str, dict[str, Cell]]:
    """key → arm → cell, by one scan."""
    wanted = [one for one in asked if one.spec is not None]
    if not wanted or not assignments.num_rows:
        return {}
    # The scan names metrics by number: keys may be longer than names, or be there in two versions.
    specs = [replace(one.spec, name=f"m{i}") for i, one in enumerate(wanted) if one.spec is not None]
    found = metric_scan.scan_metrics(
        engine, assignments.select(ASSIGNMENTS_SCHEMA.names), specs, as_of=as_of, alpha=alpha
    )
    return {
        one.key: {arm: cell[f"m{i}"] for (arm, part), cell in found.items() if part is None}
        for i, one in enumerate(wanted)
    }


# --- by dimension --------------------------------------------------------------------------------


def _dimensions(
    engine: Engine,
    assignments: pa.Table,
    asked: Asked,
    slope: Slope | None,
    arms: Sequence[str],
    control: str,
    as_of: datetime,
    alpha: float,
) -> list[Dimension]:
    """A scan a dimension: a member is in one group of each."""
    assert asked.spec is not None
    shown = []
    for name in assignments.column_names:
        if name in ASSIGNMENTS_SCHEMA.names:
            continue
        column, values = _merged(assignments[name])
        if len(values) < 2:
            continue
        table = assignments.select(ASSIGNMENTS_SCHEMA.names).append_column(metric_scan.DIMENSION, column)
        found = metric_scan.scan_metrics(engine, table, [asked.spec], as_of=as_of, alpha=alpha)
        groups: dict[str, dict[str, Cell]] = {value: {} for value in values}
        for (arm, part), cell in found.items():
            if part is not None:
                groups[part][arm] = cell[asked.spec.name]
        plain = {value: readout_catalogue_stats.plain(asked.spec, each) for value, each in groups.items()}
        fine = None
        if slope is not None:
            fine = {
                value: readout_catalogue_stats.adjusted(asked.spec, each, slope)
                for value, each in groups.items()
            }
        dimension = dimension_of(name, asked.key, fine, plain, arms, control, alpha)
        shown += [dimension] if dimension is not None else []
    return shown


def _merged(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[str]]:
    """The values with the rare ones as one, and which there are: the most frequent first, then the rest
    together, then those without one."""
    texts = column.cast(pa.string()).fill_null("")
    counts = {row["values"]: row["counts"] for row in pc.value_counts(texts).to_pylist()}
    known = sorted((value for value in counts if value), key=lambda value: (-counts[value], value))
    kept = known if len(known) <= MAX_VALUES else known[: MAX_VALUES - 1]
    if len(kept) < len(known):
        common = pc.is_in(texts, pa.array([*kept, ""], pa.string()))
        texts = pc.if_else(common, texts, OTHER)
    return texts, [*kept, *([OTHER] if len(kept) < len(known) else []), *([""] if "" in counts else [])]


# --- by day --------------------------------------------------------------------------------------


def days_of(measure: Measure) -> list[int]:
    """At most :data:`MAX_POINTS` days of its window, evenly spread, the last one among them."""
    first, last = measure.from_day + 1, measure.until_day
    points = min(last - first + 1, MAX_POINTS)
    return sorted({round(first - 1 + (last - first + 1) * k / points) for k in range(1, points + 1)})


def _timeline(
    engine: Engine,
    assignments: pa.Table,
    asked: Asked,
    slope: Slope | None,
    arms: Sequence[str],
    control: str,
    as_of: datetime,
    alpha: float,
    tuning: float,
) -> Timeline | None:
    """The cumulative difference by day; None of a quantile, whose parts do not add up, and of retention,
    which is of some days only.

    Members are scanned in groups by how many of the days they have reached; a day's moments are those of all
    groups that reached it.
    """
    assert asked.spec is not None
    if asked.spec.kind in (QUANTILE, RETENTION):
        return None
    days = days_of(asked.measure)
    at = assignments["at"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    closed = (int(as_of.timestamp() * 1_000_000) - at) // _DAY_US
    reached = np.searchsorted(np.array(days), closed, side="right")
    table = assignments.select(ASSIGNMENTS_SCHEMA.names)
    table = table.append_column(metric_scan.DIMENSION, pa.array(reached.astype(str), pa.string()))
    table = table.filter(pa.array(reached > 0))
    if not table.num_rows:
        return None
    specs = [replace(asked.spec, name=f"d{day}", until_day=day) for day in days]
    found = metric_scan.scan_metrics(engine, table, specs, as_of=as_of, alpha=alpha)
    plain, fine = {}, {}
    for number, day in enumerate(days, 1):
        parts: dict[str, list[Cell]] = {}
        for (arm, part), cell in found.items():
            if part is not None and int(part) >= number:
                parts.setdefault(arm, []).append(cell[f"d{day}"])
        cells = {arm: Cell(merge_all([one.joint for one in each]), 0) for arm, each in parts.items()}
        plain[day] = readout_catalogue_stats.plain(asked.spec, cells)
        if slope is not None:
            fine[day] = readout_catalogue_stats.adjusted(asked.spec, cells)
    return timeline_of(asked.key, fine if slope is not None else None, plain, arms, control, alpha, tuning)
