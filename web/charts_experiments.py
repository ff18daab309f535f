"""Pictures of the shop's own experiments: new units by day, the layer's parts, a bandit's weights."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from flask_babel import gettext

from experiments.bandits import weights_of
from experiments.models import BanditWeek, Experiment
from web import charts, i18n
from web.charts import Table, Unit
from web.charts_results import Both, Drawing, Picture, Rect, Shape, Text
from web.queries.experiments import Span


def arrivals(spans: Sequence[Span], arms: Sequence[str]) -> charts.Chart:
    """New units an arm, day by day."""
    days: dict[date, dict[str, int]] = {}
    for span in spans:
        if span.day is not None:
            day = days.setdefault(span.day, dict.fromkeys(arms, 0))
            for arm in arms:
                day[arm] += span.arms.get(arm, 0)
    total = sum(sum(span.arms.values()) for span in spans)
    before = sum(sum(span.arms.values()) for span in spans if span.day is None)
    base = gettext("n = %(n)s units, each on its first day", n=i18n.number(total))
    if before:
        base += " · " + gettext("%(n)s of them came before these days", n=i18n.number(before))
    return charts.over(
        "arrivals",
        gettext("New units by day and arm"),
        [i18n.day(day, "short") for day in days],
        [charts.Series(arm, [day[arm] for day in days.values()], mark="line") for arm in arms],
        heading=gettext("Day"),
        base=base,
        size="s",
    )


def weights(row: Experiment, history: Sequence[BanditWeek]) -> charts.Chart:
    """The weight of each arm from week to week."""
    arms = list(weights_of(row))
    points = [(gettext("start"), history[0].before if history else weights_of(row))]
    points += [(i18n.day(week.week, "short"), week.weights) for week in history]
    return charts.over(
        "weights",
        gettext("Weights week by week"),
        [name for name, _ in points],
        [charts.Series(arm, [one[arm] for _, one in points], Unit("share"), mark="line") for arm in arms],
        heading=gettext("Week from"),
        base=gettext("Weights of members who come new; reckoned %(count)s times", count=len(history)),
        size="s",
    )


def layer(row: Experiment, others: Sequence[Experiment]) -> Picture:
    """Which part of the layer each experiment takes; this one in its own colour."""
    title = gettext("Parts of the layer “%(name)s”", name=row.layer)
    parts = [(one, one.layer_low or 0.0, one.layer_high or 0.0) for one in others]

    def draw(width: float) -> Drawing:
        high, shapes = 44.0, list[Shape]()
        for number, (one, low, end) in enumerate(parts):
            y, mine = number * high, one.id == row.id
            shapes.append(Text(0, y + 14, one.name, "start", "ink" if mine else "soft"))
            shapes.append(Text(width, y + 14, _part(low, end), "end", "ink" if mine else "soft"))
            shapes.append(Rect(0, y + 21, width, 12, "line", 0.6))
            # What the coverage leaves out is of the experiment all the same: nobody else may have it.
            role, opacity = ("arm1", 0.9) if mine else ("soft", 0.55)
            shapes.append(Rect(low * width, y + 21, max((end - low) * width, 2), 12, role, opacity))
        return Drawing(width, high * len(parts), tuple(shapes))

    table = Table(
        (gettext("Experiment"), gettext("Part of the layer")),
        tuple((one.name, _part(low, end)) for one, low, end in parts),
    )
    free = 1 - _union([(low, end) for _, low, end in parts])
    return Both(draw).picture(
        "layer",
        title,
        table,
        base=gettext("%(share)s of the layer are free", share=i18n.share(max(free, 0.0))),
    )


def overlaps(row: Experiment, others: Sequence[Experiment]) -> list[str]:
    """Names of those whose part of the layer meets this one's: they share units."""
    low, high = row.layer_low or 0.0, row.layer_high or 0.0
    return [
        one.name
        for one in others
        if one.id != row.id and (one.layer_low or 0.0) < high and (one.layer_high or 0.0) > low
    ]


def _part(low: float, high: float) -> str:
    return f"{i18n.share(low)} – {i18n.share(high)}"


def _union(parts: Sequence[tuple[float, float]]) -> float:
    covered, reached = 0.0, 0.0
    for low, high in sorted(parts):
        covered += max(high - max(low, reached), 0.0)
        reached = max(reached, high)
    return covered
