"""BG/NBD: when customers buy, and whether they still do.

Fader, Hardie, Lee: “Counting Your Customers” the Easy Way, Marketing Science 24 (2005). While alive a
customer buys at a rate λ ~ Gamma(r, α) and after each repeat purchase leaves with probability
p ~ Beta(a, b). Somebody who never bought again has had no chance to leave: p(alive) is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, expit, gammaln, hyp2f1, polygamma, psi, xlog1py, xlogy

from segments.predict.fitted import Fitted, fitted
from segments.predict.groups import Floats, Groups
from segments.predict.maximum import maximise

NAMES = ("r", "alpha", "a", "b")
STARTS = ((0.3, 0.5, 2.0), (1.0, 1.0, 4.0), (2.0, 0.1, 1.0))
"""r, a and b of each start; alpha follows from the mean rate."""
PART = 20_000
"""Groups on which the starts are tried."""
SMALLEST, LARGEST = 1e-4, 1e4
"""Limits of the parameters; alpha's are these times the mean time observed."""
BLOCK = 8_192
"""Groups at a time: they stay in the cache, and are too few for the linear algebra to start threads, which
on a busy machine wait for each other longer than they work."""
_NUDGE = 1e-5
_NODES = 96


@dataclass(frozen=True)
class BgNbd:
    """Parameters. alpha is in the unit of time of the data."""

    r: float
    alpha: float
    a: float
    b: float


