"""Transactions, types, and the bulk writer, on both databases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from core import db as db_module
from core.bulk import bulk_insert
from core.db import Database
from core.errors import InvalidInput
from core.models import Event, Member, WarehouseMark
from tests import postgres
from tests.conftest import count

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MEMBER_COLUMNS = (
    "id",
    "source",
    "external_id",
    "email",
    "tags",
    "attributes",
    "fingerprint",
    "created_at",
    "updated_at",
)


def member(number: int, email: str | None = None) -> tuple[object, ...]:
    return (number, "shop", f"m{number}", email, ["vip"], {"a": number}, "x", NOW, NOW)


def test_times_come_back_in_utc_and_naive_ones_are_refused(db: Database) -> None:
    local = datetime(2026, 3, 1, 20, tzinfo=timezone(timedelta(hours=8)))
    with db.write() as session:
        bulk_insert(session, Member.__table__, MEMBER_COLUMNS, [member(1)])
        session.add(
            Event(source="shop", external_id="e", member_id=1, kind="k", occurred_at=local, properties={})
        )
    with db.read() as session:
        assert session.scalars(sa.select(Event.occurred_at)).one() == NOW
    with db.write() as session, pytest.raises(InvalidInput, match="no zone"):
        bulk_insert(session, Event.__table__, ("occurred_at",), [(datetime(2026, 1, 1),)])  # noqa: DTZ001


def test_contact_details_are_encrypted_in_the_file(db: Database) -> None:
    with db.write() as session:
        bulk_insert(session, Member.__table__, MEMBER_COLUMNS, [member(1, "a@example.com")])
        stored = session.execute(sa.text("SELECT email FROM members")).scalar_one()
        assert b"example" not in bytes(stored)
    with db.read() as session:
        assert session.scalars(sa.select(Member.email)).one() == "a@example.com"


def test_bulk_insert_answers_only_what_was_new(db: Database) -> None:
    table = Member.__table__
    with db.write() as session:
        bulk_insert(session, table, MEMBER_COLUMNS, [member(1), member(2)], conflict=["id"])
    with db.write() as session:
        new = bulk_insert(
            session, table, MEMBER_COLUMNS, [member(n) for n in range(1, 9001)], conflict=[], returning=["id"]
        )
        assert sorted(row[0] for row in new) == list(range(3, 9001))
        again = bulk_insert(
            session, table, MEMBER_COLUMNS, [member(5)], conflict=["source", "external_id"], returning=["id"]
        )
        assert again == []
    assert count(db, "members") == 9000
    with db.read() as session:
        assert session.get(Member, 8000).attributes == {"a": 8000}  # type: ignore[union-attr]


def test_bulk_insert_without_a_conflict_key_refuses_a_repetition(db: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)unique"), db.write() as session:
        bulk_insert(session, Member.__table__, MEMBER_COLUMNS, [member(1), member(1)])
    assert count(db, "members") == 0


def test_a_failed_write_leaves_nothing(db: Database) -> None:
    with pytest.raises(IntegrityError), db.write() as session:
        session.add(WarehouseMark(table_name="orders", month="2026-03"))
        session.flush()
        session.execute(sa.insert(Event), [{"source": "s", "external_id": "e", "member_id": 9, "kind": None}])
    assert count(db, "warehouse_marks") == 0


def test_writers_wait_for_each_other_instead_of_failing(sqlite_db: Database) -> None:
    def add(start: int) -> None:
        for number in range(start, start + 20):
            with sqlite_db.write() as session:
                session.scalar(sa.select(sa.func.count()).select_from(WarehouseMark))
                session.add(WarehouseMark(table_name="orders", month=f"{number:07d}"))

    threads = [threading.Thread(target=add, args=(n * 100,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(sqlite_db, "warehouse_marks") == 80


def _end_all_but_mine(cluster_url: str, database: Database) -> None:
    name = database.engine.url.database
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )


def test_a_connection_that_was_idle_is_tried_before_it_is_used(
    pg_db: Database, cluster: postgres.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one() -> int:
        with pg_db.read() as session:
            return int(session.execute(sa.text("SELECT 1")).scalar_one())

    assert one() == 1
    _end_all_but_mine(cluster.url("postgres"), pg_db)
    monkeypatch.setattr(db_module, "IDLE_S", 0.0)
    assert one() == 1, "the server ended it while nobody used it"
    monkeypatch.undo()
    _end_all_but_mine(cluster.url("postgres"), pg_db)
    with pytest.raises(sa.exc.OperationalError):
        one()
    assert one() == 1, "one request met the dead connection, the next has a new one"
