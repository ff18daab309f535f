"""What it would take to know: members and days until a difference would be decided. Pure.

Both arms are taken to grow in proportion, members to vary as they have so far, and to join at the pace so
far. A need is an expectation: with the members named, the chance to decide is the power (for one look) or
about a half (the edge of a confidence sequence reaches the estimate).
"""

from __future__ import annotations

import math

from scipy import optimize, special

from experiments.readout_form import Need
from experiments.stats import power, sequential

POWER = 0.8
DEFAULT_MDE = 0.05
"""The relative difference worth finding, where nobody planned one."""
NORMAL, SEQUENCE = power.NORMAL, "confidence-sequence"
FORMULAS = {
    NORMAL: power.FORMULAS[NORMAL],
    SEQUENCE: "half the width of the confidence sequence at n members = the difference (bisection over n)",
}
MOST = power.MAX_N


def smallest(se: float, n_control: int, n_treated: int, alpha: float) -> float | None:
    """The smallest difference found with :data:`POWER` by as many members as there are."""
    if se <= 0 or min(n_control, n_treated) < 1:
        return None
    variance = se**2 / (1 / n_control + 1 / n_treated)
    return power.mde(variance, n_control, n_treated, alpha, POWER)


def need(
    target: float,
    se: float,
    n: int,
    *,
    alpha: float,
    pace: float | None = None,
    tuning: float | None = None,
) -> Need | None:
    """Members until ``target`` a member is decided; None where it is 0, or more than anybody has.

    ``se``: standard error of the difference with ``n`` members of both arms; ``pace``: new members of both a
    day. With ``tuning`` (N*) by the confidence sequence, else for one look with :data:`POWER`.
    """
    if not (target and math.isfinite(target) and se > 0 and n > 0):
        return None
    members = _sequential(abs(target), se, n, alpha, tuning) if tuning else _fixed(target, se, n, alpha)
    if members is None or members > MOST:
        return None
    whole = math.ceil(members)
    more = max(whole - n, 0)
    days = math.ceil(more / pace) if pace else (0 if not more else None)
    return Need(target, whole, more, days, SEQUENCE if tuning else NORMAL)


def _fixed(target: float, se: float, n: int, alpha: float) -> float:
    z = -float(special.ndtri(alpha / 2)) + float(special.ndtri(POWER))
    return n * (z * se / target) ** 2


def _sequential(target: float, se: float, n: int, alpha: float, tuning: float) -> float | None:
    def lack(log_n: float) -> float:
        members = math.exp(log_n)
        return sequential.half_width(int(members), se**2 * n / members, alpha, tuning) - target

    low, high = math.log(4.0), math.log(MOST)
    if lack(high) > 0:
        return None
    return 4.0 if lack(low) <= 0 else math.exp(float(optimize.brentq(lack, low, high, xtol=1e-6)))
