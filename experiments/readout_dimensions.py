"""The effect by what members were before: cells of a dimension, and whether the effect differs among them.

Guarantees: rare values are merged (their moments add up), never dropped; p are Holm's over every cell and
arm of the dimension; the test of interaction (Cochran's Q) says whether looking at cells is worth it; where
the headline is adjusted by CUPED every cell is, by the same θ, about what its own members did before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments import readout_cuped
from experiments.moments import ArmMoments, merge_all
from experiments.readout_form import OTHER, UNKNOWN, Breakdown, CellEffect, Dimension
from experiments.readout_scan import Cells
from experiments.stats import cells as stats
from experiments.stats import multiplicity
from experiments.stats.effect import Effect
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Floats

MAX_VALUES = 12
"""Values of a dimension that are shown; the rarer ones are one cell."""

Part = Mapping[tuple[str, str], ArmMoments]


Values = Mapping[str, Mapping[str, Estimate]]
"""value → arm → estimate, in the order in which they are shown."""


def dimensions(
    found: Cells,
    metric: str,
    arms: Sequence[str],
    control: str,
    alpha: float,
    theta: Floats | None = None,
) -> list[Dimension]:
    """Every dimension that has two values or more; adjusted by ``theta``, raw without it."""
    result = []
    for name, part in found.items():
        values = merged(part)
        plain = {
            value: {arm: Estimate.of_mean(one.metrics[metric]) for arm, one in each.items()}
            for value, each in values.items()
        }
        fine = None
        if theta is not None:
            fine = {value: readout_cuped.adjusted(each, metric, theta) for value, each in values.items()}
        dimension = of_estimates(name, metric, fine, plain, arms, control, alpha)
        result += [dimension] if dimension is not None else []
    return result


def of_estimates(
    name: str,
    metric: str,
    adjusted: Values | None,
    plain: Values,
    arms: Sequence[str],
    control: str,
    alpha: float,
) -> Dimension | None:
    """The cells of estimates by value; None where fewer than two values are known. A cell that cannot be
    compared plainly is not by what was before either."""
    if len(plain) < 2 or all(value == UNKNOWN for value in plain):
        return None
    breakdowns = [_breakdown(adjusted, plain, arm, control, alpha) for arm in arms]
    tested = [cell.absolute.p for one in breakdowns for cell in one.cells if cell.absolute is not None]
    ready = iter(multiplicity.holm(tested))

    def with_p(cell: CellEffect) -> CellEffect:
        return cell if cell.absolute is None else replace(cell, p_adjusted=next(ready))

    shown = [replace(one, cells=[with_p(cell) for cell in one.cells]) for one in breakdowns]
    return Dimension(name, metric, shown, adjusted is not None)


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


def _breakdown(adjusted: Values | None, plain: Values, arm: str, control: str, alpha: float) -> Breakdown:
    nobody = Estimate(0, 0.0, 0.0, 0.0)
    sides = [[each.get(name, nobody) for each in plain.values()] for name in (arm, control)]
    counts = [[one.n for one in side] for side in sides]
    if adjusted is not None:
        for place, value in enumerate(plain):
            fine = [adjusted.get(value, {}).get(name) for name in (arm, control)]
            if sum(side[place].var for side in sides) > 0 and fine[0] is not None and fine[1] is not None:
                sides[0][place], sides[1][place] = fine[0], fine[1]
    found = stats.compare(stats.Arms.of(sides[0]), stats.Arms.of(sides[1]), alpha)
    effects = found.absolute
    cells = []
    for place, value in enumerate(plain):
        effect = None
        if found.usable[place]:
            columns = (effects.estimate, effects.low, effects.high, effects.se, effects.p)
            effect = Effect(*(float(column[place]) for column in columns))
        cells.append(CellEffect(value, counts[0][place], counts[1][place], effect, None))
    return Breakdown(arm, cells, found.interaction)
