"""Paths: what members do after (or before) an event, step by step.

Definition. A member's path begins at their first start event between ``start`` and ``end``
(exclusive) and takes the events strictly after it within ``window`` (or, ``before``, strictly
before it, walking back in time). The same kind several times in a row is one step. A path is
followed for :data:`DEPTH` steps; where a member did nothing more within the window, it ends. At
every level the :data:`MOST_KINDS` commonest kinds stand for themselves, the rest is one node.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from core.errors import InvalidInput
from core.times import micros
from core.warehouse.engine import DuckEngine
from segments.explore.stream import MAX_KINDS, MAX_WINDOW, bounds, check_kind, check_period, stream
from segments.scores import sql

DEPTH = 4
MOST_KINDS = 8
OTHER = "\uffff"
"""A node of all the rarer kinds of a level; no event can be called so."""
Direction = Literal["after", "before"]


@dataclass(frozen=True)
class Question:
    """Paths to follow. Times are aware; ``kinds`` are those that count as steps."""

    event: str
    kinds: tuple[str, ...]
    start: datetime
    end: datetime
    window: timedelta = timedelta(days=7)
    direction: Direction = "after"

    def validated(self) -> Question:
        """Itself, or InvalidInput naming the field that makes no sense."""
        check_kind(self.event, "event")
        if not 1 <= len(self.kinds) <= MAX_KINDS:
            raise InvalidInput(f"Choose from 1 to {MAX_KINDS} kinds of events to follow.", "kinds")
        for kind in self.kinds:
            check_kind(kind, "kinds")
        check_period(self.start, self.end)
        if not timedelta(0) < self.window <= MAX_WINDOW:
            raise InvalidInput(f"The window is up to {MAX_WINDOW.days} days.", "window")
        if self.direction not in ("after", "before"):
            raise InvalidInput("Paths go on after an event, or lead to it (before).", "direction")
        return self


@dataclass(frozen=True)
class Link:
    """``members`` went from ``source`` (at ``level``, 0 is the start) to ``target`` (one level on).

    Either may be :data:`OTHER`; a ``target`` of None is the end of the path.
    """

    level: int
    source: str
    target: str | None
    members: int


@dataclass(frozen=True)
class Paths:
    """The answer. ``still_open`` members may yet do more: their window is not over."""

    question: Question
    members: int
    still_open: int
    links: tuple[Link, ...]
    """By level, the most used first."""


def paths(engine: DuckEngine, question: Question, as_of: datetime) -> Paths:
    """Follow the paths through the events before ``as_of``, in one query. Raises InvalidInput."""
    question.validated()
    after = question.direction == "after"
    since = question.start if after else question.start - question.window
    until = question.end + question.window if after else question.end
    params = bounds((*question.kinds, question.event), since, until, as_of) | {
        "start": question.event,
        "since0": micros(question.start),
        "until0": micros(question.end),
        "shown": sorted(set(question.kinds)),
        "sign": 1 if after else -1,
        "window_us": question.window // timedelta(microseconds=1),
        "depth": DEPTH,
        "most": MOST_KINDS,
        "other": OTHER,
    }
    rows = engine.query(stream(sql("explore_paths")), params).to_pylist()
    total = next(row for row in rows if row["level"] < 0)
    links = tuple(
        Link(row["level"], row["source"], row["target"], row["members"]) for row in rows if row["level"] >= 0
    )
    return Paths(question, total["members"], total["still_open"] if after else 0, links)
