"""Charts: typed data becomes a picture and the table behind it, so that all look alike.

A :class:`Chart` is drawn in the browser from plain JSON, an ECharts option (colours and number formats
are put in there, from the theme and the language). A :class:`Grid` (heat map, matrix) and a
:class:`Funnel` are drawn by the page itself, so that their cells can be links and are read without a
script. The same figures stand beside every picture as a table with headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.money import exponent

Kind = Literal["count", "money", "share", "number"]


@dataclass(frozen=True)
class Unit:
    """What a figure measures; ``currency`` for money (minor units)."""

    kind: Kind = "count"
    currency: str = ""

    def to_json(self) -> dict[str, Any]:
        if self.kind == "money":
            return {"kind": "money", "currency": self.currency, "digits": exponent(self.currency)}
        return {"kind": self.kind}


COUNT = Unit()


@dataclass(frozen=True)
class Series:
    """One row of figures, one for each category."""

    name: str
    values: Sequence[float | None]
    unit: Unit = COUNT
    mark: Literal["bar", "line"] = "bar"


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; ``low`` or ``high`` may be None where it has no end."""

    name: str
    low: float | None
    estimate: float
    high: float | None


@dataclass(frozen=True)
class Flow:
    source: str
    target: str
    value: float


@dataclass(frozen=True)
class Step:
    """A flow between two levels of a path: from ``source`` at ``level`` to ``target`` one level on."""

    level: int
    source: str
    target: str
    value: float


