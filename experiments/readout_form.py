"""What a read-out consists of, and its JSON: frozen ones are read as they were, older ones without the rest.

Guarantees: every part survives JSON unchanged, what it was computed with (alpha, method, tuning, window)
among them; what an older read-out did not know yet is None or empty, and its method is ``fixed``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from core.errors import InvalidInput
from experiments.stats.cells import Interaction
from experiments.stats.effect import Comparison, Effect
from experiments.stats.srm import Srm

FIXED, SEQUENTIAL = "fixed", "sequential"
"""Which intervals count: those of one planned look, or those that hold at every look."""
UNKNOWN, OTHER = "", "\u2026"
"""Values of a dimension: members without one, and the rare ones together."""


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
class Adjusted:
    """The comparison after CUPED: ``theta`` of the covariate (the same metric before; None: a ratio has two),
    and the share of the variance that it took away (ρ², 0 to 1)."""

    comparison: Comparison
    theta: float | None
    removed: float


@dataclass(frozen=True)
class Need:
    """What would decide a difference of ``target`` a member: members of both arms in all, how many of them
    are missing, and days at the pace so far (None: nobody is joining any more). ``formula``: see
    :data:`experiments.readout_needs.FORMULAS`."""

    target: float
    members: int
    more: int
    days: int | None
    formula: str


@dataclass(frozen=True)
class Result:
    """One metric of one arm against the control. ``refused`` says why there is no comparison.

    ``absolute``, ``relative`` and ``incremental_total`` are unadjusted; ``always_valid`` is of the adjusted
    numbers where there are such. ``p_adjusted`` is Holm's over all arms and metrics of the p that counts;
    ``chance_to_win`` against the control and ``chance_best`` among all arms are with flat priors.
    """

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
    adjusted: Adjusted | None = None
    always_valid: Comparison | None = None
    p_adjusted: float | None = None
    chance_to_win: float | None = None
    chance_best: float | None = None
    mde: float | None = None
    """The smallest difference a member that so many members show with a power of 80 %."""
    need_estimate: Need | None = None
    need_planned: Need | None = None


@dataclass(frozen=True)
class Point:
    """The effect ``day`` days after assignment, of members assigned that long ago: one look's, and any's."""

    day: int
    n: int
    n_control: int
    fixed: Effect
    always_valid: Effect


@dataclass(frozen=True)
class Curve:
    """An arm's effect by days since assignment."""

    arm: str
    points: list[Point]


@dataclass(frozen=True)
class Timeline:
    """How the effect on a metric built up; ``tuning`` is the N* of its always-valid band, ``adjusted``: by
    CUPED, as the headline."""

    metric: str
    tuning: float
    curves: list[Curve]
    adjusted: bool = False


@dataclass(frozen=True)
class CellEffect:
    """The effect among members with a value of the dimension; None where it cannot be compared."""

    value: str
    n: int
    n_control: int
    absolute: Effect | None
    p_adjusted: float | None


@dataclass(frozen=True)
class Breakdown:
    """An arm's effect by the values of a dimension, and whether they differ (None: fewer than two)."""

    arm: str
    cells: list[CellEffect]
    interaction: Interaction | None


@dataclass(frozen=True)
class Dimension:
    """The effect on ``metric`` by an attribute that members had before; p are Holm's over arms and cells;
    ``adjusted``: by CUPED, as the headline."""

    name: str
    metric: str
    breakdowns: list[Breakdown]
    adjusted: bool = False


KEPT, BROKEN, UNSURE = "kept", "broken", "unsure"
"""Surely within the margin; surely beyond it; neither is sure, or ``refused`` says why nothing is said."""


@dataclass(frozen=True)
class Guarded:
    """A planned guardrail of an arm. Relative to the control's mean: the difference, one-sided bounds at
    1 − alpha on either side, and the margin that it may lose. ``version``: the metric's, as planned."""

    metric: str
    version: int
    arm: str
    margin: float
    state: str
    higher_is_better: bool = True
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    alpha: float | None = None
    refused: str | None = None


MONEY, SHARE, NUMBER, DAYS = "money", "share", "number", "days"
"""What a metric's value is: minor units, a share, a number, or days."""
_OWN_UNITS = {"revenue": MONEY, "margin": MONEY, "converted": SHARE}
SUMMABLE = ("mean", "count", "proportion", "retention")
"""Kinds of metrics whose difference a member adds up over members."""


@dataclass(frozen=True)
class Measure:
    """A metric of the catalogue as it was measured: that version's definition, in days ``from_day`` to
    ``until_day`` since assignment; ``covariate_days`` before it where CUPED was tried."""

    name: str
    version: int
    kind: str
    unit: str
    from_day: int
    until_day: int
    covariate_days: int | None = None
    higher_is_better: bool = True