class BgNbdLikelihood:
    """The mean log-likelihood of grouped customers, with its gradient and Hessian.

    With L = A₁A₂(A₃ + δA₄) as in the paper and z = ln A₄ − ln A₃, ln(A₃ + δA₄) = ln A₃ + ln(1 + eᶻ).
    Everything but z is summed over distinct x and distinct T; only z needs a look at each group.
    """

    def __init__(self, groups: Groups) -> None:
        self.customers = groups.customers
        self.x, self.recency, self.age = groups.x, groups.recency, groups.age
        self.by_x = np.bincount(groups.at_x, groups.count, len(groups.x))
        self.by_age = np.bincount(groups.at_age, groups.count, len(groups.age))
        bought = groups.count * groups.x[groups.at_x]
        self.x_by_age = np.bincount(groups.at_age, bought, len(groups.age))
        again = np.flatnonzero(groups.x[groups.at_x] > 0)
        self.at_x, self.at_recency = groups.at_x[again], groups.at_recency[again]
        self.at_age, self.count = groups.at_age[again], groups.count[again]

    def __call__(self, parameters: Floats, hessian: bool) -> tuple[float, Floats, Floats]:
        value, gradient, second = self._by_x(parameters, hessian)
        for more in (self._by_age(parameters), self._again(parameters, hessian)):
            value += more[0]
            gradient += more[1]
            second += more[2]
        return value / self.customers, gradient / self.customers, second / self.customers

    def _by_x(self, parameters: Floats, hessian: bool) -> tuple[float, Floats, Floats]:
        """ln A₁ + ln A₂: r, alpha, a and b by the number of purchases alone."""
        r, alpha, a, b = parameters
        x, n = self.x, self.by_x
        total = n.sum()
        value = n @ (gammaln(r + x) + gammaln(b + x) - gammaln(a + b + x))
        value += total * (r * np.log(alpha) - gammaln(r) + gammaln(a + b) - gammaln(b))
        common = total * psi(a + b) - n @ psi(a + b + x)
        gradient = np.array([
            n @ psi(r + x) + total * (np.log(alpha) - psi(r)),
            total * r / alpha,
            common,
            common + n @ psi(b + x) - total * psi(b),
        ])  # fmt: skip
        second = np.zeros((4, 4))
        if hessian:
            second[0, 0] = n @ polygamma(1, r + x) - total * polygamma(1, r)
            second[0, 1] = second[1, 0] = total / alpha
            second[1, 1] = -total * r / alpha**2
            shared = total * polygamma(1, a + b) - n @ polygamma(1, a + b + x)
            second[2:, 2:] = shared
            second[3, 3] += n @ polygamma(1, b + x) - total * polygamma(1, b)
        return float(value), gradient, second

    def _by_age(self, parameters: Floats) -> tuple[float, Floats, Floats]:
        """ln A₃ = −(r + x) ln(α + T)."""
        r, alpha = parameters[:2]
        reach = alpha + self.age
        weight = r * self.by_age + self.x_by_age
        logs = np.log(reach)
        second = np.zeros((4, 4))
        second[0, 1] = second[1, 0] = -(self.by_age @ (1 / reach))
        second[1, 1] = weight @ (1 / reach**2)
        gradient = np.array([-(self.by_age @ logs), -(weight @ (1 / reach)), 0.0, 0.0])
        return -float(weight @ logs), gradient, second

    def _again(self, parameters: Floats, hessian: bool) -> tuple[float, Floats, Floats]:
        """ln(1 + eᶻ) of who bought again, block by block."""
        r, alpha, a, b = parameters
        log_age, log_recency = np.log(alpha + self.age), np.log(alpha + self.recency)
        per_age, per_recency = 1 / (alpha + self.age), 1 / (alpha + self.recency)
        left = b + np.maximum(self.x, 1) - 1
        odds = np.log(a) - np.log(left)
        value, gradient, second = 0.0, np.zeros(4), np.zeros((4, 4))
        for start in range(0, len(self.count), BLOCK):
            block = slice(start, start + BLOCK)
            ix, it, iage, n = self.at_x[block], self.at_recency[block], self.at_age[block], self.count[block]
            slopes = np.empty((4, len(n)))  # of z by each parameter
            power = r + self.x[ix]
            slopes[0] = log_age[iage] - log_recency[it]
            shorter = per_age[iage] - per_recency[it]
            slopes[1] = power * shorter
            slopes[2] = 1 / a
            slopes[3] = (-1 / left)[ix]
            z = odds[ix] + power * slopes[0]
            value += float(n @ np.logaddexp(0, z))
            share = n * expit(z)
            gradient += np.einsum("ij,j->i", slopes, share)
            if hessian:
                curve = share * expit(-z)
                second += (slopes * curve) @ slopes.T
                cross = share @ shorter
                second[0, 1] += cross
                second[1, 0] += cross
                second[1, 1] += share @ (power * (per_recency[it] ** 2 - per_age[iage] ** 2))
                second[2, 2] -= share.sum() / a**2
                second[3, 3] += share @ slopes[3] ** 2
        return value, gradient, second


def fit(groups: Groups) -> Fitted[BgNbd]:
    """Fit by maximum likelihood. The groups must contain somebody who bought again."""
    mean_age = float(groups.count @ groups.age[groups.at_age]) / groups.customers
    rate = float(groups.count @ groups.x[groups.at_x]) / (groups.customers * mean_age)
    starts = [(r, r / rate, a, b) for r, a, b in STARTS]
    limits = np.array([1.0, mean_age, 1.0, 1.0])
    found = maximise(
        BgNbdLikelihood(groups),
        BgNbdLikelihood(groups.part(PART)),
        starts,
        SMALLEST * limits,
        LARGEST * limits,
    )
    model = BgNbd(*(float(value) for value in found.parameters))
    return fitted("bgnbd", model, NAMES, found, round(groups.customers))


def p_alive(model: BgNbd, x: NDArray[Any], recency: Floats, age: Floats) -> Floats:
    """The probability that a customer has not left; 1 for who never bought again."""
    again = np.maximum(x, 1)
    odds = np.log(model.a) - np.log(model.b + again - 1)
    odds = odds + (model.r + x) * (np.log(model.alpha + age) - np.log(model.alpha + recency))
    return np.where(x > 0, expit(-odds), 1.0)


