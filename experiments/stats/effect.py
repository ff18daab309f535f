"""The form of every comparison's result: an estimate with its interval and p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy import special

from core.errors import InvalidInput

Alternative = Literal["two-sided", "greater", "less"]
"""What is tested against no difference: any, only a higher, only a lower treated arm."""
ALTERNATIVES: tuple[Alternative, ...] = ("two-sided", "greater", "less")


@dataclass(frozen=True)
class Effect:
    """A difference: estimate, interval at 1 − alpha (one-sided: open, −∞ or ∞), standard error, p."""

    estimate: float
    low: float
    high: float
    se: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """An arm against the control: both means, and the difference in units and relative to the control.

    The two differences have an interval and a p each, and may disagree near the border. ``relative`` is
    None where the control's mean is not above zero: a per cent of nothing, or of a loss, says nothing; and
    where the treated arm is all zeros.
    """

    mean_control: float
    mean: float
    absolute: Effect
    relative: Effect | None


def check_alpha(alpha: float) -> None:
    """InvalidInput unless 0 < alpha < 1."""
    if not 0 < alpha < 1:
        raise InvalidInput(
            f"alpha lies between 0 and 1 (0.05 for intervals at 95 %); {alpha:g} does not.", "alpha"
        )


def check_alternative(alternative: str) -> None:
    """InvalidInput unless it is one of ``ALTERNATIVES``."""
    if alternative not in ALTERNATIVES:
        raise InvalidInput(
            f"There is no alternative “{alternative}”; take one of {', '.join(ALTERNATIVES)}.", "alternative"
        )


def t_effect(
    estimate: float, se: float, df: float, alpha: float, alternative: Alternative = "two-sided"
) -> Effect:
    """An estimate with its interval and p by Student's t with ``df`` degrees of freedom (∞: the normal).

    The p is of the lower tail at −|t|, as survival functions are, so it is exact far out where 1 − cdf
    is 0. One-sided intervals are open on the other side.
    """
    check_alternative(alternative)
    sides = 2 if alternative == "two-sided" else 1
    half = -_quantile(alpha / sides, df) * se
    statistic = estimate / se
    if alternative == "two-sided":
        p = min(2 * _lower_tail(-abs(statistic), df), 1.0)
        return Effect(estimate, estimate - half, estimate + half, se, p)
    if alternative == "greater":
        return Effect(estimate, estimate - half, math.inf, se, _lower_tail(-statistic, df))
    return Effect(estimate, -math.inf, estimate + half, se, _lower_tail(statistic, df))


def z_effect(estimate: float, se: float, alpha: float, alternative: Alternative = "two-sided") -> Effect:
    """:func:`t_effect` by the normal distribution."""
    return t_effect(estimate, se, math.inf, alpha, alternative)


def _quantile(probability: float, df: float) -> float:
    return float(special.ndtri(probability) if math.isinf(df) else special.stdtrit(df, probability))


def _lower_tail(statistic: float, df: float) -> float:
    return float(special.ndtr(statistic) if math.isinf(df) else special.stdtr(df, statistic))
