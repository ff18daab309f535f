"""Pictures of planning: a metric week by week, and what holdouts of several sizes and durations find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flask_babel import gettext

from experiments.catalogue import Look
from experiments.outlook import Option
from web import charts, i18n
from web.charts import Unit


def weeks(title: str, found: Look, unit: Unit) -> charts.Chart:
    """A metric over all members in each of the last weeks."""
    return charts.over(
        "metric-weeks",
        gettext("%(metric)s over all members, week by week", metric=title),
        [i18n.day(week.start, "short") for week in found.weeks],
        [charts.Series(title, [week.value for week in found.weeks], unit, mark="line")],
        heading=gettext("Week from"),
        base=gettext(
            "%(weeks)s weeks of seven days, over all %(count)s members; not winsorised",
            weeks=len(found.weeks),
            count=i18n.number(found.members),
        ),
        size="s",
    )


def duration(days: int) -> str:
    """A duration in whole weeks where it is some."""
    if days % 7:
        return str(gettext("%(count)s days", count=days))
    return str(gettext("1 week") if days == 7 else gettext("%(count)s weeks", count=days // 7))


def holdouts(options: Sequence[Option]) -> list[float]:
    return list(dict.fromkeys(one.holdout for one in options))


def durations(options: Sequence[Option]) -> list[int]:
    return list(dict.fromkeys(one.days for one in options))


def grid(
    options: Sequence[Option],
    unit: Unit,
    shown: Callable[[float | None, Unit], str],
    link: Callable[[Option], str | None],
    base: str,
) -> charts.Grid:
    """Holdout × duration: the smallest effect that is found, relative; its words say it in the unit too."""
    sizes, days = holdouts(options), durations(options)
    place = {(one.holdout, one.days): one for one in options}
    most = max((one.relative for one in options if one.relative is not None), default=0.0)
    rows = []
    for size in sizes:
        cells = [place[size, one] for one in days]
        rows.append(
            charts.GridRow(
                i18n.share(size),
                (i18n.number(cells[0].held),),
                tuple(_square(one, unit, shown, link, most) for one in cells),
            )
        )
    over = gettext("Duration: days of each member that count")
    table = charts.Table(
        (gettext("Held out"), *(duration(one) for one in days)),
        tuple(
            (
                i18n.share(size),
                *(shown(place[size, one].mde, unit) if place[size, one].mde else "–" for one in days),
            )
            for size in sizes
        ),
    )
    return charts.Grid(
        "mde",
        gettext("Smallest effect that is found, by holdout and duration"),
        base,
        gettext("Held out"),
        over,
        tuple(duration(one) for one in days),
        tuple(rows),
        table,
        before=(gettext("Members"),),
        wide=True,
    )


def _square(
    one: Option,
    unit: Unit,
    shown: Callable[[float | None, Unit], str],
    link: Callable[[Option], str | None],
    most: float,
) -> charts.Square:
    if one.mde is None:
        return charts.Square("–", 0, gettext("Nothing varied in this window, so nothing can be reckoned."))
    relative = i18n.share(one.relative) if one.relative is not None else "–"
    title = gettext(
        "%(held)s held out for %(duration)s: finds %(mde)s a member (%(relative)s) or more",
        held=i18n.share(one.holdout),
        duration=duration(one.days),
        mde=shown(one.mde, unit),
        relative=relative,
    )
    text = f"{relative} · {shown(one.mde, unit)}"
    return charts.Square(text, charts.shade(one.relative, most), title, link(one), one.short)


def lines(options: Sequence[Option], base: str) -> charts.Chart:
    """The relative effect that is found, over the duration, a line a holdout."""
    days = durations(options)
    place = {(one.holdout, one.days): one for one in options}
    series = [
        charts.Series(
            gettext("%(share)s held out", share=i18n.share(size)),
            [place[size, one].relative for one in days],
            Unit("share"),
            mark="line",
        )
        for size in holdouts(options)
    ]
    return charts.over(
        "mde-lines",
        gettext("Smallest relative effect that is found, by duration"),
        [duration(one) for one in days],
        series,
        heading=gettext("Duration"),
        base=base,
        size="s",
    )
