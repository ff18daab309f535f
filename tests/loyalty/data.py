"""What loyalty's tests start from: members, batches, orders, and threads that start together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import Database
from core.models import Member, Order, Todo
from loyalty import coupons
from loyalty.models import CouponBatch

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def add_members(database: Database, number: int, first: int = 1) -> list[int]:
    """Members with ids first … first + number - 1, external ids ``m<id>``."""
    ids = list(range(first, first + number))
    columns = ("id", "source", "external_id", "tags", "attributes", "fingerprint", "created_at", "updated_at")
    with database.write() as session:
        rows = [(n, "shop", f"m{n}", [], {}, "x", NOW, NOW) for n in ids]
        bulk_insert(session, Member.__table__, columns, rows)
    return ids


def add_batch(database: Database, **changes: Any) -> CouponBatch:
    values: dict[str, Any] = {
        "name": "spring",
        "title": "Spring",
        "benefit": {"type": "fixed", "amount": 1000},
        "currency": "CNY",
        **changes,
    }
    with database.write() as session:
        return coupons.create_batch(session, coupons.NewBatch(**values), "ann", NOW)


def put_order(
    session: Session,
    order_id: int,
    member_id: int,
    total: int,
    *,
    refunded: int = 0,
    status: str = "paid",
    currency: str = "CNY",
    at: datetime = NOW,
) -> None:
    """Store the order as the import would, and leave its to-do row."""
    session.merge(
        Order(
            id=order_id,
            source="shop",
            external_id=f"o{order_id}",
            member_id=member_id,
            ordered_at=at,
            status=status,
            currency=currency,
            total_minor=total,
            discount_minor=0,
            refunded_minor=refunded,
            fingerprint="x",
            updated_at=at,
        )
    )
    session.add(Todo(queue="loyalty.orders", subject_id=order_id))
    session.flush()


def together(jobs: list[Callable[[], Any]]) -> Counter[str]:
    """Run the jobs in a thread each, released at one moment; how many returned, or raised which class."""
    outcomes: Counter[str] = Counter()
    gate = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> None:
        gate.wait()
        try:
            job()
        except Exception as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["done"] += 1

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def scalar(database: Database, sql: str) -> Any:
    with database.engine.connect() as connection:
        return connection.execute(sa.text(sql)).scalar_one()
