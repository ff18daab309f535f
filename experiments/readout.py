"""The read-out of an experiment: checks first, then every metric and arm against the control.

Guarantees: pure functions of moments; what cannot be computed is a stated refusal, never a number;
the same read-out survives JSON unchanged, so that a frozen one is what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.errors import InvalidInput
from experiments import readout_cuped, readout_needs
from experiments.models import Readout
from experiments.moments import CONVERTED, ArmMoments, Moments
from experiments.readout_form import (
    FIXED,
    SEQUENTIAL,
    Adjusted,
    Check,
    Measure,
    ReadOut,
    Result,
    Total,
    from_json,
    to_json,
)
from experiments.readout_scan import BEFORE
from experiments.readout_words import MONEY_METRICS, verdict
from experiments.stats import bayes, estimate, mean, multiplicity, proportion, sequential, srm
from experiments.stats.effect import Comparison, check_alpha
from experiments.stats.estimate import Estimate

__all__ = [
    "MONEY_METRICS", "REAL", "SIMULATED", "Check", "ReadOut", "Result", "Total", "freeze", "from_json",
    "looks_before", "read_out", "to_json", "verdict",
]  # fmt: skip

MIN_MEMBERS = 100
"""Members an arm below which the normal approximation of skewed revenue cannot be trusted."""
REAL, SIMULATED = "real", "simulated"
MAX_SHARED = 0.01
"""Share of members who saw more than one arm, above which the comparison is blurred."""
IMBALANCE_BELOW = 0.001
"""Holm-adjusted p of a difference before assignment, below which the arms were not alike."""


@dataclass(frozen=True)
class Known:
    """What is known beside the moments. ``looks``: earlier read-outs, and ``previous_p``: what the split's
    always-valid p was in the last; ``shared``: members who saw more than one arm; ``pace``: new members of
    all arms a day; ``mde``: the relative difference that was planned for. None: not known. ``method``: which
    intervals count (see :mod:`experiments.readout_plan`); None: those for every look where there were
    earlier ones, else those of one."""

    looks: int | None = None
    previous_p: float = 1.0
    shared: int | None = None
    pace: float | None = None
    mde: float | None = None
    covariate_days: int | None = None
    tuning: float = sequential.DEFAULT_TUNING
    method: str | None = None


@dataclass(frozen=True)
class More:
    """Metrics of the catalogue beside the read-out's own: what was measured, its results (in the order in
    which they are shown), and how many windows of the goal's are still open."""

    measures: Mapping[str, Measure] = field(default_factory=dict)
    results: tuple[Result, ...] = ()
    open_windows: int = 0


@dataclass(frozen=True)
class _Plan:
    control: str
    alpha: float
    arms: Mapping[str, ArmMoments] = field(repr=False)
    known: Known
    sizes: Mapping[str, int]


def read_out(
    moments: Mapping[str, ArmMoments],
    weights: Mapping[str, float],
    control: str,
    alpha: float = 0.05,
    *,
    currency: str | None = None,
    min_members: int = MIN_MEMBERS,
    known: Known | None = None,
    goal: str | None = None,
    more: More | None = None,
) -> ReadOut:
    """Compare every arm of ``weights`` with the control, metric by metric, after the checks.

    ``moments``: of :func:`experiments.moments.scan`, or of :func:`experiments.readout_scan.scan`, whose pairs
    bring the covariates; an arm that is missing there has no members. ``converted`` is compared as a
    proportion, the others as means. InvalidInput: a control that is no arm, or moments of an arm that has no
    weight. ``goal``: the metric that it is about, whose results come first; ``more``: metrics that were
    measured elsewhere, and are corrected for together with these.
    """
    check_alpha(alpha)
    if control not in weights:
        raise InvalidInput(f"“{control}” is none of the arms; name the control arm.", "control")
    strangers = sorted(set(moments) - set(weights))
    if strangers:
        raise InvalidInput(
            f"The arms {', '.join(strangers)} have members but no weight; add them.", "weights"
        )
    known, more = known or Known(), more or More()
    arms = {arm: moments[arm].n if arm in moments else 0 for arm in weights}
    split = srm.check_split(arms, weights) if sum(arms.values()) and _weighted(weights) > 1 else None
    plan = _Plan(control, alpha, moments, known, arms)
    names = next((list(found.metrics) for found in moments.values()), [])
    results = [one for metric in names for one in _metric(plan, metric, list(weights))]
    results = sorted([*results, *more.results], key=lambda one: one.metric != goal)
    checks = [
        _split_check(split, arms, weights, known.previous_p),
        *_size_checks(plan, weights, min_members, more.open_windows),
        *_more_checks(plan, weights),
    ]
    method = known.method or (SEQUENTIAL if known.looks else FIXED)
    found = ReadOut(
        control,
        alpha,
        arms,
        split,
        checks,
        results,
        currency,
        method,
        known.tuning,
        known.looks,
        known.covariate_days,
        goal=goal,
        measures=dict(more.measures),
    )
    return _with_needs(_with_holm(found), known)


