"""Proportions of two arms: absolute and relative difference, each by the method that covers best."""

from __future__ import annotations

import math

from scipy import special

from core.errors import InvalidInput
from experiments.stats.effect import Alternative, Comparison, Effect, check_alpha, check_alternative, z_effect


def compare(
    successes: int,
    n: int,
    control_successes: int,
    control_n: int,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
) -> Comparison:
    """Difference of two proportions, treatment − control, and relative to the control's.

    Absolute: Newcombe's (1998) hybrid score interval, method 10, and the pooled z test (the χ² test
    without correction). Relative: Katz's (1978) log interval of the ratio and its z test; None unless
    both arms have a success. Score intervals stay within −1 … 1 and cover at small numbers, where
    estimate ± z·se does not; at the border an interval and its test may disagree.
    One-sided: the same with the whole alpha on one side, open on the other.
    InvalidInput: an empty arm, or the same outcome for everybody.
    """
    check_alpha(alpha)
    check_alternative(alternative)
    for name, hits, size in (("treated", successes, n), ("control", control_successes, control_n)):
        if size < 1:
            raise InvalidInput(f"The {name} arm is empty; a comparison needs members in both.", "n")
        if not 0 <= hits <= size:
            raise InvalidInput(f"The {name} arm has {hits} successes among {size} members.", "successes")
    pooled = (successes + control_successes) / (n + control_n)
    if pooled in (0, 1):
        outcome = "Nobody" if pooled == 0 else "Everybody"
        raise InvalidInput(f"{outcome} converted in either arm: there is nothing to test.", "successes")
    share, base = successes / n, control_successes / control_n
    absolute = _difference((share, n), (base, control_n), pooled, alpha, alternative)
    relative = _ratio((successes, n), (control_successes, control_n), alpha, alternative)
    return Comparison(base, share, absolute, relative)


def wilson(share: float, n: int, alpha: float) -> tuple[float, float]:
    """Wilson's (1927) score interval of one proportion."""
    z = -float(special.ndtri(alpha / 2))
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return (centre - half) / scale, (centre + half) / scale


def _difference(
    treated: tuple[float, int],
    control: tuple[float, int],
    pooled: float,
    alpha: float,
    alternative: Alternative,
) -> Effect:
    (share, n), (base, base_n) = treated, control
    each = alpha if alternative == "two-sided" else 2 * alpha  # wilson() halves it
    low, high = wilson(share, n, each)
    base_low, base_high = wilson(base, base_n, each)
    difference = share - base
    se = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / base_n))
    return Effect(
        difference,
        -math.inf
        if alternative == "less"
        else max(-1.0, difference - math.hypot(share - low, base_high - base)),
        math.inf
        if alternative == "greater"
        else min(1.0, difference + math.hypot(high - share, base - base_low)),
        se,
        z_effect(difference, se, alpha, alternative).p,
    )


def _ratio(
    treated: tuple[int, int], control: tuple[int, int], alpha: float, alternative: Alternative
) -> Effect | None:
    (hits, n), (base_hits, base_n) = treated, control
    if not hits or not base_hits:
        return None
    log_ratio = math.log(hits / n) - math.log(base_hits / base_n)
    se = math.sqrt(max(1 / hits - 1 / n, 0.0) + max(1 / base_hits - 1 / base_n, 0.0))
    found = z_effect(log_ratio, se, alpha, alternative)
    estimate = math.exp(log_ratio)
    return Effect(estimate - 1, math.exp(found.low) - 1, math.exp(found.high) - 1, estimate * se, found.p)
