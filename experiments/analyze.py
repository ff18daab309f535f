"""The analysis of any experiment's file: checks first, then every metric and arm against the control.

Guarantees: pure functions of the moments that :mod:`experiments.filescan` reads; what cannot be computed is
a stated refusal (``refused``), never a number; the answer has the shape of ``huiliu experiments analyze``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from core.errors import InvalidInput
from experiments.filescan import Group, Scanned, Wanted, scan
from experiments.stats import (
    bayes,
    cells,
    cuped,
    estimate,
    multiplicity,
    proportion,
    ratio,
    sequential,
    srm,
    strata,
)
from experiments.stats.effect import Comparison, Effect, check_alpha
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Joint, Mean, Metric, Ratio, merge_all

FIXED, SEQUENTIAL, BAYES, GROUP = "fixed", "sequential", "bayes", "group-sequential"
METHODS = (FIXED, SEQUENTIAL, BAYES, GROUP)
MEAN, PROPORTION, RATIO = "mean", "proportion", "ratio"
ADJUSTMENTS = ("holm", "bh", "none")
MAX_ARMS = 50
MAX_METRICS = 100
MIN_MEMBERS = 100
"""Units an arm below which the normal approximation of skewed metrics cannot be trusted."""
MAX_MULTIPLE_EXPOSURE = 0.01
IMBALANCE_BELOW = 0.001
"""p under which a covariate differs between arms by more than chance."""
NO_VALUE = "(missing)"


@dataclass(frozen=True)
class Asked:
    """A metric as asked for: its name, its columns, how it is compared; ``covariates``: its own."""

    name: str
    metric: Metric
    kind: Literal["mean", "proportion", "ratio"]
    covariates: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How to analyse a file.

    ``covariates``: of every metric, beside its own; ``weights``: planned split [equal]; ``tuning``: N* of the
    sequential method; ``looks``: how many times the result is looked at, this one included, or, group
    sequential, in all, of which this is number ``look``; ``stratify``: all rows together are weighed by the
    values of ``by``; ``unit``: who was randomised.
    """

    arm: str
    control: str
    metrics: Sequence[Asked]
    covariates: Sequence[str] = ()
    by: str | None = None
    unit: str | None = None
    alpha: float = 0.05
    method: str = FIXED
    weights: Mapping[str, float] | None = None
    tuning: float = sequential.DEFAULT_TUNING
    adjust: str = "holm"
    looks: int = 1
    look: int | None = None
    bounds: sequential.Shape = "obrien-fleming"
    stratify: bool = False

    def validated(self) -> Plan:
        """Itself. InvalidInput: an option that is none."""
        check_alpha(self.alpha)
        names = [one.name for one in self.metrics]
        if not 1 <= len(names) <= MAX_METRICS:
            raise InvalidInput(f"Give 1 to {MAX_METRICS} metrics (--metric or --ratio).", "metric")
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput(f"There are two metrics “{name}”; give each a name of its own.", "metric")
        if self.method not in METHODS:
            raise InvalidInput(f"There is no method “{self.method}”; take {', '.join(METHODS)}.", "method")
        if self.adjust not in ADJUSTMENTS:
            raise InvalidInput(f"Adjust by {', '.join(ADJUSTMENTS)}; not “{self.adjust}”.", "adjust")
        if not 1 <= self.looks <= sequential.MAX_LOOKS:
            raise InvalidInput(f"There are 1 to {sequential.MAX_LOOKS} looks.", "looks")
        if self.method == GROUP:
            if self.look is None:
                raise InvalidInput(f"Say which of the {self.looks} planned looks this is.", "look")
            sequential.look_alpha(self.look, self.looks, self.bounds, self.alpha)
        if self.stratify and self.by is None:
            raise InvalidInput("Say by which column the rows are stratified.", "by")
        if not (self.tuning > 0 and math.isfinite(self.tuning)):
            raise InvalidInput("N* is a number of units above 0.", "tuning")
        for arm, weight in (self.weights or {}).items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise InvalidInput(f"The weight of “{arm}” is a number of 0 or more.", "weights")
        return self

    def covariates_of(self, asked: Asked) -> list[Metric]:
        """What narrows a metric's intervals."""
        return list(dict.fromkeys((*asked.covariates, *map(Mean, self.covariates))))

    @property
    def columns_before(self) -> list[str]:
        """The columns of all covariates, each once."""
        own = (name for asked in self.metrics for one in asked.covariates for name in one.columns)
        return list(dict.fromkeys((*self.covariates, *own)))


