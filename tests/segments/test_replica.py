"""Over every fact of every package: the replica equals the database, also after an erasure."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from channels import consent, events, outbox, templates
from channels.models import Consent, ConsentEvent, Message, Suppression, Template
from channels.sql import mark_touches
from core.contacts import blind_index
from core.db import Database
from core.errors import NotFound
from core.imports import load_rows, numbered
from core.models import AuditEntry, Member, Order
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica, read
from loyalty import coupons, earning, points, settlement
from loyalty.models import Coupon, PointsEntry, Redemption
from loyalty.tiers import review, store
from loyalty.tiers.model import Program, Tier
from segments import erasure, lists
from segments.facts import FACTS
from tests.conftest import count

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HTML = "<html><body><p>{{ coupon.code }}</p><a href='{{ unsubscribe_url }}'>x</a></body></html>"
WITH_MEMBERS = [fact.name for fact in FACTS if "member_id" in fact.schema.names]


class Everything:
    """A shop with something in every fact table, over several months, for members m1 … m4."""

    def __init__(self, database: Database, settings: Settings, folder: Path) -> None:
        self.database, self.settings = database, settings
        self.replica = Replica(str(folder), FACTS)
        self.load("members", [
            {"member_id": f"m{n}", "name": f"Name {n}", "email": f"m{n}@example.com", "tags": "vip",
             "phone": f"1380013800{n}", "email_consent": "true", "sms_consent": "false"}
            for n in range(1, 5)
        ])  # fmt: skip
        with database.read() as session:
            self.ids = dict(session.execute(sa.select(Member.external_id, Member.id)).all())
        for price in ("5", "4"):
            self.load("products", [{"sku": "mug", "price": price, "category": "mugs"}])
        self.load("events", [
            {"member_id": f"m{n}", "kind": "view", "occurred_at": at(n * 20), "properties": {"sku": "mug"}}
            for n in range(1, 5)
        ])  # fmt: skip
        self.coupons_and_orders()
        self.messages()
        with database.write() as session:
            ladder = (Tier("silver", "Silver", 0),)
            store.save_program(session, Program(ladder), "ann", NOW)
            review.review(session, store.load_program(session), NOW)
            lists.create(session, name="all", title="All", external_ids=self.ids, by="ann", now=NOW)

    def load(self, kind: str, rows: list[dict[str, Any]]) -> Any:
        return load_rows(
            self.database, kind, numbered(rows), settings=self.settings, source="shop", now=NOW,
            consents=consent.set_imported,
        )  # fmt: skip

    def coupons_and_orders(self) -> None:
        new = coupons.NewBatch("ten", "10 off", {"type": "fixed", "amount": 1000}, "CNY")
        with self.database.write() as session:
            batch = coupons.create_batch(session, new, "ann", NOW)
            self.codes = coupons.issue(
                session, batch, [(self.ids[f"m{n}"], f"k{n}") for n in range(1, 5)], NOW
            )
        self.load("orders", [
            {"order_id": f"o{n}", "member_id": f"m{n}", "ordered_at": at(n * 20), "sku": "mug",
             "amount": "90", "discount": "10", "coupon_code": self.codes[f"k{n}"]}
            for n in range(1, 5)
        ])  # fmt: skip
        with self.database.write() as session:
            earning.accrue_orders(session, earning.EarnRule(), NOW, 100)
            assert settlement.settle_orders(session, NOW, 100).redeemed == 4

    def messages(self) -> None:
        with self.database.write() as session:
            templates.save(
                session, self.settings, name="back", channel="email", purpose="marketing",
                contents={"en": {"subject": "s", "html": HTML, "text": "{{ unsubscribe_url }}"}},
                by="ann", now=NOW,
            )  # fmt: skip
            template = session.scalars(sa.select(Template.id)).one()
            outbox.enqueue(session, [
                outbox.OutboxRow(f"run:1:{n}:{k}", self.ids[f"m{n}"], "email", "marketing", template, 1, {},
                                 "run", 1, [], None, NOW, None, NOW - timedelta(days=40 * k))
                for n in range(1, 5) for k in range(3)
            ])  # fmt: skip
            # The newest of each member's messages still waits; the others were sent and opened.
            old = Message.created_at < NOW
            session.execute(sa.update(Message).where(old).values(state="sent", sent_at=NOW, settled_at=NOW))
            sent = session.execute(sa.select(Message.id, Message.created_at).where(old)).all()
            mark_touches(session, [row.created_at for row in sent])
            opened = [
                events.Receipt(events.OPENED, NOW, f"open:{row.id}", row.id, actor="human") for row in sent
            ]
            assert events.apply(session, opened, NOW).new == 8

    def equal(self) -> list[str]:
        """Names of the facts whose replica is not what the database says now."""
        engine = DuckEngine(self.replica)
        different = []
        for fact in FACTS:
            order = [(name, "ascending") for name in fact.schema.names[:3]]
            names = ", ".join(f'"{name}"' for name in fact.schema.names)
            stored = engine.query(f"SELECT {names} FROM {fact.name}").cast(fact.schema)
            if stored.sort_by(order) != read(self.database, fact).sort_by(order):
                different.append(fact.name)
        return different

    def members_in(self, fact: str) -> set[int]:
        table = DuckEngine(self.replica).query(f"SELECT DISTINCT member_id FROM {fact}")
        return set(table.column(0).to_pylist())

    def erase(self, name: str) -> None:
        with self.database.write() as session:
            erasure.erase(session, self.ids[name], "ann", NOW)


def at(days: int) -> str:
    return (NOW - timedelta(days=days)).isoformat()


@pytest.fixture
def shop(db: Database, settings: Settings, tmp_path: Path) -> Everything:
    return Everything(db, settings, tmp_path / "warehouse")


def test_after_an_erasure_no_fact_holds_the_member_and_all_equal_the_database(shop: Everything) -> None:
    assert set(shop.equal()) == {fact.name for fact in FACTS}, "nothing was synced yet"
    shop.replica.sync(shop.database)
    assert shop.equal() == []
    for fact in WITH_MEMBERS:
        assert shop.members_in(fact) == set(shop.ids.values()), fact
    shop.erase("m2")
    different = set(shop.equal())
    assert different == set(WITH_MEMBERS), "the erasure is news to every fact that holds members"
    shop.replica.sync(shop.database)
    assert shop.equal() == []
    for fact in WITH_MEMBERS:
        assert shop.members_in(fact) == set(shop.ids.values()) - {shop.ids["m2"]}, fact
    assert count(shop.database, "warehouse_marks") == 0


def test_an_erasure_rewrites_only_months_that_held_the_member(shop: Everything) -> None:
    shop.replica.sync(shop.database)
    before = {
        (fact.name, name): Path(name).stat().st_mtime_ns
        for fact in FACTS
        for name in shop.replica.files(fact.name)
    }
    shop.erase("m1")
    shop.replica.sync(shop.database)
    touched = {
        f"{fact}/{Path(name).stem}"
        for (fact, name), written in before.items()
        if not Path(name).exists() or Path(name).stat().st_mtime_ns != written
    }
    assert touched == {
        "members/all", "consents/all", "lists/all", "tiers/all", "orders/2026-02", "order_lines/2026-02",
        "events/2026-02",
        "points/2026-03", "redemptions/2026-02", "touches/2026-01", "touches/2025-12",
    }  # fmt: skip


def test_the_books_stay_and_nothing_tells_who_it_was(shop: Everything) -> None:
    shop.erase("m2")
    erased = shop.ids["m2"]
    with shop.database.read() as session:
        member = session.get_one(Member, erased)
        for model in (Order, Coupon, Redemption, PointsEntry, ConsentEvent):
            assert session.scalars(sa.select(model).where(model.member_id == erased)).first(), model
        assert session.scalars(sa.select(Consent).where(Consent.member_id == erased)).all() == []
        audits = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "erase")).all()
    details = (member.name, member.email, member.email_index, member.phone_index, member.city)
    assert set(details) == {None}
    assert (member.tags, member.attributes) == ([], {})
    assert member.erased_at == NOW
    assert [(entry.actor, entry.object_id) for entry in audits] == [("ann", str(erased))]
    assert len(audits) == 1


def test_the_addresses_are_never_written_to_again(shop: Everything) -> None:
    index = blind_index("email", "m2@example.com")
    with shop.database.write() as session:
        consent.suppress(session, "email", str(index), "complaint", "provider", NOW)
    shop.erase("m2")
    with shop.database.read() as session:
        rows = {
            (row.channel, row.address_index): row.reason for row in session.scalars(sa.select(Suppression))
        }
    assert rows == {
        ("email", index): "erased",
        ("sms", blind_index("phone", "+8613800138002")): "erased",
    }, "the harder reason replaces the complaint; a channel without an address has no row"
    shop.load("members", [{"member_id": "new", "email": "M2@example.com", "email_consent": "true"}])
    with shop.database.read() as session:
        fresh = session.scalars(sa.select(Member.id).where(Member.external_id == "new")).one()
        assert consent.refusals(session, [fresh], "email", "marketing") == {fresh: "suppressed"}
        assert consent.refusals(session, [fresh], "email", "transactional") == {fresh: "suppressed"}


def test_what_waits_in_the_outbox_is_not_sent(shop: Everything) -> None:
    shop.erase("m2")
    with shop.database.read() as session:
        rows = session.execute(
            sa.select(Message.member_id, Message.state, Message.reason).where(Message.state != "sent")
        ).all()
    assert {(row.state, row.reason) for row in rows if row.member_id == shop.ids["m2"]} == {
        ("skipped", "erased")
    }
    assert {row.state for row in rows if row.member_id != shop.ids["m2"]} == {"queued"}


def test_a_later_file_brings_nobody_back(shop: Everything) -> None:
    shop.erase("m2")
    report = shop.load("members", [{"member_id": "m2", "name": "Name 2", "email": "m2@example.com"}])
    assert (report.unchanged, report.updated, report.rejected) == (1, 0, 0)
    shop.load("orders", [{"order_id": "o9", "member_id": "m2", "ordered_at": at(3), "amount": "5"}])
    shop.load("events", [{"member_id": "m2", "kind": "view", "occurred_at": at(3)}])
    with shop.database.write() as session:
        points.grant_many(session, [(shop.ids["m2"], 5, "late")], NOW)
    shop.replica.sync(shop.database)
    assert shop.equal() == []
    assert all(shop.ids["m2"] not in shop.members_in(fact) for fact in WITH_MEMBERS)
    with shop.database.read() as session:
        assert session.get_one(Member, shop.ids["m2"]).email is None


def test_erasing_twice_or_nobody(shop: Everything) -> None:
    shop.erase("m2")
    shop.erase("m2")
    with pytest.raises(NotFound, match="no member number 999"), shop.database.write() as session:
        erasure.erase(session, 999, "ann", NOW)
    assert count(shop.database, "suppressions") == 2


def test_a_rebuilt_replica_equals_too(shop: Everything) -> None:
    shop.replica.sync(shop.database)
    shop.erase("m3")
    shop.replica.rebuild(shop.database)
    assert shop.equal() == []
    contents = json.dumps(
        [pq.read_table(name).to_pylist() for fact in FACTS for name in shop.replica.files(fact.name)],
        default=str,
    )
    for secret in ("m3@example.com", "Name 3", "13800138003", "m1@example.com"):
        assert secret not in contents
