"""Pictures of read-outs: intervals, an effect over time, money as a waterfall. Pure geometry, drawn anywhere.

A :class:`Drawing` is a list of shapes; :func:`svg` writes them for a page (which needs no script for them),
``web.readout_pdf`` draws the same into a PDF. Each picture is made twice, for a wide and a narrow screen, so
that letters keep their size. Colours are roles: the page's theme or the printer fills them in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup, escape

from web.charts import Table

WIDE, NARROW = 720, 350
ARMS = 8
MOST_NAME = 300.0
"""How far names beside a picture may push it to the right."""
"""Colours of arms, then again from the first."""
Anchor = Literal["start", "middle", "end"]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    x1: float
    y1: float
    x2: float
    y2: float
    role: str
    width: float = 1.0
    dash: bool = False


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float
    role: str
    opacity: float = 1.0


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    radius: float
    role: str


@dataclass(frozen=True)
class Path:
    """A line through points; an area where it is ``closed``."""

    points: tuple[tuple[float, float], ...]
    role: str
    closed: bool = False
    opacity: float = 1.0


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    role: str = "soft"


Shape = Line | Rect | Dot | Path | Text


@dataclass(frozen=True)
class Drawing:
    width: float
    height: float
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Picture:
    """A picture with its title, what it is based on, both widths, and the figures behind it."""

    id: str
    title: str
    base: str
    wide: Drawing
    narrow: Drawing
    table: Table
    keys: tuple[str, ...] = ()

    @property
    def html(self) -> Markup:
        """Both drawings; the style sheet shows the one that fits."""
        return svg(self.wide, self.title, "pic pic-wide") + svg(self.narrow, self.title, "pic pic-narrow")


@dataclass(frozen=True)
class Bar:
    """An interval on a row of its own. ``arm``: the colour's number, from 1."""

    name: str
    low: float
    estimate: float
    high: float
    arm: int = 1


@dataclass(frozen=True)
class Moment:
    """A point of an effect over time: the narrow band is for one look, the wide one for any."""

    day: int
    estimate: float
    low: float
    high: float
    low_any: float
    high_any: float


@dataclass(frozen=True)
class Step:
    """A row of a waterfall: ``amount`` is added, or shown as the sum so far where ``total``."""

    name: str
    amount: float
    total: bool = False
    low: float | None = None
    high: float | None = None


def intervals(width: float, bars: Sequence[Bar], write: Format) -> Drawing:
    """Dot and bar for each row on one axis that always shows zero."""
    wide = width > 500
    left, right, row = (150.0, 110.0, 34.0) if wide else (6.0, 10.0, 48.0)
    names = [bar.name for bar in bars]
    if wide:
        left = min(max(left, *(_letters(name) + 16 for name in names)), MOST_NAME)
        names = [_fitting(name, left - 16) for name in names]
    scale = _Scale.over([value for bar in bars for value in (bar.low, bar.high)], left, width - right)
    bottom = 8 + row * len(bars)
    shapes: list[Shape] = _axis(scale, bottom, write, 4 if wide else 2)
    for index, bar in enumerate(bars):
        y = 8 + row * index + (row / 2 if wide else row - 14)
        role = f"arm{(bar.arm - 1) % ARMS + 1}"
        shapes.append(Rect(scale(bar.low), y - 4, scale(bar.high) - scale(bar.low), 8, role, 0.35))
        shapes.append(Dot(scale(bar.estimate), y, 6, role))
        label_y = y + 4 if wide else y - 16
        name = names[index] if wide else _fitting(bar.name, width - 110)
        shapes.append(Text(left - 12 if wide else left, label_y, name, "end" if wide else "start", "ink"))
        shapes.append(Text(width - 2, label_y, write(bar.estimate), "end", "ink"))
    return Drawing(width, bottom + 24, tuple(shapes))


def _letters(text: str) -> float:
    """About how wide a text is: Chinese letters are as wide as high, Latin ones about half of that."""
    return sum(12.0 if ord(letter) > 0x2E80 else 6.8 for letter in text)


def _fitting(text: str, width: float) -> str:
    """The text, or as much of it as fits, and an ellipsis; the table behind the picture has all of it."""
    if _letters(text) <= width:
        return text
    while text and _letters(text) > width - 12:
        text = text[:-1]
    return f"{text.rstrip()}…"


def over_time(width: float, points: Sequence[Moment], arm: int, write: Format, day: Format) -> Drawing:
    """An estimate by day with both its bands, and the line of no effect."""
    wide = width > 500
    left, right, top, height = (70.0 if wide else 58.0), 16.0, 10.0, (240.0 if wide else 200.0)
    bottom = top + height
    values = [value for point in points for value in (point.low_any, point.high_any)]
    y = _Scale.over(values, bottom, top)
    last = max(point.day for point in points)
    first = min(point.day for point in points)
    x = _Scale(first, max(last, first + 1), left, width - right)
    shapes: list[Shape] = []
    for tick in y.ticks(4):
        shapes.append(Line(left, y(tick), width - right, y(tick), "ink" if tick == 0 else "line"))
        shapes.append(Text(left - 8, y(tick) + 4, write(tick), "end"))
    for tick in x.ticks(6 if wide else 3):
        if tick == int(tick):
            shapes.append(Text(x(tick), bottom + 18, day(tick), "middle"))
    role = f"arm{(arm - 1) % ARMS + 1}"
    bands = ([(p.low_any, p.high_any) for p in points], 0.16), ([(p.low, p.high) for p in points], 0.3)
    for band, opacity in bands:
        upper = [(x(p.day), y(high)) for p, (_, high) in zip(points, band, strict=True)]
        lower = [(x(p.day), y(low)) for p, (low, _) in zip(points, band, strict=True)]
        if len(points) == 1:
            shapes.append(Rect(upper[0][0] - 6, upper[0][1], 12, lower[0][1] - upper[0][1], role, opacity))
        else:
            shapes.append(Path((*upper, *reversed(lower)), role, True, opacity))
    shapes.append(Path(tuple((x(p.day), y(p.estimate)) for p in points), role))
    shapes.append(Dot(x(points[-1].day), y(points[-1].estimate), 4, role))
    return Drawing(width, bottom + 28, tuple(shapes))


