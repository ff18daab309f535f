"""Predictions of a refresh: one snapshot a date, where the models pass their checks.

Guarantees: a pure function of the facts, the settings and ``as_of``; running it again for a date replaces
that date's snapshot by an equal one, or removes it where the models may not be used any more. Importing
this module needs no SciPy: rules name the snapshot and its columns without it.
"""

from __future__ import annotations

import time
from datetime import date
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from core.warehouse.engine import DuckEngine
from segments.predict.settings import Predicting

if TYPE_CHECKING:
    from segments.predict.clv import Predictions
    from segments.predict.summary import Customers

PREDICTIONS = "predictions"
PREDICTION_SCHEMA = pa.schema(
    [
        ("member_id", pa.int64()),
        ("frequency", pa.int64()),
        ("recency", pa.int64()),
        ("T", pa.int64()),
        ("p_alive", pa.float64()),
        ("expected_purchases", pa.float64()),
        ("expected_spend", pa.float64()),
        ("clv", pa.float64()),
        ("churn_risk", pa.float64()),
    ]
)
"""A row a buyer. ``frequency`` counts days with a repeat order; ``recency`` and ``T`` are days from the first
order to the last one and to the as-of date, as BG/NBD has them; spend and value are minor units."""


def write_predictions(
    engine: DuckEngine, predicting: Predicting, as_of: date, zone: ZoneInfo
) -> dict[str, Any]:
    """Fit to every order before ``as_of`` and write ``snapshots/predictions/<as_of>.parquet`` if usable.

    Answers what the console shows: ``usable`` and, if not, ``reasons``; ``n``, ``repeaters``; parameters with
    standard errors and log-likelihood of ``bgnbd`` and ``gamma_gamma`` (None where not fitted); ``checks``;
    ``hold_out``, ``frequencies`` and ``tracking`` to draw; ``settings``; ``seconds``.
    """
    from segments.predict.study import study
    from segments.predict.summary import from_orders

    start = time.perf_counter()
    with engine.connect() as connection:
        observed = from_orders(connection, as_of, zone)
    read = time.perf_counter()
    found = study(observed, predicting.validated())
    fitted = time.perf_counter()
    parts = ("snapshots", PREDICTIONS, f"{as_of.isoformat()}.parquet")
    if observed is not None and found.predictions is not None:
        engine.replica.write(_table(observed.customers, found.predictions), *parts)
    elif engine.replica.fs.exists(engine.replica.path(*parts)):
        engine.replica.fs.rm(engine.replica.path(*parts))
    took = {"read": read - start, "fit": fitted - read, "write": time.perf_counter() - fitted}
    return {**found.to_json(), "seconds": {part: round(seconds, 3) for part, seconds in took.items()}}


def _table(customers: Customers, predictions: Predictions) -> pa.Table:
    return pa.table(
        {
            "member_id": customers.ids,
            "frequency": customers.frequency,
            "recency": customers.recency,
            "T": customers.age,
            "p_alive": predictions.p_alive,
            "expected_purchases": predictions.purchases,
            "expected_spend": predictions.spend,
            "clv": predictions.clv,
            "churn_risk": 1 - predictions.p_alive,
        },
        schema=PREDICTION_SCHEMA,
    )