def _weighted(weights: Mapping[str, float]) -> int:
    return sum(weight > 0 for weight in weights.values())


def _split_check(
    split: srm.Srm | None, arms: Mapping[str, int], weights: Mapping[str, float], previous_p: float
) -> Check:
    if split is None:
        return Check("srm", True, {})
    always = srm.always_valid(arms, weights, previous_p)
    ok = split.ok and always >= srm.ALERT_BELOW
    return Check("srm", ok, {"p": split.p, "chi2": split.chi2, "always_valid_p": always})


def _size_checks(
    plan: _Plan, weights: Mapping[str, float], min_members: int, others_open: int
) -> list[Check]:
    smallest = min(plan.sizes[arm] for arm in weights if weights[arm] > 0)
    open_windows = max(sum(found.open_windows for found in plan.arms.values()), others_open)
    total = sum(plan.sizes.values())
    return [
        Check("sample_size", smallest >= min_members, {"smallest": smallest, "needed": min_members}),
        Check("windows_closed", not open_windows, {"open": open_windows, "members": total}),
    ]


def _more_checks(plan: _Plan, weights: Mapping[str, float]) -> list[Check]:
    checks = []
    total = sum(plan.sizes.values())
    if (shared := plan.known.shared) is not None:
        ok = not total or shared / total <= MAX_SHARED
        checks.append(Check("multiple_exposure", ok, {"shared": shared, "members": total}))
    if (balance := _balance(plan, list(weights))) is not None:
        checks.append(balance)
    looks, method = plan.known.looks, plan.known.method
    # The one look of a plan errs as often as planned, whatever was looked at before: nothing hung on that.
    if looks is not None and not (looks and method == FIXED):
        true_error = sequential.peeking_error(min(looks + 1, sequential.MAX_LOOKS), plan.alpha)
        ok = not looks or method == SEQUENTIAL
        checks.append(Check("peeking", ok, {"looks": looks, "true_error": true_error}))
    return checks


def _balance(plan: _Plan, arms: list[str]) -> Check | None:
    """Were the arms alike before? None without covariates."""
    found: list[tuple[str, str, float]] = []
    for metric in sorted({x for arm in plan.arms.values() for x, y in arm.pairs if y == x + BEFORE}):
        before = {arm: plan.arms[arm].pairs[metric, metric + BEFORE].y for arm in plan.arms}
        for arm in arms:
            if arm == plan.control or arm not in before or plan.control not in before:
                continue
            try:
                p = mean.compare(before[arm], before[plan.control], plan.alpha).absolute.p
            except InvalidInput:
                continue  # nobody had bought before in either arm: they are alike
            found.append((metric, arm, p))
    if not found:
        return None
    adjusted = multiplicity.holm([p for *_, p in found])
    p, metric, arm = min((p, *one[:2]) for p, one in zip(adjusted, found, strict=True))
    return Check("covariate_balance", p >= IMBALANCE_BELOW, {"p": p, "metric": metric, "arm": arm})


# --- one metric ----------------------------------------------------------------------------------


def _metric(plan: _Plan, metric: str, arms: list[str]) -> list[Result]:
    """The metric of every treated arm."""
    moments = {arm: found.metrics[metric] for arm, found in plan.arms.items()}
    plain = {arm: _estimate(metric, one) for arm, one in moments.items() if one.n}
    slope = readout_cuped.slope(plan.arms, metric)
    best = plain if slope is None else readout_cuped.adjusted(plan.arms, metric)
    chances = chances_best(best)
    results: list[Result] = []
    for arm in arms:
        if arm == plan.control:
            continue
        base = _base(plan, metric, arm, moments)
        pair = (best.get(arm), best.get(plan.control))
        if base.refused is None and pair[0] is not None and pair[1] is not None:
            try:
                found = estimate.compare(pair[0], pair[1], plan.alpha)
                always = sequential.compare(pair[0], pair[1], plan.alpha, plan.known.tuning)
            except InvalidInput:
                pass  # the covariate explains everything: the plain comparison stands alone
            else:
                base = replace(
                    base,
                    adjusted=Adjusted(found, float(slope.theta[0]), slope.removed) if slope else None,
                    always_valid=always,
                    chance_to_win=bayes.posterior(estimate.difference(pair[0], pair[1])).chance_to_win,
                    chance_best=chances.get(arm),
                )
        results.append(base)
    return results


