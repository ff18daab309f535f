"""Funnels: how many members did one thing, then another, then a third, and how long it took.

Definition. A member enters with their first step between ``start`` and ``end`` (exclusive). Each
later step is the earliest event of its kind strictly after the step before, and no later than
``window`` after the first step (it may lie after ``end``). Every first step is an attempt; the
attempt that gets furthest counts, of equal ones the earliest. Everybody counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from core.errors import InvalidInput
from core.times import micros
from core.warehouse.engine import DuckEngine
from segments.explore.stream import MAX_WINDOW, bounds, check_kind, check_period, stream
from segments.scores import SNAPSHOT_SCHEMA, sql

MIN_STEPS, MAX_STEPS = 2, 6
MOST_VALUES = 8
MAX_ROWS = 1000
_MEMBERS = "LEFT JOIN members AS m ON m.member_id = r.member_id"
_SNAPSHOT = "LEFT JOIN snapshot AS s ON s.member_id = r.member_id"
_CHANNEL = f"LEFT JOIN ({sql('explore_first_channel')}) AS o ON o.member_id = r.member_id"
_NONE: tuple[str, str] = ("CAST(NULL AS VARCHAR)", "")
FIELDS: Mapping[str, tuple[str, str]] = {
    "stage": ("s.stage", _SNAPSHOT),
    "rfm_segment": ("s.rfm_segment", _SNAPSHOT),
    "value_segment": ("s.value_segment", _SNAPSHOT),
    "city": ("m.city", _MEMBERS),
    "province": ("m.province", _MEMBERS),
    "country": ("m.country", _MEMBERS),
    "gender": ("m.gender", _MEMBERS),
    "locale": ("m.locale", _MEMBERS),
    "source": ("m.source", _MEMBERS),
    "first_channel": ("o.channel", _CHANNEL),
}
"""Fields that a funnel can be broken down by: (value, where it comes from)."""


@dataclass(frozen=True)
class Question:
    """A funnel to count. Times are aware; ``end`` is exclusive; ``by`` is one of :data:`FIELDS`."""

    steps: tuple[str, ...]
    start: datetime
    end: datetime
    window: timedelta = timedelta(days=7)
    by: str | None = None

    def validated(self) -> Question:
        """Itself, or InvalidInput naming the field that makes no sense (``steps[1]``, ``window`` …)."""
        if not MIN_STEPS <= len(self.steps) <= MAX_STEPS:
            raise InvalidInput(f"A funnel has from {MIN_STEPS} to {MAX_STEPS} steps.", "steps")
        for index, kind in enumerate(self.steps):
            check_kind(kind, f"steps[{index}]")
        check_period(self.start, self.end)
        if not timedelta(0) < self.window <= MAX_WINDOW:
            raise InvalidInput(f"The window is up to {MAX_WINDOW.days} days.", "window")
        if self.by is not None and self.by not in FIELDS:
            raise InvalidInput(f"A funnel is broken down by {', '.join(FIELDS)}.", "by")
        return self


@dataclass(frozen=True)
class Step:
    """One step: who got there, of those at the step before and at the first."""

    kind: str
    members: int
    from_before: float | None
    """None where nobody was at the step before, and at the first step."""
    from_first: float | None
    median: timedelta | None
    """Median time since the step before, among those who did this one."""


@dataclass(frozen=True)
class Group:
    """The members with one value of the field: ``members`` at each step.

    ``value`` is None for all the other values together (``other``) and for those without one.
    """

    value: str | None
    other: bool
    members: tuple[int, ...]


@dataclass(frozen=True)
class Funnel:
    """The answer. ``still_open`` members may yet get further: their window is not over."""

    question: Question
    steps: tuple[Step, ...]
    groups: tuple[Group, ...]
    still_open: int
    whole: timedelta | None
    """Median time from the first step to the last, among those who did it."""

    @property
    def entered(self) -> int:
        return self.steps[0].members


def funnel(engine: DuckEngine, question: Question, as_of: datetime, snapshot: str | None = None) -> Funnel:
    """Count a funnel from the events before ``as_of``, in one query.

    ``snapshot`` is the Parquet file of scores that a breakdown by stage or segment takes. Raises
    InvalidInput (see :meth:`Question.validated`).
    """
    question.validated()
    value, joins = FIELDS[question.by] if question.by else _NONE
    text = stream(sql("explore_funnel")) + sql("explore_funnel_counts").replace("{value}", value).replace(
        "{joins}", joins
    )
    more = {"most": MOST_VALUES, "steps": len(question.steps)}
    rows = _run(engine, text, question, as_of, snapshot, more)
    total = next(row for row in rows if row["place"] is None)
    groups = sorted((row for row in rows if row["place"] is not None), key=lambda row: _order(row["place"]))
    return Funnel(
        question,
        _steps(question.steps, total),
        tuple(
            Group(row["value"], row["place"] == 0, tuple(row["members"][: len(question.steps)]))
            for row in groups
            if question.by
        ),
        total["still_open"],
        _span(total["whole"]),
    )


def _order(place: int) -> tuple[bool, bool, int]:
    """Values by their place, then the others together (0), then those without a value (-1)."""
    return (place < 0, place == 0, place)


def _steps(kinds: tuple[str, ...], total: dict[str, Any]) -> tuple[Step, ...]:
    counts: list[int] = total["members"]
    steps = [Step(kinds[0], counts[0], None, 1.0 if counts[0] else None, None)]
    for index, kind in enumerate(kinds[1:], 1):
        steps.append(
            Step(
                kind,
                counts[index],
                counts[index] / counts[index - 1] if counts[index - 1] else None,
                counts[index] / counts[0] if counts[0] else None,
                _span(total["gaps"][index - 1]),
            )
        )
    return tuple(steps)


def _span(microseconds: float | None) -> timedelta | None:
    return None if microseconds is None else timedelta(microseconds=round(microseconds))


def members(
    engine: DuckEngine,
    question: Question,
    as_of: datetime,
    step: int,
    *,
    dropped: bool,
    rows: int | None,
    skip: int = 0,
) -> list[int]:
    """Ids of who did step ``step`` (0 is the first); with ``dropped``, of those who went no further.

    In ascending order, ``rows`` of them (None: all) after the first ``skip``. Raises InvalidInput.
    """
    question.validated()
    if not 0 <= step < len(question.steps):
        raise InvalidInput(f"step: this funnel has the steps 0 to {len(question.steps) - 1}.", "step")
    text = stream(sql("explore_funnel")) + sql("explore_funnel_members")
    page = {
        "level": step + 1,
        "only": dropped,
        "rows": None if rows is None else min(rows, MAX_ROWS),
        "skip": skip,
    }
    return [row["member_id"] for row in _run(engine, text, question, as_of, None, page)]


def _run(
    engine: DuckEngine,
    text: str,
    question: Question,
    as_of: datetime,
    snapshot: str | None,
    more: dict[str, Any],
) -> list[dict[str, Any]]:
    params = bounds(question.steps, question.start, question.end + question.window, as_of)
    params |= {"first_until": micros(question.end), "window_us": question.window // timedelta(microseconds=1)}
    for number in range(1, MAX_STEPS + 1):
        params[f"step{number}"] = question.steps[number - 1] if number <= len(question.steps) else None
    with engine.connect() as connection:
        engine.add_view(connection, "snapshot", snapshot, SNAPSHOT_SCHEMA)
        found: list[dict[str, Any]] = connection.sql(text, params=params | more).to_arrow_table().to_pylist()
    return found