def analyze(path: Path, plan: Plan) -> dict[str, Any]:
    """Read the file once and compare; JSON values. InvalidInput: a bad file, column, value or option."""
    plan = plan.validated()
    families = {
        f"metric {asked.name}": tuple(
            dict.fromkeys(name for one in (asked.metric, *plan.covariates_of(asked)) for name in one.columns)
        )
        for asked in plan.metrics
    }
    # A covariate's own moments, for the check of balance, are a family beside the metrics'.
    families |= {f"covariate {name}": (name,) for name in plan.columns_before}
    shares = frozenset(one.metric.columns[0] for one in plan.metrics if one.kind == PROPORTION)
    found = scan(path, Wanted(plan.arm, families, shares, plan.by, plan.unit))
    return report(found, plan)


def report(found: Scanned, plan: Plan) -> dict[str, Any]:
    """The answer from moments: the split, arms, failed checks and results (``interactions`` with ``by``)."""
    arms = _arms(found, plan)
    weights = dict(plan.weights) if plan.weights else dict.fromkeys(arms, 1.0)
    split = srm.check_split(arms, weights)
    whole, *parts = _slices(found, plan)
    results = _results(whole, plan, list(arms))
    cell_results = [result for part in parts for result in _results(part, plan, list(arms))]
    for family in (results, cell_results):
        _adjust(family, plan)
    answer: dict[str, Any] = {
        "srm": {"p": split.p, "ok": split.ok},
        "arms": {arm: {"n": n} for arm, n in arms.items()},
        "checks": _checks(found, plan, arms, weights, split),
        "results": [*results, *cell_results],
    }
    if plan.method == GROUP:
        answer["group_sequential"] = {
            "look": plan.look,
            "looks": plan.looks,
            "bounds": plan.bounds,
            "stop_below": sequential.look_alpha(plan.look or 0, plan.looks, plan.bounds, plan.alpha),
        }
    if plan.by:
        answer["interactions"] = _interactions(parts, plan, list(arms))
    return answer


@dataclass(frozen=True)
class _Slice:
    """All rows, or those of a value of the dimension: by metric the arms' moments, and their estimates (or
    why there are none)."""

    dimension: str | None
    joints: Mapping[str, Mapping[str, Joint]]
    estimates: Mapping[str, tuple[Mapping[str, Estimate], str | None]]


def _slices(found: Scanned, plan: Plan) -> list[_Slice]:
    """All rows first, then the values of the dimension in order, rows without one last."""
    values = sorted({value for _, value in found.sizes}, key=lambda value: (value is None, value or ""))
    by_value: dict[str | None, dict[str, dict[str, Joint]]] = {value: {} for value in values}
    whole: dict[str, dict[str, Joint]] = {}
    for asked in plan.metrics:
        groups = found.moments[f"metric {asked.name}"]
        whole[asked.name] = _merged(groups)
        for (arm, value), joint in groups.items():
            by_value[value].setdefault(asked.name, {})[arm] = joint
    first = _slice(None, whole, plan)
    if not plan.by:
        return [first]
    parts = [_slice(NO_VALUE if value is None else value, by_value[value], plan) for value in values]
    if plan.stratify:
        first = replace(first, estimates={asked.name: _stratified(asked, parts) for asked in plan.metrics})
    return [first, *parts]


