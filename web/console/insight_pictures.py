"""Answers of the insight pages as pictures: grids, funnels, Sankeys, each with its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

from flask_babel import gettext as translated

from segments.explore import cohorts, funnels, moves, paths
from segments.explore.history import Point
from web import charts, context, i18n
from web.charts import COUNT, Unit
from web.words import word

SHARE = Unit("share")
Names = Mapping[str, str]
"""Kind of event → its name on the page."""
KIND_OF = {"stage": "stage", "rfm_segment": "rfm", "value_segment": "value"}
"""Column of a snapshot → the kind of its words."""


def gettext(text: str, **values: Any) -> str:
    """A text in this request's language."""
    return str(translated(text, **values))


def _money() -> Unit:
    return Unit("money", context.console().settings.shop_currency)


def lasting(span: timedelta | None) -> str:
    """A length of time in its largest fitting unit: “45 min”, “3.5 h”, “2.1 days”."""
    if span is None:
        return "–"
    minutes = span.total_seconds() / 60
    if minutes < 90:
        return gettext("%(count)s min", count=i18n.number(minutes))
    if minutes < 48 * 60:
        return gettext("%(count)s h", count=i18n.number(minutes / 60, 1))
    return gettext("%(count)s days", count=i18n.number(minutes / 1440, 1))


# History


def history(points: list[Point]) -> tuple[charts.Chart, charts.Chart]:
    """Size as a line; entries above and exits below nought as bars."""
    days = [i18n.day(point.as_of, "short") for point in points]
    base = gettext(
        "%(count)s refreshes, the last on %(day)s", count=len(points), day=i18n.day(points[-1].as_of)
    )
    size = charts.over(
        "history-size",
        gettext("Members in the segment"),
        days,
        [charts.Series(gettext("Members"), [point.count for point in points], mark="line")],
        heading=gettext("As of"),
        base=base,
        size="s",
    )
    changes = charts.over(
        "history-moves",
        gettext("Entered and left at each refresh"),
        days,
        [
            charts.Series(
                gettext("Entered"), [None if point.baseline else point.entered for point in points]
            ),
            charts.Series(gettext("Left"), [None if point.baseline else -point.exited for point in points]),
        ],
        heading=gettext("As of"),
        base=gettext("Against the refresh before; the first evaluation only finds who is there"),
        size="s",
    )
    return size, changes


# Moves


def name_of(column: str, code: str) -> str:
    if code == moves.ABSENT:
        return gettext("Not there")
    if code == moves.UNSCORED:
        return gettext("No order in the window")
    return word(KIND_OF[column], code)


def moves_grid(found: moves.Moves, link: Callable[[str, str], str]) -> charts.Grid:
    """The matrix: a row where members stood, a column where they stand; shaded by the share of the row."""
    column = found.column
    names = {name: name_of(column, name) for name in found.names}
    rows = []
    for source in found.sources:
        base = found.at_start(source)
        squares: list[charts.Square | None] = []
        for target in found.targets:
            members, share = found.count(source, target), found.share(source, target)
            if not members:
                squares.append(None)
                continue
            text = gettext(
                "%(source)s → %(target)s: %(count)s of %(base)s members, %(share)s",
                source=names[source],
                target=names[target],
                count=i18n.number(members),
                base=i18n.number(base),
                share=i18n.share(share),
            )
            squares.append(
                charts.Square(i18n.number(members), charts.shade(share, 1), text, link(source, target))
            )
        rows.append(charts.GridRow(names[source], (i18n.number(base),), tuple(squares)))
    ends = tuple(_plain(found.at_end(target)) for target in found.targets)
    nets = tuple(_plain(found.net(target), sign=True) for target in found.targets)
    foot = (
        charts.GridRow(gettext("All, then"), (i18n.number(found.members),), ends),
        charts.GridRow(gettext("Net change"), ("",), nets),
    )
    return charts.Grid(
        "moves",
        gettext("Moves between two dates"),
        gettext(
            "%(count)s members on either date; shade: share of the row", count=i18n.number(found.members)
        ),
        gettext("On %(day)s", day=i18n.day(found.before)),
        gettext("On %(day)s", day=i18n.day(found.after)),
        tuple(names[target] for target in found.targets),
        tuple(rows),
        _moves_table(found, names),
        before=(gettext("Members"),),
        foot=foot,
        wide=True,
    )


def _plain(value: int, *, sign: bool = False) -> charts.Square:
    text = i18n.number(value)
    return charts.Square(f"+{text}" if sign and value > 0 else text, 0, text)


def _moves_table(found: moves.Moves, names: dict[str, str]) -> charts.Table:
    headings = (gettext("From"), gettext("To"), gettext("Members"), gettext("Share of the row"))
    return charts.Table(
        headings,
        tuple(
            (
                names[cell.source],
                names[cell.target],
                (cell.members, COUNT),
                (found.share(cell.source, cell.target), SHARE),
            )
            for cell in found.cells
        ),
    )


