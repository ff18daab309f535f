"""BG/NBD on 1,000,000 customers, fit and prediction, against the package ``lifetimes``.

Both get the same columns (frequency, recency and T, two years by whole days, read as weeks) and neither
gets them grouped. They must find the same parameters, and predict the same from the same parameters.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segments.predict import bgnbd
from segments.predict.bgnbd import NAMES, BgNbd
from segments.predict.clv import purchases
from segments.predict.groups import group
from tests.bench.made_up import cached
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns

CUSTOMERS = 1_000_000
AT_LEAST = 5.0
DAYS, WEEK, AHEAD = 730, 7, 39.0
TRUTH = BgNbd(0.4, 50.0, 0.8, 2.5)
"""By this, in days, the customers were made."""
SHOWN = 1000
CLOSE = 5e-3
"""How far, relatively, the parameters of two optimisers may be apart on a million customers."""

Columns = dict[str, Any]


def made(customers: int) -> Path:
    """Customers who buy and leave by the model, as a file of three columns of whole days."""

    def make(folder: Path) -> None:
        random = np.random.default_rng(39)
        rates = random.gamma(TRUTH.r, 1 / TRUTH.alpha, customers)
        leaves = random.beta(TRUTH.a, TRUTH.b, customers)
        age = random.integers(1, DAYS + 1, customers)
        at, last = np.zeros(customers), np.zeros(customers, dtype=np.int64)
        x = np.zeros(customers, dtype=np.int64)
        active = np.arange(customers)
        while active.size:
            at[active] += random.exponential(1, active.size) / rates[active]
            active = active[at[active] <= age[active]]
            day = at[active].astype(np.int64)
            x[active] += day > last[active]  # purchases of a day are one
            last[active] = day
            active = active[random.random(active.size) >= leaves[active]]
        np.savez(folder / "customers.npz", x=x, recency=last, age=age)

    return cached(f"clv-{customers}", make) / "customers.npz"


def _read(path: str) -> Columns:
    with np.load(path) as stored:
        return {name: stored[name] for name in ("x", "recency", "age")}


def timed_fit(path: str) -> dict[str, Any]:
    """The subject: grouping and fit, with checks and standard errors."""
    data = _read(path)
    start, used = time.perf_counter(), cpu_s()
    groups = group(data["x"], data["recency"], data["age"], WEEK)
    found = bgnbd.fit(groups)
    seconds = time.perf_counter() - start
    assert found.usable, [check.message for check in found.checks if not check.ok]
    return {
        "seconds": seconds,
        "cpu_s": cpu_s() - used,
        "groups": len(groups.count),
        "parameters": {name: found.parameters[name].value for name in NAMES},
    }


def timed_predict(path: str, parameters: Mapping[str, float]) -> dict[str, Any]:
    """The subject: grouping, and the expected purchases of every customer."""
    data, model = _read(path), BgNbd(**parameters)
    start, used = time.perf_counter(), cpu_s()
    groups = group(data["x"], data["recency"], data["age"], WEEK)
    found = purchases(model, groups, AHEAD)[groups.of]
    return _predicted(time.perf_counter() - start, cpu_s() - used, found)


def _peer(parameters: Mapping[str, float] | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its syntax, by today's Python
        from lifetimes import BetaGeoFitter
    fitter = BetaGeoFitter()
    if parameters is not None:
        import pandas as pd

        fitter.params_ = pd.Series(dict(parameters))
    return fitter


def timed_fit_lifetimes(path: str) -> dict[str, Any]:
    """The peer's fit, as its documentation does it."""
    data, fitter = _read(path), _peer()
    start, used = time.perf_counter(), cpu_s()
    fitter.fit(data["x"], data["recency"] / WEEK, data["age"] / WEEK)
    seconds = time.perf_counter() - start
    parameters = {name: float(fitter.params_[name]) for name in NAMES}
    return {"seconds": seconds, "cpu_s": cpu_s() - used, "parameters": parameters}


def timed_predict_lifetimes(path: str, parameters: Mapping[str, float]) -> dict[str, Any]:
    """The peer's prediction."""
    data, fitter = _read(path), _peer(parameters)
    start, used = time.perf_counter(), cpu_s()
    found = fitter.conditional_expected_number_of_purchases_up_to_time(
        AHEAD, data["x"], data["recency"] / WEEK, data["age"] / WEEK
    )
    return _predicted(time.perf_counter() - start, cpu_s() - used, np.asarray(found))


def _predicted(seconds: float, used: float, found: Any) -> dict[str, Any]:
    """With a part of the customers to compare, and the sum over all."""
    part = found[:: max(1, len(found) // SHOWN)].tolist()
    return {"seconds": seconds, "cpu_s": used, "total": float(found.sum()), "part": part}


def assert_same_parameters(ours: Mapping[str, float], theirs: Mapping[str, float]) -> None:
    assert dict(ours) == pytest.approx(dict(theirs), rel=CLOSE), json.dumps([ours, theirs])


def assert_same_predictions(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    assert ours["total"] == pytest.approx(theirs["total"], rel=1e-6)
    assert ours["part"] == pytest.approx(theirs["part"], rel=1e-6, abs=1e-9)


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """Fit, then prediction from the parameters that the fit found."""
    customers = 20_000 if quick else CUSTOMERS
    path = str(made(customers))

    def contest(what: str, **arguments: Any) -> dict[str, list[Sample]]:
        names = {"huiliu": f"timed_{what}", "lifetimes": f"timed_{what}_lifetimes"}
        return take_turns(
            {
                name: partial(in_child, f"tests.bench.clv:{function}", path=path, **arguments)
                for name, function in names.items()
            },
            repetitions,
        )

    judge = partial(compare, "clv", subject="huiliu", peer="lifetimes", rows=customers, at_least=AT_LEAST)
    fits = contest("fit")
    ours, theirs = (fits[name][0].answer["parameters"] for name in ("huiliu", "lifetimes"))
    assert_same_parameters(ours, theirs)
    yield judge(f"fit, {customers:,} customers", samples=fits)
    predictions = contest("predict", parameters=ours)
    assert_same_predictions(*(predictions[name][0].answer for name in ("huiliu", "lifetimes")))
    yield judge(f"prediction, {customers:,} customers", samples=predictions)
