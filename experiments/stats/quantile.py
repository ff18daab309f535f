"""Quantiles of two arms, by order statistics of the data; no density is estimated.

The interval of one arm's quantile is the pair of order statistics whose ranks the binomial gives (exact,
whatever the distribution). The standard error that a difference needs is that interval's width over 2z
(Woodruff 1952; Price and Bonett 2002). For units that are the ones randomised, not their orders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from core.errors import InvalidInput
from experiments.stats import estimate
from experiments.stats.effect import Alternative, Comparison, check_alpha
from experiments.stats.estimate import Estimate

METHOD = "order statistics"
MIN_BEYOND = 5
"""Members expected on either side of a quantile; with fewer the order statistics run out."""


@dataclass(frozen=True)
class Quantile:
    """A quantile with its interval at 1 − alpha, from ``method``; ``estimate`` is what comparisons take."""

    q: float
    value: float
    low: float
    high: float
    estimate: Estimate
    method: str = METHOD


def of(values: npt.ArrayLike, q: float, alpha: float = 0.05) -> Quantile:
    """The quantile (linear interpolation, as numpy's) with its interval by ranks.

    InvalidInput: q outside 0 … 1, values that are not finite, fewer than five members expected beyond it.
    """
    check_alpha(alpha)
    data = np.sort(np.asarray(values, dtype=np.float64))
    n = len(data)
    if not 0 < q < 1:
        raise InvalidInput(f"A quantile lies between 0 and 1; {q:g} does not.", "q")
    if n and not np.isfinite(data[[0, -1]]).all():
        raise InvalidInput("Some values are infinite or missing; leave those out, and count them.", "values")
    if n * min(q, 1 - q) < MIN_BEYOND:
        needed = math.ceil(MIN_BEYOND / min(q, 1 - q))
        raise InvalidInput(f"The quantile {q:g} needs {needed} members or more in each arm, not {n}.", "n")
    low = int(stats.binom.ppf(alpha / 2, n, q))
    high = int(stats.binom.isf(alpha / 2, n, q)) + 1
    bounds = float(data[max(low - 1, 0)]), float(data[min(high - 1, n - 1)])
    se = (bounds[1] - bounds[0]) / (-2 * float(special.ndtri(alpha / 2)))
    value = float(np.quantile(data, q))
    return Quantile(q, value, *bounds, Estimate(n, value, se**2, math.inf))


def compare(
    treated: npt.ArrayLike,
    control: npt.ArrayLike,
    q: float,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
) -> Comparison:
    """Difference of an arm's quantile and the control's, absolute and relative, normal.

    InvalidInput: see :func:`of`; or so many equal values that neither interval has a width.
    """
    found = of(treated, q, alpha).estimate, of(control, q, alpha).estimate
    if found[0].var + found[1].var == 0:
        raise InvalidInput(
            f"The quantile {q:g} lies among equal values in both arms; compare means or a share instead.", "q"
        )
    return estimate.compare(*found, alpha, alternative)