@dataclass(frozen=True)
class ReadOut:
    """Everything a page or a report shows; ``alpha`` is 1 − the level of every interval."""

    control: str
    alpha: float
    arms: dict[str, int]
    srm: Srm | None
    checks: list[Check]
    results: list[Result]
    currency: str | None = None
    method: str = FIXED
    tuning: float | None = None
    looks: int | None = None
    """Earlier read-outs of the same experiment; None: not known."""
    covariate_days: int | None = None
    timeline: Timeline | None = None
    dimensions: list[Dimension] = field(default_factory=list)
    guardrails: list[Guarded] = field(default_factory=list)
    """Of the plan that binds the experiment; empty: none were planned, or it is of before they were kept."""
    goal: str | None = None
    """The metric that it is about; None: of before that was kept, see its settings."""
    measures: dict[str, Measure] = field(default_factory=dict)
    """Metrics of the catalogue among the results, by the name that they have there; the others are the
    read-out's own."""
    window_days: int | None = None
    """Days from assignment that the read-out's own metrics count; None: of before that was kept."""

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def trusted(self) -> bool:
        """Whether the arms are split as planned; otherwise no number of it means anything."""
        return all(check.ok for check in self.checks if check.name == "srm")

    def check(self, name: str) -> Check | None:
        """The check of that name, where it was made."""
        return next((check for check in self.checks if check.name == name), None)

    def result(self, metric: str, arm: str | None = None) -> Result:
        """The result of a metric; of the first treated arm where none is named. InvalidInput: none."""
        for found in self.results:
            if found.metric == metric and arm in (None, found.arm):
                return found
        raise InvalidInput(f"This read-out has no metric “{metric}” for {arm or 'a treated arm'}.", "metric")

    def unit(self, metric: str) -> str:
        """What a metric's value is: ``money``, ``share``, ``number`` or ``days``."""
        found = self.measures.get(metric)
        return _OWN_UNITS.get(metric, NUMBER) if found is None else found.unit

    def sign(self, metric: str) -> int:
        """1 where more of the metric is better, −1 where less is."""
        found = self.measures.get(metric)
        return 1 if found is None or found.higher_is_better else -1

    def headline(self, result: Result) -> Effect | None:
        """The difference a member that counts: adjusted where there is a covariate, and always valid where
        the method is ``sequential``."""
        comparison = self._comparison(result)
        return result.absolute if comparison is None else comparison.absolute

    def headline_relative(self, result: Result) -> Effect | None:
        """The same relative to the control."""
        comparison = self._comparison(result)
        return result.relative if comparison is None else comparison.relative

    def total(self, result: Result) -> Total | None:
        """The headline over all members of the arm; None where there is none, or it does not add up over
        members, as ratios and quantiles do not."""
        effect, measure = self.headline(result), self.measures.get(result.metric)
        if effect is None or (measure is not None and measure.kind not in SUMMABLE):
            return None
        return Total(*(result.n * value for value in (effect.estimate, effect.low, effect.high)))

    def _comparison(self, result: Result) -> Comparison | None:
        if self.method == SEQUENTIAL and result.always_valid is not None:
            return result.always_valid
        return None if result.adjusted is None else result.adjusted.comparison


def to_json(readout: ReadOut) -> dict[str, Any]:
    """The read-out as plain JSON values."""
    return asdict(readout)


def from_json(data: Mapping[str, Any]) -> ReadOut:
    """The read-out that :func:`to_json` was given, or one of before it knew all of this."""
    parts = {name: value for name, value in data.items() if name in ReadOut.__dataclass_fields__}
    parts["arms"] = dict(data["arms"])
    parts["srm"] = _maybe(data["srm"], lambda found: Srm(**found))
    parts["checks"] = [Check(**check) for check in data["checks"]]
    parts["results"] = [_result(result) for result in data["results"]]
    parts["timeline"] = _maybe(data.get("timeline"), _timeline)
    parts["dimensions"] = [_dimension(one) for one in data.get("dimensions") or []]
    parts["guardrails"] = [Guarded(**one) for one in data.get("guardrails") or []]
    parts["measures"] = {name: Measure(**one) for name, one in (data.get("measures") or {}).items()}
    return ReadOut(**parts)


def _maybe(data: Any, make: Callable[[Any], Any]) -> Any:
    return None if data is None else make(data)


def _effect(data: Any) -> Effect | None:
    return None if data is None else Effect(**data)


def _comparison(data: Mapping[str, Any]) -> Comparison:
    return Comparison(
        data["mean_control"], data["mean"], Effect(**data["absolute"]), _effect(data["relative"])
    )


def _result(data: Mapping[str, Any]) -> Result:
    parts = dict(data)
    for name, kind in (
        ("absolute", Effect),
        ("relative", Effect),
        ("incremental_total", Total),
        ("need_estimate", Need),
        ("need_planned", Need),
    ):
        if parts.get(name) is not None:
            parts[name] = kind(**parts[name])
    if parts.get("always_valid") is not None:
        parts["always_valid"] = _comparison(parts["always_valid"])
    if (adjusted := parts.get("adjusted")) is not None:
        parts["adjusted"] = Adjusted(
            _comparison(adjusted["comparison"]), adjusted["theta"], adjusted["removed"]
        )
    return Result(**parts)


def _timeline(data: Mapping[str, Any]) -> Timeline:
    def point(one: Mapping[str, Any]) -> Point:
        return Point(
            one["day"], one["n"], one["n_control"], Effect(**one["fixed"]), Effect(**one["always_valid"])
        )

    curves = [Curve(one["arm"], [point(each) for each in one["points"]]) for one in data["curves"]]
    return Timeline(data["metric"], data["tuning"], curves, data.get("adjusted", False))


def _dimension(data: Mapping[str, Any]) -> Dimension:
    def breakdown(one: Mapping[str, Any]) -> Breakdown:
        cells = [CellEffect(**{**cell, "absolute": _effect(cell["absolute"])}) for cell in one["cells"]]
        return Breakdown(one["arm"], cells, _maybe(one["interaction"], lambda it: Interaction(**it)))

    breakdowns = [breakdown(one) for one in data["breakdowns"]]
    return Dimension(data["name"], data["metric"], breakdowns, data.get("adjusted", False))
