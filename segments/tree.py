"""The metrics tree of the business: what a week's revenue is made of, and a change of it. Pure.

Definition. A week runs from Monday to Sunday of the shop's zone; orders that were cancelled do not exist.

    GMV    = visitors × conversion × repurchase × basket
    basket = units an order × price a unit
    buyers = new (first order ever in that week) + returning
    net    = GMV − refunds of that week's orders, whenever they were given back

Visitors are the distinct members with a behaviour event or an order in the week; conversion = buyers /
visitors; repurchase = orders / buyers (in the week); basket = GMV / orders. Where one of the weeks has no
behaviour event at all, nobody knows who came: then "visitors" of all weeks are the members there were at the
end of the week (``MEMBERS``), conversion is the share of them who bought, and whoever shows it says so.

Guarantees: the parts of a change sum to it, by factors and by groups of members alike; they change their sign
when the weeks are exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import combinations

from core.errors import InvalidInput

GMV, NET, VISITORS, CONVERSION, REPURCHASE = "gmv", "net", "visitors", "conversion", "repurchase"
BASKET, UNITS_AN_ORDER, PRICE, BUYERS, ORDERS = "basket", "units_an_order", "price", "buyers", "orders"
NEW, RETURNING, REFUNDS, UNITS = "new_buyers", "returning_buyers", "refunds", "units"
NODES = (
    GMV, NET, REFUNDS, VISITORS, CONVERSION, REPURCHASE, BASKET, UNITS_AN_ORDER, PRICE, ORDERS, BUYERS, NEW,
    RETURNING,
)  # fmt: skip
RATIOS = {
    CONVERSION: (BUYERS, VISITORS),
    REPURCHASE: (ORDERS, BUYERS),
    BASKET: (GMV, ORDERS),
    UNITS_AN_ORDER: (UNITS, ORDERS),
    PRICE: (GMV, UNITS),
}
"""Nodes that are one sum by another."""
FACTORS = (VISITORS, CONVERSION, REPURCHASE, BASKET)
DEEP_FACTORS = (VISITORS, CONVERSION, REPURCHASE, UNITS_AN_ORDER, PRICE)
VISITS, MEMBERS = "visits", "members"
LMDI, SHAPLEY = "lmdi", "shapley"
MAX_FACTORS = 8


@dataclass(frozen=True)
class Week:
    """The sums of one week (of all members, or of a group); money in minor units."""

    start: date
    visitors: int
    """Members with an event or an order."""
    members: int
    """Members there were at its end."""
    events: int
    buyers: int
    new_buyers: int
    orders: int
    gmv: int
    refunds: int
    units: int

    @property
    def returning_buyers(self) -> int:
        return self.buyers - self.new_buyers

    @property
    def net(self) -> int:
        return self.gmv - self.refunds

    def base(self, basis: str) -> int:
        """What counts as visitors."""
        return self.visitors if basis == VISITS else self.members

    def total(self, name: str, basis: str) -> float:
        """A sum by its name."""
        return float(self.base(basis) if name == VISITORS else getattr(self, name))

    def node(self, name: str, basis: str) -> float | None:
        """A node of the tree; None for a ratio of nothing."""
        if name not in NODES:
            raise InvalidInput(f"“{name}” is no node of the tree; take one of {', '.join(NODES)}.", "node")
        if name not in RATIOS:
            return self.total(name, basis)
        above, below = (self.total(part, basis) for part in RATIOS[name])
        return above / below if below else None


def basis_of(weeks: Iterable[Week]) -> str:
    """``VISITS`` where each of the weeks has behaviour events, else ``MEMBERS``."""
    found = list(weeks)
    return VISITS if found and all(week.events for week in found) else MEMBERS


@dataclass(frozen=True)
class Factor:
    """A factor's value in both weeks (None: not defined there), and its part of the change of the product."""

    name: str
    before: float | None
    after: float | None
    part: float


@dataclass(frozen=True)
class Decomposition:
    """A change of a product. ``method``: ``lmdi``, or ``shapley`` where a factor is 0 or undefined."""

    before: float
    after: float
    method: str
    factors: tuple[Factor, ...]

    @property
    def change(self) -> float:
        return self.after - self.before

    def part(self, name: str) -> float:
        """A factor's part. InvalidInput: it is none of them."""
        for factor in self.factors:
            if factor.name == name:
                return factor.part
        raise InvalidInput(f"“{name}” is none of the factors.", "factor")


