"""Customers grouped by equal (x, t_x, T), so that a million of them cost what their distinct values cost.

x: repeat purchases; t_x: time of the last one; T: time observed, both since the first purchase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InvalidInput

Floats = NDArray[np.float64]
Indexes = NDArray[np.intp]


@dataclass(frozen=True)
class Groups:
    """Distinct values and, a group each, where in them it lies and how many customers it has.

    Groups are sorted by (x, t_x, T); so sums over them do not depend on the order of customers.
    """

    x: Floats
    recency: Floats
    age: Floats
    at_x: Indexes
    at_recency: Indexes
    at_age: Indexes
    count: Floats
    of: Indexes
    """The group of each customer."""

    @property
    def customers(self) -> float:
        return float(self.count.sum())

    def part(self, limit: int) -> Groups:
        """About ``limit`` customers spread evenly over the sorted groups, the same ones every time.

        All of them when there are no more groups than that.
        """
        if len(self.count) <= limit:
            return self
        reached = np.cumsum(self.count)
        picked = np.searchsorted(reached, (np.arange(limit) + 0.5) * (reached[-1] / limit))
        count = np.bincount(picked, minlength=len(self.count)).astype(np.float64)
        kept = np.flatnonzero(count)
        return Groups(
            self.x, self.recency, self.age, self.at_x[kept], self.at_recency[kept], self.at_age[kept],
            count[kept], self.of[:0],
        )  # fmt: skip


def codes(values: NDArray[Any], *, spent: bool = False) -> tuple[NDArray[Any], Indexes]:
    """Sorted distinct values, and of each value its place among them. ``spent``: they may be overwritten."""
    if values.dtype.kind in "iu" and values.size:
        low, high = int(values.min()), int(values.max())
        if low >= 0 and high <= 4 * values.size + 10_000:  # a table instead of a sort
            seen = np.zeros(high + 1, dtype=bool)
            seen[values] = True
            place = np.cumsum(seen, dtype=np.intp) - 1
            return np.flatnonzero(seen), place[values]
        if low >= 0 and high < 1 << (63 - values.size.bit_length()) and values.size < 1 << 31:
            return _sorted_codes(values.astype(np.int64, copy=not spent))
    found, places = np.unique(values, return_inverse=True)
    return found, places.reshape(-1)


def _sorted_codes(packed: NDArray[np.int64]) -> tuple[NDArray[np.int64], Indexes]:
    """By one sort of the values with their places in the low bits: half the time of a sort of places.

    Overwrites the values: a million new numbers cost more than the arithmetic on them.
    """
    bits = packed.size.bit_length()
    packed <<= bits
    packed |= np.arange(packed.size, dtype=np.int32)
    packed.sort()
    order = packed & ((1 << bits) - 1)
    packed >>= bits
    first = np.ones(packed.size, dtype=bool)
    np.not_equal(packed[1:], packed[:-1], out=first[1:])
    found = packed[first]
    np.cumsum(first, out=packed)
    packed -= 1
    places = np.empty(packed.size, dtype=np.intp)
    places[order] = packed
    return found, places


def group(x: NDArray[Any], recency: NDArray[Any], age: NDArray[Any], unit: float = 1.0) -> Groups:
    """Group customers; times are divided by ``unit`` (7 for days into weeks). Whole numbers are fastest.

    Raises InvalidInput where a value cannot be: negative, not finite, t_x after T, t_x without x.
    """
    _check(x, recency, age)
    xs, at_x = codes(x)
    recencies, at_recency = codes(recency)
    ages, at_age = codes(age)
    key = at_x * (len(recencies) * len(ages))
    at_recency *= len(ages)
    key += at_recency
    key += at_age
    found, of = codes(key, spent=True)
    rest, at_age = np.divmod(found, max(len(ages), 1))
    at_x, at_recency = np.divmod(rest, max(len(recencies), 1))
    return Groups(
        xs.astype(np.float64),
        recencies / unit,
        ages / unit,
        at_x,
        at_recency,
        at_age,
        np.bincount(of, minlength=len(found)).astype(np.float64),
        of,
    )


def _check(x: NDArray[Any], recency: NDArray[Any], age: NDArray[Any]) -> None:
    if not x.shape == recency.shape == age.shape or x.ndim != 1:
        raise InvalidInput("Frequency, recency and age are columns of the same length.")
    for name, values in (("frequency", x), ("recency", recency), ("age", age)):
        finite = values.dtype.kind in "iu" or np.isfinite(values).all()
        if values.size and not (finite and values.min() >= 0):
            raise InvalidInput(f"{name} must be a number from 0 up for every customer.", name)
    if (recency > age).any():
        raise InvalidInput("recency cannot exceed age: a last purchase after the end is unknown.", "recency")
    if ((x == 0) & (recency > 0)).any():
        raise InvalidInput("recency is 0 for who never bought again.", "recency")
    if x.dtype.kind not in "iu" and (x != np.floor(x)).any():
        raise InvalidInput("frequency is a whole number of repeat purchases.", "frequency")
