"""Read-outs as pages show them: the verdict, the checks, an interval picture a metric, then money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask_babel import gettext

from experiments import readout as frozen
from experiments.models import Readout
from experiments.readout_advice import Advice, advise
from experiments.readout_form import DAYS
from web import charts, i18n
from web.console.readout_words import CheckRow, check_row, guard_row, metric_title
from web.refusals import said
from web.words import word

GOALS = {"revenue": "revenue", "orders": "orders", "conversion": "converted"}
"""A campaign's goal → the metric of its read-out, which is shown first."""


@dataclass(frozen=True)
class MetricView:
    """One metric: its picture, and what could not be compared."""

    metric: str
    title: str
    chart: charts.Chart | None
    rows: list[frozen.Result]
    unit: charts.Unit
    refused: list[str]


@dataclass(frozen=True)
class View:
    """``kind`` is ``real`` or ``simulated``; the page marks the second plainly."""

    id: int
    kind: str
    as_of: datetime
    advice: Advice
    """What to do, in one sentence."""
    verdict: str
    """The numbers of the variant that it is about, in one sentence."""
    found: frozen.ReadOut
    metrics: list[MetricView]
    roi: dict[str, Any] | None
    """variant → its money (``campaigns.roi.Roi`` as JSON)."""
    note: str | None
    """What a simulated one assumes."""
    trusted: bool
    checks: list[CheckRow]


def view(row: Readout) -> View:
    """A stored read-out, made ready for its page."""
    found = frozen.from_json(row.result)
    names = list(dict.fromkeys(result.metric for result in found.results))
    goal = goal_of(found, row.settings)
    names.sort(key=lambda name: name != goal)
    language = i18n.content_locale()
    advice = advise(found, language, goal, profits(row.settings), said)
    return View(
        row.id,
        row.kind,
        row.as_of,
        advice,
        frozen.verdict(found, language, goal, advice.arms[0] if advice.arms else None, said),
        found,
        [_metric(row.id, number, name, found) for number, name in enumerate(names, 1)],
        row.settings.get("roi"),
        row.settings.get("note"),
        found.trusted,
        [*map(check_row, found.checks), *(map(guard_row, found.guardrails) if found.trusted else ())],
    )


def goal_of(found: frozen.ReadOut, settings: Mapping[str, Any]) -> str:
    """The metric that a read-out is about; of one of before that was kept with it, its campaign's."""
    goal = found.goal or GOALS.get(str(settings.get("metric")), "revenue")
    return goal if any(result.metric == goal for result in found.results) else "revenue"


def profits(settings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The profit interval of every variant that cost something, in minor units."""
    return {
        arm: (data["profit"]["low"], data["profit"]["high"])
        for arm, data in (settings.get("roi") or {}).items()
        if sum(data["cost"].values())
    }


def unit_of(metric: str, currency: str | None) -> charts.Unit:
    if metric in frozen.MONEY_METRICS and currency:
        return charts.Unit("money", currency)
    return charts.Unit("share") if metric == "converted" else charts.Unit("number")


def unit_in(found: frozen.ReadOut, metric: str) -> charts.Unit:
    """How a metric of this read-out is written; days as plain numbers, whose title names them."""
    if metric not in found.measures:
        return unit_of(metric, found.currency)
    kind = found.unit(metric)
    if kind == "money":
        return charts.Unit("money", found.currency) if found.currency else charts.Unit("number")
    return charts.Unit("share") if kind == "share" else charts.Unit("number")


def title_in(found: frozen.ReadOut, metric: str) -> str:
    """What a metric of this read-out is called, with its unit where the figures do not show it."""
    title = metric_title(found, metric)
    return str(gettext("%(metric)s (days)", metric=title)) if found.unit(metric) == DAYS else title


def _metric(readout_id: int, number: int, metric: str, found: frozen.ReadOut) -> MetricView:
    results = [result for result in found.results if result.metric == metric]
    unit, title = unit_in(found, metric), title_in(found, metric)
    shown = [result for result in results if result.absolute is not None]
    bars = [
        charts.Interval(word("arm", result.arm), effect.low, effect.estimate, effect.high)
        for result in shown
        if (effect := found.headline(result)) is not None
    ]
    chart = None
    if bars:
        chart = charts.intervals(
            f"readout-{readout_id}-{number}",
            gettext("%(metric)s: difference from the holdout, by variant", metric=title),
            bars,
            unit,
            heading=gettext("Variant"),
            words=(gettext("Low"), gettext("Estimate"), gettext("High")),
            base=gettext(
                "Difference a member against the holdout, %(level)s%% interval; n = %(n)s",
                level=f"{100 * (1 - found.alpha):g}",
                n=i18n.number(sum(found.arms.values())),
            ),
        )
    refused = [said(result.refused) for result in results if result.refused]
    return MetricView(metric, title, chart, results, unit, refused)
