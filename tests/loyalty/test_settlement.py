"""Coupons on imported orders become redemptions, once, and come back with the order."""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from core.imports import COUPON_QUEUE, load_rows, numbered
from core.models import AuditEntry, Order, Todo, WarehouseMark
from core.settings import Settings
from loyalty import coupons, settlement
from loyalty.models import Coupon, Redemption
from loyalty.settlement import Settled, basket_before, discount_of, settle_orders
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members, together

ORDERED = NOW - timedelta(days=1)


class Till:
    """Imports orders as a shop's file does, and settles them."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self.settings = database, settings
        add_members(database, 3)

    def codes(self, *members: int | None, **batch: Any) -> list[str]:
        made = add_batch(self.database, **batch)
        with self.database.write() as session:
            issued = coupons.issue(
                session, made, [(m, f"{made.id}:{i}") for i, m in enumerate(members)], ORDERED
            )
        return [issued[f"{made.id}:{i}"] for i in range(len(members))]

    def order(self, code: str | None, number: int = 1, **columns: Any) -> None:
        row = {"order_id": f"o{number}", "member_id": "m1", "ordered_at": ORDERED.isoformat(), "amount": "90",
               "discount": "10", "coupon_code": code or "", "currency": "CNY"}  # fmt: skip
        report = load_rows(
            self.database, "orders", numbered([row | columns]), settings=self.settings, source="shop",
            now=NOW, consents=lambda _session, _changes: None,
        )  # fmt: skip
        assert report.rejected == 0

    def settle(self, now: datetime = NOW) -> Settled:
        with self.database.write() as session:
            return settle_orders(session, now, 100)

    def state(self, code: str) -> str:
        with self.database.read() as session:
            return session.scalars(sa.select(Coupon.state).where(Coupon.code == code)).one()

    def uses(self) -> list[Redemption]:
        with self.database.read() as session:
            return list(session.scalars(sa.select(Redemption).order_by(Redemption.id)))

    def refusals(self) -> list[AuditEntry]:
        with self.database.read() as session:
            return list(session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "refuse")))

    def redeem(self, code: str, order_ref: str = "o1", key: str = "till-1") -> coupons.Redeemed:
        with self.database.write() as session:
            return coupons.redeem(
                session, code, order_ref=order_ref, basket_minor=10_000, currency="CNY",
                member_external_id=None, idempotency_key=key, now=NOW,
            )  # fmt: skip


@pytest.fixture
def till(db: Database, settings: Settings) -> Till:
    return Till(db, settings)


def test_a_paid_order_redeems_its_code_once(till: Till) -> None:
    (code,) = till.codes(1)
    till.order(code)
    with till.database.write() as session:
        session.execute(sa.delete(WarehouseMark))
    assert till.settle() == Settled(todos=1, redeemed=1)
    (use,) = till.uses()
    assert (use.member_id, use.order_ref, use.basket_minor, use.discount_minor, use.currency) == (
        1, "o1", 10_000, 1000, "CNY",
    )  # fmt: skip
    assert use.redeemed_at == ORDERED, "the code was used when the order was placed"
    assert use.idempotency_key == f"order:{order_id(till)}"
    assert till.state(code) == "redeemed"
    with till.database.read() as session:
        marks = session.execute(sa.select(WarehouseMark.table_name, WarehouseMark.month)).all()
    assert [tuple(row) for row in marks] == [("redemptions", "2026-02")]
    assert till.settle() == Settled()
    till.order(code, sku="mug")  # the order comes again, changed
    assert till.settle() == Settled(todos=1)
    assert len(till.uses()) == 1


def order_id(till: Till, number: int = 1) -> int:
    with till.database.read() as session:
        return session.scalars(sa.select(Order.id).where(Order.external_id == f"o{number}")).one()


def test_orders_without_a_code_leave_no_to_do_row(till: Till) -> None:
    till.order(None)
    with till.database.read() as session:
        assert session.scalars(sa.select(Todo.subject_id).where(Todo.queue == COUPON_QUEUE)).all() == []


def test_a_code_is_found_however_the_shop_writes_it(till: Till) -> None:
    (code,) = till.codes(1)
    till.order(f" {code[:4].lower()}-{code[4:8]} {code[8:]} ")
    assert till.settle().redeemed == 1


@pytest.mark.parametrize("code", ["WELCOME10", "it's;--", "AAAAAAAAAAAAAAAA", "打折", "x" * 64])
def test_codes_of_other_systems_are_no_errors(till: Till, code: str) -> None:
    till.order(code)
    assert till.settle() == Settled(todos=1)
    assert till.refusals() == []
    assert count(till.database, "todos") == 1, "the row for points is another queue's"


def test_a_code_that_the_till_redeemed_on_this_order_is_done(till: Till) -> None:
    (code,) = till.codes(1)
    before = till.redeem(code)
    till.order(code)
    assert till.settle() == Settled(todos=1)
    assert [use.id for use in till.uses()] == [before.redemption_id]
    assert till.refusals() == []


def test_what_the_till_gave_back_stays_given_back(till: Till) -> None:
    (code,) = till.codes(1)
    till.redeem(code)
    with till.database.write() as session:
        coupons.rollback(session, code, order_ref="o1", idempotency_key="back-1", now=NOW)
    till.order(code)
    assert till.settle() == Settled(todos=1)
    assert till.state(code) == "issued"


@pytest.mark.parametrize("by_api", [False, True])
@pytest.mark.parametrize("status", ["refunded", "cancelled"])
def test_an_order_that_is_undone_gives_its_code_back(till: Till, status: str, by_api: bool) -> None:
    (code,) = till.codes(1)
    if by_api:
        till.redeem(code)
    till.order(code)
    till.settle()
    till.order(code, status=status)
    assert till.settle() == Settled(todos=1, rolled_back=1)
    assert till.uses()[0].rolled_back_at == NOW
    assert till.state(code) == "issued"
    till.order(code, status=status, sku="mug")
    assert till.settle() == Settled(todos=1), "a rollback is not repeated"


def test_a_partial_refund_keeps_the_code_redeemed(till: Till) -> None:
    (code,) = till.codes(1)
    till.order(code)
    till.settle()
    lines = [{"amount": "50", "discount": "5", "status": "refunded"}, {"amount": "40", "discount": "5"}]
    head = {"order_id": "o1", "member_id": "m1", "ordered_at": ORDERED.isoformat(), "coupon_code": code}
    load_rows(
        till.database, "orders", numbered([head | line for line in lines]), settings=till.settings,
        source="shop", now=NOW, consents=lambda _session, _changes: None,
    )  # fmt: skip
    assert till.settle() == Settled(todos=1, returned=1)
    assert till.state(code) == "redeemed"


def test_an_order_that_was_never_paid_redeems_nothing(till: Till) -> None:
    (code,) = till.codes(1)
    till.order(code, status="cancelled")
    assert till.settle() == Settled(todos=1)
    assert till.state(code) == "issued"
    assert till.uses() == []


def test_an_order_that_is_paid_again_redeems_again(till: Till) -> None:
    (code,) = till.codes(1)
    for status, state in (
        ("paid", "redeemed"),
        ("cancelled", "issued"),
        ("paid", "redeemed"),
        ("refunded", "issued"),
    ):
        till.order(code, status=status)
        till.settle()
        assert till.state(code) == state
    assert [use.idempotency_key for use in till.uses()] == [
        f"order:{order_id(till)}",
        f"order:{order_id(till)}:1",
    ]
    assert all(use.rolled_back_at for use in till.uses())


def test_a_code_given_back_after_its_end_is_expired(till: Till) -> None:
    (code,) = till.codes(1, ends_at=NOW + timedelta(days=1))
    till.order(code)
    till.settle()
    till.order(code, status="cancelled")
    assert till.settle(NOW + timedelta(days=2)).rolled_back == 1
    assert till.state(code) == "expired"


def test_an_order_that_names_another_code_gives_the_first_back(till: Till) -> None:
    first, second = till.codes(1, 1)
    till.order(first)
    till.settle()
    till.order(second)
    assert till.settle() == Settled(todos=1, redeemed=1, rolled_back=1)
    assert (till.state(first), till.state(second)) == ("issued", "redeemed")
    till.order(None)
    assert till.settle() == Settled(todos=1, rolled_back=1)
    assert till.state(second) == "issued"


def test_a_file_without_codes_does_not_undo_what_the_till_redeemed(till: Till) -> None:
    (code,) = till.codes(1)
    till.redeem(code)
    till.order("WELCOME10")  # and names a code of another system
    till.settle()
    assert till.state(code) == "redeemed"


def test_a_late_file_is_judged_by_the_time_of_the_order(till: Till) -> None:
    (code,) = till.codes(1, ends_at=NOW + timedelta(days=1))
    later = NOW + timedelta(days=5)
    with till.database.write() as session:
        coupons.expire(session, later, 100)
    assert till.state(code) == "expired"
    till.order(code)
    assert till.settle(later) == Settled(todos=1, redeemed=1)


@pytest.mark.parametrize(
    ("batch", "order", "reason"),
    [
        (
            {"ends_at": NOW + timedelta(hours=1)},
            {"ordered_at": (NOW + timedelta(hours=2)).isoformat()},
            "expired",
        ),
        ({"starts_at": NOW}, {}, "not_yet_valid"),
        ({}, {"member_id": "m2"}, "other_member"),
        ({"currency": "USD"}, {}, "wrong_currency"),
        ({"min_spend_minor": 10_001}, {}, "below_min_spend"),
    ],
)
def test_a_refusal_is_kept_with_its_reason(
    till: Till, batch: dict[str, Any], order: dict[str, Any], reason: str
) -> None:
    (code,) = till.codes(1, **batch)
    till.order(code, **order)
    assert till.settle() == Settled(todos=1, refused=1)
    assert till.uses() == []
    (entry,) = till.refusals()
    assert (entry.actor, entry.object_type, entry.object_id) == ("settlement", "coupon", code)
    assert (entry.detail["reason"], entry.detail["order"]) == (reason, "o1")
    assert code in entry.detail["message"]
    till.order(code, sku="changed", **order)
    till.settle()
    assert len(till.refusals()) == 1, "the same refusal is not written again"


def test_revoked_and_archived_codes_are_refused(till: Till) -> None:
    (code,) = till.codes(1)
    (withdrawn,) = till.codes(1, name="withdrawn")
    with till.database.write() as session:
        coupons.revoke(session, [code], "ann", NOW)
        batch = coupons.find_batch(session, "withdrawn")
        coupons.archive_batch(session, batch, "ann", ORDERED - timedelta(hours=1))
    till.order(code)
    till.order(withdrawn, 2)
    assert till.settle() == Settled(todos=2, refused=2)
    assert {entry.detail["reason"] for entry in till.refusals()} == {"revoked", "archived"}


def test_of_two_orders_with_one_code_the_earlier_has_it(till: Till) -> None:
    (code,) = till.codes(None)
    till.order(code, 1, member_id="m2")
    till.order(code, 2, member_id="m3", ordered_at=(ORDERED - timedelta(hours=1)).isoformat())
    assert till.settle() == Settled(todos=2, redeemed=1, refused=1)
    (use,) = till.uses()
    assert (use.order_ref, use.member_id) == ("o2", 3), "anybody's code belongs to who bought"
    assert till.refusals()[0].detail["reason"] == "already_redeemed"
    till.order(
        code, 2, member_id="m3", ordered_at=(ORDERED - timedelta(hours=1)).isoformat(), status="cancelled"
    )
    till.order(code, 1, member_id="m2", sku="mug")
    assert till.settle() == Settled(todos=2, redeemed=1, rolled_back=1), "what one order frees another uses"
    assert [use.order_ref for use in till.uses() if use.rolled_back_at is None] == ["o1"]


@pytest.mark.parametrize(
    ("benefit", "total", "stated", "basket", "discount"),
    [
        ({"type": "fixed", "amount": 1000}, 9000, 1000, 10_000, 1000),
        ({"type": "fixed", "amount": 1000}, 9000, 0, 10_000, 1000),
        ({"type": "fixed", "amount": 1000}, 9300, 700, 10_000, 700),  # off some of the lines only
        ({"type": "fixed", "amount": 1000}, 8500, 1500, 10_000, 1000),  # another promotion too
        ({"type": "fixed", "amount": 1000}, 0, 600, 600, 600),
        ({"type": "percent", "percent": "10", "max_amount": None}, 9000, 0, 10_000, 1000),
        ({"type": "percent", "percent": "10", "max_amount": 500}, 9500, 0, 10_000, 500),
        ({"type": "percent", "percent": "10", "max_amount": None}, 9001, 999, 10_000, 999),
        ({"type": "percent", "percent": "100", "max_amount": None}, 0, 5000, 5000, 5000),
        ({"type": "percent", "percent": "100", "max_amount": None}, 0, 0, 0, 0),
        ({"type": "percent", "percent": "100", "max_amount": 300}, 700, 0, 1000, 300),
    ],
)
def test_the_discount_is_the_orders_where_the_batch_can_have_given_it(
    benefit: dict[str, Any], total: int, stated: int, basket: int, discount: int
) -> None:
    assert basket_before(benefit, total, stated) == basket
    assert discount_of(benefit, basket, stated) == discount


def test_a_file_without_discounts_still_reaches_the_minimum_spend(till: Till) -> None:
    (code,) = till.codes(1, min_spend_minor=10_000)
    till.order(code, discount="")
    assert till.settle().redeemed == 1
    assert (till.uses()[0].basket_minor, till.uses()[0].discount_minor) == (10_000, 1000)


def test_workers_at_once_settle_every_order_once(pg_db: Database, settings: Settings) -> None:
    till = Till(pg_db, settings)
    codes = till.codes(*[1] * 60)
    for number, code in enumerate(codes, 1):
        till.order(code, number)
        till.order(code, number, sku="mug")  # two to-do rows an order
    totals: list[Settled] = []

    def work() -> None:
        while True:
            with till.database.write() as session:
                done = settle_orders(session, NOW, 7)
            if not done.todos:
                return
            totals.append(done)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done.todos for done in totals) == 120
    assert sum(done.redeemed for done in totals) == 60
    assert sum(done.refused for done in totals) == 0
    assert len(till.uses()) == 60


def test_two_orders_with_one_code_in_two_workers_at_once(
    pg_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the codes are not locked: both workers then find the code free, and one crashes."""
    till = Till(pg_db, settings)
    (code,) = till.codes(None)
    till.order(code, 1)
    till.order(code, 2)
    meeting, original = threading.Barrier(2), settlement._redemptions

    def meet(*args: Any) -> Any:
        found = original(*args)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(1.0)  # the other one is still waiting for the lock, if there is one
        return found

    monkeypatch.setattr(settlement, "_redemptions", meet)
    done: list[Settled] = []

    def work() -> None:
        with till.database.write() as session:
            done.append(settle_orders(session, NOW, 1))

    assert together([work, work]) == {"done": 2}
    assert sum(one.redeemed for one in done) == sum(one.refused for one in done) == 1
    assert len(till.uses()) == 1


