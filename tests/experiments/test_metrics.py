"""Metrics as data: the compiled query against plain Python, on tiny and on hard data; what is refused."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from core import facts
from core.bulk import bulk_insert
from core.db import Database
from core.errors import InvalidInput, NotFound
from core.models import Event
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import mark
from experiments import metrics
from experiments.metric_scan import Cell, compare, compile_query, guardrail, scan_metrics
from experiments.metrics import Condition, MetricSpec
from experiments.stats import quantile
from tests.experiments.test_readout import START, assigned, warehouse

DAY = timedelta(days=1)
AS_OF = START + 200 * DAY
FACTS = {fact.name: fact for fact in facts.FACTS}
SPEND = MetricSpec("spend", "mean", "orders", "net_minor")
Row = tuple[int, datetime, str, int, int]


def test_tiny_data_by_hand(db: Database, home: Path) -> None:
    engine = warehouse(
        db,
        home,
        [
            (1, START, "paid", 1000, 0),  # at the very moment: counts
            (1, START + 29 * DAY, "paid", 500, 100),
            (1, START + 30 * DAY, "paid", 9999, 0),  # the window is over
            (2, START - DAY, "paid", 700, 0),  # before: the covariate
            (3, START + DAY, "cancelled", 800, 0),
            (4, START + 2 * DAY, "paid", 300, 0),
        ],
    )
    table = assigned([(1, "b", START), (2, "b", START), (3, "a", START), (4, "a", START)])
    specs = [
        replace(SPEND, covariate_days=7),
        MetricSpec("buyers", "proportion", "orders", where=(Condition("status", "=", "paid"),)),
        MetricSpec("orders", "count", "orders", where=(Condition("status", "in", ["paid", "cancelled"]),)),
        MetricSpec("basket", "ratio", "orders", "net_minor", "rows", where=(Condition("net_minor", ">", 0),)),
        MetricSpec("back", "retention", "orders", from_day=29, until_day=31),
    ]
    found = scan_metrics(engine, table, specs, as_of=AS_OF)
    assert set(found) == {("a", None), ("b", None)}
    b, a = found["b", None], found["a", None]
    assert b["spend"].joint.means.tolist() == [700.0, 350.0]
    assert b["spend"].joint.cov.tolist() == [[980_000.0, -490_000.0], [-490_000.0, 245_000.0]]
    assert (a["buyers"].joint.means.tolist(), b["buyers"].joint.means.tolist()) == ([0.5], [0.5])
    assert (a["orders"].joint.means.tolist(), b["orders"].joint.means.tolist()) == ([1.0], [1.0])
    assert b["basket"].joint.means.tolist() == [700.0, 1.0]
    assert b["back"].joint.means.tolist() == [0.5]
    assert b["spend"].open_windows == 0
    early = scan_metrics(engine, table, specs, as_of=START + 5 * DAY)["b", None]
    assert (early["spend"].open_windows, early["spend"].joint.means[0]) == (2, 500.0)
    assert (early["back"].joint.n, early["back"].open_windows) == (0, 2)


def hard(draw: random.Random, members: int) -> tuple[list[Row], list[tuple[int, str, datetime]], list[str]]:
    """Orders at the edges of windows, huge means, refunds, heavy tails; members without any."""
    units = [
        (n, draw.choice(["a", "b", "回流"]), START + timedelta(hours=draw.randint(0, 2000)))
        for n in range(1, members + 1)
    ]
    dimensions = [draw.choice(["上海", "x'; DROP", "", "y"]) for _ in units]
    rows: list[Row] = []
    for member, _, at in units:
        for _ in range(draw.choice([0, 0, 1, 2, 5])):
            offset = draw.choice([0, 7, 30, -7, -30, draw.uniform(-60, 60)])
            total = draw.choice([10**9 + draw.randint(0, 3), int(draw.paretovariate(1.1) * 1000)])
            status = draw.choice(["paid", "refunded", "cancelled"])
            rows.append((member, at + timedelta(days=offset), status, total, draw.choice([0, total // 3])))
    return rows, units, dimensions


SPECS = [
    SPEND,
    replace(SPEND, name="capped", winsorise=0.9, covariate_days=30),
    MetricSpec("n", "count", "orders", where=(Condition("status", "!=", "cancelled"),), from_day=7, until_day=31),
    MetricSpec("any", "proportion", "orders", covariate_days=7, until_day=7),
    MetricSpec("aov", "ratio", "orders", "net_minor", "rows", where=(Condition("total_minor", ">=", 2000),),
               covariate_days=60, winsorise=0.95),
    MetricSpec("lines", "mean", "order_lines", "amount_minor", where=(Condition("refunded", "=", False),)),
    MetricSpec("median", "quantile", "orders", "net_minor", q=0.5),
    MetricSpec("back", "retention", "orders", from_day=7, until_day=30),
]  # fmt: skip
TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": lambda one, other: one != other,
    ">=": lambda one, other: one >= other,
    "=": lambda one, other: one == other,
}


def plainly(
    spec: MetricSpec, rows: list[Row], units: list[tuple[int, str, datetime]], as_of: datetime
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """A metric's columns, a value a member, by loops."""

    def one(row: Row) -> dict[str, Any]:
        _, _, status, total, refunded = row
        net = 0 if status == "cancelled" else total - refunded
        return {"status": status, "total_minor": total, "net_minor": net, "amount_minor": total,
                "refunded": refunded == total}  # fmt: skip

    mine: dict[int, list[tuple[datetime, dict[str, Any]]]] = {}
    for row in rows:
        mine.setdefault(row[0], []).append((row[1], one(row)))
    windows = {"value": (spec.from_day, spec.until_day, spec.value)}
    if spec.denominator:
        windows["below"] = (spec.from_day, spec.until_day, None)
    if spec.covariate_days:
        windows["before"] = (-spec.covariate_days, 0, spec.value)
        if spec.denominator:
            windows["below_before"] = (-spec.covariate_days, 0, None)
    columns = {}
    for role, (start, end, value) in windows.items():
        sums = []
        for member, _, at in units:
            counted = [
                values
                for when, values in mine.get(member, [])
                if at + start * DAY <= when < at + end * DAY and when < as_of
                and all(TESTS[c.op](values[c.column], c.value) for c in spec.where)
            ]  # fmt: skip
            total = float(sum(values[value] for values in counted) if value else len(counted))
            sums.append(min(total, 1.0) if spec.kind in ("proportion", "retention") else total)
        data = np.array(sums)
        if spec.winsorise and role in ("value", "before"):
            data = np.minimum(data, np.quantile(data, spec.winsorise))
        columns[role] = data
    return columns


