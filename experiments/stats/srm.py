"""Sample ratio mismatch: are the arms split as they were meant to be? Pearson's χ²."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

from core.errors import InvalidInput

ALERT_BELOW = 0.001
"""p under which a result must not be believed."""


@dataclass(frozen=True)
class Srm:
    """χ² over the arms of non-zero weight, its degrees of freedom and p, and the counts expected."""

    chi2: float
    df: int
    p: float
    ok: bool
    expected: dict[str, float]


def check_split(
    counts: Mapping[str, int], weights: Mapping[str, float], alert_below: float = ALERT_BELOW
) -> Srm:
    """Compare the arms' counts with their weights (any scale; arms of weight 0 are left out).

    InvalidInput: fewer than two arms with a weight, or nobody in any of them.
    """
    arms = [arm for arm, weight in weights.items() if weight > 0]
    if len(arms) < 2:
        raise InvalidInput("The split of an experiment needs two arms with a weight above 0.", "weights")
    observed = [counts.get(arm, 0) for arm in arms]
    total, share = sum(observed), sum(weights[arm] for arm in arms)
    if not total:
        raise InvalidInput("Nobody has been assigned yet; there is no split to check.", "counts")
    expected = [total * weights[arm] / share for arm in arms]
    chi2 = sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(observed, expected, strict=True))
    p = float(stats.chi2.sf(chi2, len(arms) - 1))
    return Srm(chi2, len(arms) - 1, p, p >= alert_below, dict(zip(arms, expected, strict=True)))
