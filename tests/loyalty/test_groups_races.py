"""Groups on PostgreSQL, with real threads; each race is lost without the lock of the group's row."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from loyalty.groups import groups
from loyalty.groups.models import Group
from tests.conftest import count
from tests.loyalty.data import scalar, together
from tests.loyalty.test_groups import DEADLINE, given_offer, joined, opened, states

MEMBERS, AT_ONCE = 60, 30


def unlocked_read(parties: int) -> Callable[..., Any]:
    """Reads the group without its lock, when all the others have read it too."""
    gate = threading.Barrier(parties)

    def read(session: Any, token: str) -> Any:
        found = session.execute(
            sa.select(Group.id, Group.offer_id, Group.seats, Group.state, Group.deadline).where(
                Group.token == token
            )
        ).one()
        gate.wait(timeout=30)
        return found

    return read


def fifty_join(database: Database, token: str, first: int, number: int = 50) -> Counter[str]:
    def job(member: int) -> Callable[[], None]:
        return lambda: (joined(database, token, member), None)[1]

    return together([job(member) for member in range(first, first + number)])


def given_three_seats_left(database: Database) -> str:
    given_offer(database, MEMBERS, seats=5)
    token = opened(database).token
    joined(database, token, 2)
    return token


def test_of_fifty_members_at_the_last_three_seats_three_get_one(pg_db: Database) -> None:
    token = given_three_seats_left(pg_db)
    assert fifty_join(pg_db, token, 3) == {"done": 3, "Refused": 47}
    assert states(pg_db) == (["unlocked"], ["unlocked"] * 5)
    assert (count(pg_db, "coupons"), count(pg_db, "group_seats")) == (5, 5)


def test_without_the_groups_lock_all_of_them_get_one(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = given_three_seats_left(pg_db)
    monkeypatch.setattr(groups, "_lock_group", unlocked_read(AT_ONCE))
    members, gate = groups._members, threading.Barrier(AT_ONCE)

    def read_and_wait(*arguments: Any) -> Any:
        found = members(*arguments)
        gate.wait(timeout=30)
        return found

    monkeypatch.setattr(groups, "_members", read_and_wait)
    assert fifty_join(pg_db, token, 3, AT_ONCE) == {"done": AT_ONCE}
    assert count(pg_db, "group_seats") == AT_ONCE + 2  # of 5


def test_two_groups_that_fill_at_once_with_members_in_common_wait_for_nobody_in_a_ring(
    pg_db: Database,
) -> None:
    given_offer(pg_db, 6, batch={"per_member_limit": 100}, max_open=9)
    for turn in range(8):
        one, other = (opened(pg_db, 1, f"{turn}a").token, opened(pg_db, 2, f"{turn}b").token)
        joined(pg_db, one, 2, key=f"{turn}c")
        joined(pg_db, other, 1, key=f"{turn}d")
        jobs = [
            lambda one=one, turn=turn: joined(pg_db, one, 3, key=f"{turn}e"),
            lambda other=other, turn=turn: joined(pg_db, other, 4, key=f"{turn}f"),
        ]
        assert together(jobs) == {"done": 2}  # type: ignore[arg-type]
    assert count(pg_db, "coupons") == 48


def last_seat_against_the_deadline(database: Database) -> tuple[str, int, int]:
    """One takes the last seat a moment before the deadline, one closes at it: state, codes, seats released."""
    token = opened(database).token
    joined(database, token, 2)

    def close() -> None:
        with database.write() as session:
            groups.close_due(session, DEADLINE, 10)

    together([lambda: joined(database, token, 3, DEADLINE - timedelta(seconds=1)), close])
    released = int(scalar(database, "SELECT count(*) FROM group_seats WHERE state = 'released'"))
    return states(database)[0][0], count(database, "coupons"), released


@pytest.mark.parametrize("_turn", range(5))
def test_a_group_is_unlocked_or_failed_and_never_both(pg_db: Database, _turn: int) -> None:
    given_offer(pg_db)
    assert last_seat_against_the_deadline(pg_db) in (("unlocked", 3, 0), ("failed", 0, 2))


def test_without_the_groups_lock_codes_are_issued_for_a_group_that_failed(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_offer(pg_db)
    done, gate = threading.Event(), threading.Barrier(2)

    def due(session: Any, *_: Any) -> list[int]:
        found = list(session.scalars(sa.select(Group.id).where(Group.state == "open")))
        gate.wait(timeout=30)
        done.wait(timeout=30)
        return found

    joins = 0

    def lock(session: Any, token: str) -> Any:
        nonlocal joins
        joins += 1
        if joins == 1:  # the second member's join: nobody to race with
            return original(session, token)
        gate.wait(timeout=30)
        return session.execute(
            sa.select(Group.id, Group.offer_id, Group.seats, Group.state, Group.deadline).where(
                Group.token == token
            )
        ).one()

    original, unlock = groups._lock_group, groups._unlock

    def unlock_and_tell(*arguments: Any) -> None:
        unlock(*arguments)
        done.set()

    monkeypatch.setattr(groups, "_lock_due", due)
    monkeypatch.setattr(groups, "_lock_group", lock)
    monkeypatch.setattr(groups, "_unlock", unlock_and_tell)
    assert last_seat_against_the_deadline(pg_db) == ("failed", 3, 3)


def test_the_same_request_twenty_times_at_once_takes_one_seat(pg_db: Database) -> None:
    given_offer(pg_db, 5)
    token = opened(pg_db).token
    assert together([lambda: joined(pg_db, token, 2, key="k")] * 20) == {"done": 20}
    assert count(pg_db, "group_seats") == 2


def test_a_member_who_joins_many_groups_at_once_gets_into_as_many_as_allowed(pg_db: Database) -> None:
    given_offer(pg_db, 21)
    tokens = [opened(pg_db, leader, f"o{leader}").token for leader in range(1, 21)]

    def job(token: str) -> Callable[[], Any]:
        return lambda: joined(pg_db, token, 21, key=token)

    assert together([job(token) for token in tokens]) == {"done": 1, "Refused": 19}
