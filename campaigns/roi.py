"""What a campaign was worth: incremental revenue and profit, ROI, iROAS, each with its interval. Pure.

Incremental means: beyond what the held-out members say would have happened anyway. The cost is what was
spent, a known number; only the increment is uncertain. A difference that holds 0 says so in its interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

from core.errors import InvalidInput
from experiments.moments import PairMoments

BOUNDED, OUTSIDE, EVERYWHERE = "bounded", "outside", "everywhere"
"""Forms of a Fieller interval: [low, high]; all but (low, high); every number."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class FiellerInterval:
    """Interval of a ratio. ``kind`` ``outside``: everything up to ``low`` and from ``high`` on;
    ``everywhere``: the data exclude nothing, since the denominator may be 0."""

    estimate: float | None
    low: float | None
    high: float | None
    kind: str


@dataclass(frozen=True)
class Cost:
    """What was spent, in minor units, by kind."""

    messages: float
    coupons: float
    points: float
    fixed: float

    @property
    def total(self) -> float:
        return self.messages + self.coupons + self.points + self.fixed


@dataclass(frozen=True)
class Roi:
    """The read-out in money (minor units). ``roi`` = profit / cost; both ratios are None without a cost."""

    incremental_revenue: Interval
    profit: Interval
    cost: Cost
    roi: Interval | None
    iroas: FiellerInterval | None


def cost_of(
    *,
    sent: Mapping[str, int],
    price_minor: Mapping[str, float],
    redeemed: Mapping[str, tuple[int, float]],
    points: int,
    point_value_minor: float,
    fixed_minor: float = 0.0,
) -> Cost:
    """The cost of a campaign.

    ``sent``: messages by channel, ``price_minor``: price of one; ``redeemed``: by batch the sum of the
    discounts given (minor units) and the shop's settlement share (0 to 1); ``points`` × the expected value
    of one when it is redeemed.
    """
    missing = sorted(set(sent) - set(price_minor))
    if missing:
        raise InvalidInput(
            f"Say what a message costs by {', '.join(missing)} (0 where it is free).", "price_minor"
        )
    for batch, (_, share) in redeemed.items():
        if not 0 <= share <= 1:
            raise InvalidInput(f"The settlement share of “{batch}” lies between 0 and 1.", "redeemed")
    messages = sum(number * price_minor[channel] for channel, number in sent.items())
    coupons = sum(discount * share for discount, share in redeemed.values())
    values = (messages, coupons, points * point_value_minor, fixed_minor)
    if any(value < 0 for value in values):
        raise InvalidInput("No part of the cost may be negative.", "cost")
    return Cost(*map(float, values))


def roi(increment: Interval, *, margin: float, cost: Cost, alpha: float = 0.05) -> Roi:
    """Profit = margin × incremental revenue − cost, with the interval that the increment's has.

    ``increment``: incremental revenue over all treated members, its interval at 1 − alpha; ``margin``:
    share of revenue that is margin, 0 to 1.
    """
    if not 0 <= margin <= 1:
        raise InvalidInput("The margin is a share of revenue between 0 and 1.", "margin")
    spent = cost.total
    profit = Interval(
        *(margin * value - spent for value in (increment.estimate, increment.low, increment.high))
    )
    if not spent:
        return Roi(increment, profit, cost, None, None)
    z = float(stats.norm.isf(alpha / 2))
    se = (increment.high - increment.low) / (2 * z)
    ratio = Interval(*(value / spent for value in (profit.estimate, profit.low, profit.high)))
    return Roi(increment, profit, cost, ratio, fieller(increment.estimate, se**2, spent, 0.0, 0.0, z))