def _base(plan: _Plan, metric: str, arm: str, moments: Mapping[str, Moments]) -> Result:
    nobody = Moments(0, 0.0, 0.0)
    treated, control = moments.get(arm, nobody), moments.get(plan.control, nobody)
    base = (metric, arm, plan.control, plan.sizes[arm], plan.sizes[plan.control], control.mean, treated.mean)
    try:
        found = _comparison(metric, treated, control, plan.alpha)
    except InvalidInput as refusal:
        return Result(*base, refused=str(refusal))
    effect = found.absolute
    total = Total(effect.estimate * treated.n, effect.low * treated.n, effect.high * treated.n)
    return Result(*base, absolute=effect, relative=found.relative, incremental_total=total)


def _comparison(metric: str, treated: Moments, control: Moments, alpha: float) -> Comparison:
    if metric != CONVERTED:
        return mean.compare(treated, control, alpha)
    return proportion.compare(_hits(treated), treated.n, _hits(control), control.n, alpha)


def _hits(moments: Moments) -> int:
    return round(moments.mean * moments.n)


def _estimate(metric: str, moments: Moments) -> Estimate:
    if metric == CONVERTED:
        return Estimate.of_proportion(_hits(moments), moments.n)
    return Estimate.of_mean(moments)


def chances_best(arms: Mapping[str, Estimate]) -> dict[str, float]:
    """Every arm's chance to have the highest value of all; empty where one does not vary."""
    if len(arms) < 2 or any(one.var <= 0 for one in arms.values()):
        return {}
    return bayes.chance_best({arm: bayes.normal(one.value, one.var**0.5) for arm, one in arms.items()})


# --- all results together ------------------------------------------------------------------------


def _with_holm(found: ReadOut) -> ReadOut:
    """p adjusted over arms × metrics, of the comparison that counts."""
    effects = [found.headline(result) for result in found.results]
    adjusted = iter(multiplicity.holm([effect.p for effect in effects if effect is not None]))
    results = [
        result if effect is None else replace(result, p_adjusted=next(adjusted))
        for result, effect in zip(found.results, effects, strict=True)
    ]
    return replace(found, results=results)


def _with_needs(found: ReadOut, known: Known) -> ReadOut:
    total = sum(found.arms.values())

    def one(result: Result) -> Result:
        effect = found.headline(result)
        if effect is None:
            return result
        n = result.n + result.n_control
        pace = known.pace * n / total if known.pace and total else None
        tuning = known.tuning if found.method == SEQUENTIAL else None
        planned = result.mean_control * (known.mde or readout_needs.DEFAULT_MDE)

        def need(target: float) -> Any:
            return readout_needs.need(target, effect.se, n, alpha=found.alpha, pace=pace, tuning=tuning)

        return replace(
            result,
            mde=readout_needs.smallest(effect.se, result.n_control, result.n, found.alpha),
            need_estimate=need(effect.estimate),
            need_planned=need(planned),
        )

    return replace(found, results=[one(result) for result in found.results])


# --- keeping it ----------------------------------------------------------------------------------


def looks_before(session: Session, experiment_id: int, as_of: datetime) -> tuple[int, float]:
    """How many read-outs of earlier days were kept of an experiment, and the always-valid p of the split
    that the last of them gave (1 without one)."""
    earlier = sa.and_(Readout.experiment_id == experiment_id, Readout.kind == REAL, Readout.as_of < as_of)
    looks = session.scalar(sa.select(sa.func.count()).select_from(Readout).where(earlier)) or 0
    last = session.scalar(sa.select(Readout.result).where(earlier).order_by(Readout.id.desc()).limit(1))
    check = from_json(last).check("srm") if last else None
    return looks, float(check.detail.get("always_valid_p", 1.0)) if check else 1.0


def freeze(
    session: Session,
    experiment_id: int,
    readout: ReadOut,
    *,
    as_of: datetime,
    settings: Mapping[str, Any],
    now: datetime,
    kind: str = REAL,
) -> Readout:
    """Keep a read-out with what it was computed from. ``kind``: ``real``, or ``simulated`` effects."""
    if kind not in (REAL, SIMULATED):
        raise InvalidInput("A read-out is “real” or “simulated”.", "kind")
    row = Readout(
        experiment_id=experiment_id,
        kind=kind,
        as_of=as_of,
        settings=dict(settings),
        result=to_json(readout),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row
