"""Races on PostgreSQL, with real connections and threads; each is shown to be lost without its lock."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from loyalty import burning, coupons, issuing, ledger, points, redemptions, uses
from loyalty.earning import EarnRule, accrue_orders
from loyalty.models import Coupon, CouponBatch
from tests.loyalty.data import NOW, add_batch, add_members, put_order, scalar, together


def no_lock(*_: Any) -> None:
    """Stands in for a lock that was taken out."""


def meet(parties: int, read: Callable[..., Any]) -> Callable[..., Any]:
    """Read, then wait for the others: all of them have read the same state before anyone writes."""
    gate = threading.Barrier(parties)

    def instead(*arguments: Any) -> Any:
        found = read(*arguments)
        gate.wait(timeout=30)
        return found

    return instead


def drop_the_second_defence(database: Database, sql: str) -> None:
    """The constraint that stands behind a lock would turn a double spend into an error."""
    with database.engine.begin() as connection:
        connection.execute(sa.text(sql))


def spend_all(database: Database, tries: int) -> Counter[str]:
    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            with database.write() as session:
                burning.burn(session, 1, 100, source_id=f"s{number}", idempotency_key=f"k{number}", now=NOW)

        return run

    return together([job(number) for number in range(tries)])


def given_100_points(database: Database) -> None:
    add_members(database, 1)
    with database.write() as session:
        points.grant_many(session, [(1, 60, "a"), (1, 40, "b")], NOW)


def test_of_twenty_spends_of_the_whole_balance_one_succeeds(pg_db: Database) -> None:
    given_100_points(pg_db)
    assert spend_all(pg_db, 20) == {"done": 1, "NotEnough": 19}
    with pg_db.read() as session:
        assert points.balance(session, 1, NOW).available == 0
        assert points.check(session) == []


def test_without_the_members_lock_the_balance_is_spent_several_times(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_100_points(pg_db)
    drop_the_second_defence(pg_db, "ALTER TABLE points_lots DROP CONSTRAINT ck_points_lots_remaining")
    monkeypatch.setattr(ledger, "lock_members", no_lock)
    monkeypatch.setattr(ledger, "holdings", meet(20, ledger.holdings))
    assert spend_all(pg_db, 20) == {"done": 20}
    assert scalar(pg_db, "SELECT sum(remaining) FROM points_lots") == -1900


def test_behind_the_lock_the_table_itself_refuses_a_negative_lot(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_100_points(pg_db)
    monkeypatch.setattr(ledger, "lock_members", no_lock)
    monkeypatch.setattr(ledger, "holdings", meet(5, ledger.holdings))
    assert spend_all(pg_db, 5) == {"done": 1, "IntegrityError": 4}  # not in words any more, but refused
    assert scalar(pg_db, "SELECT sum(remaining) FROM points_lots") == 0


def fifty_baskets(database: Database, code: str) -> Counter[str]:
    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            with database.write() as session:
                coupons.redeem(
                    session,
                    code,
                    order_ref=f"o{number}",
                    basket_minor=5000,
                    currency="CNY",
                    member_external_id=None,
                    idempotency_key=f"k{number}",
                    now=NOW,
                )

        return run

    return together([job(number) for number in range(50)])


def one_code(database: Database) -> str:
    batch = add_batch(database)
    with database.write() as session:
        return coupons.issue(session, batch, [(None, "i")], NOW)["i"]


def test_one_code_in_many_baskets_is_redeemed_once(pg_db: Database) -> None:
    code = one_code(pg_db)
    assert fifty_baskets(pg_db, code) == {"done": 1, "Refused": 49}
    assert scalar(pg_db, "SELECT count(*) FROM redemptions") == 1


def test_without_the_codes_lock_it_is_redeemed_several_times(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = one_code(pg_db)
    drop_the_second_defence(pg_db, "DROP INDEX uq_redemptions_live")

    def unlocked(session: Any, codes: Any) -> Any:
        return session.execute(uses.coupons_with_batches().where(Coupon.code.in_(list(codes)))).all()

    monkeypatch.setattr(redemptions, "lock_coupons", meet(50, unlocked))
    assert fifty_baskets(pg_db, code) == {"done": 50}
    assert scalar(pg_db, "SELECT count(*) FROM redemptions WHERE rolled_back_at IS NULL") == 50


def three_hundred_tries(database: Database, batch: CouponBatch) -> int:
    """300 issues by 30 threads; how many codes were answered."""
    answered: Counter[int] = Counter()

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            for turn in range(10):
                with database.write() as session:
                    key = f"i{number}:{turn}"
                    answered[number] += len(coupons.issue(session, batch, [(None, key)], NOW))

        return run

    assert together([job(number) for number in range(30)]) == {"done": 30}
    return answered.total()


def test_a_limit_of_a_hundred_holds_under_three_hundred_tries(pg_db: Database) -> None:
    batch = add_batch(pg_db, total_limit=100)
    assert three_hundred_tries(pg_db, batch) == 100
    assert scalar(pg_db, "SELECT count(*) FROM coupons") == 100
    assert scalar(pg_db, "SELECT issued FROM coupon_batches") == 100


def test_without_lock_and_conditional_write_the_limit_is_passed(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = add_batch(pg_db, total_limit=1)

    def unconditional(session: Any, batch_id: int, number: int) -> bool:
        session.execute(
            sa.update(CouponBatch)
            .where(CouponBatch.id == batch_id)
            .values(issued=CouponBatch.issued + number)
        )
        return True

    gate = threading.Barrier(20)

    def reserve(session: Any, batch_id: int, number: int) -> bool:
        gate.wait(timeout=30)
        return unconditional(session, batch_id, number)

    monkeypatch.setattr(issuing, "_lock_batch", lambda *_: None)
    monkeypatch.setattr(issuing, "reserve", reserve)

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            with pg_db.write() as session:
                coupons.issue(session, batch, [(None, f"i{number}")], NOW)

        return run

    assert together([job(number) for number in range(20)]) == {"done": 20}
    assert scalar(pg_db, "SELECT count(*) FROM coupons") == 20


def member_tries(database: Database, batch: CouponBatch) -> int:
    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            with database.write() as session:
                coupons.issue(session, batch, [(1, f"i{number}")], NOW)

        return run

    assert together([job(number) for number in range(20)]) == {"done": 20}
    return int(scalar(database, "SELECT count(*) FROM coupons"))


def test_the_limit_a_member_holds_under_concurrency(pg_db: Database) -> None:
    add_members(pg_db, 1)
    assert member_tries(pg_db, add_batch(pg_db, per_member_limit=2)) == 2


def test_without_the_members_lock_a_member_gets_too_many(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_members(pg_db, 1)
    monkeypatch.setattr(issuing, "lock_rows", no_lock)
    monkeypatch.setattr(issuing, "_within_member_limit", meet(20, issuing._within_member_limit))
    assert member_tries(pg_db, add_batch(pg_db, per_member_limit=2)) == 20


def test_the_same_request_twenty_times_at_once_is_done_once(pg_db: Database) -> None:
    given_100_points(pg_db)
    answers = []

    def run() -> None:
        with pg_db.write() as session:
            answers.append(burning.burn(session, 1, 30, source_id="s", idempotency_key="k", now=NOW))

    assert together([run] * 20) == {"done": 20}
    assert set(answers) == {burning.Burned(30, 70)}
    assert scalar(pg_db, "SELECT sum(remaining) FROM points_lots") == 70


def test_the_same_issue_keys_at_once_give_the_same_codes(pg_db: Database) -> None:
    add_members(pg_db, 200)
    batch = add_batch(pg_db)
    answers = []

    def run() -> None:
        with pg_db.write() as session:
            answers.append(coupons.issue(session, batch, [(n, f"i{n}") for n in range(1, 201)], NOW))

    assert together([run] * 8) == {"done": 8}
    assert all(answer == answers[0] for answer in answers)
    assert scalar(pg_db, "SELECT count(*) FROM coupons") == 200


def test_several_workers_accrue_every_order_once(pg_db: Database) -> None:
    add_members(pg_db, 20)
    with pg_db.write() as session:
        for number in range(1, 201):
            put_order(session, number, number % 20 + 1, 1000)
            put_order(session, number, number % 20 + 1, 1000)  # seen twice: two to-do rows
    rule = EarnRule(pending_days=0)

    def run() -> None:
        for _ in range(8):
            with pg_db.write() as session:
                accrue_orders(session, rule, NOW, 17)

    assert together([run] * 6) == {"done": 6}
    with pg_db.write() as session:
        accrue_orders(session, rule, NOW, 1000)
        assert points.check(session) == []
    assert scalar(pg_db, "SELECT count(*) FROM todos") == 0
    assert scalar(pg_db, "SELECT sum(remaining) FROM points_lots") == 2000