def test_hard_data_against_plain_python(db: Database, home: Path) -> None:
    rows, units, dimensions = hard(random.Random(4), 700)
    as_of = START + 70 * DAY
    engine = warehouse(db, home, rows)
    table = assigned(units).append_column("dimension", pa.array([d or None for d in dimensions]))
    found = scan_metrics(engine, table, SPECS, as_of=as_of)
    assert len(found) == 3 + 3 * 4
    arms, places = np.array([arm for _, arm, _ in units]), np.array(dimensions)
    ends = np.array([at for _, _, at in units])
    for spec in SPECS:
        columns = plainly(spec, rows, units, as_of)
        closed = ends + spec.until_day * DAY <= as_of
        for (arm, place), cells in found.items():
            inside = (arms == arm) & (True if place is None else places == place)
            cell = cells[spec.name]
            assert cell.open_windows == (inside & ~closed).sum()
            if spec.kind == "retention":
                inside = inside & closed
            data = np.array([column[inside] for column in columns.values()])
            assert (cell.joint.n, cell.joint.names) == (inside.sum(), tuple(columns))
            np.testing.assert_allclose(cell.joint.means, data.mean(axis=1), rtol=1e-12)
            expected = np.atleast_2d(np.cov(data))
            scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
            np.testing.assert_allclose(cell.joint.cov, expected, rtol=1e-9, atol=1e-9 * scale.max())
            if spec.kind == "quantile":
                _check_quantile(cell, data[0], 0.5)


def _check_quantile(cell: Cell, values: np.ndarray[Any, np.dtype[np.float64]], q: float) -> None:
    assert cell.quantile is not None
    data, n = np.sort(values), len(values)
    width = 1.959963984540054 * math.sqrt(n * q * (1 - q))
    low, high = max(math.floor(n * q - width), 1), min(math.ceil(n * q + width) + 1, n)
    assert (cell.quantile.low, cell.quantile.high) == (data[low - 1], data[high - 1])
    assert cell.quantile.value == pytest.approx(np.quantile(values, q))
    exact = quantile.of(values, q)
    assert cell.quantile.low <= exact.low
    assert cell.quantile.high >= exact.high


