"""Finds the maximum of a log-likelihood of positive parameters, and says how sure one may be of it.

Searches on the logarithms of the parameters: SciPy's SLSQP from several starts on a part of the data, then
Newton's steps with the exact Hessian on all of it. The work on everything is a handful of evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import minimize

from segments.predict.groups import Floats

MAX_STEPS = 500
MAX_NEWTON_STEPS = 30
GRADIENT_BOUND = 1e-6
"""Of the mean log-likelihood of a customer, by the logarithm of each parameter."""
_ENOUGH = 1e-9
_ROUNDING = 1e-12


class Likelihood(Protocol):
    """A mean log-likelihood of a customer with its gradient and, when asked, Hessian, by the parameters."""

    def __call__(self, parameters: Floats, hessian: bool) -> tuple[float, Floats, Floats]: ...


@dataclass(frozen=True)
class Maximum:
    """Where the search ended. Gradient and Hessian are by the logarithms of the parameters."""

    parameters: Floats
    value: float
    gradient: Floats
    hessian: Floats
    converged: bool
    steps: int
    spread: float
    """The largest relative difference of a parameter between the starts."""
    low: Floats
    high: Floats

    def errors(self, customers: float) -> Floats | None:
        """Standard errors of the parameters (delta method); None where the Hessian tells none."""
        try:
            np.linalg.cholesky(-self.hessian)
        except np.linalg.LinAlgError:
            return None
        variance = np.diag(np.linalg.inv(-self.hessian * customers))
        return np.asarray(self.parameters * np.sqrt(variance), dtype=np.float64)


@dataclass(frozen=True)
class _Place:
    at: Floats
    value: float
    gradient: Floats
    hessian: Floats
    steps: int


def _evaluate(likelihood: Likelihood, at: Floats, hessian: bool) -> tuple[float, Floats, Floats]:
    """The likelihood by the logarithms of its parameters."""
    parameters = np.exp(at)
    value, gradient, second = likelihood(parameters, hessian)
    by_log = gradient * parameters
    return value, by_log, second * np.outer(parameters, parameters) + np.diag(by_log)


def _newton(likelihood: Likelihood, start: Floats, low: Floats, high: Floats) -> _Place:
    """Newton's steps, halved while they lead down; ends where they no longer help."""
    at = start
    value, gradient, hessian = _evaluate(likelihood, at, True)
    steps = 0
    while steps < MAX_NEWTON_STEPS and np.abs(gradient).max() > _ENOUGH:
        try:
            factor = np.linalg.cholesky(-hessian)
        except np.linalg.LinAlgError:
            break
        step = np.linalg.solve(factor.T, np.linalg.solve(factor, gradient))
        for _ in range(8):
            there = np.clip(at + step, low, high)
            tried = _evaluate(likelihood, there, True)
            steps += 1
            if np.isfinite(tried[0]) and tried[0] >= value - _ROUNDING * (1 + abs(value)):
                break
            step = step / 2
        else:
            break
        if (there == at).all():
            break
        at, (value, gradient, hessian) = there, tried
    return _Place(at, value, gradient, hessian, steps)


def _climb(likelihood: Likelihood, start: Floats, low: Floats, high: Floats) -> _Place:
    """A bounded quasi-Newton search from far away, then Newton's steps.

    SLSQP and not L-BFGS-B: that one's linear algebra starts threads for these few numbers, and costs a
    hundred times more on a busy machine.
    """

    def downhill(at: Floats) -> tuple[float, Floats]:
        value, gradient, _ = _evaluate(likelihood, at, False)
        return -value, -gradient

    found = minimize(
        downhill,
        np.clip(start, low, high),
        jac=True,
        method="SLSQP",
        bounds=list(zip(low, high, strict=True)),
        options={"maxiter": MAX_STEPS, "ftol": 1e-13},
    )
    place = _newton(likelihood, np.asarray(found.x, dtype=np.float64), low, high)
    return _Place(place.at, place.value, place.gradient, place.hessian, place.steps + int(found.nit))


def maximise(
    whole: Likelihood, part: Likelihood, starts: Sequence[Sequence[float]], low: Floats, high: Floats
) -> Maximum:
    """The best of the starts on ``part``, carried to the maximum of ``whole``; limits are of parameters."""
    log_low, log_high = np.log(low), np.log(high)
    places = [_climb(part, np.log(np.asarray(start)), log_low, log_high) for start in starts]
    best = max(places, key=lambda place: place.value)
    end = _newton(whole, best.at, log_low, log_high)
    if np.abs(end.gradient).max() > GRADIENT_BOUND:
        end = _climb(whole, end.at, log_low, log_high)
    steps = best.steps + end.steps
    apart = [float(np.expm1(np.abs(place.at - best.at).max())) for place in places]
    return Maximum(
        parameters=np.exp(end.at),
        value=end.value,
        gradient=end.gradient,
        hessian=end.hessian,
        converged=bool(np.isfinite(end.value)) and steps < MAX_STEPS,
        steps=steps,
        spread=max(apart),
        low=low,
        high=high,
    )
