"""How many members an experiment needs, and what it can find with those it has.

Every answer names its formula, since the conventions differ: for a share of 20 % against 25 % one says
1,030 an arm, another 1,094.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import optimize, special, stats

from core.errors import InvalidInput
from experiments.stats.effect import Alternative, check_alpha, check_alternative

POOLED, BASELINE, T_TEST, NORMAL = "pooled", "baseline", "noncentral-t", "normal"
FORMULAS = {
    POOLED: "two proportions, the null's variance from the mean of both shares, 2·p̄(1 − p̄) (statsmodels)",
    BASELINE: "two proportions, the null's variance from the control's share, 2·p(1 − p) (Evan Miller)",
    T_TEST: "two means, the power of the t-test by the noncentral t",
    NORMAL: "difference of means, normal: (z of α + z of power)·√(σ²/n₁ + σ²/n₂)",
}
MAX_N = 1e12
EXACT_BELOW = 1e5
"""Members an arm up to which the t-test's power is by the noncentral t; beyond, it is the normal's."""
MAX_WEEKS = 520


@dataclass(frozen=True)
class SampleSize:
    """``n`` members in the control, ``n_treated`` in the arm, not rounded; ``formula``: see FORMULAS."""

    n: float
    n_treated: float
    formula: str

    @property
    def explanation(self) -> str:
        return FORMULAS[self.formula]


def for_proportions(
    share: float,
    difference: float,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    formula: str = POOLED,
    alternative: Alternative = "two-sided",
) -> SampleSize:
    """Members an arm to find ``share`` against ``share + difference``.

    n = (z_α√V₀ + z_β√(p₁q₁ + p₂q₂))²/d², V₀ by ``formula``: POOLED, Fleiss (1981), is what the z test with
    a pooled variance needs; BASELINE is Evan Miller's calculator. InvalidInput: shares outside 0 … 1.
    """
    z, z_power = _quantiles(alpha, power, alternative)
    other = share + difference
    if not (0 < share < 1 and 0 <= other <= 1 and difference):
        raise InvalidInput(
            f"Shares lie between 0 and 1 and differ; {share:g} and {other:g} do not.", "difference"
        )
    if formula not in (POOLED, BASELINE):
        raise InvalidInput(f"There is no formula “{formula}”; take {POOLED} or {BASELINE}.", "formula")
    null = (share + other) / 2 if formula == POOLED else share
    root = z * math.sqrt(2 * null * (1 - null))
    root += z_power * math.sqrt(share * (1 - share) + other * (1 - other))
    n = (root / difference) ** 2
    return SampleSize(n, n, formula)


def t_power(
    d: float, n: float, ratio: float = 1.0, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> float:
    """Power of the t-test to find ``d`` standard deviations with ``n`` and ``n·ratio`` members."""
    _quantiles(alpha, 0.5, alternative)
    d = -d if alternative == "less" else abs(d) if alternative == "two-sided" else d
    df = n * (1 + ratio) - 2
    if df <= 0:
        raise InvalidInput("A comparison of means needs two members or more in each arm.", "n")
    shift = d * math.sqrt(n * ratio / (1 + ratio))
    tail = alpha / 2 if alternative == "two-sided" else alpha
    if n > EXACT_BELOW:
        z = -float(special.ndtri(tail))
        far = float(special.ndtr(-z - shift)) if alternative == "two-sided" else 0.0
        return float(special.ndtr(shift - z)) + far
    critical = -float(special.stdtrit(df, tail))
    far = float(stats.nct.cdf(-critical, df, shift)) if alternative == "two-sided" else 0.0
    return float(stats.nct.sf(critical, df, shift)) + (0.0 if math.isnan(far) else far)


def for_means(
    d: float,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    ratio: float = 1.0,
    alternative: Alternative = "two-sided",
) -> SampleSize:
    """Members an arm to find a difference of ``d`` standard deviations (Cohen's d) with a t-test.

    ``ratio``: members of the arm over the control's. d of .2, .5, .8 need 393.41, 63.77, 25.52 an arm.
    """
    z, z_power = _quantiles(alpha, power, alternative)
    if not (d and math.isfinite(d) and ratio > 0 and math.isfinite(ratio)):
        raise InvalidInput("The difference is not 0 and the ratio of the arms above 0.", "d")
    if (alternative == "greater" and d < 0) or (alternative == "less" and d > 0):
        raise InvalidInput(f"A test for “{alternative}” never finds a difference of {d:g}.", "alternative")
    rough = ((z + z_power) / d) ** 2 * (1 + ratio) / ratio
    if rough > MAX_N:
        raise InvalidInput(f"That needs {rough:.2g} members an arm; look for a larger difference.", "d")
    if rough > EXACT_BELOW:
        return SampleSize(rough, rough * ratio, NORMAL)
    low = 3 / (1 + ratio)  # one degree of freedom

    def lack(n: float) -> float:
        return t_power(d, n, ratio, alpha, alternative) - power

    n = low if lack(low) >= 0 else float(optimize.brentq(lack, low, rough * 1.1 + 50, xtol=1e-9))
    return SampleSize(n, n * ratio, T_TEST)


def mde(
    variance: float,
    n_control: float,
    n_treated: float,
    alpha: float = 0.05,
    power: float = 0.8,
    alternative: Alternative = "two-sided",
) -> float:
    """The smallest difference of means found with that power, in the metric's unit, by NORMAL's formula.

    ``variance`` of a member, s² of the control (after CUPED: of the adjusted metric).
    """
    z, z_power = _quantiles(alpha, power, alternative)
    if not (variance > 0 and math.isfinite(variance) and n_control > 0 and n_treated > 0):
        raise InvalidInput("The variance and the numbers of members lie above 0.", "variance")
    return (z + z_power) * math.sqrt(variance / n_control + variance / n_treated)


def mde_proportion(
    share: float, n_control: float, n_treated: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest rise of ``share`` found with that power, two-sided, with the arm's own variance.

    Solves z_α√(p̄q̄(1/n₁ + 1/n₂)) + z_β√(p₁q₁/n₁ + p₂q₂/n₂) = d, POOLED's formula for unequal arms.
    InvalidInput: there is none below 1.
    """
    z, z_power = _quantiles(alpha, power, "two-sided")
    if not (0 < share < 1 and n_control > 0 and n_treated > 0):
        raise InvalidInput("The share lies between 0 and 1, the numbers of members above 0.", "share")

    def lack(d: float) -> float:
        other = share + d
        pooled = (share * n_control + other * n_treated) / (n_control + n_treated)
        null = math.sqrt(pooled * (1 - pooled) * (1 / n_control + 1 / n_treated))
        own = math.sqrt(share * (1 - share) / n_control + other * (1 - other) / n_treated)
        return d - z * null - z_power * own

    if lack(1 - share) < 0:
        raise InvalidInput("Not even a share of 1 would be found; wait for more members.", "n")
    return float(optimize.brentq(lack, 0.0, 1 - share, xtol=1e-12))


@dataclass(frozen=True)
class Week:
    """After so many weeks: members expected in each arm, and the smallest difference found with them."""

    week: int
    n_control: float
    n_treated: float
    mde: float
    mde_relative: float | None


def mde_by_week(
    seen: Sequence[tuple[int, int]],
    mean: float,
    variance: float,
    weeks: int,
    alpha: float = 0.05,
    power: float = 0.8,
) -> list[Week]:
    """What running on would find, week by week, from what has run (NORMAL's formula).

    ``seen``: new (control, treated) members of every full week so far; later weeks bring as many as the
    mean of those. ``mean`` and ``variance`` of a control member so far. InvalidInput: no week, or nobody.
    """
    if not seen or not 1 <= weeks <= MAX_WEEKS:
        raise InvalidInput(f"Give a week that has run, and 1 to {MAX_WEEKS} weeks to look at.", "weeks")
    each = [sum(pair[arm] for pair in seen) / len(seen) for arm in (0, 1)]
    totals, found = [0.0, 0.0], []
    for week in range(1, weeks + 1):
        new = seen[week - 1] if week <= len(seen) else each
        totals = [totals[arm] + new[arm] for arm in (0, 1)]
        smallest = mde(variance, totals[0], totals[1], alpha, power)
        found.append(Week(week, totals[0], totals[1], smallest, smallest / mean if mean > 0 else None))
    return found


def _quantiles(alpha: float, power: float, alternative: Alternative) -> tuple[float, float]:
    check_alpha(alpha)
    check_alternative(alternative)
    if not 0 < power < 1:
        raise InvalidInput(f"The power lies between 0 and 1 (0.8 is usual); {power:g} does not.", "power")
    tail = alpha / 2 if alternative == "two-sided" else alpha
    return -float(special.ndtri(tail)), float(special.ndtri(power))
