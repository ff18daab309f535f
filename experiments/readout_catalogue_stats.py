"""From a catalogue metric's moments to a read-out's results: pure functions of what was scanned.

Guarantees: every kind ends in the same estimates that all methods take; CUPED by one θ from all arms, and the
plain numbers alone where it is refused; chances are of what is better, which of some metrics is less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core.errors import InvalidInput
from experiments.metric_scan import BEFORE, BELOW, BELOW_BEFORE, VALUE, Cell
from experiments.metrics import PROPORTION, QUANTILE, RATIO, RETENTION, MetricSpec
from experiments.readout import chances_best
from experiments.readout_form import SUMMABLE, Adjusted, Measure, Result, Total
from experiments.stats import bayes, cuped, estimate, proportion, quantile, ratio, sequential
from experiments.stats.effect import Comparison
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Floats, Joint, Mean, Metric, Ratio

NOBODY = str(InvalidInput("Nobody was assigned yet, so there is nothing to compare."))
"""Made as refusals are, so that it is translated with them."""


@dataclass(frozen=True)
class Slope:
    """θ of all arms pooled, one for each covariate, and the share of the variance that it takes away."""

    theta: Floats
    removed: float


@dataclass(frozen=True)
class Estimated:
    """A metric's estimates by arm: plain ones, adjusted ones where there is a ``slope``; or why none."""

    plain: Mapping[str, Estimate]
    adjusted: Mapping[str, Estimate]
    slope: Slope | None
    refused: str | None = None


def _metric(spec: MetricSpec) -> Metric:
    return Ratio(VALUE, BELOW) if spec.kind == RATIO else Mean(VALUE)


def _covariates(spec: MetricSpec) -> list[Metric]:
    if spec.covariate_days is None or spec.kind in (QUANTILE, RETENTION):
        return []
    # Both columns before are covariates of their own: a member without an order then has no ratio.
    return [Mean(BEFORE), Mean(BELOW_BEFORE)] if spec.kind == RATIO else [Mean(BEFORE)]


def _plain(spec: MetricSpec, cell: Cell) -> Estimate:
    joint = cell.joint
    if spec.kind == QUANTILE:
        if cell.quantile is None or spec.q is None or joint.n * min(spec.q, 1 - spec.q) < quantile.MIN_BEYOND:
            raise InvalidInput(
                f"The quantile has {joint.n} members in an arm, too few on one of its sides; wait for more.",
                "n",
            )
        return cell.quantile.estimate
    if spec.kind == RATIO:
        ratio.check_denominator(joint, Ratio(VALUE, BELOW))
        return ratio.estimate_of(joint, _metric(spec))
    if spec.kind in (PROPORTION, RETENTION):
        return Estimate.of_proportion(_hits(joint), joint.n)
    return Estimate.of_mean(joint.moments(VALUE))


def _hits(joint: Joint) -> int:
    return round(joint.n * float(joint.means[0]))


def plain(spec: MetricSpec, cells: Mapping[str, Cell]) -> dict[str, Estimate]:
    """The arms that have an estimate; those that have none are left out."""
    found = {}
    for arm, cell in cells.items():
        try:
            found[arm] = _plain(spec, cell)
        except InvalidInput:
            continue
    return found


def adjusted(spec: MetricSpec, cells: Mapping[str, Cell], slope: Slope | None = None) -> dict[str, Estimate]:
    """The arms' adjusted estimates, by ``slope`` where it is given, else by their own θ; empty where the
    metric has no covariate or an arm's denominator may be 0."""
    before = _covariates(spec)
    joints = {arm: cell.joint for arm, cell in cells.items() if cell.joint.n > 1}
    if not before or not joints:
        return {}
    try:
        if spec.kind == RATIO:
            for joint in joints.values():
                ratio.check_denominator(joint, Ratio(VALUE, BELOW))
        return cuped.adjust(joints, _metric(spec), before, None if slope is None else slope.theta)
    except InvalidInput:
        return {}


def _slope(spec: MetricSpec, cells: Mapping[str, Cell], fine: Mapping[str, Estimate]) -> Slope | None:
    """None where nothing varied before."""
    joints = {arm: cells[arm].joint for arm in fine}
    metric, before = _metric(spec), _covariates(spec)
    varied = any(joint.moments(one.columns[0]).var > 0 for joint in joints.values() for one in before)
    if not varied:
        return None
    whole = {arm: ratio.estimate_of(joint, metric) for arm, joint in joints.items()}
    old, new = (
        sum(each[arm].var * joint.n * (joint.n - 1) for arm, joint in joints.items())
        for each in (whole, fine)
    )
    removed = max(1 - new / old, 0.0) if old > 0 else 0.0
    return Slope(cuped.slope(joints, metric, before), removed)