def test_a_large_mean_does_not_eat_the_variance(sqlite_db: Database, home: Path) -> None:
    rows = [(n, START, "paid", 10**11 + n % 2, 0) for n in range(1, 2001)]
    engine = warehouse(sqlite_db, home, rows)
    found = scan_metrics(engine, assigned([(n, "a", START) for n in range(1, 2001)]), [SPEND], as_of=AS_OF)
    assert found["a", None]["spend"].joint.cov[0, 0] == pytest.approx(0.25 * 2000 / 1999, rel=1e-6)


def test_properties_of_events_are_counted_and_summed(db: Database, home: Path) -> None:
    warehouse(db, home, [(n, START, "paid", 1, 0) for n in range(1, 4)])
    events = [
        (1, "e1", 1, "view", START, {"price": 10, "page": "a", 'odd"key': "y"}),
        (2, "e2", 1, "view", START, {"price": "20.5", "page": "b"}),
        (3, "e3", 2, "view", START, {"price": "none", "page": "a"}),
        (4, "e4", 2, "cart", START, {"price": 99, "page": "a"}),
    ]
    with db.write() as session:
        columns = ("id", "source", "external_id", "member_id", "kind", "occurred_at", "properties")
        bulk_insert(session, Event.__table__, columns, [(n, "shop", *rest) for n, *rest in events])
        mark(session, "events", [START])
    engine = _engine(db, home)
    views = (Condition("kind", "=", "view"),)
    specs = [
        MetricSpec("price", "mean", "events", "properties.price", where=views),
        MetricSpec("page", "count", "events", where=(*views, Condition("properties.page", "in", ["a"]))),
        MetricSpec("dear", "count", "events", where=(Condition("properties.price", ">", 15),)),
        MetricSpec("odd", "count", "events", where=(Condition('properties.odd"key', "=", "y"),)),
        MetricSpec("gone", "count", "events", where=(Condition("properties.x'); --", "=", "y"),)),
    ]
    table = assigned([(1, "a", START), (2, "a", START)])
    cells = scan_metrics(engine, table, specs, as_of=AS_OF)["a", None]
    means = {name: cell.joint.means[0] * 2 for name, cell in cells.items()}
    assert means == {"price": 30.5, "page": 2.0, "dear": 2.0, "odd": 1.0, "gone": 0.0}


def _engine(database: Database, home: Path) -> DuckEngine:
    from core.warehouse.replica import Replica

    replica = Replica(str(home / "warehouse"), facts.FACTS)
    replica.sync(database)
    return DuckEngine(replica)


def test_every_fact_is_scanned_once_and_values_are_parameters() -> None:
    odd = MetricSpec("odd", "count", "orders", where=(Condition("status", "=", "'; DROP TABLE"),))
    query = compile_query([*SPECS, odd], FACTS, AS_OF)
    assert {name: len(re.findall(rf'JOIN "{name}"', query.sql)) for name in ("orders", "order_lines")} == {
        "orders": 1, "order_lines": 1,
    }  # fmt: skip
    assert "DROP" not in query.sql
    assert "'; DROP TABLE" in query.params.values()


