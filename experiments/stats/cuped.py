"""CUPED: what members did before takes the noise out of what they do now.

Deng, Xu, Kohavi and Walker 2013: y − Σθ(x − x̄), θ pooled **within** the arms, so that the effect itself
does not bend it. For ratios both sides are linearised by their gradients. Any covariate works that the
experiment cannot have changed; the variance falls to 1 − ρ² of what it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from core.errors import InvalidInput
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Floats, Joint, Metric, value_and_gradient

MAX_COVARIATES = 20


def adjust(
    arms: Mapping[str, Joint], metric: Metric, covariates: Sequence[Metric], theta: Floats | None = None
) -> dict[str, Estimate]:
    """Every arm's adjusted estimate; differences of any two are comparable, since θ and x̄ are shared.

    ``arms``: moments over the same columns. θ = S⁻¹s, from the pooled within-arm covariances (see
    :func:`slope`), unless it is given; a covariate that is constant or a combination of others adds nothing.
    Degrees of freedom: n − 1 less the number of covariates. InvalidInput: an arm of no members, no
    covariate, or a denominator of 0.
    """
    if not 1 <= len(covariates) <= MAX_COVARIATES:
        raise InvalidInput(f"Give 1 to {MAX_COVARIATES} covariates.", "covariates")
    for name, joint in arms.items():
        if not joint.n:
            raise InvalidInput(f"The arm “{name}” is empty; a comparison needs members in both.", name)
    found = {name: _linear(joint, metric, covariates) for name, joint in arms.items()}
    if theta is None:
        theta = _theta([(arms[name], gradients) for name, (_, gradients) in found.items()])
    weights = np.array([joint.n for joint in arms.values()], dtype=np.float64)
    centre = np.average(np.array([values[1:] for values, _ in found.values()]), axis=0, weights=weights)
    turned = np.concatenate([[1.0], -theta])
    result = {}
    for name, (values, gradients) in found.items():
        joint = arms[name]
        direction = turned @ gradients
        value = float(values[0] - theta @ (values[1:] - centre))
        var = max(float(direction @ joint.cov @ direction), 0.0) / joint.n
        result[name] = Estimate(joint.n, value, var, max(joint.n - 1 - len(covariates), 1))
    return result


def slope(arms: Mapping[str, Joint], metric: Metric, covariates: Sequence[Metric]) -> Floats:
    """θ, one for each covariate, pooled within the arms: for parts of them that are to share it."""
    return _theta([(joint, _linear(joint, metric, covariates)[1]) for joint in arms.values()])


def correlation(arms: Mapping[str, Joint], metric: Metric, covariate: Metric) -> float:
    """ρ of metric and covariate within the arms; the adjusted variance is 1 − ρ² of the plain one."""
    total = np.zeros((2, 2))
    for joint in arms.values():
        _, gradients = _linear(joint, metric, [covariate])
        total += gradients @ joint.cov @ gradients.T * max(joint.n - 1, 0)
    bottom = math.sqrt(total[0, 0] * total[1, 1])
    return float(total[0, 1] / bottom) if bottom else 0.0


def _linear(joint: Joint, metric: Metric, covariates: Sequence[Metric]) -> tuple[Floats, Floats]:
    """Values (1 + c,) and gradients (1 + c, k) of the metric and the covariates."""
    parts = [value_and_gradient(joint, one) for one in (metric, *covariates)]
    return np.array([value for value, _ in parts]), np.array([gradient for _, gradient in parts])


def _theta(parts: Sequence[tuple[Joint, Floats]]) -> Floats:
    squares = sum(
        (gradients @ joint.cov @ gradients.T * max(joint.n - 1, 0) for joint, gradients in parts),
        start=np.zeros((len(parts[0][1]), len(parts[0][1]))),
    )
    inner, cross = squares[1:, 1:], squares[1:, 0]
    scale = np.sqrt(np.diag(inner))
    scale[scale == 0] = 1.0
    # Scaled to correlations before the pseudo-inverse, whose cut-off then means the same for any unit.
    inverse = np.linalg.pinv(inner / np.outer(scale, scale), rcond=1e-10, hermitian=True)
    theta: Floats = inverse @ (cross / scale) / scale
    return theta