def estimates(spec: MetricSpec | None, cells: Mapping[str, Cell], refused: str | None) -> Estimated:
    """Of every arm that has members, by what was scanned."""
    if spec is None or refused is not None:
        return Estimated({}, {}, None, refused or NOBODY)
    why = NOBODY
    found = {}
    for arm, cell in cells.items():
        try:
            found[arm] = _plain(spec, cell)
        except InvalidInput as refusal:
            why = str(refusal)
    if len(found) < 2:
        return Estimated(found, {}, None, why)
    fine = adjusted(spec, cells)
    slope = _slope(spec, cells, fine) if fine else None
    return Estimated(found, fine if slope else {}, slope)


def results(
    key: str,
    measure: Measure,
    found: Estimated,
    cells: Mapping[str, Cell],
    arms: Sequence[str],
    control: str,
    alpha: float,
    tuning: float,
) -> list[Result]:
    """A row a treated arm; ``refused`` where it cannot be compared."""
    best = found.adjusted or found.plain
    sign = 1 if measure.higher_is_better else -1
    chances = chances_best({arm: replace(one, value=sign * one.value) for arm, one in best.items()})
    shown = []
    for arm in arms:
        base = _base(key, measure, found, cells, arm, control, alpha)
        pair = best.get(arm), best.get(control)
        if base.refused is None and pair[0] is not None and pair[1] is not None:
            base = _with_best(base, found, (pair[0], pair[1]), alpha, tuning, sign)
            base = replace(base, chance_best=chances.get(arm))
        shown.append(base)
    return shown


def _base(
    key: str,
    measure: Measure,
    found: Estimated,
    cells: Mapping[str, Cell],
    arm: str,
    control: str,
    alpha: float,
) -> Result:
    treated, held = found.plain.get(arm), found.plain.get(control)
    sizes = [cells[name].joint.n if name in cells else 0 for name in (arm, control)]
    values = [0.0 if one is None else one.value for one in (held, treated)]
    base = Result(key, arm, control, sizes[0], sizes[1], values[0], values[1])
    if found.refused is not None or treated is None or held is None:
        return replace(base, refused=found.refused or _missing(cells, arm, control))
    try:
        shown = _compared(measure.kind, (treated, held), (cells[arm].joint, cells[control].joint), alpha)
    except InvalidInput as refusal:
        return replace(base, refused=str(refusal))
    effect = shown.absolute
    total = None
    if measure.kind in SUMMABLE:
        total = Total(*(sizes[0] * value for value in (effect.estimate, effect.low, effect.high)))
    return replace(base, absolute=effect, relative=shown.relative, incremental_total=total)


def _missing(cells: Mapping[str, Cell], arm: str, control: str) -> str:
    name = control if control not in cells else arm
    if name in cells:
        return str(InvalidInput(f"“{name}” cannot be measured by this metric yet; wait for more members."))
    return str(InvalidInput(f"“{name}” has no members yet, so there is nothing to compare."))


def _compared(
    kind: str, pair: tuple[Estimate, Estimate], joints: tuple[Joint, Joint], alpha: float
) -> Comparison:
    if kind in (PROPORTION, RETENTION):
        treated, control = joints
        return proportion.compare(_hits(treated), treated.n, _hits(control), control.n, alpha)
    if kind == QUANTILE and not pair[0].var + pair[1].var:
        raise InvalidInput(
            "The quantile lies among equal values in both arms; compare the mean or a share instead.", "q"
        )
    return estimate.compare(*pair, alpha)


def _with_best(
    base: Result,
    found: Estimated,
    pair: tuple[Estimate, Estimate],
    alpha: float,
    tuning: float,
    sign: int,
) -> Result:
    """With the adjusted comparison, the one that holds at every look, and the chance to win."""
    try:
        compared = estimate.compare(*pair, alpha)
        always = sequential.compare(*pair, alpha, tuning)
    except InvalidInput:
        return base  # the covariate explains everything: the plain comparison stands alone
    chance = bayes.posterior(estimate.difference(*pair)).chance_to_win
    slope = found.slope
    theta = float(slope.theta[0]) if slope is not None and len(slope.theta) == 1 else None
    return replace(
        base,
        adjusted=None if slope is None else Adjusted(compared, theta, slope.removed),
        always_valid=always,
        chance_to_win=chance if sign > 0 else 1 - chance,
    )
