"""The read-out of an experiment: checks first, then every metric and arm against the control.

Guarantees: pure functions of moments; what cannot be computed is a stated refusal, never a number;
the same read-out survives JSON unchanged, so that a frozen one is what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from core.errors import InvalidInput
from core.money import exponent
from experiments.models import Readout
from experiments.moments import CONVERTED, MARGIN, REVENUE, ArmMoments, Moments
from experiments.stats import mean, proportion, srm
from experiments.stats.effect import Comparison, Effect, check_alpha

MIN_MEMBERS = 100
"""Members an arm below which the normal approximation of skewed revenue cannot be trusted."""
REAL, SIMULATED = "real", "simulated"
MONEY_METRICS = (REVENUE, MARGIN)


@dataclass(frozen=True)
class Check:
    """Something that must hold before a result is believed; ``detail`` are its numbers."""

    name: str
    ok: bool
    detail: dict[str, Any]


@dataclass(frozen=True)
class Total:
    """The difference over all members of the arm: what the arm brought that the control says it would not."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """One metric of one arm against the control. ``refused`` says why there is no comparison."""

    metric: str
    arm: str
    control: str
    n: int
    n_control: int
    mean_control: float
    mean: float
    absolute: Effect | None = None
    relative: Effect | None = None
    incremental_total: Total | None = None
    refused: str | None = None


@dataclass(frozen=True)
class ReadOut:
    """Everything a page or a report shows; ``alpha`` is 1 − the level of every interval."""

    control: str
    alpha: float
    arms: dict[str, int]
    srm: srm.Srm | None
    checks: list[Check]
    results: list[Result]
    currency: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def result(self, metric: str, arm: str | None = None) -> Result:
        """The result of a metric; of the first treated arm where none is named. InvalidInput: none."""
        for found in self.results:
            if found.metric == metric and arm in (None, found.arm):
                return found
        raise InvalidInput(f"This read-out has no metric “{metric}” for {arm or 'a treated arm'}.", "metric")


@dataclass(frozen=True)
class _Plan:
    control: str
    alpha: float
    arms: Mapping[str, ArmMoments] = field(repr=False)


def read_out(
    moments: Mapping[str, ArmMoments],
    weights: Mapping[str, float],
    control: str,
    alpha: float = 0.05,
    *,
    currency: str | None = None,
    min_members: int = MIN_MEMBERS,
) -> ReadOut:
    """Compare every arm of ``weights`` with the control, metric by metric, after the checks.

    ``moments``: of :func:`experiments.moments.scan`; an arm that is missing there has no members.
    ``converted`` is compared as a proportion, the others as means. InvalidInput: a control that is no
    arm, or moments of an arm that has no weight.
    """
    check_alpha(alpha)
    if control not in weights:
        raise InvalidInput(f"“{control}” is none of the arms; name the control arm.", "control")
    strangers = sorted(set(moments) - set(weights))
    if strangers:
        raise InvalidInput(
            f"The arms {', '.join(strangers)} have members but no weight; add them.", "weights"
        )
    arms = {arm: moments[arm].n if arm in moments else 0 for arm in weights}
    split = srm.check_split(arms, weights) if sum(arms.values()) and _weighted(weights) > 1 else None
    open_windows = sum(found.open_windows for found in moments.values())
    plan = _Plan(control, alpha, moments)
    names = next((list(found.metrics) for found in moments.values()), [])
    results = [_compare(plan, metric, arm, arms) for metric in names for arm in weights if arm != control]
    return ReadOut(
        control,
        alpha,
        arms,
        split,
        _checks(split, arms, weights, open_windows, min_members),
        results,
        currency,
    )


def _weighted(weights: Mapping[str, float]) -> int:
    return sum(weight > 0 for weight in weights.values())


def _checks(
    split: srm.Srm | None,
    arms: Mapping[str, int],
    weights: Mapping[str, float],
    open_windows: int,
    min_members: int,
) -> list[Check]:
    smallest = min(arms[arm] for arm in weights if weights[arm] > 0)
    total = sum(arms.values())
    return [
        Check("srm", split is None or split.ok, {} if split is None else {"p": split.p, "chi2": split.chi2}),
        Check("sample_size", smallest >= min_members, {"smallest": smallest, "needed": min_members}),
        Check("windows_closed", not open_windows, {"open": open_windows, "members": total}),
    ]


def _compare(plan: _Plan, metric: str, arm: str, arms: Mapping[str, int]) -> Result:
    nobody = Moments(0, 0.0, 0.0)
    treated, control = (
        plan.arms[name].metrics[metric] if name in plan.arms else nobody for name in (arm, plan.control)
    )
    base = (metric, arm, plan.control, arms[arm], arms[plan.control], control.mean, treated.mean)
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
    hits, control_hits = round(treated.mean * treated.n), round(control.mean * control.n)
    return proportion.compare(hits, treated.n, control_hits, control.n, alpha)


def to_json(readout: ReadOut) -> dict[str, Any]:
    """The read-out as plain JSON values."""
    return asdict(readout)


def from_json(data: Mapping[str, Any]) -> ReadOut:
    """The read-out that :func:`to_json` was given."""
    return ReadOut(
        data["control"],
        data["alpha"],
        dict(data["arms"]),
        None if data["srm"] is None else srm.Srm(**data["srm"]),
        [Check(**check) for check in data["checks"]],
        [_result(result) for result in data["results"]],
        data["currency"],
    )


def _result(data: Mapping[str, Any]) -> Result:
    parts = dict(data)
    for name, kind in (("absolute", Effect), ("relative", Effect), ("incremental_total", Total)):
        if parts[name] is not None:
            parts[name] = kind(**parts[name])
    return Result(**parts)


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


_METRIC_WORDS = {
    "en": {
        "revenue": "revenue a member",
        "orders": "orders a member",
        "converted": "the share who bought",
        "margin": "margin a member",
    },
    "zh": {"revenue": "人均收入", "orders": "人均订单数", "converted": "购买率", "margin": "人均毛利"},
}
_SENTENCES = {
    "en": {
        "nothing": "No result yet: {why}",
        "srm": (
            "Do not trust this result: the arms are not split as planned (p {p}); "
            "find out why before reading on."
        ),
        "none": (
            "No difference found in {metric}: {estimate} ({level} interval {low} to {high}, p {p}) with "
            "{n} members in “{arm}” and {n_control} in “{control}”; "
            "an effect inside this interval is still possible."
        ),
        "found": (
            "“{arm}” {changed} {metric} by {estimate} ({level} interval {low} to {high}, p {p}), "
            "{total} over its {n} members against {n_control} in “{control}”."
        ),
        "raised": "raised",
        "lowered": "lowered",
        "small": " The sample is small: only {smallest} members in the smallest arm.",
        "open": " Preliminary: the window of {open} members is still open.",
    },
    "zh": {
        "nothing": "暂无结果：{why}",
        "srm": "请勿采信此结果：各组人数与计划的比例不符（p {p}），请先查明原因。",
        "none": (
            "未发现{metric}有差异：{estimate}（{level} 置信区间 {low} 至 {high}，p {p}），"
            "“{arm}”{n} 人，“{control}”{n_control} 人；区间之内的效果仍有可能。"
        ),
        "found": (
            "“{arm}”使{metric}{changed} {estimate}（{level} 置信区间 {low} 至 {high}，p {p}），"
            "{n} 人合计 {total}，对照组“{control}”{n_control} 人。"
        ),
        "raised": "提高",
        "lowered": "降低",
        "small": "样本较小：人数最少的组仅 {smallest} 人。",
        "open": "初步结果：仍有 {open} 人的观察期未结束。",
    },
}


def verdict(readout: ReadOut, locale: str, metric: str = REVENUE, arm: str | None = None) -> str:
    """The result in one sentence of English or Chinese (any ``zh…`` locale), checks before numbers.

    Where the interval of the absolute difference holds 0 it says that none was **found**, with the
    interval and the numbers, not that there is none.
    """
    language = "zh" if locale.lower().startswith("zh") else "en"
    words = _SENTENCES[language]
    if readout.srm is not None and not readout.srm.ok:
        return words["srm"].format(p=_p(readout.srm.p))
    if not readout.results:
        return words["nothing"].format(why="nobody was assigned." if language == "en" else "尚无成员分组。")
    found = readout.result(metric, arm)
    if found.absolute is None or found.incremental_total is None:
        return words["nothing"].format(why=found.refused)
    effect, show = found.absolute, _Shower(metric, readout.currency)
    different = effect.low > 0 or effect.high < 0
    down = effect.estimate < 0
    size = abs(effect.estimate) if different else effect.estimate
    ends = sorted((abs(effect.low), abs(effect.high))) if different else [effect.low, effect.high]
    text = words["found" if different else "none"].format(
        arm=found.arm,
        control=found.control,
        metric=_METRIC_WORDS[language].get(metric, metric),
        changed=words["lowered" if down else "raised"],
        estimate=show(size),
        low=show(ends[0]),
        high=show(ends[1]),
        level=f"{100 * (1 - readout.alpha):g} %" if language == "en" else f"{100 * (1 - readout.alpha):g}%",
        p=_p(effect.p),
        total=show.total(found.incremental_total.estimate),
        n=f"{found.n:,}",
        n_control=f"{found.n_control:,}",
    )
    return text + _caveats(readout, words)


def _caveats(readout: ReadOut, words: Mapping[str, str]) -> str:
    keys = {"sample_size": "small", "windows_closed": "open"}
    return "".join(
        words[keys[check.name]].format(**check.detail)
        for check in readout.checks
        if not check.ok and check.name in keys
    )


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


@dataclass(frozen=True)
class _Shower:
    """Numbers of a metric as a reader wants them: money in major units, shares in points of a per cent."""

    metric: str
    currency: str | None

    def __call__(self, value: float) -> str:
        if self.metric == CONVERTED:
            return f"{100 * value:.2f} %"
        return self._number(value)

    def total(self, value: float) -> str:
        return self._number(value, digits=0)

    def _number(self, value: float, digits: int = 2) -> str:
        if self.metric in MONEY_METRICS and self.currency:
            return f"{value / 10 ** exponent(self.currency):,.{digits}f} {self.currency}"
        return f"{value:,.{digits if self.metric in MONEY_METRICS else max(digits, 1) + 2 * (digits > 0)}f}"
