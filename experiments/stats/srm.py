"""Sample ratio mismatch: are the arms split as they were meant to be?

Pearson's χ² for one look at the end; a martingale for as many looks as one likes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import special

from core.errors import InvalidInput

ALERT_BELOW = 0.001
"""p under which a result must not be believed."""
CONCENTRATION = 1_000.0
"""How close to the plan the mixture looks: the weight of the plan in units. Large finds small mismatches."""


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
    arms, observed, shares = _planned(counts, weights)
    total = sum(observed)
    if not total:
        raise InvalidInput("Nobody has been assigned yet; there is no split to check.", "counts")
    expected = [total * share for share in shares]
    chi2 = sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(observed, expected, strict=True))
    p = float(special.chdtrc(len(arms) - 1, chi2))
    return Srm(chi2, len(arms) - 1, p, p >= alert_below, dict(zip(arms, expected, strict=True)))


def _planned(
    counts: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[list[str], list[int], list[float]]:
    """The arms of non-zero weight, their counts, and their planned shares."""
    arms = [arm for arm, weight in weights.items() if weight > 0]
    if len(arms) < 2:
        raise InvalidInput("The split of an experiment needs two arms with a weight above 0.", "weights")
    observed = [counts.get(arm, 0) for arm in arms]
    if any(count < 0 for count in observed):
        raise InvalidInput("An arm has fewer than no members; check the counts.", "counts")
    total = sum(weights[arm] for arm in arms)
    return arms, observed, [weights[arm] / total for arm in arms]


def always_valid(
    counts: Mapping[str, int],
    weights: Mapping[str, float],
    previous_p: float = 1.0,
    concentration: float = CONCENTRATION,
) -> float:
    """A p of the split that may be looked at after every unit: P(it ever falls below α) ≤ α.

    Lindon and Malek (2022), "Anytime-valid inference for multinomial count data": the likelihood under a
    Dirichlet mixture around the plan (its parameters ``concentration`` × planned share) over that under the
    plan is a martingale, and p = min over all looks of its inverse. ``previous_p``: what the last look said.
    ``counts`` are cumulative; nobody yet is a p of 1. InvalidInput: fewer than two arms with a weight.
    """
    if not 0 <= previous_p <= 1 or concentration <= 0:
        raise InvalidInput("previous_p lies between 0 and 1, the concentration above 0.", "previous_p")
    _, observed, shares = _planned(counts, weights)
    # The log of B(a + n) / B(a) / Π shareⁿ, B the multivariate beta function.
    log_factor = float(special.gammaln(concentration) - special.gammaln(concentration + sum(observed)))
    for seen, share in zip(observed, shares, strict=True):
        prior = concentration * share
        log_factor += float(special.gammaln(prior + seen) - special.gammaln(prior)) - seen * math.log(share)
    return min(previous_p, math.exp(min(-log_factor, 0.0)))