def purchases_if_alive(model: BgNbd, x: NDArray[Any], age: Floats, ahead: float | Floats) -> Floats:
    """Expected purchases in the next ``ahead`` units of time of customers who have not left by T.

    Times :func:`p_alive` it is the paper's equation 10. With x and T zero: of a new customer, equation 9.
    """
    a, c = model.a, model.a + model.b + np.asarray(x, dtype=np.float64) - 1
    # At a = 1 and at a + b + x = 1 the formula is 0/0 with a finite limit: the mean of both sides.
    if abs(a - 1) < _NUDGE or (np.abs(c) < _NUDGE).any():
        sides = [
            BgNbd(model.r, model.alpha, a * (1 + sign * 3 * _NUDGE), model.b * (1 + sign * 2 * _NUDGE))
            for sign in (1, -1)
        ]
        return np.asarray(sum(_purchases(side, x, age, ahead) for side in sides) / 2)
    return _purchases(model, x, age, ahead)


def _purchases(model: BgNbd, x: NDArray[Any], age: Floats, ahead: float | Floats) -> Floats:
    r, alpha, a, b = model.r, model.alpha, model.a, model.b
    z = ahead / (alpha + age + ahead)
    c = a + b + x - 1
    # Euler's transformation of the paper's ₂F₁(r + x, b + x; a + b + x − 1; z): its first two
    # parameters no longer grow with x, and the power (1 − z)^(r + x), which would underflow, cancels.
    with np.errstate(over="ignore", invalid="ignore"):
        remains = np.asarray(np.power(1 - z, a - 1) * hyp2f1(a + b - 1 - r, a - 1, c, z))
    lost = ~np.isfinite(remains)
    if a > 1 and lost.any():
        # Where nearly everybody has left for good, a is large: the power underflows, the series overflows.
        orders, odds = np.broadcast_arrays(np.asarray(x, dtype=np.float64), z / (1 - z))
        remains[lost] = _remains(model, orders[lost], odds[lost])
    return np.asarray(np.maximum(c / (a - 1) * (1 - remains), 0.0))


def _remains(model: BgNbd, x: Floats, odds: Floats) -> Floats:
    """Euler's integral of the same: the mean of (1 + odds·t)^−(r + x) over t of Beta(a − 1, b + x), a > 1.

    By Gauss and Legendre within twelve standard deviations of the mean.
    """
    first, second = model.a - 1, (model.b + x)[:, None]
    total = first + second
    mean = first / total
    reach = 12 * np.sqrt(mean * (1 - mean) / (total + 1))
    low, high = np.maximum(mean - reach, 0.0), np.minimum(mean + reach, 1.0)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    t = (low + high) / 2 + (high - low) / 2 * nodes
    height = np.exp(xlogy(first - 1, t) + xlog1py(second - 1, -t) - betaln(first, second))
    terms = height * np.power(1 + odds[:, None] * t, -(model.r + x)[:, None])
    # By what the nodes see of the density, not by 1: with b below 1 it is steep at the end.
    return np.asarray((terms @ weights) / (height @ weights))


def repeat_shares(model: BgNbd, age: Floats, most: int) -> Floats:
    """Probabilities of 0 … ``most`` − 1 repeat purchases, and of more, within T: (most + 1, len(age)).

    Equation 8 of the paper.
    """
    r, alpha, a, b = model.r, model.alpha, model.a, model.b
    share = age / (alpha + age)
    rows = []
    for x in range(most):
        stay = np.exp(
            betaln(a, b + x) - betaln(a, b) + gammaln(r + x) - gammaln(r) - gammaln(x + 1)
            + r * np.log1p(-share) + (x * np.log(np.maximum(share, 1e-300)) if x else 0.0)
        )  # fmt: skip
        # A chance of at least x purchases by a rate of Gamma(r, α): what leaves the sum in the paper.
        leave = np.exp(betaln(a + 1, b + x - 1) - betaln(a, b)) * betainc(x, r, share) if x else 0.0
        rows.append(stay + leave)
    return np.vstack([*rows, 1 - np.sum(rows, axis=0)])