@dataclass(frozen=True)
class Table:
    """The figures behind a chart: headings, and rows of (text | (figure, unit))."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Chart:
    """``id`` is unique on its page; ``option`` is JSON for the browser; ``keys`` names the series."""

    id: str
    title: str
    base: str
    option: dict[str, Any]
    table: Table
    keys: tuple[str, ...] = ()
    size: str = "m"
    """``s``, ``m``, ``l``, ``wide`` (scrolls on a narrow screen), or ``rows-N`` for N rows of bars."""

    def to_json(self) -> dict[str, Any]:
        return {"title": self.title, "option": self.option}


def over(
    id_: str,
    title: str,
    categories: Sequence[str],
    series: Sequence[Series],
    *,
    heading: str,
    base: str = "",
    size: str = "m",
) -> Chart:
    """Figures over ordered categories (weeks, stages). A second unit gets an axis of its own."""
    units = list(dict.fromkeys(one.unit for one in series))
    axes = [
        {"type": "value", "unit": unit.to_json(), "splitNumber": 4, "splitLine": {"show": index == 0}}
        for index, unit in enumerate(units)
    ]
    drawn = [
        {
            "type": one.mark,
            "name": one.name,
            "data": list(one.values),
            "unit": one.unit.to_json(),
            "yAxisIndex": units.index(one.unit),
            **(
                {"barMaxWidth": 28}
                if one.mark == "bar"
                else {"symbol": "circle", "symbolSize": 5, "connectNulls": False}
            ),
        }
        for one in series
    ]
    option = {
        "grid": {"left": 4, "right": 4, "top": 16, "bottom": 4, "containLabel": True},
        "xAxis": {
            "type": "category",
            "data": list(categories),
            "splitLine": {"show": False},
            "axisLabel": {"hideOverlap": True},
        },
        "yAxis": axes,
        "series": drawn,
    }
    rows = tuple(
        (name, *((one.values[index], one.unit) for one in series)) for index, name in enumerate(categories)
    )
    table = Table((heading, *(one.name for one in series)), rows)
    keys = tuple(one.name for one in series) if len(series) > 1 else ()
    return Chart(id_, title, base, option, table, keys, size)


def ranked(
    id_: str,
    title: str,
    bars: Sequence[tuple[str, float]],
    *,
    heading: str,
    figure: str,
    unit: Unit = COUNT,
    base: str = "",
) -> Chart:
    """Horizontal bars with their figures written on them, in the order given."""
    option = {
        "trigger": "item",
        "grid": {"left": 4, "right": 56, "top": 4, "bottom": 4, "containLabel": True},
        "xAxis": {"type": "value", "show": False, "min": 0},
        "yAxis": {
            "type": "category",
            "data": [name for name, _ in bars],
            "inverse": True,
            "axisLine": {"show": False},
            "splitLine": {"show": False},
        },
        "series": [
            {
                "type": "bar",
                "name": figure,
                "data": [value for _, value in bars],
                "unit": unit.to_json(),
                "barMaxWidth": 22,
                "label": {"show": True, "position": "right"},
            }
        ],
    }
    rows = tuple((name, (value, unit)) for name, value in bars)
    return Chart(id_, title, base, option, Table((heading, figure), rows))


def _sankey(
    nodes: list[dict[str, Any]], links: list[dict[str, Any]], right: int, *, ordered: bool
) -> dict[str, Any]:
    """Names begin with a mark of two signs that tells their level; it is not shown (``strip``)."""
    return {
        "trigger": "item",
        "series": [
            {
                "type": "sankey",
                "data": nodes,
                "links": links,
                "nodeWidth": 10,
                "nodeGap": 12,
                "left": 8,
                "right": right,
                "top": 8,
                "bottom": 8,
                "emphasis": {"focus": "adjacency"},
                # Without iterations the nodes keep the order that they are given in.
                "layoutIterations": 0 if ordered else 32,
                "strip": 2,
            }
        ],
    }


def flows(
    id_: str,
    title: str,
    links: Sequence[Flow],
    *,
    headings: tuple[str, str, str],
    base: str = "",
    order: Sequence[str] = (),
) -> Chart:
    """A Sankey picture: what went from where (left) to where (right), each side in ``order``."""

    def side(mark: str, found: set[str]) -> list[dict[str, Any]]:
        known = [name for name in order if name in found]
        return [{"name": f"{mark} {name}"} for name in (*known, *sorted(found - set(known)))]

    nodes = [*side("<", {link.source for link in links}), *side(">", {link.target for link in links})]
    drawn = [
        {"source": f"< {link.source}", "target": f"> {link.target}", "value": link.value} for link in links
    ]
    option = _sankey(nodes, drawn, 90, ordered=bool(order))
    rows = tuple((link.source, link.target, (link.value, COUNT)) for link in links)
    return Chart(id_, title, base, option, Table(headings, rows), (), "l")


def levels(
    id_: str,
    title: str,
    steps: Sequence[Step],
    *,
    headings: tuple[str, str, str, str],
    quiet: Sequence[str] = (),
    base: str = "",
) -> Chart:
    """A Sankey picture of several levels: what followed what, step by step.

    ``quiet`` names stand for no event of their own (the end of a path, the rest) and are drawn grey.
    """
    sizes: dict[tuple[int, str], float] = {}
    for step in steps:
        place = (step.level + 1, step.target)
        sizes[place] = sizes.get(place, 0) + step.value
        if not step.level:
            sizes[0, step.source] = sizes.get((0, step.source), 0) + step.value
    # The largest first, so that the eye finds the main way; what stands for nothing of its own, below.
    places = sorted(sizes, key=lambda place: (place[0], place[1] in quiet, -sizes[place], place[1]))
    nodes = [
        {"name": f"{level} {name}", "depth": level, **({"quiet": True} if name in quiet else {})}
        for level, name in places
    ]
    drawn = [
        {
            "source": f"{step.level} {step.source}",
            "target": f"{step.level + 1} {step.target}",
            "value": step.value,
        }
        for step in steps
    ]
    rows = tuple((str(step.level + 1), step.source, step.target, (step.value, COUNT)) for step in steps)
    return Chart(
        id_, title, base, _sankey(nodes, drawn, 150, ordered=True), Table(headings, rows), (), "wide"
    )


SHADES = 10
"""Shades of a cell, from 0 (nothing) to this."""


def shade(value: float | None, most: float) -> int:
    """How dark a cell is: 0 for nothing, 1 to :data:`SHADES` up to ``most``."""
    if not value or value < 0 or most <= 0:
        return 0
    return max(1, min(SHADES, round(SHADES * value / most)))


@dataclass(frozen=True)
class Square:
    """One cell of a grid. ``title`` says in full what ``text`` says shortly, with its base."""

    text: str
    shade: int
    title: str
    href: str | None = None
    partial: bool = False
    """The figure will still grow: drawn with a dashed edge."""


@dataclass(frozen=True)
class GridRow:
    """A row: its name, figures before its cells (a cohort's size), cells (None: nothing), figures after."""

    name: str
    before: tuple[str, ...]
    squares: tuple[Square | None, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A heat map or a matrix: rows and columns of shaded cells with their figures written in.

    ``corner`` heads the rows' names; ``before`` and ``after`` head the figures around the cells;
    ``over`` says what the columns are; ``foot`` are rows below the others (averages, totals).
    """

    id: str
    title: str
    base: str
    corner: str
    over: str
    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]
    table: Table
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    foot: tuple[GridRow, ...] = ()
    wide: bool = False
    """Cells with words beside figures need more room than a per cent."""


@dataclass(frozen=True)
class Bar:
    """A step of a funnel: ``share`` of the first step (0 to 1), and what stands beside its bar."""

    name: str
    share: float
    value: str
    of_first: str
    of_before: str = ""
    time: str = ""
    lost: str = ""
    """How many went no further, in words; ``href`` leads to them."""
    href: str | None = None
    reached_href: str | None = None


@dataclass(frozen=True)
class Funnel:
    """Bars of a funnel, one below the other, on one scale from nought to everybody who entered."""

    id: str
    title: str
    base: str
    bars: tuple[Bar, ...]
    table: Table


def intervals(
    id_: str,
    title: str,
    rows: Sequence[Interval],
    unit: Unit,
    *,
    heading: str,
    words: tuple[str, str, str],
    base: str = "",
) -> Chart:
    """Dot and bar for each variant on one axis that always shows zero.

    ``words`` are the headings of low, estimate and high. An end that is missing is drawn to the
    picture's edge.
    """
    known = [0.0] + [v for row in rows for v in (row.low, row.estimate, row.high) if v is not None]
    low, high = min(known), max(known)
    margin = (high - low or 1) * 0.08
    data = [
        [
            index,
            low - margin if row.low is None else row.low,
            row.estimate,
            high + margin if row.high is None else row.high,
        ]
        for index, row in enumerate(rows)
    ]
    option = {
        "trigger": "item",
        "grid": {"left": 4, "right": 16, "top": 8, "bottom": 4, "containLabel": True},
        "xAxis": {
            "type": "value",
            "unit": unit.to_json(),
            "min": low - margin,
            "max": high + margin,
            "splitNumber": 4,
            "axisLabel": {"showMinLabel": False, "showMaxLabel": False, "hideOverlap": True},
        },
        "yAxis": {
            "type": "category",
            "data": [row.name for row in rows],
            "inverse": True,
            "zero": True,
            "axisLine": {"show": True, "onZero": True},
            "splitLine": {"show": False},
        },
        "series": [
            {
                "type": "custom",
                "shape": "interval",
                "name": "",
                "data": data,
                "unit": unit.to_json(),
                "encode": {"x": [1, 2, 3], "y": 0},
            }
        ],
    }
    table = tuple(
        (
            row.name,
            *((value, unit) if value is not None else "–" for value in (row.low, row.estimate, row.high)),
        )
        for row in rows
    )
    return Chart(id_, title, base, option, Table((heading, *words), table), (), f"rows-{min(len(rows), 8)}")
