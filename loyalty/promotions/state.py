"""The basket while promotions are applied to it: what each line still costs, and sums that are kept.

Scopes repeat among promotions, so their lines and sums are found once and kept until something changes.
"""

from __future__ import annotations

from collections.abc import Sequence

from loyalty.promotions.model import Basket, Moment, Scope

Run = tuple[int, int, int]
"""Units of one price: price, line's place, how many."""


class State:
    """Lines' running totals and the shipping that is left. :meth:`take` is the only way to change them."""

    def __init__(self, basket: Basket, moment: Moment) -> None:
        self.basket = basket
        self.moment = moment
        self.totals = [line.unit_price * line.quantity for line in basket.lines]
        self.floors = [line.floor_price * line.quantity for line in basket.lines]
        self.shipping = basket.shipping
        self._version = 0
        self._lines: dict[Scope, list[int]] = {}
        self._sums: dict[Scope, tuple[int, int]] = {}
        self._units: dict[Scope, int] = {}

    def lines(self, scope: Scope) -> list[int]:
        """Places of the scope's lines, in line order."""
        found = self._lines.get(scope)
        if found is None:
            found = [place for place, line in enumerate(self.basket.lines) if scope.covers(line)]
            self._lines[scope] = found
        return found

    def total(self, scope: Scope) -> int:
        """What the scope's lines cost now."""
        kept = self._sums.get(scope)
        if kept is not None and kept[0] == self._version:
            return kept[1]
        totals = self.totals
        found = sum([totals[place] for place in self.lines(scope)])
        self._sums[scope] = (self._version, found)
        return found

    def units(self, scope: Scope) -> int:
        """How many units the scope's lines have."""
        found = self._units.get(scope)
        if found is None:
            found = sum([self.basket.lines[place].quantity for place in self.lines(scope)])
            self._units[scope] = found
        return found

    def runs(self, scope: Scope, *, dearest: bool) -> list[Run]:
        """The scope's units by price, ties by line order.

        After earlier promotions the units of a line count as equally dear: its total is spread over them,
        the first ones a minor unit dearer where it does not divide.
        """
        found: list[Run] = []
        for place in self.lines(scope):
            quantity = self.basket.lines[place].quantity
            price, dearer = divmod(self.totals[place], quantity)
            if dearer:
                found.append((price + 1, place, dearer))
            found.append((price, place, quantity - dearer))
        found.sort(key=lambda run: (-run[0] if dearest else run[0], run[1]))
        return found

    def caps(self, places: Sequence[int]) -> list[int]:
        """What each line has above its floor."""
        totals, floors = self.totals, self.floors
        return [max(0, totals[place] - floors[place]) for place in places]

    def take(self, shares: Sequence[tuple[int, int]], shipping: int) -> None:
        """Take (place, amount) shares off the lines, and ``shipping`` off the shipping."""
        for place, amount in shares:
            self.totals[place] -= amount
        self.shipping -= shipping
        self._version += 1
