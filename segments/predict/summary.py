"""Transactions become customers: x, t_x, T and mean spend, with a hold-out where the log is long enough.

Guarantees: several purchases of a day are one; the order of rows never matters. Reads the warehouse's
``orders`` or the rows of a file through the same query.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.times import instant, micros
from segments.predict.groups import Floats
from segments.scores import sql

MIN_HOLD_OUT_DAYS = 28
MAX_HOLD_OUT_DAYS = 180
HOLD_OUT_SHARE = 3
"""One part in so many of the log is held out."""
TRACKED_CUSTOMERS = 50_000
"""About so many are followed for the tracking curve."""
EPOCH = date(1970, 1, 1)

Days = NDArray[np.int64]


@dataclass(frozen=True)
class Customers:
    """A row a customer, by id. Times in days."""

    ids: pa.Array
    frequency: Days
    recency: Days
    age: Days
    spend: Floats
    """Mean of the repeat purchases; NaN where there are none, or no amounts."""

    def __len__(self) -> int:
        return len(self.frequency)

    @property
    def repeaters(self) -> int:
        return int(np.count_nonzero(self.frequency))


@dataclass(frozen=True)
class Tracking:
    """By day since ``start``: who bought first, and again; of a part of the calibration's customers."""

    start: date
    newcomers: Days
    repeats: Days


@dataclass(frozen=True)
class Observed:
    """What was observed up to ``until``; ``calibration`` is all of it unless some of it is held out."""

    until: date
    customers: Customers
    calibration: Customers
    calibration_end: date
    held_out: Days
    """Purchases of each customer of ``calibration`` in the ``hold_out_days`` after its end."""
    hold_out_days: int
    tracking: Tracking

    @property
    def apart(self) -> bool:
        """Whether the calibration is a shorter log than what is fitted."""
        return self.calibration is not self.customers


def from_orders(connection: duckdb.DuckDBPyConnection, as_of: date, zone: ZoneInfo) -> Observed | None:
    """The members who ordered before ``as_of``, by the warehouse's ``orders``; None when nobody did."""
    params: dict[str, Any] = {"as_of": micros(instant(as_of, zone)), "zone": zone.key}
    first = _run(connection, sql("predict_first"), params)["first"][0].as_py()
    until = as_of - timedelta(days=1)
    return None if first is None else _observe(connection, "predict_orders", params, first, until, until)


def from_rows(connection: duckdb.DuckDBPyConnection, until: date | None) -> Observed | None:
    """The customers of the rows in ``parsed`` (see :mod:`segments.predict.log`), up to the day ``until``.

    Without one, up to the last row. Rows after it are the hold-out where they reach far enough.
    None when no row counts.
    """
    text = "SELECT min(day) AS first, max(day) AS last FROM parsed WHERE reason IS NULL"
    row = _run(connection, text, {}).to_pylist()[0]
    if row["first"] is None:
        return None
    first, last = (EPOCH + timedelta(days=row[name]) for name in ("first", "last"))
    end = until or last
    return None if first > end else _observe(connection, "predict_rows", {}, first, end, max(last, end))


def _observe(
    connection: duckdb.DuckDBPyConnection,
    purchases: str,
    params: dict[str, Any],
    first: date,
    until: date,
    last: date,
) -> Observed:
    cut, end = _split(first, until, last)
    params = params | {"cut": (cut - EPOCH).days, "end": (end - EPOCH).days}
    text = sql(purchases)
    # Kept rather than asked for twice: the summary and the curve both read it.
    connection.execute(f"CREATE OR REPLACE TEMP TABLE purchases AS {text}", _named(text, params))
    table = _run(connection, sql("predict_summary"), params)
    there = table.filter(pc.greater_equal(table["c_age"], 0))
    calibration = _customers(there, "c_")
    customers = calibration if cut == until else _customers(table, "")
    held_out = _numbers(there, "frequency") - calibration.frequency
    followed = _tracking(connection, there, first, end)
    return Observed(until, customers, calibration, cut, held_out, (end - cut).days, followed)


def _split(first: date, until: date, last: date) -> tuple[date, date]:
    """The last days of the calibration and of the hold-out; the same day where there is no hold-out."""
    if (last - until).days >= MIN_HOLD_OUT_DAYS:
        return until, last
    days = min(((until - first).days + 1) // HOLD_OUT_SHARE, MAX_HOLD_OUT_DAYS)
    return (until - timedelta(days=days) if days >= MIN_HOLD_OUT_DAYS else until), until


def _named(text: str, params: dict[str, Any]) -> dict[str, Any]:
    """Just the parameters that the statement names: DuckDB refuses the others."""
    return {name: params[name] for name in set(re.findall(r"\$([a-z]\w*)", text))}


def _run(connection: duckdb.DuckDBPyConnection, text: str, params: dict[str, Any]) -> pa.Table:
    return connection.sql(text, params=_named(text, params)).to_arrow_table()


def _numbers(table: pa.Table, name: str) -> Days:
    return np.asarray(table[name].to_numpy(), dtype=np.int64)


def _customers(table: pa.Table, prefix: str) -> Customers:
    return Customers(
        table["customer"].combine_chunks(),
        _numbers(table, f"{prefix}frequency"),
        _numbers(table, f"{prefix}recency"),
        _numbers(table, f"{prefix}age"),
        np.asarray(table[f"{prefix}spend"].to_numpy(), dtype=np.float64),
    )


def _tracking(connection: duckdb.DuckDBPyConnection, there: pa.Table, first: date, end: date) -> Tracking:
    """Of customers at even distances: a curve needs no more of them than :data:`TRACKED_CUSTOMERS`."""
    step = max(1, len(there) // TRACKED_CUSTOMERS)
    cohort = there.select(["customer", "first_day"]).take(pa.array(range(0, len(there), step)))
    connection.register("cohort", cohort)
    found = _run(connection, sql("predict_tracking"), {})
    start, days = (first - EPOCH).days, (end - first).days + 1
    repeats = np.zeros(days, dtype=np.int64)  # days without a purchase stay 0
    repeats[_numbers(found, "day") - start] = _numbers(found, "repeats")
    newcomers = np.bincount(_numbers(cohort, "first_day") - start, minlength=days)
    return Tracking(first, newcomers.astype(np.int64), repeats)
