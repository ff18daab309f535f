"""The replica equals the database after whatever happened to it."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from core import members
from core.db import Database
from core.facts import FACTS
from core.imports import load_rows, numbered
from core.models import Member, Order
from core.settings import Settings
from core.warehouse import replica as replica_module
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica, read
from tests.conftest import count

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def ingest(db: Database, settings: Settings, kind: str, rows: list[dict[str, object]]) -> None:
    report = load_rows(
        db, kind, numbered(rows), settings=settings, source="shop", now=NOW, consents=lambda _s, _c: None
    )
    assert report.rejected == 0


def order(number: int, day: int = 0, status: str = "paid", amount: str = "10.5") -> dict[str, object]:
    at = datetime(2026, 1, 20, tzinfo=UTC) + timedelta(days=day)
    return {"order_id": f"o{number}", "member_id": f"m{number % 7}", "ordered_at": at.isoformat(), "amount": amount,
            "status": status, "sku": "mug"}  # fmt: skip


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(str(tmp_path / "warehouse"), FACTS)


def equal(db: Database, replica: Replica) -> bool:
    """Every fact of the replica is what the database says now."""
    engine = DuckEngine(replica)
    for fact in FACTS:
        key = fact.schema.names[0]
        stored = engine.query(f"SELECT {', '.join(fact.schema.names)} FROM {fact.name}").cast(fact.schema)
        order_by = [
            (key, "ascending"),
            *([("line_no", "ascending")] if "line_no" in fact.schema.names else []),
        ]
        if stored.sort_by(order_by) != read(db, fact).sort_by(order_by):
            return False
    return True


def test_replica_follows_inserts_refunds_and_erasure(
    db: Database, settings: Settings, replica: Replica
) -> None:
    ingest(
        db,
        settings,
        "members",
        [{"member_id": f"m{n}", "tags": "vip", "email": f"m{n}@example.com"} for n in range(7)],
    )
    ingest(db, settings, "products", [{"sku": "mug", "price": "5", "margin": "0.4"}])
    ingest(db, settings, "orders", [order(n, day=n * 3) for n in range(30)])
    ingest(
        db,
        settings,
        "events",
        [{"member_id": "m1", "kind": "view", "occurred_at": NOW.isoformat(), "properties": {"a": 1}}],
    )
    assert not equal(db, replica)
    synced = replica.sync(db)
    assert synced.months == 11, "members, products, one month of events, four of orders and of lines"
    assert equal(db, replica)

    ingest(db, settings, "orders", [order(3, day=9, status="refunded")])
    assert not equal(db, replica)
    replica.sync(db)
    assert equal(db, replica)

    with db.write() as session:
        members.erase(session, members.by_external_id(session, "m1").id, "test", NOW)
    assert replica.sync(db).months > 0
    assert equal(db, replica)
    left = (
        DuckEngine(replica).query("SELECT DISTINCT external_id FROM members ORDER BY 1").column(0).to_pylist()
    )
    assert "m1" not in left
    assert len(left) == 6
    assert DuckEngine(replica).query("SELECT count(*) FROM events").column(0).to_pylist() == [0]


def test_no_contact_detail_reaches_the_replica(db: Database, settings: Settings, replica: Replica) -> None:
    ingest(
        db,
        settings,
        "members",
        [
            {
                "member_id": "m",
                "email": "who@example.com",
                "phone": "13800138000",
                "wechat_openid": "oPEN12345",
            }
        ],
    )
    replica.sync(db)
    content = pq.read_table(replica.files("members")[0])
    assert content.column("has_email").to_pylist() == [True]
    for secret in ("who@example.com", "13800138000", "oPEN12345"):
        assert secret not in json.dumps(content.to_pylist(), default=str)


def test_a_sync_without_marks_touches_nothing(db: Database, settings: Settings, replica: Replica) -> None:
    ingest(db, settings, "orders", [order(1)])
    replica.sync(db)
    before = [Path(name).stat().st_mtime_ns for name in replica.files("orders")]
    assert replica.sync(db).months == 0
    assert [Path(name).stat().st_mtime_ns for name in replica.files("orders")] == before


def test_a_lost_replica_is_rebuilt(db: Database, settings: Settings, replica: Replica) -> None:
    ingest(db, settings, "orders", [order(n, day=n * 20) for n in range(10)])
    replica.sync(db)
    shutil.rmtree(replica.root)
    assert not equal(db, replica)
    replica.rebuild(db)
    assert equal(db, replica)
    assert count(db, "warehouse_marks") == 0


def test_a_mark_that_arrives_during_a_sync_survives_it(
    db: Database, settings: Settings, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(db, settings, "orders", [order(1)])
    original = replica_module.read
    behind = iter([[order(2)]])

    def read_then_write_behind(database: Database, fact: replica_module.Fact, month: str) -> object:
        table = original(database, fact, month)
        for rows in behind:
            ingest(db, settings, "orders", rows)
        return table

    monkeypatch.setattr(replica_module, "read", read_then_write_behind)
    replica.sync(db)
    assert count(db, "warehouse_marks") > 0
    replica.sync(db)
    assert equal(db, replica)


def test_concurrent_syncs_leave_the_newest_state(db: Database, settings: Settings, replica: Replica) -> None:
    def work(number: int) -> None:
        for step in range(4):
            ingest(db, settings, "orders", [order(number * 100 + step)])
            replica.sync(db)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(db, "orders") == 12
    assert equal(db, replica)


def test_a_month_that_lost_its_last_order_loses_its_file(
    db: Database, settings: Settings, replica: Replica
) -> None:
    ingest(db, settings, "orders", [order(1)])
    replica.sync(db)
    with db.write() as session:
        session.execute(sa.update(Member).values(erased_at=NOW))
        replica_module.mark(session, "orders", session.scalars(sa.select(Order.ordered_at)))
    replica.sync(db)
    assert replica.files("orders") == []


def test_months_of_other_zones_and_year_ends_are_utc_months(
    db: Database, settings: Settings, replica: Replica
) -> None:
    ingest(db, settings, "orders", [{**order(1), "ordered_at": "2026-01-01T03:00:00+08:00"}])
    replica.sync(db)
    assert [Path(name).name for name in replica.files("orders")] == ["2025-12.parquet"]
