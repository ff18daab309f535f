"""The pictures of the metrics tree, drawn by the page itself: a waterfall of factors, read without a script.

A :class:`Waterfall` begins with a bar of the week before, floats a bar for each factor from where the one
before it ended, and ends with a bar of the week: places and widths are per cent of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

Kind = Literal["whole", "up", "down", "still"]


@dataclass(frozen=True)
class WaterfallBar:
    """``left`` and ``width`` in per cent of the picture; ``part``: what it adds (of a whole: what it is)."""

    name: str
    kind: Kind
    left: float
    width: float
    part: float
    before: float | None = None
    after: float | None = None
    code: str = ""


@dataclass(frozen=True)
class Waterfall:
    """Bars on one scale that begins at 0, as bars must."""

    title: str
    bars: tuple[WaterfallBar, ...]


def waterfall(
    title: str,
    start: tuple[str, float],
    steps: Sequence[tuple[str, str, float, float | None, float | None]],
    end: tuple[str, float],
) -> Waterfall:
    """``start`` and ``end``: (name, value from 0 up); ``steps``: (code, name, part, before, after)."""
    levels = list(accumulate((part for _, _, part, _, _ in steps), initial=start[1]))
    low, high = min(0.0, *levels, end[1]), max(0.0, *levels, end[1])
    scale = 100 / ((high - low) or 1.0)

    def place(one: float, other: float) -> tuple[float, float]:
        return round((min(one, other) - low) * scale, 3), round(abs(other - one) * scale, 3)

    bars = [WaterfallBar(start[0], "whole", *place(0, start[1]), start[1])]
    for (code, name, part, before, after), level in zip(steps, levels, strict=False):
        kind: Kind = "up" if part > 0 else "down" if part < 0 else "still"
        bars.append(WaterfallBar(name, kind, *place(level, level + part), part, before, after, code))
    bars.append(WaterfallBar(end[0], "whole", *place(0, end[1]), end[1]))
    return Waterfall(title, tuple(bars))
