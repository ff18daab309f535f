"""The catalogue's history: what a price and a stock were before an import changed them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import facts
from core.bulk import bulk_insert
from core.db import among
from core.models import Product, ProductChange
from core.warehouse.replica import mark


class Offer(NamedTuple):
    """What a product costs, in minor units, and how many there are; None where the shop does not say."""

    price_minor: int | None
    stock: int | None


def offers(session: Session, source: str, skus: Iterable[str]) -> dict[str, Offer]:
    """The offers of those of the products that are there."""
    rows = session.execute(
        sa.select(Product.sku, Product.price_minor, Product.stock).where(
            Product.source == source, among(session, Product.sku, skus)
        )
    )
    return {sku: Offer(price, stock) for sku, price, stock in rows}


def note_changes(
    session: Session,
    ids: Mapping[str, int],
    before: Mapping[str, Offer],
    after: Mapping[str, Offer],
    now: datetime,
) -> None:
    """Write a row for each product of ``ids`` (sku → id) whose price or stock changed."""
    columns = ("product_id", "at", "old_price_minor", "new_price_minor", "old_stock", "new_stock")
    rows = [
        (ids[sku], now, old.price_minor, new.price_minor, old.stock, new.stock)
        for sku, old in before.items()
        if sku in ids and (new := after[sku]) != old
    ]
    if rows:
        bulk_insert(session, ProductChange.__table__, columns, rows)
        mark(session, facts.PRODUCT_CHANGES, [now])
