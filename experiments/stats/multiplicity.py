"""Several variants and metrics at once: Holm and Benjamini-Hochberg."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.errors import InvalidInput


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p, in the order given: the chance that any claim below α is false is at most α (Holm 1979)."""
    _check(p)
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, place in enumerate(_order(p)):
        worst = max(worst, min((len(p) - rank) * p[place], 1.0))
        adjusted[place] = worst
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p, in the order given: below q means at most a share q of such claims is false on average.

    Benjamini and Hochberg 1995, for p that are independent or positively dependent.
    """
    _check(p)
    adjusted, best = [0.0] * len(p), 1.0
    for rank, place in reversed(list(enumerate(_order(p), start=1))):
        best = min(best, p[place] * len(p) / rank)
        adjusted[place] = best
    return adjusted


def _order(p: Sequence[float]) -> list[int]:
    return sorted(range(len(p)), key=lambda place: p[place])


def _check(p: Sequence[float]) -> None:
    for value in p:
        if not 0 <= value <= 1 or math.isnan(value):
            raise InvalidInput(f"A p lies between 0 and 1; {value:g} does not.", "p")