def test_the_comparison_uses_the_covariate_and_the_guardrail_its_margin(
    sqlite_db: Database, home: Path
) -> None:
    draw = np.random.default_rng(1)
    rows: list[Row] = []
    for n in range(1, 1001):
        habit = int(draw.gamma(3, 1000))
        rows.append((n, START - 3 * DAY, "paid", habit, 0))
        rows.append((n, START + DAY, "paid", habit + int(draw.gamma(2, 100)) + 150 * (n % 2), 0))
    engine = warehouse(sqlite_db, home, rows)
    table = assigned([(n, "b" if n % 2 else "a", START) for n in range(1, 1001)])
    plain = replace(SPEND, margin=0.05)
    adjusted = replace(plain, name="adjusted", covariate_days=30)
    found = scan_metrics(engine, table, [plain, adjusted], as_of=AS_OF)
    arms = {arm: cells for (arm, _), cells in found.items()}
    results = [
        compare(spec, {arm: cells[spec.name] for arm, cells in arms.items()}, "a")["b"]
        for spec in (plain, adjusted)
    ]
    rough, fine = results
    assert not isinstance(rough, str)
    assert not isinstance(fine, str)
    assert fine.absolute.se < 0.15 * rough.absolute.se
    assert fine.absolute.low < 150 < fine.absolute.high
    kept = guardrail(adjusted, {arm: cells["adjusted"] for arm, cells in arms.items()}, "a")["b"]
    assert not isinstance(kept, str)
    assert kept.ok
    with pytest.raises(InvalidInput, match="no guardrail"):
        guardrail(SPEND, {}, "a")
    flat = {arm: Cell(replace(cells["spend"].joint, cov=np.zeros((1, 1))), 0) for arm, cells in arms.items()}
    assert isinstance(compare(SPEND, {**flat, "b": flat["a"]}, "a")["b"], str), "a refusal in words"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "sum"}, "kind"),
        ({"fact": "products"}, "fact"),
        ({"fact": "members"}, "fact"),
        ({"value": "nothing"}, "value"),
        ({"value": "status"}, "value"),
        ({"value": None}, "value"),
        ({"value": 'net_minor") --'}, "value"),
        ({"kind": "count"}, "value"),
        ({"denominator": "rows"}, "denominator"),
        ({"kind": "ratio"}, "denominator"),
        ({"q": 0.5}, "q"),
        ({"kind": "quantile"}, "q"),
        ({"kind": "quantile", "q": 0.5, "covariate_days": 7}, "covariate_days"),
        ({"kind": "quantile", "q": 0.5, "winsorise": 0.9}, "winsorise"),
        ({"winsorise": 99}, "winsorise"),
        ({"covariate_days": 0}, "covariate_days"),
        ({"from_day": 30}, "until_day"),
        ({"until_day": 731}, "until_day"),
        ({"until_day": 3.5}, "until_day"),
        ({"margin": 0.0}, "margin"),
        ({"name": ""}, "name"),
        ({"where": (Condition("nothing", "=", 1),)}, "where[0].column"),
        ({"where": (Condition("properties.x", "=", 1),)}, "where[0].column"),
        ({"where": (Condition("status", "like", "p%"),)}, "where[0].op"),
        ({"where": (Condition("status", "=", 1),)}, "where[0].value"),
        ({"where": (Condition("net_minor", ">", "1"),)}, "where[0].value"),
        ({"where": (Condition("net_minor", ">", True),)}, "where[0].value"),
        ({"where": (Condition("status", "in", []),)}, "where[0].value"),
        ({"where": (Condition("ordered_at", ">", "2026"),)}, "where[0].column"),
    ],
)
def test_metrics_that_make_no_sense_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        compile_query([replace(SPEND, **changes)], FACTS, AS_OF)
    assert caught.value.field == field


def test_a_member_twice_or_a_metric_twice_is_refused(sqlite_db: Database, home: Path) -> None:
    engine = warehouse(sqlite_db, home, [(1, START, "paid", 1, 0)])
    with pytest.raises(InvalidInput, match="one row"):
        scan_metrics(engine, assigned([(1, "a", START), (1, "b", START)]), [SPEND], as_of=AS_OF)
    with pytest.raises(InvalidInput, match="each once"):
        compile_query([SPEND, SPEND], FACTS, AS_OF)
    assert scan_metrics(engine, assigned([]), [SPEND], as_of=AS_OF) == {}


def test_a_metric_is_stored_by_versions(db: Database) -> None:
    spec = SPECS[4]
    with db.write() as session:
        assert metrics.save(session, spec, FACTS, START).version == 1
        assert metrics.save(session, spec, FACTS, AS_OF).version == 1, "the same again"
        assert metrics.save(session, replace(spec, winsorise=0.99), FACTS, AS_OF).version == 2
        metrics.save(session, SPEND, FACTS, START)
        with pytest.raises(InvalidInput):
            metrics.save(session, replace(SPEND, value="x"), FACTS, START)
    with db.read() as session:
        assert metrics.load(session) == [replace(spec, winsorise=0.99), SPEND]
        assert metrics.load(session, ["spend"]) == [SPEND]
        with pytest.raises(NotFound, match="“x”"):
            metrics.load(session, ["spend", "x"])
    with pytest.raises(InvalidInput, match="fields"):
        metrics.from_json("x", {"kind": "mean", "fact": "orders", "colour": "red"})
