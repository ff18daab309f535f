"""Where members moved between two dates: a matrix of stages, RFM segments or value segments.

Guarantees: counts come from two snapshots that a refresh wrote, nothing is computed anew; which
snapshots were taken is part of the answer. Every member of either snapshot is in just one cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

from core.errors import InvalidInput
from core.warehouse.engine import DuckEngine
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, snapshot_path, sql
from segments.settings import RFM_TITLES, STAGE_TITLES, VALUE_TITLES

ABSENT = "absent"
"""In one snapshot only: not yet a member at the first date, or erased by the second."""
UNSCORED = "unscored"
"""A member without an order in the window has no RFM and no value segment."""
COLUMNS = {
    "stage": (*STAGE_TITLES, UNSCORED, ABSENT),
    "rfm_segment": (*RFM_TITLES, UNSCORED, ABSENT),
    "value_segment": (*VALUE_TITLES, UNSCORED, ABSENT),
}
"""Column of a snapshot → its values, in the order in which they are shown."""
MAX_ROWS = 1000


@dataclass(frozen=True)
class Cell:
    """Members who stood at ``source`` on the first date and at ``target`` on the second."""

    source: str
    target: str
    members: int


@dataclass(frozen=True)
class Moves:
    """The matrix. ``before`` and ``after`` are the dates of the snapshots that were compared."""

    column: str
    before: date
    after: date
    cells: tuple[Cell, ...]

    @cached_property
    def _counts(self) -> dict[tuple[str, str], int]:
        return {(cell.source, cell.target): cell.members for cell in self.cells}

    def count(self, source: str, target: str) -> int:
        return self._counts.get((source, target), 0)

    def at_start(self, name: str) -> int:
        """Members who stood at ``name`` on the first date: the base of its row."""
        return sum(cell.members for cell in self.cells if cell.source == name)

    def at_end(self, name: str) -> int:
        return sum(cell.members for cell in self.cells if cell.target == name)

    def net(self, name: str) -> int:
        """How much ``name`` grew (or shrank) between the dates."""
        return self.at_end(name) - self.at_start(name)

    def share(self, source: str, target: str) -> float | None:
        """Share of the row: of those at ``source``, how many stand at ``target`` now. None without a base."""
        base = self.at_start(source)
        return self.count(source, target) / base if base else None

    @property
    def sources(self) -> tuple[str, ...]:
        return self._seen({cell.source for cell in self.cells})

    @property
    def targets(self) -> tuple[str, ...]:
        return self._seen({cell.target for cell in self.cells})

    @property
    def names(self) -> tuple[str, ...]:
        """Every value seen on either date, in its order."""
        return self._seen({name for cell in self.cells for name in (cell.source, cell.target)})

    def _seen(self, found: set[str]) -> tuple[str, ...]:
        known = COLUMNS[self.column]
        return tuple(name for name in (*known, *sorted(found - set(known))) if name in found)

    @property
    def members(self) -> int:
        """Everybody in either snapshot."""
        return sum(cell.members for cell in self.cells)

    @property
    def moved(self) -> int:
        """Members of both snapshots whose value differs."""
        return sum(
            cell.members
            for cell in self.cells
            if cell.source != cell.target and ABSENT not in (cell.source, cell.target)
        )

    @property
    def stayed(self) -> int:
        return sum(cell.members for cell in self.cells if cell.source == cell.target)


def available(engine: DuckEngine) -> list[date]:
    """Dates that have a snapshot, the oldest first."""
    names = (
        path.rsplit("/", 1)[-1].removesuffix(".parquet")
        for path in engine.replica.files("snapshots", SNAPSHOT)
    )
    return sorted(date.fromisoformat(name) for name in names)


def nearest(days: Sequence[date], wanted: date) -> date | None:
    """The snapshot nearest to a date (of two equally near the earlier); None without any."""
    return min(days, key=lambda day: (abs((day - wanted).days), day), default=None)


def matrix(engine: DuckEngine, column: str, before: date, after: date) -> Moves:
    """Compare the snapshots of two dates (see :func:`nearest`).

    Raises InvalidInput for a column that is none of :data:`COLUMNS`, dates in the wrong order, and
    a date without a snapshot.
    """
    _check(engine, column, before, after)
    rows = _run(engine, "explore_moves", column, before, after, {})
    cells = [Cell(row["source"], row["target"], row["members"]) for row in rows]
    cells.sort(key=lambda cell: (-cell.members, cell.source, cell.target))
    return Moves(column, before, after, tuple(cells))


def members(
    engine: DuckEngine,
    column: str,
    before: date,
    after: date,
    source: str,
    target: str,
    *,
    rows: int | None,
    skip: int = 0,
) -> list[int]:
    """Ids of the members of one cell in ascending order: ``rows`` of them (None: all) after ``skip``."""
    _check(engine, column, before, after)
    page = {
        "source": source,
        "target": target,
        "rows": None if rows is None else min(rows, MAX_ROWS),
        "skip": skip,
    }
    found = _run(engine, "explore_moves_members", column, before, after, page)
    return [row["member_id"] for row in found]


def _check(engine: DuckEngine, column: str, before: date, after: date) -> None:
    if column not in COLUMNS:
        raise InvalidInput(f"Moves are counted between {', '.join(COLUMNS)}, not “{column}”.", "column")
    if before >= after:
        raise InvalidInput("The first date must lie before the second.", "before")
    for field, day in (("before", before), ("after", after)):
        if snapshot_path(engine, SNAPSHOT, day) is None:
            raise InvalidInput(f"There is no snapshot of {day}: choose the date of a refresh.", field)


def _run(
    engine: DuckEngine, name: str, column: str, before: date, after: date, more: dict[str, Any]
) -> list[dict[str, Any]]:
    text = sql(name).replace("{column}", column)
    with engine.connect() as connection:
        for view, day in (("before", before), ("after", after)):
            engine.add_view(connection, view, snapshot_path(engine, SNAPSHOT, day), SNAPSHOT_SCHEMA)
        params = {"absent": ABSENT, "unscored": UNSCORED, **more}
        found: list[dict[str, Any]] = connection.sql(text, params=params).to_arrow_table().to_pylist()
    return found
