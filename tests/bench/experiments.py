"""Experiments: a file of units with its metrics by CUPED, and a thousand cells compared at once.

The file against the bare SQL of the same moments, and against tea-tasting: given the file as a table in memory,
and as a relation, where DuckDB counts for it too. All three must find the same effects. The same number of metrics
from the warehouse's orders, by windows from each member's own moment, against SQL by hand. The cells, by city,
category or day, with a test of interaction, against the aim and against the same comparisons one by one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import tea_tasting
from pyarrow import parquet

from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica
from experiments import analyze
from experiments.metric_scan import scan_metrics
from experiments.metrics import Condition, MetricSpec
from experiments.moments import Moments
from experiments.stats import cells, mean
from experiments.stats.joint import Mean
from segments.facts import FACTS
from tests.bench import made_up
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns, warm

CELLS = 1_000
SECONDS = 1.0
"""Each contestant compares this long at least."""
AIM_S = 0.2
"""For a thousand cells, differences in units and relative, intervals, p and Cochran's Q."""


UNITS, METRICS = 10_000_000, 20
AT_MOST, AT_LEAST = 1.3, 5.0
CLOSE = 1e-3
"""How far, relatively, effects may be apart: tea-tasting pools θ over both arms."""


BARE, TABLE, RELATION = "bare SQL", "tea-tasting, table", "tea-tasting, relation"


def units_file(units: int) -> Path:
    """Two arms; of every unit ``METRICS`` amounts and the same before, many of them 0."""

    def make(folder: Path) -> None:
        before = ", ".join(
            f"CASE WHEN hash(i * 41 + {m}) % 100 < {20 + m} THEN (hash(i * 43 + {m}) % 20000) / 100.0 "
            f"ELSE 0 END AS before{m}"
            for m in range(METRICS)
        )
        after = ", ".join(
            f"before{m}, round(before{m} * 0.6 + CASE WHEN hash(i * 47 + {m}) % 100 < 25 "
            f"THEN (hash(i * 53 + {m}) % 9000) / 100.0 ELSE 0 END + CASE arm WHEN 'B' THEN 0.1 ELSE 0 END, 2) "
            f"AS metric{m}"
            for m in range(METRICS)
        )
        made_up.connect().execute(f"""
            COPY (SELECT arm, {after} FROM (
                SELECT i, CASE WHEN hash(i) % 2 = 0 THEN 'A' ELSE 'B' END AS arm, {before} FROM range({units}) t(i)
            )) TO '{folder}/units.parquet' (FORMAT parquet, COMPRESSION zstd)""")

    return made_up.cached(f"units-{units}", make) / "units.parquet"


def whole_file(*, how: str, units: int) -> dict[str, Any]:
    """Seconds of one read-out of all metrics, and the effects; ``bare``: of the moments alone."""
    path = units_file(units)
    start, used = time.perf_counter(), cpu_s()
    effects = CONTESTANTS[how](path)
    return {"seconds": time.perf_counter() - start, "cpu_s": cpu_s() - used, "effects": effects}


def _ours(path: Path) -> list[float]:
    metrics = [
        analyze.Asked(f"m{m}", Mean(f"metric{m}"), "mean", (Mean(f"before{m}"),)) for m in range(METRICS)
    ]
    found = analyze.analyze(path, analyze.Plan("arm", "A", metrics))
    return [result["absolute"]["estimate"] for result in found["results"]]


def _bare(path: Path) -> list[float]:
    sums = ", ".join(
        f"avg(metric{m}), avg(before{m}), var_samp(metric{m}), var_samp(before{m}), "
        f"covar_samp(metric{m}, before{m})"
        for m in range(METRICS)
    )
    made_up.connect().execute(f"SELECT arm, count(*), {sums} FROM '{path}' GROUP BY arm").fetchall()
    return []


def _arrow(path: Path) -> list[float]:
    return _tea_tasting(parquet.read_table(path))