def moves_flow(found: moves.Moves) -> charts.Chart:
    """Who went where between the stages, those who stayed included, as a Sankey."""
    return charts.flows(
        "moves-flow",
        gettext("Moves between the stages"),
        [
            charts.Flow(name_of(found.column, c.source), name_of(found.column, c.target), c.members)
            for c in found.cells
        ],
        headings=(gettext("From"), gettext("To"), gettext("Members")),
        base=gettext(
            "%(day)s on the left, %(later)s on the right; %(moved)s moved, %(stayed)s stayed",
            day=i18n.day(found.before),
            later=i18n.day(found.after),
            moved=i18n.number(found.moved),
            stayed=i18n.number(found.stayed),
        ),
        order=[name_of(found.column, name) for name in moves.COLUMNS[found.column]],
    )


# Cohorts


def _figure(measure: str, cell: cohorts.Cell | cohorts.Average, size: int) -> float | None:
    if not size:
        return None
    counted = {"retention": cell.members, "orders": cell.orders, "revenue": cell.revenue_minor}
    return counted[measure] / size


def _written(measure: str, value: float | None) -> str:
    if value is None:
        return "–"
    if measure == "revenue":
        return i18n.money(value, whole=True)
    return i18n.share(value, 0 if value >= 0.1 else 1) if measure == "retention" else i18n.number(value, 2)


def _said(measure: str, cell: cohorts.Cell | cohorts.Average, size: int) -> str:
    """A cell in full, with its base."""
    if measure == "retention":
        return gettext(
            "%(count)s of %(base)s members ordered",
            count=i18n.number(cell.members),
            base=i18n.number(size),
        )
    if measure == "orders":
        return gettext(
            "%(count)s orders of %(base)s members", count=i18n.number(cell.orders), base=i18n.number(size)
        )
    return gettext(
        "%(amount)s from %(base)s members", amount=i18n.money(cell.revenue_minor), base=i18n.number(size)
    )


def cohort_name(found: cohorts.Cohorts, start: date) -> str:
    return f"{start:%Y-%m}" if found.period == "month" else i18n.day(start)


def cohorts_grid(found: cohorts.Cohorts, measure: str, title: str) -> charts.Grid:
    """The heat map. Shades are against the largest whole cell; in the first period everybody ordered."""
    values = [
        value
        for cohort in found.cohorts
        for cell in cohort.cells
        if (cell.offset or measure != "retention")
        and not cell.partial
        and (value := _figure(measure, cell, cohort.size)) is not None
    ]
    most = max(values, default=0)
    widest = max((len(cohort.cells) for cohort in found.cohorts), default=0)
    rows = tuple(
        charts.GridRow(
            cohort_name(found, cohort.start),
            (i18n.number(cohort.size),),
            tuple(
                _cohort_square(measure, cohort.cells[offset], cohort.size, most)
                if offset < len(cohort.cells) and cohort.size
                else None
                for offset in range(widest)
            ),
        )
        for cohort in found.cohorts
    )
    averages = {average.offset: average for average in found.averages}
    foot = charts.GridRow(
        gettext("Weighted average"),
        (i18n.number(found.members),),
        tuple(
            charts.Square(
                _written(measure, _figure(measure, averages[offset], averages[offset].size)),
                0,
                _said(measure, averages[offset], averages[offset].size),
            )
            if offset in averages
            else None
            for offset in range(widest)
        ),
    )
    month = found.period == "month"
    return charts.Grid(
        "cohorts",
        title,
        gettext(
            "%(count)s members with a first order, as of %(day)s",
            count=i18n.number(found.members),
            day=i18n.day(found.as_of),
        ),
        gettext("First order in") if month else gettext("First order in the week of"),
        gettext("Months since") if month else gettext("Weeks since"),
        tuple(str(offset) for offset in range(widest)),
        rows,
        _cohorts_table(found),
        before=(gettext("Members"),),
        foot=(foot,),
    )


def _cohort_square(measure: str, cell: cohorts.Cell, size: int, most: float) -> charts.Square:
    value = _figure(measure, cell, size)
    said = _said(measure, cell, size)
    if cell.partial:
        said = gettext("%(figure)s; this period is not over yet", figure=said)
    # Everybody of a cohort orders in its first period: a full shade there would say nothing.
    plain = measure == "retention" and not cell.offset
    return charts.Square(
        _written(measure, value), 0 if plain else charts.shade(value, most), said, partial=cell.partial
    )


def _cohorts_table(found: cohorts.Cohorts) -> charts.Table:
    money = _money()
    headings = (
        gettext("First order in"),
        gettext("Periods since"),
        gettext("Members of the cohort"),
        gettext("Who ordered"),
        gettext("Orders"),
        gettext("Revenue"),
        gettext("Period over"),
    )
    return charts.Table(
        headings,
        tuple(
            (
                cohort_name(found, cohort.start),
                str(cell.offset),
                (cohort.size, COUNT),
                (cell.members, COUNT),
                (cell.orders, COUNT),
                (cell.revenue_minor, money),
                gettext("not yet") if cell.partial else gettext("yes"),
            )
            for cohort in found.cohorts
            if cohort.size
            for cell in cohort.cells
        ),
    )


