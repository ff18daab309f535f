"""The products for a member: the model's neighbours, what was looked at, habits, and what is popular.

Guarantees: never what was bought in the last days, never what is out of stock, at most a few of a
category; somebody of whom nothing is known gets what is popular. One query, whatever the number asked about.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from core.warehouse.engine import DuckEngine
from segments.recommend.model import NEAREST, NEAREST_SCHEMA, POPULAR, POPULAR_SCHEMA, Recommending, newest
from segments.scores import named, sql

MAX_PRODUCTS = 20
POPULAR_LOOKED_AT = 200


@dataclass(frozen=True)
class Product:
    """A recommended product and why it is: ``back_in_stock``, ``price_drop``, ``buy_again``, ``goes_with``,
    ``popular_category`` or ``popular``."""

    sku: str
    name: str | None
    category: str | None
    price_minor: int | None
    url: str | None
    image_url: str | None
    score: float
    reason: str

    def for_template(self) -> dict[str, Any]:
        """What a template may know of it; a product without a name is called by its number."""
        known = asdict(self)
        return {
            "sku": self.sku,
            "name": self.name or self.sku,
            "price": self.price_minor,
            **{key: known[key] for key in ("category", "url", "image_url", "reason")},
        }


def recommend(
    engine: DuckEngine,
    member_ids: Iterable[int],
    as_of: date,
    zone: ZoneInfo,
    *,
    n: int = 10,
    how: Recommending | None = None,
) -> dict[int, list[Product]]:
    """At most ``n`` products for each member, the best first; nothing before the first fit."""
    wanted = pa.table({"member_id": pa.array(sorted(set(member_ids)), pa.int64())})
    nearest, popular = newest(engine, NEAREST, as_of), newest(engine, POPULAR, as_of)
    found: dict[int, list[Product]] = {member: [] for member in wanted["member_id"].to_pylist()}
    if popular is None or not found:
        return found
    params = (how or Recommending()).params(as_of, zone)
    params |= {"n": min(n, MAX_PRODUCTS), "popular": POPULAR_LOOKED_AT}
    text = sql("recommend_rank")
    with engine.connect({"wanted": wanted}) as connection:
        engine.add_view(connection, "nearest", nearest, NEAREST_SCHEMA)
        engine.add_view(connection, "popular", popular, POPULAR_SCHEMA)
        rows = connection.sql(text, params=named(text, params)).to_arrow_table().to_pylist()
    for row in rows:
        member = row.pop("member_id")
        found[member].append(Product(**row))
    return found
