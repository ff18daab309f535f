"""Experiments: a file of units with its metrics by CUPED, and a thousand cells compared at once.

The file against the bare SQL of the same moments, and against tea-tasting: given the file as a table in memory,
and as a relation, where DuckDB counts for it too. All three must find the same effects. The cells, by city,
category or day, with a test of interaction, against the aim and against the same comparisons one by one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import tea_tasting
from pyarrow import parquet

from experiments import analyze
from experiments.moments import Moments
from experiments.stats import cells, mean
from experiments.stats.joint import Mean
from tests.bench import made_up
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns

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
    yield compare("experiments", case, found, "ours", RELATION, rows=units, at_least=AT_LEAST)


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """Read-outs of a file, a thousand cells against the aim, and how much comparing them together saves."""
    yield from read_outs(quick=quick, repetitions=repetitions)
    run = partial(in_child, "tests.bench.experiments:timed", number=CELLS, seconds=0.05 if quick else SECONDS)
    found = take_turns({how: partial(run, how=how) for how in ("together", "one by one")}, repetitions)
    samples = {**found, "aim": [Sample(AIM_S, None, None)] * repetitions}
    case = f"{CELLS:,} cells compared"
    yield compare("experiments", case, samples, "together", "aim", rows=CELLS, at_most=1.0)
    yield compare("experiments", case, samples, "together", "one by one", rows=CELLS, at_most=1.0)
