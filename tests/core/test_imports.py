"""Imports on both databases: idempotent, exact about what they refuse."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import InvalidInput
from core.files import RejectsFile, open_rows
from core.imports import ConsentChange, Reject, Report, load_rows, numbered
from core.models import Event, Member, Order, OrderLine, Product, ProductChange, Todo, WarehouseMark
from core.settings import Settings
from tests.conftest import count

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Loader:
    """Loads files and rows into a database, and keeps what was refused."""

    def __init__(self, database: Database, settings: Settings, folder: Path) -> None:
        self.database, self.settings, self.folder = database, settings, folder
        self.rejects: list[Reject] = []
        self.consents: list[ConsentChange] = []

    def rows(self, kind: str, rows: Any, **options: Any) -> Report:
        self.rejects = []
        return load_rows(
            self.database,
            kind,
            rows,
            settings=self.settings,
            source="shop",
            now=NOW,
            consents=lambda _session, changes: self.consents.extend(changes),
            on_reject=self.rejects.append,
            **options,
        )

    def csv(self, kind: str, content: str | bytes, **mapping: str) -> Report:
        path = self.folder / f"{kind}.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return self.rows(kind, open_rows(path, kind, mapping))

    @property
    def reasons(self) -> dict[int, str]:
        return {reject.line: reject.reason for reject in self.rejects}


@pytest.fixture
def load(db: Database, settings: Settings, tmp_path: Path) -> Loader:
    return Loader(db, settings, tmp_path)


MEMBERS = """member_id,name,email,phone,tags,registered_at,email_consent,attributes.size
m1,Zoë,ZOE@Example.com,13800138000,vip;new,2026-01-02T03:04:05,true,42
m2,李雷,,,,2026-01-02 03:04:05+00:00,,007
"""
ORDERS = """order_id,member_id,ordered_at,sku,amount,status,quantity
o1,m1,2026-02-01T10:00:00,mug,12.50,paid,1
o1,m1,2026-02-01T10:00:00,tea,7.5,refunded,2
o2,m9,2026-02-28T23:00:00,mug,10,cancelled,1
"""


def test_members_arrive_with_everything_they_brought(load: Loader) -> None:
    assert load.csv("members", MEMBERS) == Report(rows=2, inserted=2)
    with load.database.read() as session:
        first, second = session.scalars(sa.select(Member).order_by(Member.id))
    assert (first.email, first.phone, first.tags) == ("zoe@example.com", "+8613800138000", ["new", "vip"])
    assert first.registered_at == datetime(2026, 1, 1, 19, 4, 5, tzinfo=UTC), (
        "a time without offset is the shop's"
    )
    assert second.registered_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert first.attributes == {"size": 42}
    assert second.attributes == {"size": "007"}, "an identifier is no number"
    assert first.email_index
    assert second.email_index is None
    assert load.consents == [ConsentChange(first.id, "email", "marketing", True, "import", NOW)]


def one_member(load: Loader) -> Member:
    with load.database.read() as session:
        return session.scalars(sa.select(Member).where(Member.external_id == "m1")).one()


def test_what_a_row_does_not_name_stays_as_it_is(load: Loader) -> None:
    load.csv("members", MEMBERS)
    assert load.csv("members", "member_id,city,attributes.shoe\nm1,Shanghai,38\n").updated == 1
    member = one_member(load)
    assert (member.name, member.email, member.city) == ("Zoë", "zoe@example.com", "Shanghai")
    assert member.email_index
    assert (member.tags, member.attributes) == (["new", "vip"], {"size": 42, "shoe": 38})
    load.csv("members", "member_id,email,city,attributes.size\nm1,,,\n")
    member = one_member(load)
    assert (member.email, member.email_index, member.city) == (None, None, None), "an empty cell empties"
    assert (member.name, member.attributes) == ("Zoë", {"shoe": 38})
    rows = [
        {"member_id": "m1", "name": "Zoe"},
        {"member_id": "m7", "tags": ["a"]},
        {"member_id": "m8", "city": "x"},
    ]
    assert load.rows("members", numbered(rows)) == Report(rows=3, inserted=2, updated=1)
    assert one_member(load).name == "Zoe"
    load.csv("products", "sku,name,price,stock\nmug,Mug,5.00,7\n")
    load.csv("products", "sku,stock\nmug,0\n")
    with load.database.read() as session:
        mug = session.scalars(sa.select(Product)).one()
        change = session.scalars(sa.select(ProductChange)).one()
    assert (mug.name, mug.price_minor, mug.stock) == ("Mug", 500, 0)
    assert (change.old_price_minor, change.new_price_minor, change.new_stock) == (500, 500, 0)


def test_tags_of_the_console_survive_an_import(load: Loader) -> None:
    load.csv("members", "member_id,tags\nm1,vip;new\n")
    with load.database.write() as session:
        member = session.scalars(sa.select(Member)).one()
        member.tags = ["called", "vip"]
    load.csv("members", "member_id,tags,city\nm1,vip;new,Wuhan\n")
    assert one_member(load).tags == ["called", "vip"], "the shop said nothing new of its tags"
    load.csv("members", "member_id,tags\nm1,new;gold\n")
    assert one_member(load).tags == ["called", "gold"], "it took vip back and gave gold"


def test_orders_add_up_their_lines_and_leave_their_traces(load: Loader) -> None:
    assert load.csv("orders", ORDERS) == Report(rows=3, inserted=3)
    with load.database.read() as session:
        first, second = session.scalars(sa.select(Order).order_by(Order.external_id))
        marks = set(session.execute(sa.select(WarehouseMark.table_name, WarehouseMark.month)))
        todo = session.scalars(sa.select(Todo.subject_id).where(Todo.queue == "loyalty.orders")).all()
    assert (first.total_minor, first.refunded_minor, first.status) == (2000, 750, "refunded")
    assert (second.total_minor, second.status) == (1000, "cancelled")
    assert sorted(todo) == [first.id, second.id]
    assert {("orders", "2026-02"), ("order_lines", "2026-02"), ("members", "all")} == marks
    assert count(load.database, "members") == 2, "a buyer we do not know yet becomes a member"


@pytest.mark.parametrize(("kind", "content"), [("members", MEMBERS), ("orders", ORDERS)])
def test_the_same_file_twice_changes_nothing(load: Loader, kind: str, content: str) -> None:
    rows = load.csv(kind, content).rows
    with load.database.write() as session:
        session.execute(sa.delete(WarehouseMark))
        session.execute(sa.delete(Todo))
    load.consents.clear()
    assert load.csv(kind, content) == Report(rows=rows, unchanged=rows)
    assert count(load.database, "warehouse_marks") == count(load.database, "todos") == 0
    assert load.consents == []


def test_a_changed_order_replaces_its_lines_and_marks_both_months(load: Loader) -> None:
    load.csv("orders", ORDERS)
    with load.database.write() as session:
        session.execute(sa.delete(WarehouseMark))
    changed = ORDERS.replace("2026-02-01", "2026-01-31").replace(",12.50,", ",11,")
    assert load.csv("orders", changed) == Report(rows=3, updated=2, unchanged=1)
    with load.database.read() as session:
        order = session.scalars(sa.select(Order).where(Order.external_id == "o1")).one()
        lines = session.scalars(sa.select(OrderLine.amount_minor).where(OrderLine.order_id == order.id)).all()
        months = set(
            session.scalars(sa.select(WarehouseMark.month).where(WarehouseMark.table_name == "orders"))
        )
    assert order.total_minor == 1850
    assert sorted(lines) == [750, 1100]
    assert months == {"2026-01", "2026-02"}


def test_bad_rows_are_reported_by_line_and_the_good_ones_load(load: Loader) -> None:
    content = (
        "\ufefforder_id,member_id,ordered_at,amount,currency,quantity\r\n"
        "a,m1,2026-02-01,10,CNY,1\r\n"
        "b,m1,2026-02-31,10,CNY,1\r\n"
        "c,m1,2026-02-01,10,XYZ,1\r\n"
        "d,m1,2026-02-01,10,CNY,-1\r\n"
        "e,m1,2026-02-01,-5,CNY,1\r\n"
        "f,m1,2026-02-01,1.005,CNY,1\r\n"
        "g,,2026-02-01,1,CNY,1\r\n"
        "h,m1,2026-02-01,1\r\n"
        "\r\n"
        "i,m1,2026-02-01,1,CNY,1\r\n"
    ).encode() + b"j,m\xff,2026-02-01,1,CNY,1\r\nk,m1,2026-02-01,1,CNY,1\r\n"
    assert load.csv("orders", content) == Report(rows=11, inserted=3, rejected=8)
    assert {line: reason.split(":")[0].split(" ")[0] for line, reason in load.reasons.items()} == {
        3: "ordered_at", 4: "currency", 5: "quantity", 6: "amount", 7: "amount", 8: "member_id", 9: "the", 12: "the",
    }  # fmt: skip
    assert "not UTF-8" in load.reasons[12]
    assert "only 4 cells" in load.reasons[9]


def test_a_repeated_id_is_refused_where_ids_are_unique(load: Loader) -> None:
    report = load.csv("members", "member_id,name\nm1,A\nm2,B\nm1,C\n")
    assert report == Report(rows=3, inserted=2, rejected=1)
    assert load.reasons == {4: "“m1” stands already on line 2."}


def test_an_order_is_loaded_whole_or_not_at_all(load: Loader) -> None:
    bad = "order_id,member_id,ordered_at,amount\no1,m1,2026-02-01,5\no1,m1,2026-02-01,x\no1,m2,2026-02-01,5\no2,m1,2026-02-01,5\n"
    assert load.csv("orders", bad) == Report(rows=4, inserted=1, rejected=3)
    assert "whole or not at all" in load.reasons[2]
    assert "not an amount" in load.reasons[3]
    assert "another member" in load.reasons[4]
    assert count(load.database, "order_lines") == 1


def test_lines_of_an_order_may_stand_apart(load: Loader) -> None:
    apart = (
        "order_id,member_id,ordered_at,amount\no1,m1,2026-02-01,5\no2,m1,2026-02-01,6\no1,m1,2026-02-01,7\n"
    )
    assert load.csv("orders", apart) == Report(rows=3, inserted=3)
    assert load.csv("orders", apart) == Report(rows=3, unchanged=3)
    with load.database.read() as session:
        totals = dict(session.execute(sa.select(Order.external_id, Order.total_minor)).all())
    assert totals == {"o1": 1200, "o2": 600}


def test_events_are_known_by_id_or_by_content(load: Loader) -> None:
    content = 'event_id,member_id,kind,occurred_at,properties,properties.n\n,m1,view,2026-02-01T01:00:00Z,"{""sku"": ""a""}",5\n'
    assert load.csv("events", content) == Report(rows=1, inserted=1)
    assert load.csv("events", content) == Report(rows=1, unchanged=1)
    with load.database.read() as session:
        assert session.scalars(sa.select(Event.properties)).one() == {"sku": "a", "n": 5}
    assert load.csv("events", content.replace('"{""sku"": ""a""}"', "[1]")).rejected == 1


def test_a_dry_run_counts_and_writes_nothing(load: Loader, tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text(ORDERS)
    report = load.rows("orders", open_rows(tmp_path / "o.csv", "orders", {}), dry_run=True)
    assert report == Report(rows=3, inserted=3)
    assert {count(load.database, table) for table in ("orders", "order_lines", "members", "todos")} == {0}


def test_parquet_and_mapping_give_the_same_as_csv(load: Loader, tmp_path: Path) -> None:
    table = pa.table(
        {
            "customer": ["m1"],
            "order_id": [7],
            "ordered_at": [datetime(2026, 2, 1, tzinfo=UTC)],
            "amount": [12.5],
        }
    )
    pq.write_table(table, tmp_path / "orders.parquet")
    rows = open_rows(tmp_path / "orders.parquet", "orders", {"customer": "member_id"})
    assert rows.rows == 1
    assert load.rows("orders", rows) == Report(rows=1, inserted=1)
    assert load.csv(
        "orders",
        "customer,order_id,ordered_at,amount\nm1,7,2026-02-01T08:00:00,12.50\n",
        customer="member_id",
    ) == Report(rows=1, unchanged=1)


def test_rows_of_a_request_load_like_a_file(load: Loader) -> None:
    rows = [
        {"member_id": "m1", "tags": ["b", "a"], "attributes": {"x": 1}, "email": "nonsense"},
        {"member_id": "m2", "sms_consent": False},
    ]
    assert load.rows("members", numbered(rows)) == Report(rows=2, inserted=1, rejected=1)
    assert "not an e-mail address" in load.reasons[1]
    assert [change.granted for change in load.consents] == [False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("order_id,amount\n", "lacks member_id, ordered_at"),
        ("order_id,order_id,member_id,ordered_at,amount\n", "Two columns"),
        (b"caf\xe9,order_id\n", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_before_anything(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=message):
        open_rows(path, "orders", {})


def test_the_rejects_file_can_be_mended_and_imported_again(load: Loader, tmp_path: Path) -> None:
    load.csv("members", "member_id,timezone\nm1,Mars/Base\nm2,Asia/Shanghai\n")
    with RejectsFile(tmp_path / "r.csv", ["member_id", "timezone"]) as file:
        for reject in load.rejects:
            file.add(reject)
    with (tmp_path / "r.csv").open(encoding="utf-8") as handle:
        row = next(csv.DictReader(handle))
    assert (row["line"], row["member_id"], row["timezone"]) == ("2", "m1", "Mars/Base")
    rows = open_rows(tmp_path / "r.csv", "members", {})
    assert rows.ignored == ["line", "reason"]


def test_lines_apart_in_parquet_are_brought_together_too(load: Loader, tmp_path: Path) -> None:
    rows = {
        "order_id": ["a", "b", "a"],
        "member_id": ["m"] * 3,
        "ordered_at": ["2026-02-01"] * 3,
        "amount": [1.0, 2, 3],
    }
    pq.write_table(pa.table(rows), tmp_path / "apart.parquet")
    assert load.rows("orders", open_rows(tmp_path / "apart.parquet", "orders", {})) == Report(
        rows=3, inserted=3
    )
    assert count(load.database, "orders") == 2
