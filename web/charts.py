"""Charts: typed data becomes an ECharts option and the table behind it, so that all look alike.

A chart is drawn in the browser from plain JSON (colours and number formats are put in there, from
the theme and the language); the same figures stand beside it as a table with headers.
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
    """``s``, ``m``, ``l``, or ``rows-N`` for N rows of bars."""

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


def flows(
    id_: str, title: str, links: Sequence[Flow], *, headings: tuple[str, str, str], base: str = ""
) -> Chart:
    """A Sankey picture: what went from where (left) to where (right)."""
    left, right = {link.source for link in links}, {link.target for link in links}
    names = [{"name": f"< {name}"} for name in sorted(left)] + [
        {"name": f"> {name}"} for name in sorted(right)
    ]
    option = {
        "trigger": "item",
        "series": [
            {
                "type": "sankey",
                "data": names,
                "links": [
                    {"source": f"< {link.source}", "target": f"> {link.target}", "value": link.value}
                    for link in links
                ],
                "nodeWidth": 10,
                "nodeGap": 12,
                "left": 8,
                "right": 90,
                "top": 8,
                "bottom": 8,
                "emphasis": {"focus": "adjacency"},
                "strip": 2,
            }
        ],
    }
    rows = tuple((link.source, link.target, (link.value, COUNT)) for link in links)
    return Chart(id_, title, base, option, Table(headings, rows), (), "l")


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