def fieller(
    numerator: float,
    numerator_var: float,
    denominator: float,
    denominator_var: float,
    covariance: float,
    critical: float,
) -> FiellerInterval:
    """Interval of numerator / denominator (Fieller 1954): all r with (y − r·x)² ≤ c²·var(y − r·x).

    ``critical``: quantile of the normal or t distribution. With a denominator that is not surely other
    than 0 the set is not an interval: see :class:`FiellerInterval`.
    """
    c2 = critical**2
    # a·r² − 2·b·r + c ≤ 0
    a = denominator**2 - c2 * denominator_var
    b = numerator * denominator - c2 * covariance
    c = numerator**2 - c2 * numerator_var
    estimate = numerator / denominator if denominator else None
    discriminant = b * b - a * c
    if a > 0:
        root = math.sqrt(max(discriminant, 0.0))
        return FiellerInterval(estimate, (b - root) / a, (b + root) / a, BOUNDED)
    if a < 0 and discriminant > 0:
        root = math.sqrt(discriminant)
        return FiellerInterval(estimate, (b + root) / a, (b - root) / a, OUTSIDE)
    return FiellerInterval(estimate, None, None, EVERYWHERE)


def iroas(treated: PairMoments, control: PairMoments, alpha: float = 0.05) -> FiellerInterval:
    """Incremental revenue a unit of incremental cost, where the cost differs by member too (coupons used).

    Moments: ``x`` the revenue of a member, ``y`` the cost of that member, the control's cost usually 0.
    Fieller's interval with the normal quantile, so the arms should be large; it covers at its level even
    where the cost may be 0, and is then not bounded.
    """
    arms = (treated, control)
    if min(arm.x.n for arm in arms) < 2:
        raise InvalidInput("An iROAS needs two members or more in both arms.", "arms")
    if not 0 < alpha < 1:
        raise InvalidInput("alpha lies between 0 and 1.", "alpha")
    return fieller(
        treated.x.mean - control.x.mean,
        sum(arm.x.var / arm.x.n for arm in arms),
        treated.y.mean - control.y.mean,
        sum(arm.y.var / arm.y.n for arm in arms),
        sum(arm.cov / arm.x.n for arm in arms),
        float(stats.norm.isf(alpha / 2)),
    )


_WORDS = {
    "en": {
        BOUNDED: "{estimate}, between {low} and {high}",
        OUTSIDE: "{estimate}, but unbounded: the data exclude only values between {low} and {high}",
        EVERYWHERE: "unbounded: the data exclude no value at all, since the cost may be 0",
    },
    "zh": {
        BOUNDED: "{estimate}，介于 {low} 与 {high} 之间",
        OUTSIDE: "{estimate}，但区间无界：数据仅排除 {low} 与 {high} 之间的值",
        EVERYWHERE: "区间无界：成本可能为 0，数据不能排除任何值",
    },
}


def in_words(interval: FiellerInterval, locale: str, digits: int = 2) -> str:
    """The ratio in a sentence of English or Chinese (any ``zh…`` locale); says where it is unbounded."""
    words = _WORDS["zh" if locale.lower().startswith("zh") else "en"]
    values = {
        name: "–" if value is None else f"{value:,.{digits}f}"
        for name, value in (("estimate", interval.estimate), ("low", interval.low), ("high", interval.high))
    }
    return words[interval.kind].format(**values)


@dataclass(frozen=True)
class Payback:
    """Days until the margin has paid the cost, by the estimate and by the interval's ends. None: not yet."""

    day: int | None
    earliest: int | None
    latest: int | None


def payback(margin_by_day: Mapping[int, Interval], cost_minor: float) -> Payback:
    """When incremental margin covered the cost.

    ``margin_by_day``: days since assignment → the incremental margin of all treated up to that day (minor
    units, with its interval): a read-out for each window. A day counts when all later ones stay above the
    cost too, since increments may fall again (purchases only brought forward).
    """
    if cost_minor < 0:
        raise InvalidInput("No part of the cost may be negative.", "cost")

    def first(end: str) -> int | None:
        found = None
        for day in sorted(margin_by_day, reverse=True):
            if getattr(margin_by_day[day], end) < cost_minor:
                break
            found = day
        return found

    return Payback(first("estimate"), first("high"), first("low"))
