"""Tests that may be looked at: asymptotic confidence sequences for any look, group sequential for K looks.

A p of 5 % at one look is an error of 14 % at five and 25 % at twenty (``peeking_error`` says how much). A
confidence sequence holds at every look at once, for intervals about a third wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import optimize, special

from core.errors import InvalidInput
from experiments.stats import estimate
from experiments.stats.effect import Comparison, Effect, check_alpha
from experiments.stats.estimate import Estimate, check_pair, difference, relative_difference
from experiments.stats.joint import Floats

DEFAULT_TUNING = 5_000
"""N*: the number of units at which the sequence is narrowest."""
MAX_LOOKS = 100
Shape = Literal["pocock", "obrien-fleming"]


def compare(
    treated: Estimate, control: Estimate, alpha: float = 0.05, tuning: float = DEFAULT_TUNING
) -> Comparison:
    """The comparison by a confidence sequence: interval and p hold at every look at once.

    Half width √(σ²·2(nρ² + 1)/(nρ)²·ln(√(nρ² + 1)/α)), n both arms' units, σ² = n × the difference's
    variance, ρ² = (−2 ln α + ln(−2 ln α + 1))/N* (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, with
    Howard and others' choice of ρ). p is the smallest α whose sequence leaves 0 out at this look, by the
    mixture's e-value; keep the smallest p of all looks. ``tuning``: N*, in units.
    """
    check_pair(treated, control, alpha)
    if not (math.isfinite(tuning) and tuning > 0):
        raise InvalidInput(f"N* is a number of members above 0; {tuning:g} is none.", "tuning")
    relative = relative_difference(treated, control)
    return Comparison(
        control.value,
        treated.value,
        effect(difference(treated, control), alpha, tuning),
        None if relative is None else effect(relative, alpha, tuning),
    )


def effect(found: Estimate, alpha: float, tuning: float = DEFAULT_TUNING) -> Effect:
    """Interval and always-valid p of an estimate whose ``var`` is above 0."""
    half = half_width(found.n, found.var, alpha, tuning)
    p = always_valid_p(found.n, found.value, found.var, alpha, tuning)
    return Effect(found.value, found.value - half, found.value + half, math.sqrt(found.var), p)


def rho_squared(alpha: float, tuning: float) -> float:
    """The mixture's precision that makes the sequence narrowest at ``tuning`` units."""
    log = -2 * math.log(alpha)
    return (log + math.log(log + 1)) / tuning


def half_width(n: int, var: float, alpha: float, tuning: float) -> float:
    """Half the width at ``n`` units in all, of an estimate with squared standard error ``var``."""
    scaled = n * rho_squared(alpha, tuning)
    return math.sqrt(var * 2 * (scaled + 1) / scaled * (0.5 * math.log1p(scaled) - math.log(alpha)))


def always_valid_p(n: int, value: float, var: float, alpha: float, tuning: float) -> float:
    """1 / e-value of the mixture: exp(−z²/2 · nρ²/(nρ² + 1))·√(nρ² + 1), at most 1."""
    scaled = n * rho_squared(alpha, tuning)
    log_e = value**2 / var / 2 * scaled / (scaled + 1) - 0.5 * math.log1p(scaled)
    return math.exp(min(-log_e, 0.0))


def boundaries(looks: int, shape: Shape = "pocock", alpha: float = 0.05) -> list[float]:
    """The |z| at which each of ``looks`` equally spaced looks may stop; together two-sided error alpha.

    Pocock (1977): the same at each, 2.413 for five looks at 5 %. O'Brien and Fleming (1979): c·√(K/k), so
    the last is c, 2.040. Computed by integration (:func:`crossing_probability`), for any K and alpha.
    """
    check_alpha(alpha)
    if not 1 <= looks <= MAX_LOOKS:
        raise InvalidInput(f"There are 1 to {MAX_LOOKS} looks; {looks} is none of them.", "looks")
    if shape not in ("pocock", "obrien-fleming"):
        raise InvalidInput(f"There is no shape “{shape}”; take pocock or obrien-fleming.", "shape")
    return [_constant(looks, shape, alpha) * factor for factor in _shape(looks, shape)]


def at_look(
    treated: Estimate,
    control: Estimate,
    look: int,
    looks: int,
    shape: Shape = "obrien-fleming",
    alpha: float = 0.05,
) -> Comparison:
    """The comparison at one of ``looks`` planned, equally spaced looks: intervals at its own boundary.

    The experiment may stop where an interval leaves out 0; over all looks that errs alpha at most. p is that
    of this look alone, to be held against :func:`look_alpha`. InvalidInput: no such look, or no comparison.
    """
    level = look_alpha(look, looks, shape, alpha)
    a, b = (Estimate(one.n, one.value, one.var, math.inf) for one in (treated, control))
    return estimate.compare(a, b, level)


def look_alpha(look: int, looks: int, shape: Shape = "obrien-fleming", alpha: float = 0.05) -> float:
    """The two-sided error that one look may spend by itself. InvalidInput: no such look."""
    bounds = boundaries(looks, shape, alpha)
    if not 1 <= look <= looks:
        raise InvalidInput(f"Of {looks} looks there is no number {look}.", "look")
    return 2 * float(special.ndtr(-bounds[look - 1]))


def _shape(looks: int, shape: Shape) -> list[float]:
    if shape == "pocock":
        return [1.0] * looks
    return [math.sqrt(looks / look) for look in range(1, looks + 1)]


@lru_cache(maxsize=256)
def _constant(looks: int, shape: Shape, alpha: float) -> float:
    factors = _shape(looks, shape)
    one = -float(special.ndtri(alpha / 2))
    all_of_them = -float(special.ndtri(alpha / 2 / looks))  # Bonferroni, never too small

    def excess(constant: float) -> float:
        return crossing_probability([constant * factor for factor in factors]) - alpha

    return one if looks == 1 else float(optimize.brentq(excess, one * 0.9, all_of_them * 1.01, xtol=1e-9))


def peeking_error(looks: int, alpha: float = 0.05) -> float:
    """The true two-sided error of looking ``looks`` times, each at a nominal ``alpha``: .142 for five."""
    check_alpha(alpha)
    if not 1 <= looks <= MAX_LOOKS:
        raise InvalidInput(f"There are 1 to {MAX_LOOKS} looks; {looks} is none of them.", "looks")
    return crossing_probability([-float(special.ndtri(alpha / 2))] * looks)


def crossing_probability(bounds: Sequence[float], information: Sequence[float] | None = None) -> float:
    """P(some |z_k| > bounds[k]) without an effect; ``information``: share of the data at each look [k/K].

    Armitage, McPherson and Rowe 1969: the density of the sum within the bounds is carried from look to
    look by Gauss-Legendre integration. InvalidInput: information that does not rise.
    """
    shares = list(information) if information else [k / len(bounds) for k in range(1, len(bounds) + 1)]
    steps = [shares[0], *(b - a for a, b in pairwise(shares))]
    if len(shares) != len(bounds) or min(steps) <= 0 or min(bounds) <= 0:
        raise InvalidInput(
            "Every look has a bound above 0 and more information than the one before.", "bounds"
        )
    limits = [bound * math.sqrt(share) for bound, share in zip(bounds, shares, strict=True)]
    crossed = 2 * float(special.ndtr(-bounds[0]))
    nodes, weights = _nodes(limits[0], steps)
    density = _normal(nodes, math.sqrt(steps[0]))
    for limit, step in zip(limits[1:], steps[1:], strict=True):
        sd = math.sqrt(step)
        outside = special.ndtr((-limit - nodes) / sd) + special.ndtr((nodes - limit) / sd)
        crossed += float(weights * density @ outside)
        after, after_weights = _nodes(limit, steps)
        density = _normal(after[:, None] - nodes[None, :], sd) @ (weights * density)
        nodes, weights = after, after_weights
    return crossed


def _nodes(limit: float, steps: Sequence[float]) -> tuple[Floats, Floats]:
    # Enough for the narrowest step's bell: some eight nodes a standard deviation.
    number = int(min(max(64, 16 * limit / math.sqrt(min(steps))), 1500))
    x, weights = _legendre(number)
    return x * limit, weights * limit


@lru_cache(maxsize=16)
def _legendre(number: int) -> tuple[Floats, Floats]:
    x, weights = special.roots_legendre(number)
    return np.asarray(x), np.asarray(weights)


def _normal(x: Floats, sd: float) -> Floats:
    density: Floats = np.exp(-((x / sd) ** 2) / 2) / (sd * math.sqrt(2 * math.pi))
    return density
