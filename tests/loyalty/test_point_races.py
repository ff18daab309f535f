"""Races of points on PostgreSQL, with real connections and threads; each is lost without its lock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from core.db import Database
from loyalty import burning, ledger, point_holds, point_transfers, points, points_check
from loyalty.point_transfers import TransferRule
from tests.loyalty.data import NOW, add_members, scalar, together
from tests.loyalty.test_races import drop_the_second_defence, meet, no_lock

LATER = NOW + timedelta(minutes=30)


@pytest.fixture
def hundred(pg_db: Database) -> Database:
    add_members(pg_db, 3)
    with pg_db.write() as session:
        points.grant_many(session, [(1, 60, "a"), (1, 40, "b")], NOW)
        point_transfers.save(session, TransferRule(True, 10**6), "ann", NOW)
    return pg_db


@pytest.fixture
def unlocked(hundred: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    drop_the_second_defence(hundred, "ALTER TABLE points_lots DROP CONSTRAINT ck_points_lots_remaining")
    monkeypatch.setattr(ledger, "lock_members", no_lock)
    return hundred


def sound(database: Database, now: Any = NOW) -> bool:
    with database.read() as session:
        return points.check(session) == [] and points_check.totals(session, now).conserved


def twenty(database: Database, act: Callable[[Any, int], Any]) -> Any:
    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            with database.write() as session:
                act(session, number)

        return run

    return together([job(number) for number in range(20)])


def burn_all(session: Any, number: int) -> None:
    burning.burn(session, 1, 100, source_id=f"s{number}", idempotency_key=f"k{number}", now=NOW)


def hold_all(session: Any, number: int) -> None:
    point_holds.hold(session, 1, 100, source_id=f"s{number}", idempotency_key=f"k{number}", now=NOW)


def give_all(session: Any, number: int) -> None:
    taker = 2 + number % 2
    point_transfers.transfer(session, 1, taker, 100, idempotency_key=f"k{number}", now=NOW)


@pytest.mark.parametrize("act", [burn_all, hold_all, give_all])
def test_of_twenty_who_want_the_whole_balance_one_gets_it(hundred: Database, act: Any) -> None:
    assert twenty(hundred, act) == {"done": 1, "NotEnough": 19}
    assert sound(hundred)
    assert scalar(hundred, "SELECT sum(remaining) FROM points_lots WHERE member_id = 1") == 0


@pytest.mark.parametrize("act", [burn_all, hold_all, give_all])
def test_without_the_lock_all_twenty_get_it(
    unlocked: Database, monkeypatch: pytest.MonkeyPatch, act: Any
) -> None:
    monkeypatch.setattr(ledger, "holdings", meet(20, ledger.holdings))
    assert twenty(unlocked, act) == {"done": 20}
    assert scalar(unlocked, "SELECT sum(remaining) FROM points_lots WHERE member_id = 1") == -1900


def test_transfers_there_and_back_at_once_do_not_deadlock(hundred: Database) -> None:
    with hundred.write() as session:
        points.grant_many(session, [(2, 100, "c")], NOW)

    def act(session: Any, number: int) -> None:
        giver, taker = (1, 2) if number % 2 else (2, 1)
        point_transfers.transfer(session, giver, taker, 5, idempotency_key=f"k{number}", now=NOW)

    assert twenty(hundred, act) == {"done": 20}
    assert sound(hundred)
    assert scalar(hundred, "SELECT sum(remaining) FROM points_lots") == 200


def held(database: Database) -> int:
    with database.write() as session:
        found = point_holds.hold(session, 1, 100, source_id="o", idempotency_key="h", now=NOW)
        return found.hold_id


def capture_and_sweep(hold_id: int) -> Callable[[Any, int], None]:
    """The capture's clock is a second before the hold's end, the sweep's is at it."""

    def act(session: Any, number: int) -> None:
        if number % 2:
            point_holds.expire_holds(session, LATER, 10)
        else:
            at = LATER - timedelta(seconds=1)
            burning.burn(
                session, 1, None, source_id=None, idempotency_key=f"b{number}", now=at, hold_id=hold_id
            )

    return act


def test_a_hold_is_captured_or_swept_never_both(hundred: Database) -> None:
    outcomes = twenty(hundred, capture_and_sweep(held(hundred)))
    assert outcomes["done"] in (10, 11)  # every sweep; and one capture at most
    assert outcomes["done"] + outcomes["HoldOver"] + outcomes["Conflict"] == 20
    assert sound(hundred, LATER)
    spent = -scalar(hundred, "SELECT coalesce(sum(delta), 0) FROM points_entries WHERE kind = 'spend'")
    assert spent == (100 if outcomes["done"] == 11 else 0)
    assert scalar(hundred, "SELECT count(*) FROM points_holds WHERE state = 'held'") == 0


def test_without_the_lock_a_hold_is_captured_and_swept(
    unlocked: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's unique key stands behind the lock; without both, points are given back twice."""
    hold_id = held(unlocked)
    drop_the_second_defence(
        unlocked, "ALTER TABLE points_entries DROP CONSTRAINT uq_points_entries_kind_source_id_lot_id"
    )
    monkeypatch.setattr(point_holds, "_resolve", meet_before(2, point_holds._resolve))
    act = capture_and_sweep(hold_id)

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            with unlocked.write() as session:
                act(session, number)

        return run

    assert together([job(0), job(1)]) == {"done": 2}
    assert not sound(unlocked, LATER)


def meet_before(parties: int, write: Callable[..., Any]) -> Callable[..., Any]:
    """Wait for the others, all of whom have read, and then write."""
    gate = meet(parties, no_lock)

    def instead(*arguments: Any) -> Any:
        gate()
        return write(*arguments)

    return instead
