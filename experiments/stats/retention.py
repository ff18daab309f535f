"""Retention: who came back on or by a day after exposure, as a proportion of those it can be known of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import InvalidInput
from experiments.stats import proportion
from experiments.stats.effect import Comparison
from experiments.stats.multiplicity import holm


@dataclass(frozen=True)
class Day:
    """Counts of one day after exposure: ``eligible`` members were exposed at least that long ago."""

    day: int
    returned: int
    eligible: int
    control_returned: int
    control_eligible: int


@dataclass(frozen=True)
class Retained:
    """A day's comparison, ``p`` adjusted over the days by Holm; or why there is none."""

    day: int
    comparison: Comparison | None
    p_adjusted: float | None
    refused: str | None = None


def curve(days: Sequence[Day], alpha: float = 0.05) -> list[Retained]:
    """Every day against the control's. Members whose day has not come are in neither count.

    InvalidInput: a day twice, or days out of order.
    """
    order = [day.day for day in days]
    if order != sorted(set(order)):
        raise InvalidInput("Give every day once, in order.", "days")
    found: list[Comparison | str] = []
    for day in days:
        try:
            found.append(
                proportion.compare(
                    day.returned, day.eligible, day.control_returned, day.control_eligible, alpha
                )
            )
        except InvalidInput as refusal:
            found.append(str(refusal))
    adjusted = iter(holm([one.absolute.p for one in found if isinstance(one, Comparison)]))
    return [
        Retained(day.day, one, next(adjusted))
        if isinstance(one, Comparison)
        else Retained(day.day, None, None, one)
        for day, one in zip(days, found, strict=True)
    ]