def _stratified(asked: Asked, parts: Sequence[_Slice]) -> tuple[dict[str, Estimate], str | None]:
    """Each arm's estimate with every value of the dimension at its share of all rows; or why not."""
    if asked.kind == RATIO:
        return {}, "A ratio has a denominator of its own in every stratum; stratify its parts as means."
    arms: dict[str, dict[str, Estimate]] = {}
    for part in parts:
        found, refused = part.estimates[asked.name]
        if refused:
            return {}, refused
        for arm, one in found.items():
            arms.setdefault(arm, {})[part.dimension or NO_VALUE] = one
    try:
        return strata.post_stratify(arms), None
    except InvalidInput as refusal:
        return {}, str(refusal)


def _slice(dimension: str | None, joints: Mapping[str, Mapping[str, Joint]], plan: Plan) -> _Slice:
    estimates = {asked.name: _estimates(asked, joints[asked.name], plan) for asked in plan.metrics}
    return _Slice(dimension, joints, estimates)


def _merged(groups: Mapping[Group, Joint]) -> dict[str, Joint]:
    """The moments by arm, all values of the dimension together."""
    parts: dict[str, list[Joint]] = {}
    for (arm, _), joint in groups.items():
        parts.setdefault(arm, []).append(joint)
    return {arm: merge_all(joints) for arm, joints in parts.items()}


def _arms(found: Scanned, plan: Plan) -> dict[str, int]:
    """Members by arm, the control first, arms of the plan that have none included."""
    counts: dict[str, int] = {}
    for (arm, _), n in found.sizes.items():
        counts[arm] = counts.get(arm, 0) + n
    known = ", ".join(sorted(counts)[:MAX_ARMS]) or "nothing"
    if plan.control not in counts:
        raise InvalidInput(
            f"No row of “{plan.arm}” is “{plan.control}”, the control; the column holds {known}.", "control"
        )
    if len(counts) > MAX_ARMS:
        raise InvalidInput(
            f"“{plan.arm}” has {len(counts):,} different values; that is no column of arms.", "arm"
        )
    if plan.weights is not None:
        strangers = sorted(set(counts) - set(plan.weights))
        if strangers:
            raise InvalidInput(
                f"The arms {', '.join(strangers)} have rows but no weight; add them to --weights.", "weights"
            )
        counts |= dict.fromkeys(set(plan.weights) - set(counts), 0)
    if len(counts) < 2:
        raise InvalidInput(
            f"All rows of “{plan.arm}” are “{plan.control}”; a comparison needs two arms.", "arm"
        )
    order = sorted(counts, key=lambda arm: (arm != plan.control, arm))
    return {arm: counts[arm] for arm in order}


def _results(part: _Slice, plan: Plan, arms: Sequence[str]) -> list[dict[str, Any]]:
    return [_result(asked, arm, part, plan) for asked in plan.metrics for arm in arms[1:]]


def _estimates(
    asked: Asked, joints: Mapping[str, Joint], plan: Plan
) -> tuple[dict[str, Estimate], str | None]:
    """Each arm's estimate, adjusted where there are covariates; or why there are none."""
    filled = {arm: joint for arm, joint in joints.items() if joint.n}
    try:
        for joint in filled.values():
            if isinstance(asked.metric, Ratio) and joint.n > 1:
                ratio.check_denominator(joint, asked.metric)
        if filled and (covariates := plan.covariates_of(asked)):
            return cuped.adjust(filled, asked.metric, covariates), None
        if asked.kind == PROPORTION:
            return {
                arm: Estimate.of_proportion(_hits(asked, joint), joint.n) for arm, joint in filled.items()
            }, None
        return {arm: ratio.estimate_of(joint, asked.metric) for arm, joint in filled.items()}, None
    except InvalidInput as refusal:
        return {}, str(refusal)


def _hits(asked: Asked, joint: Joint) -> int:
    return round(joint.moments(asked.metric.columns[0]).mean * joint.n)


