"""What goes with what: item-to-item similarity, bought-together lift and popularity, from the orders.

Guarantees: a pure function of the facts and ``as_of``; every product's neighbours and everybody's
popular products are two Parquet snapshots, replaced whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from core.times import instant
from core.warehouse.engine import DuckEngine
from segments.scores import named, sql

NEAREST, POPULAR = "nearest", "popular"
NEAREST_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("sku", pa.string()),
        ("other", pa.string()),
        ("together", pa.int64()),
        ("similarity", pa.float64()),
        ("lift", pa.float64()),
    ]
)
POPULAR_SCHEMA = pa.schema(
    [("source", pa.string()), ("sku", pa.string()), ("category", pa.string()), ("buyers", pa.int64())]
)


@dataclass(frozen=True)
class Recommending:
    """How far back, how many, and what is never recommended."""

    window_days: int = 365
    history: int = 100
    """Products of a member that are looked at, the latest first: the work grows with its square."""
    support: int = 5
    """Members who must have bought both, before two products go with each other."""
    neighbours: int = 50
    just_bought_days: int = 30
    """What a member bought this lately is never recommended."""
    viewed_days: int = 60
    per_category: int = 2
    buy_again: int = 2
    """Orders of a product after which it is one that the member buys again."""

    def params(self, as_of: date, zone: ZoneInfo) -> dict[str, Any]:
        """Named parameters of the queries."""

        def back(days: int) -> Any:
            return instant(as_of - timedelta(days=days), zone)

        return {
            "as_of": instant(as_of, zone),
            "window_start": back(self.window_days),
            "just_bought": back(self.just_bought_days),
            "viewed_start": back(self.viewed_days),
            "history": self.history,
            "support": self.support,
            "neighbours": self.neighbours,
            "per_category": self.per_category,
            "buy_again": self.buy_again,
        }


@dataclass(frozen=True)
class Fitted:
    """What a fit found."""

    as_of: date
    pairs: int
    products: int
    """With at least one neighbour."""
    popular: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "as_of": self.as_of.isoformat()}


def fit(engine: DuckEngine, as_of: date, zone: ZoneInfo, how: Recommending | None = None) -> Fitted:
    """Write ``snapshots/nearest`` and ``snapshots/popular`` as of a date.

    Similarity is the cosine of two products' buyers, |A∩B| / √(|A||B|) (Linden, Smith, York 2003); lift is
    P(A∩B) / (P(A)P(B)) over all buyers.
    """
    params = (how or Recommending()).params(as_of, zone)
    with engine.connect() as connection:
        for name in ("bought", "popular", "nearest"):
            text = sql(f"recommend_{name}")
            connection.execute(f"CREATE TEMP TABLE {name} AS {text}", named(text, params))
        for name in (POPULAR, NEAREST):
            with engine.replica.replacing("snapshots", name, f"{as_of.isoformat()}.parquet") as temporary:
                connection.execute(f"COPY {name} TO {engine.quoted(temporary)} (FORMAT parquet)")
        row = connection.execute(
            "SELECT (SELECT count(*) FROM nearest), (SELECT count(DISTINCT (source, sku)) FROM nearest), "
            "(SELECT count(*) FROM popular)"
        ).fetchall()[0]
    return Fitted(as_of, *map(int, row))


def newest(engine: DuckEngine, kind: str, as_of: date) -> str | None:
    """The newest snapshot of a kind up to a date; None before the first fit."""
    files = [
        name for name in engine.replica.files("snapshots", kind)
        if name.rsplit("/", 1)[1] <= f"{as_of.isoformat()}.parquet"
    ]  # fmt: skip
    return files[-1] if files else None
