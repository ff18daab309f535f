"""The effect by what members were before: cells of a dimension, and whether the effect differs among them.

Guarantees: rare values are merged (their moments add up), never dropped; p are Holm's over every cell and
arm of the dimension; the test of interaction (Cochran's Q) says whether looking at cells is worth it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.moments import ArmMoments, Moments, merge_all
from experiments.readout_form import OTHER, UNKNOWN, Breakdown, CellEffect, Dimension
from experiments.readout_scan import Cells
from experiments.stats import cells as stats
from experiments.stats import multiplicity
from experiments.stats.effect import Effect

MAX_VALUES = 12
"""Values of a dimension that are shown; the rarer ones are one cell."""

Part = Mapping[tuple[str, str], ArmMoments]


def dimensions(found: Cells, metric: str, arms: Sequence[str], control: str, alpha: float) -> list[Dimension]:
    """Every dimension that has two values or more."""
    result = []
    for name, part in found.items():
        values = merged(part)
        if len(values) > 1 and any(value != UNKNOWN for value in values):
            result.append(_dimension(name, values, metric, arms, control, alpha))
    return result


def merged(part: Part) -> dict[str, dict[str, ArmMoments]]:
    """value → arm → moments: the largest first, then the rest together, then members without a value."""
    sizes: dict[str, int] = {}
    for (value, _), moments in part.items():
        sizes[value] = sizes.get(value, 0) + moments.n
    known = sorted((value for value in sizes if value != UNKNOWN), key=lambda value: (-sizes[value], value))
    kept = known if len(known) <= MAX_VALUES else known[: MAX_VALUES - 1]
    rest = set(known) - set(kept)
    groups = [(value, {value}) for value in kept]
    groups += [(OTHER, rest)] if rest else []
    groups += [(UNKNOWN, {UNKNOWN})] if UNKNOWN in sizes else []
    result: dict[str, dict[str, ArmMoments]] = {}
    for name, values in groups:
        arms = sorted({arm for value, arm in part if value in values})
        result[name] = {
            arm: merge_all(part[value, arm] for value in sorted(values) if (value, arm) in part)
            for arm in arms
        }
    return result


def _dimension(
    name: str,
    values: Mapping[str, Mapping[str, ArmMoments]],
    metric: str,
    arms: Sequence[str],
    control: str,
    alpha: float,
) -> Dimension:
    breakdowns = [_breakdown(values, metric, arm, control, alpha) for arm in arms]
    tested = [cell.absolute.p for one in breakdowns for cell in one.cells if cell.absolute is not None]
    adjusted = iter(multiplicity.holm(tested))

    def with_p(cell: CellEffect) -> CellEffect:
        return cell if cell.absolute is None else replace(cell, p_adjusted=next(adjusted))

    return Dimension(
        name, metric, [replace(one, cells=[with_p(cell) for cell in one.cells]) for one in breakdowns]
    )


def _breakdown(
    values: Mapping[str, Mapping[str, ArmMoments]], metric: str, arm: str, control: str, alpha: float
) -> Breakdown:
    sides = [_side(values, metric, name) for name in (arm, control)]
    found = stats.compare(_arms(sides[0]), _arms(sides[1]), alpha)
    effects = found.absolute
    cells = []
    for place, value in enumerate(values):
        effect = None
        if found.usable[place]:
            columns = (effects.estimate, effects.low, effects.high, effects.se, effects.p)
            effect = Effect(*(float(column[place]) for column in columns))
        cells.append(CellEffect(value, sides[0][place].n, sides[1][place].n, effect, None))
    return Breakdown(arm, cells, found.interaction)


def _side(values: Mapping[str, Mapping[str, ArmMoments]], metric: str, arm: str) -> list[Moments]:
    nobody = Moments(0, 0.0, 0.0)
    return [arms[arm].metrics[metric] if arm in arms else nobody for arms in values.values()]


def _arms(side: Sequence[Moments]) -> stats.Arms:
    return stats.Arms.of_means([one.n for one in side], [one.mean for one in side], [one.var for one in side])
