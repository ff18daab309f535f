"""What a benefit takes off a basket as it stands. Pure, integers only.

Guarantees: no share is above what its line (for benefits by the unit: each unit) has above its floor
price; nothing is ever added to a price.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loyalty.promotions.allocate import allocate, part
from loyalty.promotions.model import (
    Benefit,
    BuyXGetY,
    Fixed,
    FixedEach,
    FixedPrice,
    FreeShipping,
    Gift,
    Percent,
    Points,
    Reason,
    Scope,
    Tiered,
)
from loyalty.promotions.state import State


@dataclass(frozen=True, slots=True)
class Effect:
    """(line's place, amount) above 0, in line order; and what comes off the shipping."""

    shares: list[tuple[int, int]]
    shipping: int = 0


NOTHING = Reason("no_effect")
_GIVEN = Effect([])


def effect(benefit: Benefit, state: State) -> Effect | Reason:
    """What the benefit does now, or why it does nothing."""
    return _EFFECTS[type(benefit)](benefit, state)


def _spread(state: State, scope: Scope, amount: int) -> Effect | Reason:
    """``amount`` off the scope's lines, allocated."""
    places = state.lines(scope)
    if not places:
        return Reason("scope")
    shares = allocate(amount, [state.totals[place] for place in places], state.caps(places))
    return _shared(list(zip(places, shares, strict=True)))


def _shared(shares: list[tuple[int, int]]) -> Effect | Reason:
    found = [share for share in shares if share[1]]
    return Effect(found) if found else NOTHING


def _percent(benefit: Percent, state: State) -> Effect | Reason:
    if not benefit.by_line:
        off = part(state.total(benefit.scope), benefit.points)
        return _spread(
            state, benefit.scope, off if benefit.max_amount is None else min(off, benefit.max_amount)
        )
    places = state.lines(benefit.scope)
    if not places:
        return Reason("scope")
    shares = [
        min(part(state.totals[place], benefit.points), cap)
        for place, cap in zip(places, state.caps(places), strict=True)
    ]
    if benefit.max_amount is not None and sum(shares) > benefit.max_amount:
        # The limit is shared out like any amount, but nobody gets more than without it.
        shares = allocate(benefit.max_amount, [state.totals[place] for place in places], shares)
    return _shared(list(zip(places, shares, strict=True)))


def _fixed(benefit: Fixed, state: State) -> Effect | Reason:
    return _spread(state, benefit.scope, benefit.amount)


def _fixed_each(benefit: FixedEach, state: State) -> Effect | Reason:
    if not state.lines(benefit.scope):
        return Reason("scope")
    left = state.units(benefit.scope) if benefit.max_units is None else benefit.max_units
    off: dict[int, int] = {}
    for price, place, number in state.runs(benefit.scope, dearest=True):
        taken = min(number, left)
        if not taken:
            break
        left -= taken
        above = max(0, price - state.basket.lines[place].floor_price)
        off[place] = off.get(place, 0) + taken * min(benefit.amount, above)
    return _shared(sorted(off.items()))


def _fixed_price(benefit: FixedPrice, state: State) -> Effect | Reason:
    """Bundles of the dearest units; allocated over the units in them, by what those cost."""
    units = state.units(benefit.scope)
    times = units // benefit.count
    if not times:
        return Reason("units", {"need": benefit.count, "have": units})
    if benefit.max_times is not None:
        times = min(times, benefit.max_times)
    runs = state.runs(benefit.scope, dearest=True)
    amount, bundles = _bundles(runs, benefit, times)
    if not bundles:
        return NOTHING
    left = bundles * benefit.count
    values: dict[int, list[int]] = {}
    for price, place, number in runs:
        taken = min(number, left)
        if not taken:
            break
        left -= taken
        value = values.setdefault(place, [0, 0])
        value[0] += taken * price
        value[1] += taken * max(0, price - state.basket.lines[place].floor_price)
    places = sorted(values)
    shares = allocate(amount, [values[place][0] for place in places], [values[place][1] for place in places])
    return _shared(list(zip(places, shares, strict=True)))


def _bundles(runs: list[tuple[int, int, int]], benefit: FixedPrice, times: int) -> tuple[int, int]:
    """What the bundles save, and how many save anything: dearest first, so the rest saves nothing.

    Bundles within a run of equal units are counted at once: quantities may be large.
    """
    amount = bundles = held = value = 0
    for price, _, number in runs:
        while number and bundles < times:
            if not held and number >= benefit.count:
                alike = min(number // benefit.count, times - bundles)
                saved = price * benefit.count - benefit.price
                if saved <= 0:
                    return amount, bundles
                amount += alike * saved
                bundles += alike
                number -= alike * benefit.count
                continue
            taken = min(number, benefit.count - held)
            held, value, number = held + taken, value + taken * price, number - taken
            if held == benefit.count:
                if value <= benefit.price:
                    return amount, bundles
                amount += value - benefit.price
                bundles += 1
                held = value = 0
    return amount, bundles


def _buy_x_get_y(benefit: BuyXGetY, state: State) -> Effect | Reason:
    """Unit by unit: the cheapest ``get`` for each ``buy`` + ``get``; a unit counts once."""
    units = state.units(benefit.scope)
    times = units // (benefit.buy + benefit.get)
    if not times:
        return Reason("units", {"need": benefit.buy + benefit.get, "have": units})
    if benefit.max_times is not None:
        times = min(times, benefit.max_times)
    left = times * benefit.get
    off: dict[int, int] = {}
    for price, place, number in state.runs(benefit.scope, dearest=False):
        taken = min(number, left)
        if not taken:
            break
        left -= taken
        above = max(0, price - state.basket.lines[place].floor_price)
        off[place] = off.get(place, 0) + taken * min(part(price, benefit.points), above)
    return _shared(sorted(off.items()))


def _tiered(benefit: Tiered, state: State) -> Effect | Reason:
    if not state.lines(benefit.scope):
        return Reason("scope")
    by_amount = benefit.by == "amount"
    have = state.total(benefit.scope) if by_amount else state.units(benefit.scope)
    reached = [tier for tier in benefit.tiers if tier.start <= have]
    if not reached:
        need = benefit.tiers[0].start
        return Reason("tier_amount" if by_amount else "tier_quantity", {"need": need, "have": have})
    tier = reached[-1]
    if tier.off is None:
        return _spread(state, benefit.scope, part(state.total(benefit.scope), tier.points or 0))
    times = have // tier.start if benefit.repeat else 1
    return _spread(state, benefit.scope, tier.off * times)


def _free_shipping(_benefit: FreeShipping, state: State) -> Effect | Reason:
    return Effect([], state.shipping) if state.shipping else Reason("no_shipping")


def _given(_benefit: Gift | Points, _state: State) -> Effect | Reason:
    """Nothing comes off; the gift or the points are added to the answer."""
    return _GIVEN


_EFFECTS: dict[type, Callable[[Any, State], Effect | Reason]] = {
    Percent: _percent,
    Fixed: _fixed,
    FixedEach: _fixed_each,
    FixedPrice: _fixed_price,
    BuyXGetY: _buy_x_get_y,
    Tiered: _tiered,
    FreeShipping: _free_shipping,
    Gift: _given,
    Points: _given,
}
