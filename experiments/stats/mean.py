"""Means of two arms: Welch's t, absolute and relative (delta method)."""

from __future__ import annotations

import math

from scipy import stats

from core.errors import InvalidInput
from experiments.moments import Moments
from experiments.stats.effect import Comparison, Effect, check_alpha


def compare(treatment: Moments, control: Moments, alpha: float = 0.05) -> Comparison:
    """Difference of means, treatment − control, and relative to the control's mean.

    Welch (1947) with Satterthwaite's degrees of freedom for both; the relative difference's variance by
    the delta method: s²ₜ/(nₜ·m²꜀) + m²ₜ·s²꜀/(n꜀·m⁴꜀). InvalidInput: an arm with fewer than two units, or no
    variance in either.
    """
    check_alpha(alpha)
    for name, arm in (("treated arm", treatment), ("control arm", control)):
        if arm.n < 2:
            raise InvalidInput(
                f"The {name} has {arm.n} members; a comparison needs two or more in each.", "n"
            )
    of_treatment, of_control = treatment.var / treatment.n, control.var / control.n
    variance = of_treatment + of_control
    if variance <= 0:
        raise InvalidInput("No member differs from another in either arm: there is nothing to test.", "var")
    df = variance**2 / (of_treatment**2 / (treatment.n - 1) + of_control**2 / (control.n - 1))
    absolute = t_effect(treatment.mean - control.mean, math.sqrt(variance), df, alpha)
    relative = None
    if control.mean != 0:
        ratio = treatment.mean / control.mean
        spread = of_treatment / control.mean**2 + ratio**2 * of_control / control.mean**2
        relative = t_effect(ratio - 1, math.sqrt(spread), df, alpha)
    return Comparison(control.mean, treatment.mean, absolute, relative)


def t_effect(estimate: float, se: float, df: float, alpha: float) -> Effect:
    """An estimate with its t interval and two-sided p; the p by the survival function, exact far out."""
    half = float(stats.t.isf(alpha / 2, df)) * se
    p = 2 * float(stats.t.sf(abs(estimate) / se, df))
    return Effect(estimate, estimate - half, estimate + half, se, min(p, 1.0))
