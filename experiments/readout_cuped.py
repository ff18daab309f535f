"""CUPED of a read-out's own metrics: one θ from all arms, for the headline, its groups and its days alike.

Guarantees: the covariate is the same metric before assignment, whatever is adjusted by it; where nothing
varied before there is no adjustment, and whoever asks goes on with the plain numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.moments import ArmMoments
from experiments.readout_scan import BEFORE
from experiments.stats import cuped
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Floats, Joint, Mean

METRIC, COVARIATE = Mean("value"), Mean("before")


@dataclass(frozen=True)
class Slope:
    """θ of all arms pooled, and the share of the variance that it takes away."""

    theta: Floats
    removed: float


def joints(arms: Mapping[str, ArmMoments], metric: str) -> dict[str, Joint]:
    """The metric and itself before assignment, of every arm that has two members and a covariate."""
    key = (metric, metric + BEFORE)
    return {
        arm: Joint.of_pair(found.pairs[key], ("value", "before"))
        for arm, found in arms.items()
        if found.n > 1 and key in found.pairs
    }


def slope(arms: Mapping[str, ArmMoments], metric: str) -> Slope | None:
    """None where nothing varied before."""
    found = joints(arms, metric)
    if not sum(float(joint.cov[1, 1]) * (joint.n - 1) for joint in found.values()):
        return None
    removed = cuped.correlation(found, METRIC, COVARIATE) ** 2
    return Slope(cuped.slope(found, METRIC, [COVARIATE]), removed)


def adjusted(arms: Mapping[str, ArmMoments], metric: str, theta: Floats | None = None) -> dict[str, Estimate]:
    """Every arm's adjusted estimate, by their θ unless one is given; empty: no arm has a covariate."""
    found = joints(arms, metric)
    return cuped.adjust(found, METRIC, [COVARIATE], theta) if found else {}