def _relation(path: Path) -> list[float]:
    return _tea_tasting(duckdb.read_parquet(str(path)))


def _tea_tasting(data: Any) -> list[float]:
    metrics = {f"m{m}": tea_tasting.Mean(f"metric{m}", f"before{m}") for m in range(METRICS)}
    found = tea_tasting.Experiment(metrics, variant="arm").analyze(data, control="A")
    return [found[name].effect_size for name in metrics]


MEMBERS, ORDERS = 1_000_000, 10_000_000
MOMENT = "2025-06-01"
BEFORE_DAYS, LARGE_MINOR = 90, 500


def from_orders(*, how: str, members: int, orders: int) -> dict[str, Any]:
    """Seconds of ``METRICS`` metrics over orders with what came before, ``ours`` or ``by hand``."""
    engine = DuckEngine(Replica(str(made_up.warehouse(members, orders)), FACTS))
    numbers = np.arange(1, members + 1)
    moment = np.datetime64(MOMENT, "us")
    assigned = pa.table(
        {
            "member_id": numbers,
            "arm": np.where(numbers * 2_654_435_761 % 2**32 < 2**31, "A", "B"),
            "at": pa.array(np.full(members, moment), pa.timestamp("us", "UTC")),
        }
    )
    warm(engine)
    start, used = time.perf_counter(), cpu_s()
    means = (_metrics if how == "ours" else _by_hand)(engine, assigned)
    return {"seconds": time.perf_counter() - start, "cpu_s": cpu_s() - used, "means": means}


