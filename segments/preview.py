"""What other scoring settings would change: counted against the snapshot that is there. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

from core.warehouse.engine import DuckEngine
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, scored, snapshot_path, sql
from segments.settings import Scoring

KINDS = ("stage", "rfm", "value")
"""In the order of the query's columns."""


@dataclass(frozen=True)
class Move:
    """Members who would be in another group of a kind (``stage``, ``rfm``, ``value``) than they are."""

    kind: str
    before: str | None
    """None: in no group, as members without an order in the window have no scores."""
    after: str | None
    members: int


@dataclass(frozen=True)
class Preview:
    """The effect of settings as of a date: groups before and after, and who would move."""

    as_of: date
    members: int
    cuts: dict[str, Any]
    counts: dict[str, dict[str, tuple[int, int]]]
    """kind → group → (members now, members then), each kind's groups by name."""
    moves: dict[str, list[Move]]
    """kind → moves, the largest first."""

    def moved(self, kind: str) -> int:
        """Members who would change their group."""
        return sum(move.members for move in self.moves[kind])


def preview(engine: DuckEngine, scoring: Scoring, as_of: date, zone: ZoneInfo) -> Preview:
    """Score everybody anew, as of a refresh, and compare. Raises InvalidInput for senseless settings."""
    with scored(engine, scoring.validated(), as_of, zone, None) as ready:
        path = snapshot_path(engine, SNAPSHOT, as_of)
        engine.add_view(ready.connection, "today", path, SNAPSHOT_SCHEMA)
        rows = ready.run(sql("preview")).fetchall()
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    moves: dict[str, list[Move]] = {}
    for place, kind in enumerate(KINDS):
        found: dict[tuple[str | None, str | None], int] = {}
        for *groups, number in rows:
            pair = (groups[2 * place], groups[2 * place + 1])
            found[pair] = found.get(pair, 0) + number
        names = sorted({name for pair in found for name in pair if name is not None})
        counts[kind] = {
            name: (
                sum(number for (before, _), number in found.items() if before == name),
                sum(number for (_, after), number in found.items() if after == name),
            )
            for name in names
        }
        changed = [Move(kind, *pair, number) for pair, number in found.items() if pair[0] != pair[1]]
        moves[kind] = sorted(changed, key=lambda move: (-move.members, str(move.before), str(move.after)))
    return Preview(as_of, sum(row[-1] for row in rows), ready.cuts, counts, moves)
