"""Many rows at once: what is written is what the column types write, and the count is of new rows."""

from __future__ import annotations

import gc
import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from core.bulk import CONVERTED_ROWS, FEW_ROWS, bulk_count, bulk_insert, update_each
from core.collector import SURVIVORS, paused, rare
from core.db import Database
from core.models import Member, Product, WarehouseMark
from tests.conftest import count

NOW = datetime(2026, 3, 1, 4, 5, 6, 7, tzinfo=timezone(timedelta(hours=8)))
VALUES: dict[str, Any] = {
    "source": "shop",
    "name": "Zoë\n\t\\N 会员 “x”",
    "email": "zoe@example.com",
    "birthday": date(1990, 5, 17),
    "registered_at": NOW,
    "tags": ["vip", "“quoted”", 'a"b', "\\"],
    "attributes": {"n": 2**70, "f": 0.1, "none": None, "deep": [{"会": True}], "half": "\ud800x"},
    "fingerprint": "x",
    "created_at": NOW.astimezone(UTC).replace(microsecond=0),
    "updated_at": NOW,
}


def test_bulk_rows_read_back_like_rows_of_the_session(db: Database) -> None:
    values = dict(VALUES)
    if db.dialect == "postgresql":  # jsonb takes no half characters, whoever writes them
        values["attributes"] = {k: v for k, v in values["attributes"].items() if k != "half"}
    with db.write() as session:
        session.add(Member(external_id="one", **values))
        bulk_insert(
            session, Member.__table__, ("external_id", *values), [("many", *values.values())], conflict=[]
        )
    with db.read() as session:
        one, many = session.scalars(sa.select(Member).order_by(Member.id)).all()
        for name, value in values.items():
            assert getattr(many, name) == getattr(one, name) == value, name
        stored = sa.select(sa.cast(sa.literal_column("registered_at"), sa.Text)).select_from(Member)
        assert len(set(session.scalars(stored))) == 1, "the same text in the file, so that it compares alike"


def test_the_count_is_of_new_rows_only(db: Database) -> None:
    columns = ("id", "source", "external_id", "tags", "attributes", "fingerprint", "created_at", "updated_at")

    def rows(*numbers: int) -> list[tuple[Any, ...]]:
        return [(number, "shop", f"m{number}", [], {}, "x", NOW, NOW) for number in numbers]

    with db.write() as session:
        assert bulk_count(session, Member.__table__, columns, rows(1, 2), conflict=["id"]) == 2
        assert bulk_count(session, Member.__table__, columns, rows(2, 3, 1, 4, 4), conflict=["id"]) == 2
        assert bulk_count(session, Member.__table__, columns, rows(1, 2), conflict=["id"]) == 0
        assert bulk_count(session, Member.__table__, columns, [], conflict=["id"]) == 0
        assert bulk_count(session, Member.__table__, columns, rows(5)) == 1
    assert count(db, "members") == 5


@pytest.mark.parametrize("number", [0, 1, CONVERTED_ROWS, CONVERTED_ROWS + 1])
def test_rows_keep_their_order_and_number_over_chunks(sqlite_db: Database, number: int) -> None:
    rows = ((n, "orders", f"{n:07d}") for n in range(number))
    with sqlite_db.write() as session:
        assert bulk_count(session, WarehouseMark.__table__, ("id", "table_name", "month"), rows) == number
        found = list(session.scalars(sa.select(WarehouseMark.month).order_by(WarehouseMark.id)))
    assert found == [f"{n:07d}" for n in range(number)]


@pytest.mark.parametrize("row", [("orders",), ("orders", "2026-03", 1)])
def test_a_row_of_another_length_is_refused(sqlite_db: Database, row: tuple[Any, ...]) -> None:
    for rows in ([row], [("orders", "2026-03"), row]):
        with pytest.raises(ValueError), sqlite_db.write() as session:
            bulk_insert(session, WarehouseMark.__table__, ("table_name", "month"), rows)
    assert count(sqlite_db, "warehouse_marks") == 0


def test_the_collector_runs_again_after_a_batch_that_failed() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), paused():
        assert not gc.isenabled()
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the inner block leaves it as it found it"
        raise KeyError
    assert gc.isenabled()