def cohorts_line(found: cohorts.Cohorts, measure: str, title: str) -> charts.Chart | None:
    """The weighted average over the periods after the first; None where there are fewer than two."""
    later = [average for average in found.averages if average.offset or measure != "retention"]
    if len(later) < 2:
        return None
    unit = {"retention": SHARE, "orders": Unit("number")}.get(measure, _money())
    return charts.over(
        "cohorts-average",
        title,
        [str(average.offset) for average in later],
        [charts.Series(title, [_figure(measure, a, a.size) for a in later], unit, "line")],
        heading=gettext("Months since") if found.period == "month" else gettext("Weeks since"),
        base=gettext("Weighted by the cohorts' sizes; periods that are not over are left out"),
        size="s",
    )


# Funnels


def funnel(
    found: funnels.Funnel, names: Names, dropped: Callable[[int], str], reached: Callable[[int], str]
) -> charts.Funnel:
    """Bars with conversion from the first step and from the one before, times, and who dropped out."""
    bars = []
    last = len(found.steps) - 1
    for index, step in enumerate(found.steps):
        lost = step.members - found.steps[index + 1].members if index < last else 0
        bars.append(
            charts.Bar(
                f"{index + 1}. {names[step.kind]}",
                step.from_first or 0.0,
                i18n.number(step.members),
                i18n.share(step.from_first) if index else "",
                i18n.share(step.from_before) if index else "",
                lasting(step.median) if index else "",
                gettext("%(count)s went no further", count=i18n.number(lost)) if lost else "",
                dropped(index) if lost else None,
                reached(index) if step.members else None,
            )
        )
    table = charts.Table(
        (
            gettext("Step"),
            gettext("Members"),
            gettext("Of the first step"),
            gettext("Of the step before"),
            gettext("Median time since the step before"),
        ),
        tuple(
            (
                f"{index + 1}. {names[step.kind]}",
                (step.members, COUNT),
                (step.from_first, SHARE),
                (step.from_before, SHARE),
                lasting(step.median),
            )
            for index, step in enumerate(found.steps)
        ),
    )
    base = gettext(
        "%(count)s members did the first step from %(start)s to %(end)s",
        count=i18n.number(found.entered),
        start=i18n.day(found.question.start),
        end=i18n.day(found.question.end - timedelta(seconds=1)),
    )
    return charts.Funnel("funnel", gettext("Funnel"), base, tuple(bars), table)


def funnel_groups(found: funnels.Funnel, names: Names) -> charts.Grid | None:
    """The breakdown: a row a value, shaded by the share of its own first step. None without groups."""
    by = found.question.by
    if by is None or not found.groups:
        return None
    shares = [count / group.members[0] for group in found.groups for count in group.members[1:]]
    most = max(shares, default=0)
    rows = []
    for group in found.groups:
        first = group.members[0]
        name = value_name(by, group)
        squares = tuple(
            charts.Square(
                f"{i18n.share(count / first)}",
                charts.shade(count / first, most),
                gettext(
                    "%(name)s: %(count)s of %(base)s members",
                    name=name,
                    count=i18n.number(count),
                    base=i18n.number(first),
                ),
            )
            for count in group.members[1:]
        )
        rows.append(charts.GridRow(name, (i18n.number(first),), squares))
    steps = tuple(f"{n}. {names[kind]}" for n, kind in enumerate(found.question.steps, 1))
    table = charts.Table(
        (word("funnel_by", by), *steps),
        tuple(
            (value_name(by, group), *((count, COUNT) for count in group.members)) for group in found.groups
        ),
    )
    return charts.Grid(
        "funnel-groups",
        gettext("Breakdown: %(field)s", field=word("funnel_by", by)),
        gettext("Share of the group's own first step; shade: against the largest share"),
        word("funnel_by", by),
        gettext("Share that got to the step"),
        steps[1:],
        tuple(rows),
        table,
        before=(steps[0],),
        wide=True,
    )


def value_name(by: str, group: funnels.Group) -> str:
    if group.value is not None:
        return word(KIND_OF[by], group.value) if by in KIND_OF else group.value
    return gettext("All the others") if group.other else gettext("Not known")


# Paths


def paths_flow(found: paths.Paths, names: Names) -> charts.Chart:
    """The Sankey of the paths; backwards, each level lies one step earlier."""
    other = gettext("Other events")
    after = found.question.direction == "after"
    end = gettext("Nothing more") if after else gettext("Nothing before")

    def name(kind: str | None) -> str:
        return end if kind is None else other if kind == paths.OTHER else names[kind]

    base = (
        gettext("%(count)s members, what they did next", count=i18n.number(found.members))
        if after
        else gettext(
            "%(count)s members, what they had done before, read from left to right back in time",
            count=i18n.number(found.members),
        )
    )
    return charts.levels(
        "paths",
        gettext("Paths"),
        [charts.Step(link.level, name(link.source), name(link.target), link.members) for link in found.links],
        headings=(gettext("Step"), gettext("From"), gettext("To"), gettext("Members")),
        quiet=(end, other),
        base=base,
    )
