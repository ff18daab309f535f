"""Whom a coupon was wasted on: the redeemers who, by the held-out arm, would have bought anyway. Pure.

The held-out arm says which share of members buys without an offer. Of those, the treated arm shows some
buying without the coupon; the rest must be among the redeemers. That supposes that the offer keeps nobody
from buying, and that nobody bought because of it without using it. The second can fail (a reminder is a
reminder), so the upper end for that case is given too.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

from campaigns.roi import BOUNDED, Interval, fieller
from core.errors import InvalidInput


@dataclass(frozen=True)
class Arms:
    """Members counted: treated, of those redeemers and buyers without the coupon; held out, its buyers."""

    treated: int
    redeemed: int
    bought_without: int
    held_out: int
    held_out_bought: int


@dataclass(frozen=True)
class Subsidy:
    """``share`` of the redeemers who would have bought anyway (0 to 1), ``wasted`` and ``productive`` the
    discounts (minor units) given to them and to the others. ``at_most``: the share if every buyer without
    the coupon had bought because of the offer. ``certain`` is False where the redeemers are too few to say
    anything: the interval is then 0 to 1. ``consistent`` is False where the raw estimate lies outside 0 to 1.
    """

    share: Interval
    wasted: Interval
    productive: Interval
    at_most: float
    certain: bool
    consistent: bool


def subsidy(arms: Arms, discounts_minor: float, alpha: float = 0.05) -> Subsidy:
    """Split the discounts given, with an interval at 1 − ``alpha`` (Fieller's, clipped to 0 … 1).

    InvalidInput: counts that cannot be, nobody redeemed, or nobody was held out.
    """
    _check(arms, discounts_minor, alpha)
    base = arms.held_out_bought / arms.held_out
    redeemed, without = arms.redeemed / arms.treated, arms.bought_without / arms.treated
    # Redeemers and buyers without the coupon are two cells of one multinomial: negatively correlated.
    found = fieller(
        base - without,
        base * (1 - base) / arms.held_out + without * (1 - without) / arms.treated,
        redeemed,
        redeemed * (1 - redeemed) / arms.treated,
        without * redeemed / arms.treated,
        float(stats.norm.isf(alpha / 2)),
    )
    raw = (base - without) / redeemed
    certain = found.kind == BOUNDED and found.low is not None and found.high is not None
    low, high = (found.low, found.high) if certain else (0.0, 1.0)
    assert low is not None
    assert high is not None
    share = Interval(_clip(raw), _clip(low), _clip(high))
    wasted = Interval(*(discounts_minor * part for part in (share.estimate, share.low, share.high)))
    productive = Interval(
        *(discounts_minor - value for value in (wasted.estimate, wasted.high, wasted.low)),
    )
    at_most = min(1.0, base / redeemed)
    return Subsidy(share, wasted, productive, at_most, certain, 0 <= raw <= 1)


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _check(arms: Arms, discounts_minor: float, alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InvalidInput("alpha lies between 0 and 1.", "alpha")
    if discounts_minor < 0:
        raise InvalidInput("The discounts given are not negative.", "discounts_minor")
    if arms.held_out < 1:
        raise InvalidInput("Nobody was held out, so nothing says who would have bought anyway.", "held_out")
    if arms.redeemed < 1:
        raise InvalidInput("Nobody redeemed the coupon: there is nothing to split.", "redeemed")
    parts = (arms.redeemed, arms.bought_without, arms.held_out_bought)
    if (
        min(parts) < 0
        or arms.redeemed + arms.bought_without > arms.treated
        or arms.held_out_bought > arms.held_out
    ):
        raise InvalidInput("An arm cannot have more buyers than members.", "arms")