def test_a_refund_that_arrives_meanwhile_is_seen_under_the_lock(
    pg_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that read the order as paid before another settled its refund redeems nothing."""
    till = Till(pg_db, settings)
    (code,) = till.codes(1)
    till.order(code)
    original, calls = settlement.locked_coupons, []

    def refund_first() -> Any:
        if not calls:
            calls.append(1)
            till.order(code, status="refunded")
            assert till.settle() == Settled(todos=1)
        return original()

    monkeypatch.setattr(settlement, "locked_coupons", refund_first)
    assert till.settle() == Settled(todos=1)
    assert till.state(code) == "issued"
    assert till.uses() == []
    assert calls == [1]


def test_the_limit_bounds_a_transaction(till: Till) -> None:
    for number, code in enumerate(till.codes(1, 1, 1), 1):
        till.order(code, number)
    with till.database.write() as session:
        assert settle_orders(session, NOW, 2) == Settled(todos=2, redeemed=2)
    assert till.settle() == Settled(todos=1, redeemed=1)


def test_the_flow_earns_points_and_settles_coupons(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from loyalty import flows

    (code,) = till.codes(1)
    till.order(code)
    monkeypatch.setattr(
        flows.core_settings,
        "load",
        lambda: till.settings.model_copy(update={"database_url": till.database.url}),
    )
    monkeypatch.setattr(flows, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(flows, "clock", lambda _settings: NOW)
    total = flows.accrue_points.fn()
    assert (total["todos"], total["earned"], total["redeemed"]) == (2, 90, 1)
    assert count(till.database, "todos") == 0
