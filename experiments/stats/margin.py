"""Guardrails: is the arm at most a margin worse than the control?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.errors import InvalidInput
from experiments.stats.effect import t_effect
from experiments.stats.estimate import Estimate, check_pair, difference


@dataclass(frozen=True)
class NonInferiority:
    """``worst``: the one-sided bound at 1 − alpha on the bad side, of the difference (relative where the
    margin is); ``ok``: it stays within the margin; ``p``: of the arm being worse than that."""

    estimate: float
    worst: float
    margin: float
    p: float
    ok: bool


def check(
    treated: Estimate,
    control: Estimate,
    margin: float,
    alpha: float = 0.05,
    *,
    relative: bool = False,
    higher_is_better: bool = True,
) -> NonInferiority:
    """Test that treated − control > −margin (for complaints and the like: < margin).

    ``margin`` above 0, in the metric's unit, or as a share of the control's mean: then the contrast
    treated − (1 ∓ margin)·control is tested, whose variance needs no delta method, and ``worst`` is that
    contrast's bound as a share of the control's mean. InvalidInput: what cannot be compared, a margin that
    is none, a relative one where the control is not above 0.
    """
    check_pair(treated, control, alpha)
    if not (margin > 0 and math.isfinite(margin)):
        raise InvalidInput(f"The margin is a number above 0; {margin:g} is none.", "margin")
    sign = 1.0 if higher_is_better else -1.0
    if not relative:
        found = difference(treated, control)
        estimate, scale = found.value, 1.0
        tested = Estimate(found.n, sign * found.value + margin, found.var, found.df)
    else:
        if control.value <= 0:
            raise InvalidInput(
                "The control's mean is not above 0, so there is no share of it; give an absolute margin.",
                "margin",
            )
        factor = 1 - sign * margin
        moved = Estimate(control.n, factor * control.value, factor**2 * control.var, control.df)
        found = difference(treated, moved)
        estimate, scale = treated.value / control.value - 1, control.value
        tested = Estimate(found.n, sign * found.value, found.var, found.df)
    effect = t_effect(tested.value, math.sqrt(tested.var), tested.df, alpha, "greater")
    worst = sign * (effect.low / scale - margin)
    return NonInferiority(estimate, worst, margin, effect.p, effect.low > 0)
