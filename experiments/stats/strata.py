"""Post-stratification: segments known before the experiment, weighed alike in every arm."""

from __future__ import annotations

from collections.abc import Mapping

from core.errors import InvalidInput
from experiments.stats.estimate import Estimate, satterthwaite

MIN_IN_STRATUM = 2
"""Members an arm and stratum, without which the stratum has no variance."""


def post_stratify(arms: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Each arm's estimate with every stratum at its share of **all** members (Miratrix, Sekhon, Yu 2013).

    ``arms``: arm → stratum → estimate. Value Σ w·v, variance Σ w²·var, w = the stratum's members over all
    members; Satterthwaite's degrees of freedom. InvalidInput: a stratum with fewer than two members in an
    arm (put small strata together first).
    """
    strata = sorted({name for parts in arms.values() for name in parts})
    if not arms or not strata:
        raise InvalidInput("There are no strata to weigh.", "strata")
    sizes = dict.fromkeys(strata, 0)
    for arm, parts in arms.items():
        for name in strata:
            n = parts[name].n if name in parts else 0
            if n < MIN_IN_STRATUM:
                raise InvalidInput(
                    f"The stratum “{name}” has {n} members in “{arm}”, and needs {MIN_IN_STRATUM}; "
                    "put small strata together.",
                    name,
                )
            sizes[name] += n
    total = sum(sizes.values())
    share = {name: size / total for name, size in sizes.items()}
    return {arm: _weigh(parts, share) for arm, parts in arms.items()}


def _weigh(parts: Mapping[str, Estimate], share: Mapping[str, float]) -> Estimate:
    variances = [(share[name] ** 2 * part.var, part.df) for name, part in parts.items()]
    return Estimate(
        sum(part.n for part in parts.values()),
        sum(share[name] * part.value for name, part in parts.items()),
        sum(var for var, _ in variances),
        satterthwaite(*variances),
    )
