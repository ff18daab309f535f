"""A read-out as CSV: every number of its page, a line each, as it was frozen.

Guarantees: numbers are plain (no thousands separators, money in minor units with its currency beside); a text
that a spreadsheet would take for a formula is marked as text; the file opens in Excel (UTF-8 with BOM).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from experiments.models import Readout
from experiments.moments import ORDERS
from experiments.readout_advice import advise
from experiments.readout_form import MONEY, ReadOut, Result, from_json
from web.console.readouts import goal_of

COLUMNS = ("section", "metric", "arm", "group", "name", "value", "unit")
BOM = "\ufeff"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
Line = tuple[str, str, str, str, str, Any, str]


def safe(value: Any) -> str:
    """A cell: numbers as they are; a text that begins like a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_of(row: Readout, title: str, profits: Mapping[str, tuple[float, float]]) -> str:
    """The file of a stored read-out."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for line in _lines(row, title, profits):
        writer.writerow([safe(cell) for cell in line])
    return BOM + text.getvalue()


def _lines(row: Readout, title: str, profits: Mapping[str, tuple[float, float]]) -> Iterator[Line]:
    found = from_json(row.result)
    metric = goal_of(found, row.settings)
    for name, value in (
        ("title", title),
        ("kind", row.kind),
        ("as_of", row.as_of.isoformat()),
        ("measured_at", row.created_at.isoformat()),
        ("verdict", advise(found, "en", metric, profits).sentence),
        ("goal", metric),
        ("control", found.control),
        ("alpha", found.alpha),
        ("method", found.method),
        ("tuning", found.tuning),
        ("earlier_looks", found.looks),
        ("covariate_days", found.covariate_days),
    ):
        yield ("read-out", "", "", "", name, value, "")
    for arm, number in found.arms.items():
        yield ("arms", "", arm, "", "members", number, "members")
    for check in found.checks:
        yield ("checks", "", "", check.name, "ok", check.ok, "")
        for name, value in check.detail.items():
            yield ("checks", "", "", check.name, name, value, "")
    for guard in found.guardrails:
        for name, value in _flat(asdict(guard)):
            if name not in ("metric", "arm"):
                yield ("guardrails", guard.metric, guard.arm, "", name, value, "")
    for key, measure in found.measures.items():
        for name, value in _flat(asdict(measure)):
            yield ("metrics", key, "", "", name, value, "")
    for result in found.results:
        yield from _result(result, found)
    yield from _over_time(found)
    yield from _dimensions(found)
    for section in ("roi", "subsidies", "paybacks"):
        for arm, data in (row.settings.get(section) or {}).items():
            for name, value in _flat(data):
                yield (section, "", arm, "", name, value, _unit("revenue", found) if section == "roi" else "")


def _unit(metric: str, found: ReadOut) -> str:
    unit = found.unit(metric)
    if unit == MONEY:
        return f"minor units of {found.currency}" if found.currency else "minor units"
    return "orders" if metric == ORDERS and metric not in found.measures else unit


def _result(result: Result, found: ReadOut) -> Iterator[Line]:
    for name, value in _flat(asdict(result)):
        if name not in ("metric", "arm", "control"):
            yield ("results", result.metric, result.arm, "", name, value, _unit(result.metric, found))
    effect = found.headline(result)
    for name, value in _flat(asdict(effect)) if effect else ():
        yield ("headline", result.metric, result.arm, "", name, value, _unit(result.metric, found))


def _over_time(found: ReadOut) -> Iterator[Line]:
    for curve in found.timeline.curves if found.timeline else []:
        metric = found.timeline.metric if found.timeline else ""
        for point in curve.points:
            for name, value in _flat(asdict(point)):
                if name != "day":
                    day = f"day {point.day}"
                    yield ("over time", metric, curve.arm, day, name, value, _unit(metric, found))


def _dimensions(found: ReadOut) -> Iterator[Line]:
    for one in found.dimensions:
        for part in one.breakdowns:
            for cell in part.cells:
                group = f"{one.name}: {cell.value or 'unknown'}"
                for name, value in _flat(asdict(cell)):
                    if name != "value":
                        yield ("groups", one.metric, part.arm, group, name, value, _unit(one.metric, found))
            for name, value in _flat(asdict(part.interaction)) if part.interaction else ():
                yield ("interaction", one.metric, part.arm, one.name, name, value, "")


def _flat(data: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted names; what is not there is left out."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from _flat(value, f"{before}.{name}" if before else str(name))
    elif data is not None:
        yield before or "note", data
