"""Many comparisons at once: an experiment by city, category or day, thousands of cells in one go.

Guarantees: the same numbers as :func:`experiments.stats.estimate.compare` cell by cell; a cell that cannot
be compared is marked and has NaN, and counts for nothing in the test of interaction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from core.errors import InvalidInput
from experiments.stats.effect import check_alpha
from experiments.stats.estimate import ROUNDING, Estimate
from experiments.stats.joint import Floats

MAX_CELLS = 1_000_000


@dataclass(frozen=True)
class Arms:
    """An arm's estimates over the cells, (cells,) each: members, value, squared standard error, df."""

    n: Floats
    value: Floats
    var: Floats
    df: Floats

    @classmethod
    def of(cls, estimates: Sequence[Estimate]) -> Arms:
        """Of estimates a cell."""
        if not estimates:
            raise InvalidInput("There are no cells to compare.", "cells")
        data = np.array([(one.n, one.value, one.var, one.df) for one in estimates], dtype=np.float64)
        return cls(*data.T)

    @classmethod
    def of_means(cls, n: npt.ArrayLike, mean: npt.ArrayLike, variance: npt.ArrayLike) -> Arms:
        """Of moments a cell (``variance`` of a member)."""
        sizes = np.asarray(n, dtype=np.float64)
        var = np.divide(
            np.asarray(variance, dtype=np.float64), sizes, out=np.full(len(sizes), np.nan), where=sizes > 0
        )
        return cls(sizes, np.asarray(mean, dtype=np.float64), var, sizes - 1)


@dataclass(frozen=True)
class Effects:
    """Differences over the cells, (cells,) each; NaN where there is none."""

    estimate: Floats
    low: Floats
    high: Floats
    se: Floats
    p: Floats


@dataclass(frozen=True)
class Interaction:
    """Do the cells differ in the effect? Cochran's Q over ``df`` + 1 cells; ``i2``: share of the spread of
    effects that chance does not explain; ``pooled``: their inverse-variance mean, ``se`` its error."""

    q: float
    df: int
    p: float
    i2: float
    pooled: float
    se: float


@dataclass(frozen=True)
class Cells:
    """All cells compared; ``usable`` marks those that could be. ``interaction``: None below two of them."""

    usable: npt.NDArray[np.bool_]
    absolute: Effects
    relative: Effects
    interaction: Interaction | None


def compare(treated: Arms, control: Arms, alpha: float = 0.05) -> Cells:
    """Welch's test in every cell, and Cochran's Q over them. InvalidInput: no cell, or too many."""
    check_alpha(alpha)
    cells = len(treated.n)
    if not 1 <= cells <= MAX_CELLS or len(control.n) != cells:
        raise InvalidInput(f"Both arms have the same cells, 1 to {MAX_CELLS:,}.", "cells")
    with np.errstate(all="ignore"):  # what is not a number is marked below
        spread = treated.var * treated.n + control.var * control.n
        largest = np.maximum(np.abs(treated.value), np.abs(control.value))
        usable = (treated.n >= 2) & (control.n >= 2) & np.isfinite(spread) & np.isfinite(largest)
        usable &= (treated.var >= 0) & (control.var >= 0) & (spread > (ROUNDING * largest) ** 2)
        var = treated.var + control.var
        bottom = (treated.var / var) ** 2 / treated.df + (control.var / var) ** 2 / control.df
        df = 1 / bottom
        difference = treated.value - control.value
        absolute = _effects(difference, var, df, usable, alpha)
        ratio = treated.value / control.value
        relative_var = (treated.var + ratio**2 * control.var) / control.value**2
        relative = _effects(
            ratio - 1, relative_var, df, usable & (control.value > 0) & (relative_var > 0), alpha
        )
    found = interaction(difference[usable], var[usable]) if usable.sum() > 1 else None
    return Cells(usable, absolute, relative, found)


def interaction(effects: npt.ArrayLike, variances: npt.ArrayLike) -> Interaction:
    """Cochran's (1954) Q = Σ w(d − d̄)², w = 1/variance, χ² with k − 1 degrees; I² of Higgins and Thompson.

    InvalidInput: fewer than two cells, or a variance that is not above 0.
    """
    d, var = np.asarray(effects, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if len(d) < 2 or not (var > 0).all() or not np.isfinite(var).all() or not np.isfinite(d).all():
        raise InvalidInput("An interaction needs two cells or more, each with a variance above 0.", "cells")
    weights = 1 / var
    total = float(weights.sum())
    pooled = float(np.average(d, weights=weights))
    q = float((weights * (d - pooled) ** 2).sum())
    df = len(d) - 1
    return Interaction(
        q, df, float(special.chdtrc(df, q)), max(0.0, 1 - df / q) if q else 0.0, pooled, 1 / math.sqrt(total)
    )


def _effects(
    estimate: Floats, var: Floats, df: Floats, usable: npt.NDArray[np.bool_], alpha: float
) -> Effects:
    se = np.sqrt(var)
    exact = np.isinf(df)
    quantile = np.where(exact, special.ndtri(alpha / 2), special.stdtrit(np.where(exact, 1.0, df), alpha / 2))
    half = -quantile * se
    z = -np.abs(estimate / se)
    p = 2 * np.where(exact, special.ndtr(z), special.stdtr(np.where(exact, 1.0, df), z))
    parts = (estimate, estimate - half, estimate + half, se, np.minimum(p, 1.0))
    return Effects(*(np.where(usable, part, np.nan) for part in parts))