def _result(asked: Asked, arm: str, part: _Slice, plan: Plan) -> dict[str, Any]:
    joints, (estimates, refused) = part.joints[asked.name], part.estimates[asked.name]
    control, treated = estimates.get(plan.control), estimates.get(arm)
    result: dict[str, Any] = {
        "metric": asked.name,
        "arm": arm,
        "control": plan.control,
        "dimension": part.dimension,
        "mean_control": control.value if control else None,
        "mean": treated.value if treated else None,
        "absolute": None,
        "relative": None,
        "incremental_total": None,
        "p_adjusted": None,
    }
    try:
        if refused:
            raise InvalidInput(refused)
        if control is None or treated is None:
            empty = plan.control if control is None else arm
            raise InvalidInput(f"The arm “{empty}” is empty; a comparison needs members in both.")
        weighed = plan.covariates_of(asked) or (plan.stratify and part.dimension is None)
        if asked.kind == PROPORTION and plan.method == FIXED and not weighed:
            sides = ((_hits(asked, joints[name]), joints[name].n) for name in (arm, plan.control))
            (hits, n), (base, base_n) = sides
            compared: Comparison | bayes.Verdict = proportion.compare(hits, n, base, base_n, plan.alpha)
        else:
            compared = _by_method(treated, control, plan)
    except InvalidInput as refusal:
        return {**result, "refused": str(refusal)}
    result["absolute"] = _json(compared.absolute)
    result["relative"] = None if compared.relative is None else _json(compared.relative)
    if asked.kind != RATIO:
        # A ratio's difference times members is no amount of anything.
        result["incremental_total"] = {
            name: result["absolute"][name] * treated.n for name in ("estimate", "low", "high")
        }
    return result


def _by_method(treated: Estimate, control: Estimate, plan: Plan) -> Comparison | bayes.Verdict:
    if plan.method == SEQUENTIAL:
        return sequential.compare(treated, control, plan.alpha, plan.tuning)
    if plan.method == GROUP:
        return sequential.at_look(treated, control, plan.look or 0, plan.looks, plan.bounds, plan.alpha)
    if plan.method == BAYES:
        return bayes.compare(treated, control, plan.alpha)
    return estimate.compare(treated, control, plan.alpha)


def _json(effect: Effect | bayes.Posterior) -> dict[str, Any]:
    shown = {"estimate": effect.estimate, "low": effect.low, "high": effect.high}
    if isinstance(effect, Effect):
        return {**shown, "p": effect.p}
    return {**shown, "p": None, "chance_to_win": effect.chance_to_win, "risk": effect.risk}


def _adjust(results: Sequence[dict[str, Any]], plan: Plan) -> None:
    """Fill ``p_adjusted`` over all that were tested together: metrics × arms, or those × cells."""
    tested = [result for result in results if result["absolute"] and result["absolute"]["p"] is not None]
    raw = [result["absolute"]["p"] for result in tested]
    adjusted = raw
    if plan.adjust != "none":
        adjusted = {"holm": multiplicity.holm, "bh": multiplicity.benjamini_hochberg}[plan.adjust](raw)
    for result, p in zip(tested, adjusted, strict=True):
        result["p_adjusted"] = p


def _interactions(parts: Sequence[_Slice], plan: Plan, arms: Sequence[str]) -> list[dict[str, Any]]:
    """Cochran's Q over the dimension's values, a metric and arm each, of the absolute differences."""
    tests = []
    for asked in plan.metrics:
        by_value = [part.estimates[asked.name][0] for part in parts]
        for arm in arms[1:]:
            both = [one for one in by_value if arm in one and plan.control in one]
            if len(both) < 2:
                continue
            compared = cells.compare(
                cells.Arms.of([one[arm] for one in both]),
                cells.Arms.of([one[plan.control] for one in both]),
                plan.alpha,
            ).interaction
            if compared is not None:
                tests.append(
                    {
                        "metric": asked.name,
                        "arm": arm,
                        "by": plan.by,
                        "q": compared.q,
                        "df": compared.df,
                        "p": compared.p,
                        "i2": compared.i2,
                    }
                )
    return tests


