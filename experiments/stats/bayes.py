"""Bayes with normal priors: chance to win, risk, credible interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from core.errors import InvalidInput
from experiments.stats.effect import check_alpha
from experiments.stats.estimate import Estimate, check_pair, difference, relative_difference
from experiments.stats.joint import Floats

Distribution = tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]
"""A distribution function and its inverse, both over arrays."""
NODES = 256
"""Points of the integration over an arm's quantiles."""
EDGE = 1e-12
"""Quantiles beyond which nothing is integrated."""


@dataclass(frozen=True)
class Prior:
    """A normal belief about the difference before the data: mean and standard deviation, in its own unit."""

    mean: float = 0.0
    sd: float = 1.0


@dataclass(frozen=True)
class Posterior:
    """What is believed of a difference: mean, credible interval at 1 − alpha, standard deviation, the chance
    that the arm is better, and what is lost on average by choosing wrongly: ``risk`` by choosing the arm,
    ``risk_control`` by keeping the control (both in the unit of the difference)."""

    estimate: float
    low: float
    high: float
    sd: float
    chance_to_win: float
    risk: float
    risk_control: float


@dataclass(frozen=True)
class Verdict:
    """An arm against the control, in units and relative (None where the control is not above zero)."""

    mean_control: float
    mean: float
    absolute: Posterior
    relative: Posterior | None


def compare(
    treated: Estimate,
    control: Estimate,
    alpha: float = 0.05,
    prior: Prior | None = None,
    prior_relative: Prior | None = None,
) -> Verdict:
    """Both differences as normal posteriors; without a prior the data speak alone (a flat one).

    Each difference has a prior of its own, in its own unit. The likelihood is normal with the estimates'
    variances, the relative one by the delta method. InvalidInput: what cannot be compared.
    """
    check_pair(treated, control, alpha)
    relative = relative_difference(treated, control)
    return Verdict(
        control.value,
        treated.value,
        posterior(difference(treated, control), alpha, prior),
        None if relative is None else posterior(relative, alpha, prior_relative),
    )


def posterior(found: Estimate, alpha: float = 0.05, prior: Prior | None = None) -> Posterior:
    """The conjugate normal update of a difference, precisions adding up."""
    check_alpha(alpha)
    if found.var <= 0 or not math.isfinite(found.var):
        raise InvalidInput("No member differs from another in either arm: there is nothing to test.", "var")
    mean, var = found.value, found.var
    if prior is not None:
        if not (prior.sd > 0 and math.isfinite(prior.sd) and math.isfinite(prior.mean)):
            raise InvalidInput(
                "A prior has a standard deviation above 0; leave it out for a flat one.", "prior"
            )
        precision = 1 / found.var + 1 / prior.sd**2
        mean, var = (found.value / found.var + prior.mean / prior.sd**2) / precision, 1 / precision
    sd = math.sqrt(var)
    half = -float(special.ndtri(alpha / 2)) * sd
    loss, loss_control = _loss(mean, sd), _loss(-mean, sd)
    return Posterior(mean, mean - half, mean + half, sd, float(special.ndtr(mean / sd)), loss, loss_control)


def _loss(mean: float, sd: float) -> float:
    """E max(−δ, 0) for δ ~ N(mean, sd²): sd·φ(z) − mean·Φ(−z)."""
    z = mean / sd
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return max(sd * density - mean * float(special.ndtr(-z)), 0.0)


def chance_best(arms: Mapping[str, Distribution]) -> dict[str, float]:
    """The chance of every arm to be the best: ∫ Π F_other(F⁻¹(u)) du by Gauss-Legendre; they sum to 1."""
    x, weights = special.roots_legendre(NODES)
    quantiles = np.clip((x + 1) / 2, EDGE, 1 - EDGE)
    chances = {}
    for name, (_, inverse) in arms.items():
        points = inverse(quantiles)
        product = np.ones(NODES)
        for other, (distribution, _) in arms.items():
            if other != name:
                product = product * distribution(points)
        chances[name] = float(weights @ product) / 2
    total = sum(chances.values())
    return {name: chance / total for name, chance in chances.items()}


def normal(mean: float, sd: float) -> Distribution:
    """A normal distribution for :func:`chance_best`."""

    def distribution(x: Floats) -> Floats:
        return np.asarray(special.ndtr((x - mean) / sd))

    def inverse(u: Floats) -> Floats:
        return np.asarray(mean + sd * special.ndtri(u))

    return distribution, inverse


def beta(a: float, b: float) -> Distribution:
    """A beta distribution for :func:`chance_best`."""

    def distribution(x: Floats) -> Floats:
        return np.asarray(special.betainc(a, b, x))

    def inverse(u: Floats) -> Floats:
        return np.asarray(special.betaincinv(a, b, u))

    return distribution, inverse
