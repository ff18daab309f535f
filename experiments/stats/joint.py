"""Moments of several numbers of the same units: what ratios and adjusted metrics are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput
from experiments.moments import Moments, PairMoments

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Joint:
    """``n`` units, the means of the named columns, and their sample covariances (k × k, divisor n − 1)."""

    n: int
    names: tuple[str, ...]
    means: Floats
    cov: Floats

    @classmethod
    def of(cls, columns: Mapping[str, npt.ArrayLike]) -> Joint:
        """Of columns in memory, all of one length. Centred first, so that a large mean costs nothing."""
        data = np.array([np.asarray(column, dtype=np.float64) for column in columns.values()])
        k, n = data.shape
        if not n:
            return cls(0, tuple(columns), np.zeros(k), np.zeros((k, k)))
        means = data.mean(axis=1)
        rest = data - means[:, None]
        means = means + rest.mean(axis=1)  # what the first pass rounded off
        rest = data - means[:, None]
        return cls(n, tuple(columns), means, rest @ rest.T / max(n - 1, 1))

    @classmethod
    def of_pair(cls, pair: PairMoments, names: tuple[str, str]) -> Joint:
        """Of the warehouse scan's pairs."""
        cov = np.array([[pair.x.var, pair.cov], [pair.cov, pair.y.var]])
        return cls(pair.x.n, names, np.array([pair.x.mean, pair.y.mean]), cov)

    def merge(self, other: Joint) -> Joint:
        """Both together, exactly as if counted together (Chan, Golub and LeVeque 1979)."""
        if self.names != other.names:
            raise InvalidInput(
                f"Moments of {', '.join(self.names)} do not add to those of {', '.join(other.names)}.",
                "names",
            )
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        delta = other.means - self.means
        squares = self.cov * (self.n - 1) + other.cov * (other.n - 1)
        squares = squares + np.outer(delta, delta) * (self.n * other.n / n)
        return Joint(n, self.names, self.means + delta * (other.n / n), squares / (n - 1))

    def place(self, name: str) -> int:
        """Where a column is. InvalidInput: it is none of them."""
        if name not in self.names:
            raise InvalidInput(f"There is no column “{name}” among {', '.join(self.names)}.", name)
        return self.names.index(name)

    def moments(self, name: str) -> Moments:
        """Of one column."""
        i = self.place(name)
        return Moments(self.n, float(self.means[i]), float(self.cov[i, i]))


@dataclass(frozen=True)
class Mean:
    """The mean of a column."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)


@dataclass(frozen=True)
class Ratio:
    """The sum of a column over the sum of another, such as revenue by orders."""

    numerator: str
    denominator: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.numerator, self.denominator)


Metric = Mean | Ratio


def value_and_gradient(joint: Joint, metric: Metric) -> tuple[float, Floats]:
    """The metric's value of an arm, and its derivative by the arm's means: (k,), for the delta method.

    A ratio's derivative is (1, −R)/D̄. InvalidInput: a denominator whose mean is 0, or not finite.
    """
    gradient = np.zeros(len(joint.names))
    if isinstance(metric, Mean):
        i = joint.place(metric.column)
        gradient[i] = 1.0
        return float(joint.means[i]), gradient
    top, bottom = joint.place(metric.numerator), joint.place(metric.denominator)
    below = float(joint.means[bottom])
    if below == 0 or not np.isfinite(below):
        raise InvalidInput(
            f"The mean of {metric.denominator} is {below:g} in an arm, so {metric.numerator} by "
            f"{metric.denominator} has no value; take units with a denominator, or the mean instead.",
            metric.denominator,
        )
    value = float(joint.means[top]) / below
    gradient[top] += 1 / below
    gradient[bottom] -= value / below
    return value, gradient


def merge_all(parts: Sequence[Joint]) -> Joint:
    """All parts together. InvalidInput: no part."""
    if not parts:
        raise InvalidInput("There are no moments to add up.", "parts")
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole
