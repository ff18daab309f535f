"""Whether two campaigns take each other's effect: the 2×2 of who was treated by either, neither, or both.

Both are randomised by hashes of their own, so the four cells differ by chance alone; the interaction is
what the two bring together beyond (or short of) the sum of what each brings alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from campaigns.roi import Interval
from core.errors import InvalidInput
from core.warehouse.engine import Engine
from experiments.moments import ASSIGNMENTS_SCHEMA, REVENUE, Moments, scan

Cells = Mapping[tuple[bool, bool], Moments]
"""(treated by the first, treated by the second) → moments of the metric."""


@dataclass(frozen=True)
class Overlap:
    """Differences a member. ``first`` and ``second``: each alone, against neither; ``both``: both against
    neither; ``interaction`` = both − first − second, negative where they cannibalise each other, with its
    two-sided ``p``. ``members``: of each cell."""

    first: Interval
    second: Interval
    both: Interval
    interaction: Interval
    p: float
    members: dict[tuple[bool, bool], int]

    @property
    def cannibalised(self) -> bool:
        """Whether the data show that together they bring less than the sum."""
        return self.interaction.high < 0


def overlap(cells: Cells, alpha: float = 0.05) -> Overlap:
    """Welch–Satterthwaite contrasts of the four cells. InvalidInput: a cell of fewer than two members,
    or no variance at all."""
    corners = [(first, second) for first in (False, True) for second in (False, True)]
    small = [corner for corner in corners if corner not in cells or cells[corner].n < 2]
    if small:
        raise InvalidInput(
            "Both campaigns need members treated by either, neither and both, two or more of each: "
            f"{len(small)} of the four groups are too small.",
            "cells",
        )
    if not 0 < alpha < 1:
        raise InvalidInput("alpha lies between 0 and 1.", "alpha")
    if not any(cells[corner].var for corner in corners):
        raise InvalidInput("The metric does not vary, so there is no interval.", "cells")
    none, second, first, both = (cells[corner] for corner in corners)
    found, p = _contrast([(both, 1), (first, -1), (second, -1), (none, 1)], alpha)
    return Overlap(
        _contrast([(first, 1), (none, -1)], alpha)[0],
        _contrast([(second, 1), (none, -1)], alpha)[0],
        _contrast([(both, 1), (none, -1)], alpha)[0],
        found,
        p,
        {corner: cells[corner].n for corner in corners},
    )


def _contrast(terms: list[tuple[Moments, int]], alpha: float) -> tuple[Interval, float]:
    estimate = math.fsum(sign * cell.mean for cell, sign in terms)
    parts = [cell.var / cell.n for cell, _ in terms]
    variance = math.fsum(parts)
    if not variance:
        return Interval(estimate, estimate, estimate), float(estimate == 0)
    freedom = variance**2 / math.fsum(
        part**2 / (cell.n - 1) for part, (cell, _) in zip(parts, terms, strict=True)
    )
    half = float(stats.t.isf(alpha / 2, freedom)) * math.sqrt(variance)
    p = 2 * float(stats.t.sf(abs(estimate) / math.sqrt(variance), freedom))
    return Interval(estimate, estimate - half, estimate + half), p


def scan_cells(
    engine: Engine,
    first: pa.Table,
    first_control: str,
    second: pa.Table,
    second_control: str,
    *,
    window_days: int,
    as_of: datetime,
    metric: str = REVENUE,
) -> dict[tuple[bool, bool], Moments]:
    """The cells of two campaigns, from one scan of the warehouse.

    ``first`` and ``second``: (member_id, arm, at) as ``experiments.assignment.assigned`` gives. Members of
    both count, from the later of their two moments on: before it they were in one campaign only.
    """
    both = first.join(second, "member_id", join_type="inner", right_suffix="_second")
    treated = pc.not_equal(both["arm"], first_control), pc.not_equal(both["arm_second"], second_control)
    names = pc.binary_join_element_wise(
        *(pc.cast(pc.cast(one, pa.int8()), pa.string()) for one in treated), ""
    )
    at = pc.if_else(pc.greater(both["at"], both["at_second"]), both["at"], both["at_second"])
    table = pa.table([both["member_id"], names, at], names=ASSIGNMENTS_SCHEMA.names)
    found = scan(engine, table, window_days=window_days, as_of=as_of)
    return {(name[0] == "1", name[1] == "1"): arm.metrics[metric] for name, arm in found.items()}
