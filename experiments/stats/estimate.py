"""What an arm says about a metric: a value, the variance of that value, and how well that is known.

Every family (means, ratios, adjusted and post-stratified ones, quantiles) ends in an :class:`Estimate`, and
every method (Welch, sequential, Bayes, non-inferiority, cells) begins with two of them. Guarantees: numbers
that are not finite, empty arms and metrics without variance are refused by name, never turned into a result.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from core.errors import InvalidInput
from experiments.moments import Moments
from experiments.stats.effect import Alternative, Comparison, Effect, check_alpha, t_effect

ROUNDING = 4 * sys.float_info.epsilon
"""Share of the mean below which a standard deviation is what rounding left, not a difference of members."""


@dataclass(frozen=True)
class Estimate:
    """``value`` of ``n`` units; ``var`` is the variance of the value (squared standard error), known with
    ``df`` degrees of freedom (∞ where it is known exactly)."""

    n: int
    value: float
    var: float
    df: float

    @classmethod
    def of_mean(cls, moments: Moments) -> Estimate:
        """The mean of an arm."""
        return cls(moments.n, moments.mean, moments.var / moments.n if moments.n else 0.0, moments.n - 1)

    @classmethod
    def of_proportion(cls, successes: int, n: int) -> Estimate:
        """The share of an arm with the binomial's variance p(1 − p)/n."""
        if n < 1 or not 0 <= successes <= n:
            raise InvalidInput(f"{successes} successes among {n} members is no proportion.", "successes")
        share = successes / n
        return cls(n, share, share * (1 - share) / n, math.inf)


def check_pair(treated: Estimate, control: Estimate, alpha: float) -> None:
    """InvalidInput where the two cannot be compared: too few, not finite, or nothing varies."""
    check_alpha(alpha)
    for name, arm in (("treated arm", treated), ("control arm", control)):
        if arm.n < 2:
            raise InvalidInput(
                f"The {name} has {arm.n} members; a comparison needs two or more in each.", "n"
            )
        if not (math.isfinite(arm.value) and math.isfinite(arm.var)):
            raise InvalidInput(
                f"The {name} has values that are infinite or missing; leave those out, and count them.",
                "mean",
            )
        if arm.var < 0:
            raise InvalidInput(f"The {name} has a negative variance; its moments are wrong.", "var")
    spread = treated.var * treated.n + control.var * control.n
    if spread <= (ROUNDING * max(abs(treated.value), abs(control.value))) ** 2:
        raise InvalidInput("No member differs from another in either arm: there is nothing to test.", "var")


def difference(treated: Estimate, control: Estimate) -> Estimate:
    """Treated − control, with Satterthwaite's degrees of freedom (Welch 1947)."""
    return Estimate(
        treated.n + control.n,
        treated.value - control.value,
        treated.var + control.var,
        satterthwaite((treated.var, treated.df), (control.var, control.df)),
    )


def relative_difference(treated: Estimate, control: Estimate) -> Estimate | None:
    """Treated / control − 1; variance by the delta method: (vₜ + r²·v꜀) / m꜀².

    None where the control's value is not above zero, or the treated arm is all zeros: −100 % with no spread
    that the delta method could see.
    """
    if control.value <= 0:
        return None
    ratio = treated.value / control.value
    var = (treated.var + ratio**2 * control.var) / control.value**2
    if not (math.isfinite(ratio) and math.isfinite(var) and var > 0):
        return None
    df = satterthwaite((treated.var, treated.df), (control.var, control.df))
    return Estimate(treated.n + control.n, ratio - 1, var, df)


def satterthwaite(*parts: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of variances, each (variance, its degrees of freedom).

    Satterthwaite 1946: (Σv)² / Σ(v²/df). Variances are scaled first, so that none overflows.
    """
    total = sum(var for var, _ in parts)
    if total <= 0:
        return math.inf
    bottom = sum((var / total) ** 2 / df for var, df in parts if df > 0)
    return 1 / bottom if bottom else math.inf


def compare(
    treated: Estimate, control: Estimate, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Comparison:
    """Welch's test of two estimates, in units and relative to the control. InvalidInput: see check_pair."""
    check_pair(treated, control, alpha)
    relative = relative_difference(treated, control)
    return Comparison(
        control.value,
        treated.value,
        _effect(difference(treated, control), alpha, alternative),
        None if relative is None else _effect(relative, alpha, alternative),
    )


def _effect(found: Estimate, alpha: float, alternative: Alternative) -> Effect:
    return t_effect(found.value, math.sqrt(found.var), found.df, alpha, alternative)
