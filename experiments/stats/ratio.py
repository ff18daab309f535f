"""Ratios of two arms, such as revenue by orders: the delta method over members."""

from __future__ import annotations

import math

from core.errors import InvalidInput
from experiments.stats import estimate
from experiments.stats.effect import Alternative, Comparison
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Joint, Metric, Ratio, value_and_gradient


def estimate_of(joint: Joint, metric: Metric) -> Estimate:
    """The metric of an arm with its variance gᵀΣg/n (delta method; Deng, Knoblich and Lu 2018).

    For a ratio that is (s²_N − 2R·s_ND + R²·s²_D)/(n·D̄²). Members, not orders, are the units: orders of
    one member are not independent. InvalidInput: nobody in the arm, or a denominator of 0.
    """
    if not joint.n:
        raise InvalidInput("The arm is empty; a comparison needs members in both.", "n")
    value, gradient = value_and_gradient(joint, metric)
    return Estimate(joint.n, value, max(float(gradient @ joint.cov @ gradient), 0.0) / joint.n, joint.n - 1)


def compare(
    treated: Joint,
    control: Joint,
    metric: Ratio,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
) -> Comparison:
    """Difference of two ratios, treated − control, and relative to the control's.

    InvalidInput: fewer than two members in an arm, a denominator whose mean is 0, or too close to 0 for
    the delta method: within three standard errors.
    """
    for joint in (treated, control):
        check_denominator(joint, metric)
    return estimate.compare(estimate_of(treated, metric), estimate_of(control, metric), alpha, alternative)


SURE_ERRORS = 3.0
"""Standard errors that a denominator keeps from 0, so that the ratio is smooth where the arm may lie."""


def check_denominator(joint: Joint, metric: Ratio) -> None:
    """InvalidInput where the denominator's mean may be 0: the delta method's straight line misleads there."""
    below = joint.moments(metric.denominator)
    if below.n and abs(below.mean) <= SURE_ERRORS * math.sqrt(max(below.var, 0.0) / below.n):
        raise InvalidInput(
            f"The mean of {metric.denominator} is {below.mean:g} in an arm of {below.n} members, too close "
            f"to 0 for a ratio; wait for more members, or compare {metric.numerator} as a mean.",
            metric.denominator,
        )