def _checks(
    found: Scanned, plan: Plan, arms: Mapping[str, int], weights: Mapping[str, float], split: srm.Srm
) -> list[dict[str, Any]]:
    """What does not hold, each with a sentence and its numbers; empty is good."""
    checks = []
    if not split.ok:
        checks.append(
            _check(
                "srm",
                f"The arms are not split as planned (p {split.p:.2g}); find out why before reading on.",
                p=split.p,
                expected=split.expected,
            )
        )
    smallest = min(n for arm, n in arms.items() if weights[arm] > 0)
    if smallest < MIN_MEMBERS:
        checks.append(
            _check(
                "sample_size",
                f"The smallest arm has {smallest} members; below {MIN_MEMBERS} an interval may not cover.",
                smallest=smallest,
                needed=MIN_MEMBERS,
            )
        )
    if plan.looks > 1 and plan.method not in (SEQUENTIAL, GROUP):
        error = sequential.peeking_error(plan.looks, plan.alpha)
        checks.append(
            _check(
                "peeking",
                f"After {plan.looks} looks the true error is {error:.1%}, not {plan.alpha:.1%}; "
                "use --method sequential.",
                looks=plan.looks,
                true_error=error,
            )
        )
    return [*checks, *_exposure(found), *_imbalance(found, plan, list(arms)), *_left_out(found)]


def _exposure(found: Scanned) -> list[dict[str, Any]]:
    units, checks = found.units, []
    if units is None:
        return []
    share = units.in_several_arms / units.distinct if units.distinct else 0.0
    if share > MAX_MULTIPLE_EXPOSURE:
        checks.append(
            _check(
                "multiple_exposure",
                f"{units.in_several_arms:,} units ({share:.1%}) are in more than one arm; leave them out, "
                "and find out why.",
                units=units.in_several_arms,
                share=share,
            )
        )
    if units.repeated:
        checks.append(
            _check(
                "repeated_units",
                f"{units.repeated:,} rows repeat a unit of the same arm, so intervals are too narrow; "
                "sum each unit's rows into one.",
                rows=units.repeated,
            )
        )
    if units.missing:
        checks.append(_check("missing_units", f"{units.missing:,} rows have no unit.", rows=units.missing))
    return checks


def _imbalance(found: Scanned, plan: Plan, arms: Sequence[str]) -> list[dict[str, Any]]:
    checks = []
    for name in plan.columns_before:
        joints = _merged(found.moments[f"covariate {name}"])
        for arm in arms[1:]:
            try:
                sides = [ratio.estimate_of(joints[one], Mean(name)) for one in (arm, plan.control)]
                p = estimate.compare(sides[0], sides[1]).absolute.p
            except (InvalidInput, KeyError):
                continue  # an empty arm, or a constant covariate, is not out of balance
            if p < IMBALANCE_BELOW:
                checks.append(
                    _check(
                        "covariate_imbalance",
                        f"“{name}” differed between “{arm}” and “{plan.control}” before the experiment "
                        f"(p {p:.2g}); the arms are not comparable.",
                        covariate=name,
                        arm=arm,
                        p=p,
                    )
                )
    return checks


def _left_out(found: Scanned) -> list[dict[str, Any]]:
    checks = []
    if found.without_arm:
        checks.append(
            _check(
                "missing_arm",
                f"{found.without_arm:,} rows have no arm and are left out.",
                rows=found.without_arm,
            )
        )
    if found.missing:
        listed = ", ".join(f"{name} {count:,}" for name, count in found.missing.items())
        checks.append(
            _check(
                "missing_values",
                f"Rows without a value are left out of the metrics that need it: {listed}; "
                "write 0 where nothing means nothing.",
                rows=dict(found.missing),
            )
        )
    return checks


def _check(name: str, message: str, **detail: Any) -> dict[str, Any]:
    return {"name": name, "ok": False, "message": message, "detail": detail}
