"""CDNOW's published customers and transactions, and customers made up by the models' own rules."""

from __future__ import annotations

import csv
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from segments.predict.bgnbd import BgNbd

Rows = list[tuple[str, str, str]]


def dataset(name: str) -> Path:
    """A data file that ships with the package ``lifetimes``, which need not be imported for it."""
    found = importlib.util.find_spec("lifetimes")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "datasets" / name


@lru_cache
def cdnow() -> dict[str, Any]:
    """The summary of 2,357 customers as published: x, t_x and T in weeks, mean repeat spend."""
    with dataset("cdnow_customers_summary_with_transactions.csv").open() as file:
        rows = list(csv.DictReader(file))
    found: dict[str, Any] = {
        name: np.array([float(row[name]) for row in rows]) for name in ("t_x", "T", "zbar")
    }
    found["x"] = np.array([int(row["x"]) for row in rows])
    return found


@lru_cache
def cdnow_rows(name: str = "CDNOW_sample.txt") -> Rows:
    """Customer, date and amount of each transaction of a file."""
    places = (1, 2, 4) if "sample" in name else (0, 1, 3)
    lines = (line.split() for line in dataset(name).read_text().splitlines())
    return [tuple(cells[place] for place in places) for cells in lines if cells and cells[0].isdigit()]  # type: ignore[misc]


def write_csv(path: Path, rows: Rows, header: tuple[str, ...] = ("customer", "date", "amount")) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def buying_days(model: BgNbd, customers: int, days: int, seed: int) -> list[list[int]]:
    """The days, counted from the first purchase's, on which each customer buys in ``days`` days.

    Whole days, each once; the model's time is in days.
    """
    random = np.random.default_rng(seed)
    rates = random.gamma(model.r, 1 / model.alpha, customers)
    leaves = random.beta(model.a, model.b, customers)
    found = []
    for rate, leave in zip(rates, leaves, strict=True):
        at, bought = 0.0, [0]
        while True:
            at += random.exponential(1 / rate)
            if at > days:
                break
            if int(at) != bought[-1]:
                bought.append(int(at))
            if random.random() < leave:
                break
        found.append(bought)
    return found
