"""Cohort retention: members by the period of their first order, and what they did in each period since.

Definition. A cohort are the members whose first order ever lies in one month (or week, Monday to
Sunday) of the shop's zone. ``offset`` counts periods from that one: 0 is the period of the first
order itself. In each period a cell says how many of the cohort ordered, how many orders, and their
revenue net of refunds. Orders count as in the RFM measures: paid, or refunded in part. Retention at
an offset is the share of the cohort with an order in that very period, so it may rise again.

A period that is not over as of the date is ``partial``; later ones have no cell at all. Averages
are weighted by the cohorts' sizes and leave partial cells out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pyarrow as pa

from core.errors import InvalidInput
from core.times import instant, micros
from core.warehouse.engine import DuckEngine
from segments.scores import sql

Period = Literal["month", "week"]
LIMITS: dict[Period, int] = {"month": 36, "week": 52}
"""Cohorts at most: a member's periods are bits of one 64-bit number."""
MAX_CHANNELS = 50
_BEGINNING = -(2**62)
_MONDAY = date(1970, 1, 5)


@dataclass(frozen=True)
class Cell:
    """What a cohort did ``offset`` periods after its first orders."""

    offset: int
    members: int
    """Who ordered in this period."""
    orders: int
    revenue_minor: int
    partial: bool
    """The period is not over yet: these figures will grow."""


@dataclass(frozen=True)
class Cohort:
    """Members who ordered first from ``start`` to ``end`` (exclusive)."""

    start: date
    end: date
    size: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Average:
    """All cohorts together at one offset, whole periods only; ``size`` is their members together."""

    offset: int
    size: int
    members: int
    orders: int
    revenue_minor: int


@dataclass(frozen=True)
class Cohorts:
    """Cohorts, the oldest first, beginning with the first that has members."""

    as_of: date
    period: Period
    cohorts: tuple[Cohort, ...]
    averages: tuple[Average, ...]

    @property
    def members(self) -> int:
        return sum(cohort.size for cohort in self.cohorts)


def periods(period: Period, count: int, as_of: date) -> list[tuple[date, date]]:
    """(start, end) of the newest ``count`` periods that had begun before ``as_of``, the oldest first."""
    found: list[tuple[date, date]] = []
    start = _start(period, as_of - timedelta(days=1))
    while len(found) < count:
        found.append((start, _next(period, start)))
        start = _start(period, start - timedelta(days=1))
    return found[::-1]


def _start(period: Period, day: date) -> date:
    return day.replace(day=1) if period == "month" else day - timedelta(days=(day - _MONDAY).days % 7)


def _next(period: Period, start: date) -> date:
    return start + timedelta(days=7) if period == "week" else _start("month", start + timedelta(days=31))


def cohorts(
    engine: DuckEngine,
    as_of: date,
    zone: ZoneInfo,
    *,
    period: Period = "month",
    count: int = 12,
    channel: str | None = None,
    members: pa.Table | None = None,
) -> Cohorts:
    """The newest ``count`` cohorts as of a date, in one query.

    ``channel`` keeps the members whose first order came through it; ``members`` (an Arrow table with
    ``member_id``, as :meth:`segments.evaluate.Evaluator.members` answers) keeps those. Raises
    InvalidInput for a count that is out of range.
    """
    if period not in LIMITS:
        raise InvalidInput(f"Cohorts are by {' or '.join(LIMITS)}.", "period")
    if not 1 <= count <= LIMITS[period]:
        raise InvalidInput(f"From 1 to {LIMITS[period]} cohorts.", "count")
    spans = periods(period, count, as_of)
    edges = [
        _BEGINNING,
        *(micros(instant(start, zone)) for start, _ in spans),
        micros(instant(spans[-1][1], zone)),
    ]
    table = pa.table({"n": list(range(len(spans) + 1)), "starts": edges[:-1], "ends": edges[1:]})
    tables = {"periods": table}
    params: dict[str, Any] = {"as_of": micros(instant(as_of, zone))}
    only = ""
    if channel is not None:
        only += f"SEMI JOIN ({sql('explore_cohorts_channel')}) AS c ON c.member_id = b.member_id\n"
        params["channel"] = channel
    if members is not None:
        only += "SEMI JOIN wanted AS w ON w.member_id = b.member_id"
        tables["wanted"] = members.select(["member_id"])
    rows = engine.query(sql("explore_cohorts").replace("{only}", only), params, tables).to_pylist()
    found = _assemble(rows, spans, as_of)
    return Cohorts(as_of, period, found, _averages(found))


def _assemble(rows: list[dict[str, Any]], spans: list[tuple[date, date]], as_of: date) -> tuple[Cohort, ...]:
    """Rows (cohort, n, members, orders, revenue) as cohorts; where nobody ordered stands a nought."""
    known = {(row["cohort"], row["n"]): row for row in rows}
    found: list[Cohort] = []
    for number, (start, end) in enumerate(spans, 1):
        size = known[number, number]["members"] if (number, number) in known else 0
        if not size and not found:
            continue
        cells = []
        for n in range(number, len(spans) + 1):
            row = known.get((number, n), {"members": 0, "orders": 0, "revenue": 0})
            partial = spans[n - 1][1] > as_of
            cells.append(Cell(n - number, row["members"], row["orders"], row["revenue"], partial))
        found.append(Cohort(start, end, size, tuple(cells)))
    return tuple(found)


def _averages(found: tuple[Cohort, ...]) -> tuple[Average, ...]:
    averages = []
    for offset in range(max((len(cohort.cells) for cohort in found), default=0)):
        # A cohort's cell at an offset is whole in just the cohorts that are old enough for it.
        pairs = [
            (cohort.size, cohort.cells[offset])
            for cohort in found
            if cohort.size and offset < len(cohort.cells) and not cohort.cells[offset].partial
        ]
        if pairs:
            averages.append(
                Average(
                    offset,
                    sum(size for size, _ in pairs),
                    sum(cell.members for _, cell in pairs),
                    sum(cell.orders for _, cell in pairs),
                    sum(cell.revenue_minor for _, cell in pairs),
                )
            )
    return tuple(averages)


def channels(engine: DuckEngine) -> list[str]:
    """Channels that orders came through, the most used first."""
    found = engine.query(sql("explore_channels"), {"rows": MAX_CHANNELS})
    return [str(row["channel"]) for row in found.to_pylist()]