def _windows() -> list[int]:
    return [10 + 9 * i for i in range(METRICS // 2)]


def _metrics(engine: DuckEngine, assigned: pa.Table) -> list[float]:
    specs = []
    for i, days in enumerate(_windows()):
        window = {"from_day": 0, "until_day": days, "covariate_days": BEFORE_DAYS}
        large = (Condition("total_minor", ">", LARGE_MINOR * i),)
        specs.append(MetricSpec(f"net{i}", "mean", "orders", value="net_minor", **window))
        specs.append(MetricSpec(f"large{i}", "count", "orders", where=large, **window))
    cells_ = scan_metrics(engine, assigned, specs, as_of=datetime(2026, 1, 1, tzinfo=UTC))
    return [cells_["B", None][spec.name].joint.means[0] for spec in specs]


def _by_hand(engine: DuckEngine, assigned: pa.Table) -> list[float]:
    after = "x.ordered_at >= e.at AND x.ordered_at < e.at + to_days({})"
    before = f"x.ordered_at < e.at AND x.ordered_at >= e.at - to_days({BEFORE_DAYS})"
    sums, moments_ = [], []
    for i, days in enumerate(_windows()):
        large = f"x.total_minor > {LARGE_MINOR * i}"
        for number, (what, rows) in enumerate((("sum(x.net_minor)", "true"), ("count(*)", large))):
            y, b = f"y{i}_{number}", f"b{i}_{number}"
            sums.append(f"{what} FILTER ({after.format(days)} AND {rows}) AS {y}")
            sums.append(f"{what} FILTER ({before} AND {rows}) AS {b}")
            y, b = f"coalesce(p.{y}, 0)", f"coalesce(p.{b}, 0)"
            moments_.append(f"avg({y}), avg({b}), var_samp({y}), var_samp({b}), covar_samp({y}, {b})")
    with engine.connect({"assignments": assigned}) as connection:
        rows_ = connection.execute(f"""
            SELECT g.arm, {", ".join(moments_)} FROM assignments g LEFT JOIN (
                SELECT e.member_id, {", ".join(sums)} FROM assignments e JOIN orders x USING (member_id)
                WHERE x.ordered_at >= e.at - to_days({BEFORE_DAYS})
                    AND x.ordered_at < e.at + to_days({_windows()[-1]})
                GROUP BY e.member_id) p USING (member_id)
            GROUP BY g.arm ORDER BY g.arm""").fetchall()
    return [float(value) for value in rows_[1][1::5]]


CONTESTANTS = {"ours": _ours, BARE: _bare, TABLE: _arrow, RELATION: _relation}


def moments(number: int) -> Any:
    """Members, means and variances of both arms: (3, 2, cells)."""
    rng = np.random.default_rng(7)
    sizes = rng.integers(100, 5000, (2, number)).astype(float)
    return np.stack([sizes, rng.gamma(4, 10, (2, number)), rng.gamma(4, 100, (2, number))])


def timed(*, how: str, number: int, seconds: float) -> dict[str, Any]:
    """The quickest comparison of all cells, ``together`` or ``one by one``."""
    n, means, variances = moments(number)

    def together() -> float:
        treated, control = (cells.Arms.of_means(n[i], means[i], variances[i]) for i in (0, 1))
        return float(np.median(cells.compare(treated, control).absolute.p))

    def one_by_one() -> float:
        treated, control = (list(map(Moments, map(int, n[i]), means[i], variances[i])) for i in (0, 1))
        return float(
            np.median([mean.compare(*pair).absolute.p for pair in zip(treated, control, strict=True)])
        )

    function = together if how == "together" else one_by_one
    answer, best, used = function(), float("inf"), cpu_s()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return {"seconds": best, "cpu_s": cpu_s() - used, "median_p": answer}


def read_outs(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """A file's twenty metrics against the bare moments and against tea-tasting."""
    units = 20_000 if quick else UNITS
    units_file(units)
    run = partial(in_child, "tests.bench.experiments:whole_file", units=units)
    found = take_turns({how: partial(run, how=how) for how in CONTESTANTS}, repetitions)
    ours = found["ours"][0].answer["effects"]
    for peer in (TABLE, RELATION):
        if not np.allclose(found[peer][0].answer["effects"], ours, rtol=CLOSE, atol=CLOSE):
            raise AssertionError(f"{peer} finds other effects: {found[peer][0].answer['effects']} and {ours}")
    case = f"{units:,} units, 2 arms, {METRICS} metrics with CUPED"
    yield compare("experiments", case, found, "ours", BARE, rows=units, at_most=AT_MOST)
    yield compare("experiments", case, found, "ours", TABLE, rows=units, at_least=AT_LEAST)
    # There DuckDB does the scan for it too: nobody can be far below that.
    yield compare("experiments", case, found, "ours", RELATION, rows=units)


def facts(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """Metrics as data, compiled, against the same by hand."""
    sizes = {"members": 10_000, "orders": 100_000} if quick else {"members": MEMBERS, "orders": ORDERS}
    run = partial(in_child, "tests.bench.experiments:from_orders", **sizes)
    found = take_turns({how: partial(run, how=how) for how in ("ours", "by hand")}, repetitions)
    if not np.allclose(*(found[how][0].answer["means"] for how in ("ours", "by hand"))):
        raise AssertionError("The metrics compiled and by hand differ.")
    case = f"{sizes['members']:,} members, {sizes['orders']:,} orders, {METRICS} metrics with CUPED"
    yield compare("experiments", case, found, "ours", "by hand", rows=sizes["orders"], at_most=AT_MOST)


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """Read-outs of a file, a thousand cells against the aim, and how much comparing them together saves."""
    yield from read_outs(quick=quick, repetitions=repetitions)
    yield from facts(quick=quick, repetitions=repetitions)
    run = partial(in_child, "tests.bench.experiments:timed", number=CELLS, seconds=0.05 if quick else SECONDS)
    found = take_turns({how: partial(run, how=how) for how in ("together", "one by one")}, repetitions)
    samples = {**found, "aim": [Sample(AIM_S, None, None)] * repetitions}
    case = f"{CELLS:,} cells compared"
    yield compare("experiments", case, samples, "together", "aim", rows=CELLS, at_most=1.0)
    yield compare("experiments", case, samples, "together", "one by one", rows=CELLS, at_most=1.0)
