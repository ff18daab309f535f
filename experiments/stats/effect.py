"""The form of every comparison's result: an estimate with its interval and p-value."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import InvalidInput


@dataclass(frozen=True)
class Effect:
    """A difference: estimate, standard error, interval at 1 − alpha, two-sided p."""

    estimate: float
    low: float
    high: float
    se: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """An arm against the control: both means, and the difference in units and relative to the control.

    The two differences have an interval and a p each, and may disagree near the border. ``relative`` is
    None where the control's mean is zero.
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
