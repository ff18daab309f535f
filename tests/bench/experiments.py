"""A thousand cells of an experiment compared at once: by city, category or day, with a test of interaction.

From moments, as the scan leaves them; the file's scan itself is DuckDB's. Against the aim, and against the same
comparisons one by one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from experiments.moments import Moments
from experiments.stats import cells, mean
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns

CELLS = 1_000
SECONDS = 1.0
"""Each contestant compares this long at least."""
AIM_S = 0.2
"""For a thousand cells, differences in units and relative, intervals, p and Cochran's Q."""


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


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """A thousand cells against the aim, and how much comparing them together saves."""
    run = partial(in_child, "tests.bench.experiments:timed", number=CELLS, seconds=0.05 if quick else SECONDS)
    found = take_turns({how: partial(run, how=how) for how in ("together", "one by one")}, repetitions)
    samples = {**found, "aim": [Sample(AIM_S, None, None)] * repetitions}
    case = f"{CELLS:,} cells compared"
    yield compare("experiments", case, samples, "together", "aim", rows=CELLS, at_most=1.0)
    yield compare("experiments", case, samples, "together", "one by one", rows=CELLS, at_most=1.0)
