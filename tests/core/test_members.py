"""Members found and erased; what an import may do with who was erased."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import members
from core.db import Database, among
from core.errors import NotFound
from core.imports import COUPON_QUEUE, LOYALTY_QUEUE, ConsentChange, Report, load_rows, numbered
from core.models import Event, Member, Order, Todo, WarehouseMark
from core.settings import Settings

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Shop:
    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self.settings = database, settings
        self.consents: list[ConsentChange] = []
        self.load("members", [
            {"member_id": "m1", "name": "王小明", "email": "one@example.com", "phone": "13800138001", "tags": "vip"},
            {"member_id": "m2", "name": "Wang_Li", "email": "two@example.com", "wechat_openid": "oPEN-2"},
        ])  # fmt: skip

    def load(self, kind: str, rows: list[dict[str, Any]]) -> Report:
        return load_rows(
            self.database, kind, numbered(rows), settings=self.settings, source="shop", now=NOW,
            consents=lambda _session, changes: self.consents.extend(changes),
        )  # fmt: skip

    def order(self, number: int, **columns: Any) -> Report:
        row = {"order_id": f"o{number}", "member_id": "m1", "ordered_at": NOW.isoformat(), "amount": "9"}
        return self.load("orders", [row | columns])

    def todos(self, queue: str) -> list[int]:
        with self.database.read() as session:
            return list(
                session.scalars(sa.select(Todo.subject_id).where(Todo.queue == queue).order_by(Todo.id))
            )

    def member(self, name: str) -> Member:
        with self.database.read() as session:
            return members.by_external_id(session, name)

    def erase(self, name: str, *erasers: members.Eraser) -> None:
        with self.database.write() as session:
            members.erase(session, members.by_external_id(session, name).id, "ann", NOW, erasers)


@pytest.fixture
def shop(db: Database, settings: Settings) -> Shop:
    return Shop(db, settings)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("m1", ["m1"]), ("M1", []), ("one@example.com", ["m1"]), (" ONE@example.com ", ["m1"]), ("one@", []),
        ("13800138001", ["m1"]), ("+86 138 0013 8001", ["m1"]), ("1380013800", []), ("oPEN-2", ["m2"]),
        ("王", ["m1"]), ("wang", ["m2"]), ("wang_l", ["m2"]), ("wang%", []), ("", []), ("'; DROP TABLE members", []),
    ],
)  # fmt: skip
def test_a_member_is_found_by_what_a_person_knows(shop: Shop, text: str, found: list[str]) -> None:
    with shop.database.read() as session:
        assert [member.external_id for member in members.search(session, text)] == found


def test_a_member_that_does_not_exist(shop: Shop) -> None:
    with shop.database.read() as session:
        with pytest.raises(NotFound, match="no member “m9”"):
            members.by_external_id(session, "m9")
        with pytest.raises(NotFound, match="no member “m1”"):
            members.by_external_id(session, "m1", "other")
    with shop.database.write() as session, pytest.raises(NotFound, match="no member number 99"):
        members.erase(session, 99, "ann", NOW)


def test_an_erasure_marks_the_months_of_cores_own_facts(shop: Shop) -> None:
    shop.order(1)
    shop.order(2, ordered_at=(NOW - timedelta(days=60)).isoformat())
    shop.load("events", [{"member_id": "m1", "kind": "view", "occurred_at": NOW.isoformat()}])
    with shop.database.write() as session:
        session.execute(sa.delete(WarehouseMark))
    shop.erase("m1")
    with shop.database.read() as session:
        marks = {
            tuple(row) for row in session.execute(sa.select(WarehouseMark.table_name, WarehouseMark.month))
        }
    assert marks == {
        ("members", "all"), ("orders", "2026-03"), ("orders", "2025-12"), ("order_lines", "2026-03"),
        ("order_lines", "2025-12"), ("events", "2026-03"),
    }  # fmt: skip


def test_the_packages_above_erase_while_the_addresses_are_still_known(shop: Shop) -> None:
    seen: list[tuple[str, bool, datetime]] = []

    def eraser(session: Session, member: Member, now: datetime) -> None:
        seen.append((member.external_id, member.email_index is not None, now))

    shop.erase("m2", eraser, eraser)
    assert seen == [("m2", True, NOW)] * 2
    assert shop.member("m2").email_index is None


def test_an_eraser_that_fails_erases_nothing(shop: Shop) -> None:
    def fail(session: Session, member: Member, now: datetime) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        shop.erase("m1", fail)
    assert shop.member("m1").erased_at is None
    assert shop.member("m1").email == "one@example.com"


def test_an_import_brings_nobody_back(shop: Shop) -> None:
    shop.erase("m1")
    row = {"member_id": "m1", "name": "王小明", "email": "one@example.com", "email_consent": "true"}
    assert shop.load("members", [row]) == Report(rows=1, unchanged=1)
    assert shop.consents == [], "nor their consent"
    member = shop.member("m1")
    assert (member.name, member.email, member.email_index, member.erased_at) == (None, None, None, NOW)
    assert shop.order(1) == Report(rows=1, inserted=1), "the books go on under the bare id"
    shop.load("events", [{"member_id": "m1", "kind": "view", "occurred_at": NOW.isoformat()}])
    with shop.database.read() as session:
        assert session.scalars(sa.select(Order.member_id)).all() == [member.id]
        assert session.scalars(sa.select(Event.member_id)).all() == [member.id]


def test_orders_that_name_a_code_leave_a_row_for_coupons(shop: Shop) -> None:
    shop.order(1, coupon_code="SPRING")
    shop.order(2)
    first, second = shop.todos(LOYALTY_QUEUE)
    assert shop.todos(COUPON_QUEUE) == [first]
    shop.order(1, coupon_code="SPRING")
    assert shop.todos(COUPON_QUEUE) == [first], "an order that did not change leaves nothing"
    shop.order(2, coupon_code="SUMMER")
    shop.order(1, status="refunded")
    assert shop.todos(COUPON_QUEUE) == [first, second, first], "nor is a code forgotten that was taken off"
    shop.order(1, status="refunded", amount="8")
    assert shop.todos(COUPON_QUEUE) == [first, second, first]
    assert len(shop.todos(LOYALTY_QUEUE)) == 5


def test_among_takes_any_number_of_values(shop: Shop) -> None:
    with shop.database.read() as session:
        for column, values in ((Member.external_id, ["m2", *map(str, range(50_000)), "it's", None]),
                               (Member.id, [shop.member("m2").id, *range(10_000, 60_000), None])):  # fmt: skip
            found = session.scalars(sa.select(Member.external_id).where(among(session, column, values))).all()
            assert found == ["m2"]
        assert session.scalars(sa.select(Member.id).where(among(session, Member.id, []))).all() == []