def waterfall(width: float, steps: Sequence[Step], write: Format) -> Drawing:
    """From the first amount to the last, a row each: what is added, what is taken, what is left."""
    wide = width > 500
    left, right, row = (170.0, 120.0, 30.0) if wide else (6.0, 8.0, 44.0)
    spans: list[tuple[float, float]] = []
    level = 0.0
    for step in steps:
        start, end = (0.0, step.amount) if step.total else (level, level + step.amount)
        level = end
        spans.append((min(start, end), max(start, end)))
    ends = [value for step in steps for value in (step.low, step.high) if value is not None]
    scale = _Scale.over([value for span in spans for value in span] + ends, left, width - right)
    bottom = 6 + row * len(steps)
    shapes: list[Shape] = [Line(scale(0), 2, scale(0), bottom, "ink" if wide else "line")]
    for index, (step, (low, high)) in enumerate(zip(steps, spans, strict=True)):
        y = 6 + row * index + (row / 2 if wide else row - 12)
        role = (
            ("good" if step.amount >= 0 else "bad") if step.total else "arm1" if step.amount >= 0 else "arm2"
        )
        shapes.append(Rect(scale(low), y - 8, max(scale(high) - scale(low), 1.5), 16, role, 0.8))
        if step.low is not None and step.high is not None:
            shapes.append(Line(scale(step.low), y, scale(step.high), y, "ink", 1.5))
            shapes += [
                Line(scale(end), y - 4, scale(end), y + 4, "ink", 1.5) for end in (step.low, step.high)
            ]
        label_y = y + 4 if wide else y - 14
        shapes.append(
            Text(left - 12 if wide else left, label_y, step.name, "end" if wide else "start", "ink")
        )
        shapes.append(Text(width - 2, label_y, write(step.amount), "end", "ink"))
    return Drawing(width, bottom + 8, tuple(shapes))


@dataclass(frozen=True)
class _Scale:
    """Values to places, linear."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        """A scale over all values and zero, with some air around them."""
        low, high = min(0.0, *values), max(0.0, *values)
        air = (high - low or 1.0) * 0.06
        return cls(low - air, high + air, start, end)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, wanted: int) -> list[float]:
        """Round values, about as many as wanted; zero is one where it lies within."""
        rough = (self.high - self.low) / max(wanted, 1)
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
        first = math.ceil(self.low / step)
        return [step * k for k in range(first, math.floor(self.high / step) + 1)]


def _axis(scale: _Scale, bottom: float, write: Format, wanted: int) -> list[Shape]:
    shapes: list[Shape] = []
    for tick in scale.ticks(wanted):
        shapes.append(Line(scale(tick), 2, scale(tick), bottom, "ink" if tick == 0 else "line"))
        shapes.append(Text(scale(tick), bottom + 16, write(tick), "middle"))
    return shapes


_FILLS = {
    "ink": "var(--ink)",
    "soft": "var(--ink-2)",
    "line": "var(--line)",
    "good": "var(--good)",
    "bad": "var(--bad)",
    **{f"arm{n}": f"var(--chart-{n})" for n in range(1, ARMS + 1)},
}


def svg(drawing: Drawing, title: str, css: str) -> Markup:
    """The drawing for a page: presentation attributes only, as the page's policy forbids styles."""
    body = Markup("").join(_element(shape) for shape in drawing.shapes)
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}" font-size="12">{}</svg>'
    ).format(css, drawing.width, drawing.height, title, body)


def _element(shape: Shape) -> Markup:
    fill = _FILLS[shape.role]
    if isinstance(shape, Line):
        dash = Markup(' stroke-dasharray="4 3"') if shape.dash else ""
        return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}" stroke-width="{}"{}/>').format(
            shape.x1, shape.y1, shape.x2, shape.y2, fill, shape.width, dash
        )
    if isinstance(shape, Rect):
        return Markup(
            '<rect x="{}" y="{}" width="{}" height="{}" rx="2" fill="{}" fill-opacity="{}"/>'
        ).format(shape.x, shape.y, round(shape.width, 1), round(shape.height, 1), fill, shape.opacity)
    if isinstance(shape, Dot):
        return Markup('<circle cx="{}" cy="{}" r="{}" fill="{}"/>').format(
            shape.x, shape.y, shape.radius, fill
        )
    if isinstance(shape, Path):
        points = " ".join(f"{x},{y}" for x, y in shape.points)
        if shape.closed:
            return Markup('<polygon points="{}" fill="{}" fill-opacity="{}"/>').format(
                points, fill, shape.opacity
            )
        return Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>').format(points, fill)
    return Markup('<text x="{}" y="{}" text-anchor="{}" fill="{}">{}</text>').format(
        shape.x, shape.y, shape.anchor, fill, escape(shape.text)
    )


@dataclass(frozen=True)
class Both:
    """Makes a picture of both widths from one way of drawing it."""

    draw: Callable[[float], Drawing] = field(repr=False)

    def picture(
        self, id_: str, title: str, table: Table, *, base: str = "", keys: tuple[str, ...] = ()
    ) -> Picture:
        return Picture(id_, title, base, self.draw(WIDE), self.draw(NARROW), table, keys)
