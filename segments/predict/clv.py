"""A customer's predictions from fitted models: alive, purchases to come, spend, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segments.predict import bgnbd, gammagamma
from segments.predict.bgnbd import BgNbd
from segments.predict.gammagamma import GammaGamma
from segments.predict.groups import Floats, Groups, codes

PERIOD_DAYS = 30
"""A horizon is cut into equal periods of at most so many days; each is discounted from its middle."""
YEAR_DAYS = 365.25


@dataclass(frozen=True)
class Predictions:
    """A value a customer, in the order of the customers. Spend and value in the unit of the spend."""

    p_alive: Floats
    purchases: Floats
    spend: Floats | None
    clv: Floats | None


def alive(model: BgNbd, groups: Groups) -> Floats:
    """p(alive) of each group."""
    x, recency, age = groups.x, groups.recency, groups.age
    return bgnbd.p_alive(model, x[groups.at_x], recency[groups.at_recency], age[groups.at_age])


def purchases(model: BgNbd, groups: Groups, ahead: float) -> Floats:
    """Expected purchases in the next ``ahead`` units of time of each group."""
    pairs, at = _pairs(groups)
    return alive(model, groups) * bgnbd.purchases_if_alive(model, *pairs, ahead)[at]


def _pairs(groups: Groups) -> tuple[tuple[Floats, Floats], NDArray[np.intp]]:
    """Distinct (x, T), and each group's place: what a customer alive does next depends on no more."""
    found, at = codes(groups.at_x * len(groups.age) + groups.at_age)
    at_x, at_age = np.divmod(found, max(len(groups.age), 1))
    return (groups.x[at_x], groups.age[at_age]), at


def discounted_purchases(
    model: BgNbd, groups: Groups, days: float, unit_days: float, discount: float
) -> Floats:
    """Purchases expected of each group in the next ``days``, each worth (1 + discount)^−years."""
    pairs, at = _pairs(groups)
    periods = ceil(days / PERIOD_DAYS)
    ends = np.arange(1, periods + 1) * (days / periods)
    before, total = np.zeros(len(pairs[0])), np.zeros(len(pairs[0]))
    for end in ends:
        by_then = bgnbd.purchases_if_alive(model, *pairs, end / unit_days)
        middle = end - days / periods / 2
        total += (by_then - before) * (1 + discount) ** (-middle / YEAR_DAYS)
        before = by_then
    return alive(model, groups) * total[at]


def predict(
    model: BgNbd,
    spending: GammaGamma | None,
    groups: Groups,
    x: NDArray[Any],
    spend: Floats,
    *,
    unit_days: float,
    horizon_days: float,
    clv_days: float,
    margin: float = 1.0,
    discount: float = 0.0,
) -> Predictions:
    """Predictions of the customers that ``groups`` were made of, with frequency ``x`` and mean ``spend``.

    ``discount`` is a share a year, ``margin`` the share of the spend that counts.
    """
    ahead = purchases(model, groups, horizon_days / unit_days)[groups.of]
    living = alive(model, groups)[groups.of]
    if spending is None:
        return Predictions(living, ahead, None, None)
    expected = gammagamma.expected_spend(spending, x, spend)
    worth = discounted_purchases(model, groups, clv_days, unit_days, discount)[groups.of]
    return Predictions(living, ahead, expected, worth * expected * margin)
