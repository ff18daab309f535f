"""Gamma-Gamma: how much customers spend a purchase.

Fader, Hardie: The Gamma-Gamma Model of Monetary Value (2013). Spend a purchase is Gamma(p, ν) with
ν ~ Gamma(q, v) between customers, whatever their frequency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, polygamma, psi

from segments.predict import checks
from segments.predict.fitted import Fitted, fitted
from segments.predict.groups import Floats, codes
from segments.predict.maximum import maximise

NAMES = ("p", "q", "v")
STARTS = ((1.0, 4.0), (6.0, 3.0), (3.0, 12.0))
"""p and q of each start; v follows from the mean spend."""
PART = 20_000
SMALLEST, LARGEST = 1e-3, 1e4
"""Limits of the parameters; v's are these times the mean spend."""


@dataclass(frozen=True)
class GammaGamma:
    """Parameters. v is in the unit of the spend."""

    p: float
    q: float
    v: float

    @property
    def mean(self) -> float:
        """The mean spend of all customers, where q > 1."""
        return self.p * self.v / (self.q - 1)


class GammaGammaLikelihood:
    """The mean log-likelihood of repeaters, with its gradient and Hessian; ln Γ only of distinct x."""

    def __init__(self, x: NDArray[Any], spend: Floats) -> None:
        self.customers = len(spend)
        found, self.at = codes(x)
        self.x = found.astype(np.float64)
        self.n = np.bincount(self.at, minlength=len(found)).astype(np.float64)
        self.total = self.x[self.at] * spend
        self.logs = np.bincount(self.at, np.log(spend), len(found))

    def __call__(self, parameters: Floats, hessian: bool) -> tuple[float, Floats, Floats]:
        p, q, v = parameters
        x, n, k = self.x, self.n, self.customers
        reach = self.total + v
        log_reach = np.bincount(self.at, np.log(reach), len(x))
        px = p * x
        value = n @ (gammaln(px + q) - gammaln(px) + px * np.log(x))
        value += (px - 1) @ self.logs - (px + q) @ log_reach + k * (q * np.log(v) - gammaln(q))
        per_reach = np.bincount(self.at, 1 / reach, len(x))
        digamma = psi(px + q)
        gradient = np.array([
            (x * n) @ (digamma - psi(px) + np.log(x)) + x @ (self.logs - log_reach),
            n @ digamma - log_reach.sum() + k * (np.log(v) - psi(q)),
            k * q / v - (px + q) @ per_reach,
        ])  # fmt: skip
        second = np.zeros((3, 3))
        if hessian:
            trigamma = polygamma(1, px + q)
            second[0, 0] = (x * x * n) @ (trigamma - polygamma(1, px))
            second[0, 1] = second[1, 0] = (x * n) @ trigamma
            second[0, 2] = second[2, 0] = -(x @ per_reach)
            second[1, 1] = n @ trigamma - k * polygamma(1, q)
            second[1, 2] = second[2, 1] = k / v - per_reach.sum()
            second[2, 2] = (px + q) @ np.bincount(self.at, reach**-2, len(x)) - k * q / v**2
        return float(value) / k, gradient / k, second / k


def spend_correlation(x: NDArray[Any], spend: Floats) -> float:
    """Pearson's correlation of frequency and mean spend among repeaters; 0 where one does not vary."""
    again = repeaters(x, spend)
    if len(again) < 2 or np.ptp(x[again]) == 0 or np.ptp(spend[again]) == 0:
        return 0.0
    return float(np.corrcoef(x[again].astype(np.float64), spend[again])[0, 1])


def repeaters(x: NDArray[Any], spend: Floats) -> NDArray[np.intp]:
    """Places of customers who bought again and paid something for it."""
    return np.flatnonzero((x > 0) & (np.nan_to_num(spend) > 0))


def fit(x: NDArray[Any], spend: Floats) -> Fitted[GammaGamma]:
    """Fit on the repeaters among customers with x repeat purchases, of the mean ``spend`` (NaN: none)."""
    again = repeaters(x, spend)
    x_again, spend_again = x[again], spend[again]
    mean = float(spend_again.mean())
    step = -(-len(again) // PART)
    limits = np.array([1.0, 1.0, mean])
    found = maximise(
        GammaGammaLikelihood(x_again, spend_again),
        GammaGammaLikelihood(x_again[::step], spend_again[::step]),
        [(p, q, mean * (q - 1) / p) for p, q in STARTS],
        SMALLEST * limits,
        LARGEST * limits,
    )
    model = GammaGamma(*(float(value) for value in found.parameters))
    more = (checks.finite_mean(model.q), checks.correlation(spend_correlation(x, spend)))
    return fitted("gamma_gamma", model, NAMES, found, len(again), more)


def expected_spend(model: GammaGamma, x: NDArray[Any], spend: Floats) -> Floats:
    """The spend expected of a customer's next purchase: its own mean drawn towards everybody's.

    Equation 5 of the paper: p(v + x·m) / (px + q − 1).
    """
    own = np.where(x > 0, x * np.nan_to_num(spend), 0.0)
    return np.asarray(model.p * (model.v + own) / (model.p * x + model.q - 1))
