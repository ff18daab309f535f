"""Means of two arms: Welch's t, absolute and relative (delta method)."""

from __future__ import annotations

from experiments.moments import Moments
from experiments.stats import estimate
from experiments.stats.effect import Alternative, Comparison, t_effect
from experiments.stats.estimate import Estimate

__all__ = ["compare", "t_effect"]


def compare(
    treatment: Moments, control: Moments, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Comparison:
    """Difference of means, treatment − control, and relative to the control's mean.

    Welch (1947) with Satterthwaite's degrees of freedom for both; the relative difference's variance by
    the delta method: s²ₜ/(nₜ·m²꜀) + m²ₜ·s²꜀/(n꜀·m⁴꜀). InvalidInput: an arm with fewer than two units, no
    variance in either, or moments that are not finite.
    """
    return estimate.compare(Estimate.of_mean(treatment), Estimate.of_mean(control), alpha, alternative)