def decompose(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> Decomposition:
    """Split the change of the product of factors into one part each; the parts sum to the change.

    Logarithmic mean Divisia index, LMDI-I (Ang, "The LMDI approach to decomposition analysis", Energy Policy
    33, 2005): part = L(after, before) · ln(x₁/x₀), with L(a, b) = (a − b)/(ln a − ln b). It needs factors
    above 0. Where one is 0 or undefined (a ratio of nothing), Shapley's value instead: the mean, over all
    orders in which the factors may change, of what each adds; a factor that is undefined in one week has the
    value of the other there, so that its part is 0. Both are exact and symmetric.

    InvalidInput: the weeks have other factors, none, more than 8, or negative ones.
    """
    names = list(before)
    if names != list(after) or not 1 <= len(names) <= MAX_FACTORS:
        raise InvalidInput(f"Give the same 1 to {MAX_FACTORS} factors of both weeks.", "factors")
    pairs = [_defined(before[name], after[name]) for name in names]
    if any(not math.isfinite(value) or value < 0 for pair in pairs for value in pair):
        raise InvalidInput("A factor is a number from 0 up.", "factors")
    start, end = (math.prod(pair[side] for pair in pairs) for side in (0, 1))
    positive = all(value > 0 for pair in pairs for value in pair)
    # A product that overflows or vanishes has no logarithmic mean, though each factor is above 0.
    usable = positive and start > 0 and end > 0 and math.isfinite(start) and math.isfinite(end)
    parts = _lmdi(pairs, start, end) if usable else _shapley(pairs)
    _settle(parts, end - start)
    factors = (Factor(name, before[name], after[name], part) for name, part in zip(names, parts, strict=True))
    return Decomposition(start, end, LMDI if usable else SHAPLEY, tuple(factors))


def _defined(before: float | None, after: float | None) -> tuple[float, float]:
    first, second = (after if before is None else before), (before if after is None else after)
    return (first or 0.0, second or 0.0)


def _lmdi(pairs: Sequence[tuple[float, float]], start: float, end: float) -> list[float]:
    logs = [math.log(after) - math.log(before) for before, after in pairs]
    half = math.fsum(logs) / 2
    # L(a, b) = √(ab)·sinh(t/2)/(t/2), t = ln(a/b): no difference of nearly equal numbers.
    ratio = math.sinh(half) / half if half else 1.0
    mean = math.sqrt(start) * math.sqrt(end) * ratio
    return [mean * log for log in logs]


def _shapley(pairs: Sequence[tuple[float, float]]) -> list[float]:
    number = len(pairs)
    parts = []
    for index, (before, after) in enumerate(pairs):
        others = [place for place in range(number) if place != index]
        terms = []
        for size in range(number):
            weight = math.factorial(size) * math.factorial(number - size - 1) / math.factorial(number)
            for changed in combinations(others, size):
                rest = math.prod(pairs[place][place in changed] for place in others)
                terms.append(weight * rest * (after - before))
        parts.append(math.fsum(terms))
    return parts


def _settle(parts: list[float], change: float) -> None:
    """Give what rounding left to the largest part."""
    largest = max(range(len(parts)), key=lambda index: abs(parts[index]))
    parts[largest] += change - math.fsum(parts)


def factors_of(week: Week, basis: str, *, deep: bool) -> dict[str, float | None]:
    """The factors of a week's GMV; ``deep`` splits the basket into units and price."""
    return {name: week.node(name, basis) for name in (DEEP_FACTORS if deep else FACTORS)}


def change_of(before: Week, after: Week, *, deep: bool = False, basis: str | None = None) -> Decomposition:
    """What moved GMV between two weeks. ``deep`` asks for units and price, where both weeks have units.

    LMDI is consistent in aggregation: the basket's part is that of units plus that of price.
    """
    used = basis or basis_of((before, after))
    fine = deep and all(week.units or not week.orders for week in (before, after))
    return decompose(factors_of(before, used, deep=fine), factors_of(after, used, deep=fine))


@dataclass(frozen=True)
class GroupPart:
    """What a group of members adds to the change of a node. ``part`` = ``rate`` + ``mix``.

    ``rate``: its own value changed; ``mix`` (of ratios): it became a larger or smaller share of all.
    ``before`` and ``after`` are its own values of the node, None for a ratio of nothing.
    """

    group: str
    before: float | None
    after: float | None
    part: float
    rate: float
    mix: float


def explain(
    name: str, before: Mapping[str, Week], after: Mapping[str, Week], basis: str
) -> tuple[GroupPart, ...]:
    """Split the change of a node among groups that divide the members; the largest parts first.

    A sum: each group's own change. A ratio n/d is Σ shareᵍ·rateᵍ with shareᵍ = dᵍ/d: a group's part is its
    mean share × the change of its rate, plus the change of its share × how far its mean rate lies from that
    of all (Marshall-Edgeworth: means of both weeks, so that nothing is left). InvalidInput: no such node.
    """
    groups = list(dict.fromkeys((*before, *after)))
    if name not in NODES:
        raise InvalidInput(f"“{name}” is no node of the tree; take one of {', '.join(NODES)}.", "node")
    if name in RATIOS:
        found = _explain_ratio(RATIOS[name], groups, before, after, basis)
    else:
        found = [
            GroupPart(group, was, now, now - was, now - was, 0.0)
            for group in groups
            for was, now in [(_total(before, group, name, basis), _total(after, group, name, basis))]
        ]
    return tuple(sorted(found, key=lambda part: (-abs(part.part), part.group)))


def _total(weeks: Mapping[str, Week], group: str, name: str, basis: str) -> float:
    week = weeks.get(group)
    return 0.0 if week is None else week.total(name, basis)


def _explain_ratio(
    ratio: tuple[str, str],
    groups: Sequence[str],
    before: Mapping[str, Week],
    after: Mapping[str, Week],
    basis: str,
) -> list[GroupPart]:
    sums = [
        {
            group: (_total(weeks, group, ratio[0], basis), _total(weeks, group, ratio[1], basis))
            for group in groups
        }
        for weeks in (before, after)
    ]
    whole = [[math.fsum(pair[side] for pair in each.values()) for side in (0, 1)] for each in sums]
    if not all(below for _, below in whole):
        return []
    all_before, all_after = (above / below for above, below in whole)
    centre = (all_before + all_after) / 2
    found = []
    for group in groups:
        (above0, below0), (above1, below1) = sums[0][group], sums[1][group]
        share0, share1 = below0 / whole[0][1], below1 / whole[1][1]
        rate0 = above0 / below0 if below0 else None
        rate1 = above1 / below1 if below1 else None
        first, second = _defined(rate0, rate1)
        rate = (share0 + share1) / 2 * (second - first)
        mix = (share1 - share0) * ((first + second) / 2 - centre)
        # What a group has above without anything below is no value of its own, but still part of that of all.
        mix += (0.0 if below1 else above1 / whole[1][1]) - (0.0 if below0 else above0 / whole[0][1])
        found.append(GroupPart(group, rate0, rate1, rate + mix, rate, mix))
    return found