def test_collections_are_as_before_when_the_last_of_overlapping_blocks_has_ended() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    first, second = rare(), rare()
    first.__enter__()
    second.__enter__()
    assert gc.get_threshold() == (SURVIVORS, *before[1:])
    assert gc.get_freeze_count() > frozen
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (SURVIVORS, *before[1:])
    with pytest.raises(KeyError), rare():
        raise KeyError
    second.__exit__(None, None, None)
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def made(number: int) -> list[tuple[Any, ...]]:
    return [(n, "shop", f"m{n}", [], {}, "x", NOW, NOW) for n in range(1, number + 1)]


MADE = ("id", "source", "external_id", "tags", "attributes", "fingerprint", "created_at", "updated_at")


@pytest.mark.parametrize("number", [1, FEW_ROWS, FEW_ROWS + 1])
def test_what_is_too_long_is_refused_and_not_cut(pg_db: Database, number: int) -> None:
    rows = [("orders", "2026-03-01")] + [("orders", "2026-03")] * (number - 1)
    with pytest.raises(psycopg.DataError, match="too long"), pg_db.write() as session:
        bulk_insert(session, WarehouseMark.__table__, ("table_name", "month"), rows)
    assert count(pg_db, "warehouse_marks") == 0


@pytest.mark.parametrize("number", [1, FEW_ROWS, FEW_ROWS + 1])
def test_new_rows_are_answered_in_any_number(db: Database, number: int) -> None:
    with db.write() as session:
        new = bulk_insert(
            session, Member.__table__, MADE, made(number), conflict=["id"], returning=["id", "external_id"]
        )
        assert sorted(new) == [(n, f"m{n}") for n in range(1, number + 1)]
        again = bulk_insert(
            session, Member.__table__, MADE, made(number + 1), conflict=["id"], returning=["id"]
        )
        assert again == [(number + 1,)]


def test_numbers_that_json_does_not_have_are_written(db: Database) -> None:
    margins = [0.1, 1e300, -0.0, math.inf, None]
    columns = ("id", "source", "sku", "currency", "margin", "fingerprint", "updated_at")
    rows = [(n, "shop", f"s{n}", "CNY", margin, "x", NOW) for n, margin in enumerate(margins)]
    with db.write() as session:
        bulk_insert(session, Product.__table__, columns, rows)
        assert list(session.scalars(sa.select(Product.margin).order_by(Product.id))) == margins


def test_each_row_gets_its_own_values(db: Database) -> None:
    later = NOW + timedelta(days=1)
    with db.write() as session:
        bulk_insert(session, Member.__table__, MADE, made(4))
        changes = [
            {"id": 3, "name": "three", "attributes": {"a": [1]}, "updated_at": later},
            {"id": 1, "name": None, "attributes": {}, "updated_at": NOW},
            {"id": 9, "name": "nobody", "attributes": {}, "updated_at": NOW},
        ]
        update_each(session, Member.__table__, "id", changes)
        only = [{"id": n, "fingerprint": "y"} for n in (1, 2)]
        update_each(
            session, Member.__table__, "id", only, where="members.external_id <> :not_", params={"not_": "m2"}
        )
    with db.read() as session:
        found = session.scalars(sa.select(Member).order_by(Member.id)).all()
        assert [(m.name, m.attributes, m.updated_at, m.fingerprint) for m in found] == [
            (None, {}, NOW, "y"),
            (None, {}, NOW, "x"),
            ("three", {"a": [1]}, later, "x"),
            (None, {}, NOW, "x"),
        ]


def test_values_are_added_to_what_is_there(db: Database) -> None:
    with db.write() as session:
        session.add(WarehouseMark(id=1, table_name="orders", month="2026-03"))
        session.flush()
        update_each(session, WarehouseMark.__table__, "month", [{"month": "2026-03", "id": 41}], add=True)
        update_each(session, WarehouseMark.__table__, "month", [], add=True)
        assert list(
            session.scalars(sa.select(sa.literal_column("id")).select_from(WarehouseMark.__table__))
        ) == [42]
