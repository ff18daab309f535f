"""Races of coupons on PostgreSQL, with real connections and threads; each is lost without its lock."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from loyalty import budgets, claims, coupon_holds, coupons, issuing, redemptions, returns, uses
from loyalty.models import ClaimLink, Coupon, CouponBatch
from tests.loyalty.data import NOW, add_batch, add_members, scalar, together
from tests.loyalty.test_races import drop_the_second_defence, meet

LATER = NOW + timedelta(minutes=15)
CONNECTIONS = 64
USED = "SELECT budget_used_minor FROM coupon_batches"


def jobs(database: Database, do: Callable[[Any, int], Any], number: int, turns: int = 1) -> Counter[str]:
    """``do(session, n)`` in ``number`` threads, each a transaction a turn; how all of them ended."""
    ends: Counter[str] = Counter()
    lock = threading.Lock()

    def job(first: int) -> Callable[[], None]:
        def run() -> None:
            for turn in range(turns):
                try:
                    with database.write() as session:
                        do(session, first * turns + turn)
                    end = "done"
                except Exception as error:
                    end = getattr(error, "reason", type(error).__name__)
                with lock:
                    ends[end] += 1

        return run

    assert together([job(first) for first in range(number)]) == {"done": number}
    return ends


def a_code(database: Database, **batch: Any) -> str:
    made = add_batch(database, **batch)
    with database.write() as session:
        return coupons.issue(session, made, [(None, "i")], NOW)["i"]


def redeem(session: Any, code: str, number: int, member: str | None = None) -> coupons.Redeemed:
    return coupons.redeem(
        session, code, order_ref=f"o{number}", basket_minor=5000, currency="CNY",
        member_external_id=member, idempotency_key=f"k{number}", now=NOW,
    )  # fmt: skip


def hold(session: Any, code: str, number: int) -> coupons.Held:
    return coupons.hold(
        session, code, order_ref=f"o{number}", basket_minor=5000, currency="CNY",
        member_external_id=None, idempotency_key=f"h{number}", now=NOW,
    )  # fmt: skip


def unlocked(session: Any, code: str) -> Any:
    return session.execute(uses.coupons_with_batches().where(Coupon.code == code)).one()


def unconditional(session: Any, batch_id: int, number: int) -> bool:
    session.execute(
        sa.update(CouponBatch).where(CouponBatch.id == batch_id).values(issued=CouponBatch.issued + number),
        execution_options={"synchronize_session": False},
    )
    return True


def test_a_thousand_uses_of_a_code_for_many_stop_at_its_limit(pg_db: Database) -> None:
    """A thousand tries over 64 connections that are open before the first try begins."""
    add_batch(pg_db, generic_code="SPRING26", total_limit=100, budget_minor=10**6)
    wide = Database(pg_db.url, pool_size=CONNECTIONS)
    tries, ends, backends = iter(range(1000)), Counter[str](), set[int]()
    lock, gate = threading.Lock(), threading.Barrier(CONNECTIONS)

    def run() -> None:
        with wide.read() as session:
            backends.add(session.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
            gate.wait(timeout=60)
        while True:
            with lock:
                number = next(tries, None)
            if number is None:
                return
            try:
                with wide.write() as session:
                    redeem(session, "SPRING26", number)
                end = "done"
            except coupons.Refused as error:
                end = error.reason
            with lock:
                ends[end] += 1

    try:
        assert together([run] * CONNECTIONS) == {"done": CONNECTIONS}
    finally:
        wide.dispose()
    assert len(backends) == CONNECTIONS
    assert ends == {"done": 100, "total_limit": 900}
    assert scalar(pg_db, "SELECT count(*) FROM redemptions") == 100
    assert scalar(pg_db, "SELECT issued FROM coupon_batches") == 100
    assert scalar(pg_db, USED) == 100_000


def test_without_lock_and_conditional_write_a_code_for_many_passes_its_limit(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_batch(pg_db, generic_code="SPRING26", total_limit=1)
    gate = threading.Barrier(20)

    def reserve(session: Any, batch_id: int, number: int) -> bool:
        gate.wait(timeout=30)
        return unconditional(session, batch_id, number)

    monkeypatch.setattr(issuing, "_lock_batch", lambda *_: None)
    monkeypatch.setattr(issuing, "reserve", reserve)
    assert jobs(pg_db, lambda session, n: redeem(session, "SPRING26", n), 20) == {"done": 20}


def test_a_member_uses_a_code_for_many_once_in_twenty_tries(pg_db: Database) -> None:
    add_members(pg_db, 1)
    add_batch(pg_db, generic_code="SPRING26", per_member_limit=1, daily_per_member_limit=1)
    ends = jobs(pg_db, lambda session, n: redeem(session, "SPRING26", n, "m1"), 20)
    assert ends == {"done": 1, "per_member_limit": 19}


def test_a_members_day_is_counted_under_the_members_lock(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_members(pg_db, 1)
    batch = add_batch(pg_db, daily_per_member_limit=1)
    with pg_db.write() as session:
        made = list(coupons.issue(session, batch, [(1, f"i{n}") for n in range(20)], NOW).values())
    assert jobs(pg_db, lambda session, n: redeem(session, made[n], n), 10) == {
        "done": 1, "daily_member_limit": 9
    }  # fmt: skip
    drop_the_second_defence(pg_db, "DELETE FROM redemptions")
    monkeypatch.setattr(uses, "lock_rows", lambda *_: None)
    monkeypatch.setattr(uses, "uses_of_day", meet(10, uses.uses_of_day))
    assert jobs(pg_db, lambda session, n: redeem(session, made[n + 10], n + 10), 10) == {"done": 10}


def test_fifty_holds_of_one_code_leave_one(pg_db: Database) -> None:
    code = a_code(pg_db, budget_minor=50_000)
    assert jobs(pg_db, lambda session, n: hold(session, code, n), 50) == {"done": 1, "held": 49}
    assert scalar(pg_db, USED) == 1000


def test_without_the_codes_lock_it_is_held_several_times(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = a_code(pg_db)
    drop_the_second_defence(pg_db, "DROP INDEX uq_coupon_holds_live")
    monkeypatch.setattr(uses, "lock_coupon", meet(20, unlocked))
    assert jobs(pg_db, lambda session, n: hold(session, code, n), 20) == {"done": 20}


def two_of_a_hundred(database: Database) -> Counter[str]:
    batch = add_batch(database, budget_minor=1000, benefit={"type": "fixed", "amount": 100})
    with database.write() as session:
        budgets.take(session, batch.id, 900)
        made = list(coupons.issue(session, batch, [(None, "a"), (None, "b")], NOW).values())
    return jobs(database, lambda session, n: redeem(session, made[n], n), 2)


def test_of_two_uses_the_last_of_the_budget_pays_one(pg_db: Database) -> None:
    assert two_of_a_hundred(pg_db) == {"done": 1, "budget": 1}
    assert scalar(pg_db, USED) == 1000


def test_a_budget_that_is_read_and_then_written_is_passed(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def room(session: Any, batch_ids: Any) -> Any:
        left = CouponBatch.budget_minor - CouponBatch.budget_used_minor
        where = CouponBatch.id.in_(list(batch_ids))
        return dict(session.execute(sa.select(CouponBatch.id, left).where(where)).all())

    monkeypatch.setattr(budgets, "room", meet(2, room))
    assert two_of_a_hundred(pg_db) == {"done": 2}
    assert scalar(pg_db, USED) == 1100


def sweep_while_redeemed(database: Database, monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], int]:
    """Redeem a hold; the sweep comes when its state has been read. (how it ended, holds swept)."""
    code = a_code(database, budget_minor=5000)
    with database.write() as session:
        held = hold(session, code, 1)
    look = redemptions._hold_to_take
    swept: list[int] = []

    def looked_and_swept(*arguments: Any) -> Any:
        found = look(*arguments)

        def sweep() -> None:
            with database.write() as session:
                swept.append(coupon_holds.expire(session, LATER, 10))

        thread = threading.Thread(target=sweep)
        thread.start()
        thread.join(timeout=30)
        return found

    monkeypatch.setattr(redemptions, "_hold_to_take", looked_and_swept)

    def use(session: Any, _number: int) -> None:
        coupons.redeem_hold(
            session, held.hold_id, order_ref="o1", basket_minor=5000, currency="CNY",
            member_external_id=None, idempotency_key="k", now=LATER - timedelta(seconds=1),
        )  # fmt: skip

    return jobs(database, use, 1), swept[0]


def test_a_hold_that_is_redeemed_as_it_ends_has_one_outcome(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep_while_redeemed(pg_db, monkeypatch) == ({"done": 1}, 0)
    assert scalar(pg_db, USED) == 1000
    assert scalar(pg_db, "SELECT state FROM coupon_holds") == "redeemed"


def test_without_the_codes_lock_a_hold_ends_twice(pg_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redemptions, "lock_coupon", unlocked)
    assert sweep_while_redeemed(pg_db, monkeypatch) == ({"done": 1}, 1)
    assert scalar(pg_db, USED) == 0, "1000 was given and is not counted"


def test_holds_ending_and_redeemed_at_once_leave_money_and_codes_right(pg_db: Database) -> None:
    batch = add_batch(pg_db, budget_minor=10**6)
    with pg_db.write() as session:
        made = list(coupons.issue(session, batch, [(None, f"i{n}") for n in range(100)], NOW).values())
        for number, code in enumerate(made):
            hold(session, code, number)

    def either(session: Any, number: int) -> None:
        if number % 2:
            coupon_holds.expire(session, LATER, 7)
        else:
            redeem(session, made[number // 2], number // 2)

    assert set(jobs(pg_db, either, 20, 10)) == {"done"}
    live = scalar(pg_db, "SELECT count(*) FROM redemptions")
    held = scalar(pg_db, "SELECT count(*) FROM coupon_holds WHERE state = 'held'")
    assert live == 100
    assert scalar(pg_db, USED) == 1000 * (live + held)
    assert scalar(pg_db, "SELECT count(*) FROM coupons WHERE state = 'redeemed'") == 100


def ten_rollbacks(database: Database) -> Counter[str]:
    code = a_code(database, budget_minor=50_000)
    with database.write() as session:
        redeem(session, code, 1)

    def back(session: Any, number: int) -> None:
        coupons.rollback(
            session, code, order_ref="o1", idempotency_key=f"r{number}", now=NOW, amount_minor=2500
        )

    return jobs(database, back, 10)


def test_of_ten_rollbacks_of_a_half_two_give_back(pg_db: Database) -> None:
    assert ten_rollbacks(pg_db) == {"done": 2, "Conflict": 8}
    assert scalar(pg_db, USED) == 0


def test_without_the_codes_lock_the_money_comes_back_ten_times(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returns, "lock_coupon", unlocked)
    monkeypatch.setattr(returns, "_live", meet(10, returns._live))
    assert ten_rollbacks(pg_db) == {"done": 10}
    assert scalar(pg_db, USED) == -4000


def test_rollbacks_against_uses_leave_one_live_use_at_most(pg_db: Database) -> None:
    code = a_code(pg_db, budget_minor=10**6)

    def either(session: Any, number: int) -> None:
        if number % 2:
            coupons.rollback(session, code, order_ref=f"o{number - 1}", idempotency_key=f"r{number}", now=NOW)
        else:
            redeem(session, code, number)

    ends = jobs(pg_db, either, 20, 10)
    assert set(ends) <= {"done", "already_redeemed", "Conflict"}
    live = scalar(pg_db, "SELECT count(*) FROM redemptions WHERE rolled_back_at IS NULL")
    assert live in (0, 1)
    assert scalar(pg_db, USED) == 1000 * live
    assert scalar(pg_db, "SELECT state FROM coupons") == ("redeemed" if live else "issued")


def claims_of(database: Database, limit: int) -> Counter[str]:
    add_members(database, 30)
    batch = add_batch(database)
    with database.write() as session:
        link = claims.create_link(session, batch, claims.NewLink("x", limit), "ann", NOW)
    return jobs(database, lambda session, n: claims.claim_code(session, link.token, n % 30 + 1, NOW), 30)


def test_thirty_claims_of_a_link_of_ten_give_ten(pg_db: Database) -> None:
    assert claims_of(pg_db, 10) == {"done": 10, "claim_used_up": 20}
    assert scalar(pg_db, "SELECT claimed FROM claim_links") == 10


def test_a_links_limit_that_is_read_first_is_passed(pg_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_the_second_defence(pg_db, "ALTER TABLE claim_links DROP CONSTRAINT ck_claim_links_claimed")
    gate = threading.Barrier(30)

    def count(session: Any, link_id: int) -> bool:
        left = session.scalar(sa.select(ClaimLink.limit - ClaimLink.claimed).where(ClaimLink.id == link_id))
        gate.wait(timeout=30)
        session.execute(sa.update(ClaimLink).values(claimed=ClaimLink.claimed + 1))
        return bool(left > 0)

    monkeypatch.setattr(claims, "_count", count)
    assert claims_of(pg_db, 10) == {"done": 30}


def test_one_member_claims_once_however_often_the_page_is_sent(pg_db: Database) -> None:
    add_members(pg_db, 1)
    batch = add_batch(pg_db)
    with pg_db.write() as session:
        link = claims.create_link(session, batch, claims.NewLink("x", 5), "ann", NOW)
    assert jobs(pg_db, lambda session, n: claims.claim_code(session, link.token, 1, NOW), 20) == {"done": 20}
    assert scalar(pg_db, "SELECT count(*) FROM coupons") == 1
    assert scalar(pg_db, "SELECT claimed FROM claim_links") == 1
