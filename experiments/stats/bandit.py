"""Thompson sampling by periods: new weights for those who come next; who has an arm keeps it.

Guarantees: a pure function of moments. Periods have weights of their own, so adding them up would mix the
arms with the calendar (a good week with many of one arm); they are weighed alike in every arm instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from core.errors import InvalidInput
from experiments.moments import Moments
from experiments.stats.bayes import Distribution, beta, chance_best, normal
from experiments.stats.estimate import Estimate

FLOOR = 0.01
"""Least weight of an arm, so that a change of fortune is seen."""
MIN_MEMBERS = 100
"""Members of every arm before any weight moves."""


def pooled(periods: Sequence[Mapping[str, Moments]]) -> dict[str, Estimate]:
    """Each arm over the periods, each period at its share of all members in it, whatever the arm got.

    A period in which some arm has fewer than two members tells nothing about the arms' order and is left
    out. InvalidInput: none is left, or the periods' arms differ.
    """
    if not periods or any(set(period) != set(periods[0]) for period in periods) or len(periods[0]) < 2:
        raise InvalidInput("Every period has the same two arms or more.", "periods")
    used = [period for period in periods if all(moments.n >= 2 for moments in period.values())]
    if not used:
        raise InvalidInput("No period has two members in every arm yet; keep the weights.", "periods")
    sizes = [sum(moments.n for moments in period.values()) for period in used]
    shares = [size / sum(sizes) for size in sizes]
    found = {}
    for arm in used[0]:
        parts = [(share, period[arm]) for share, period in zip(shares, used, strict=True)]
        n = sum(moments.n for _, moments in parts)
        value = sum(share * moments.mean for share, moments in parts)
        var = sum(share**2 * moments.var / moments.n for share, moments in parts)
        found[arm] = Estimate(n, value, var, n - len(parts))
    return found


def reweigh(
    periods: Sequence[Mapping[str, Moments]],
    *,
    kind: str = "mean",
    floor: float = FLOOR,
    min_members: int = MIN_MEMBERS,
    sharpness: float = 1.0,
    higher_is_better: bool = True,
) -> dict[str, float]:
    """The weights for the next period's new members: each arm's chance to be the best (Thompson 1933).

    ``periods``: arm → moments of the members who **came** in each (call it weekly). ``kind`` ``mean``:
    normal posteriors; ``proportion``: beta ones with a flat prior, of as many members as the pooled variance
    amounts to. Chances to the power ``sharpness`` (below 1 explores longer), none below ``floor``, sum 1.
    Equal weights until every arm has ``min_members``. InvalidInput: see :func:`pooled`.
    """
    found = pooled(periods)
    if kind not in ("mean", "proportion"):
        raise InvalidInput(f"A bandit compares means or proportions, not “{kind}”.", "kind")
    if not 0 <= floor * len(found) <= 1 or sharpness <= 0:
        raise InvalidInput("The least weights sum to 1 at most, and the sharpness lies above 0.", "floor")
    if min(one.n for one in found.values()) < min_members:
        return dict.fromkeys(found, 1 / len(found))
    turned = found if higher_is_better else {arm: _turned(one, kind) for arm, one in found.items()}
    chances = chance_best({arm: _posterior(one, kind) for arm, one in turned.items()})
    total = sum(chance**sharpness for chance in chances.values())
    free = 1 - floor * len(found)
    return {arm: floor + free * chance**sharpness / total for arm, chance in chances.items()}


def keep(assigned: Mapping[str, str], drawn: Mapping[str, str]) -> dict[str, str]:
    """The arm of every unit of ``drawn``: the one it was assigned before, else the one drawn now."""
    return {unit: assigned.get(unit, arm) for unit, arm in drawn.items()}


def _turned(one: Estimate, kind: str) -> Estimate:
    return Estimate(one.n, 1 - one.value if kind == "proportion" else -one.value, one.var, one.df)


def _posterior(one: Estimate, kind: str) -> Distribution:
    if kind == "mean":
        # An arm in which nobody differs is known exactly; a bell of some width keeps it a distribution.
        return normal(one.value, max(math.sqrt(one.var), abs(one.value) * 1e-9, 1e-300))
    if not 0 <= one.value <= 1:
        raise InvalidInput(f"A share lies between 0 and 1; {one.value:g} does not.", "periods")
    spread = one.value * (1 - one.value)
    # As many members as would give this variance; all alike have none, and count as they are.
    members = min(spread / one.var, float(one.n)) if spread > 0 and one.var > 0 else float(one.n)
    return beta(1 + members * one.value, 1 + members * (1 - one.value))
