"""Reminders of what expires, and the report of what is outstanding."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.db import Database
from core.errors import InvalidInput
from loyalty import burning, liability, point_holds, point_value, points
from loyalty.earn_rules import EarnRule
from loyalty.earning import accrue_orders
from tests.loyalty.data import NOW, add_members, put_order

DAY = timedelta(days=1)


def months(number: int) -> EarnRule:
    return EarnRule("1", 0, number, "Asia/Shanghai")


@pytest.fixture
def shop(db: Database) -> Database:
    add_members(db, 3)
    with db.write() as session:
        points.grant_many(session, [(1, 100, "a"), (2, 40, "b")], NOW, rule=months(1))
        points.grant_many(session, [(1, 50, "c"), (3, 10, "d")], NOW, rule=months(2))
        points.grant_many(session, [(1, 1000, "e")], NOW, rule=EarnRule(expires="never"))
        points.grant_many(session, [(2, 7, "f")], NOW, rule=EarnRule(expires="year_end"))
    return db


def test_members_who_lose_points_soon_are_named_with_when(shop: Database) -> None:
    with shop.write() as session:
        burning.burn(session, 2, 40, source_id="o", idempotency_key="o", now=NOW)
    with shop.read() as session:
        soon = liability.expiring(session, NOW, within_days=31)
        assert soon == [liability.Expiring(1, 100, NOW + 31 * DAY)]
        all_ = liability.expiring(session, NOW, within_days=62)
        assert [(found.member_id, found.points) for found in all_] == [(1, 150), (3, 10)]
        assert [f.member_id for f in liability.expiring(session, NOW, within_days=62, after=1)] == [3]
        assert len(liability.expiring(session, NOW, within_days=62, limit=1)) == 1
        assert liability.expiring(session, NOW, within_days=30) == []
        for days in (0, 367):
            with pytest.raises(InvalidInput):
                liability.expiring(session, NOW, within_days=days)


def test_what_is_outstanding_is_told_by_month_in_points_and_money(shop: Database) -> None:
    with shop.write() as session:
        point_value.save(session, "0.5", "ann", NOW)
        point_holds.hold(session, 1, 20, source_id="h", idempotency_key="h", now=NOW)
        put_order(session, 1, 3, 3000)
        accrue_orders(session, EarnRule("1", 7, 1), NOW, 10)
    with shop.read() as session:
        found = liability.report(session, NOW)
    assert found.months == (
        liability.MonthDue("2026-04", 150, 75),
        liability.MonthDue("2026-05", 60, 30),
        liability.MonthDue("2026-12", 7, 4),
        liability.MonthDue(None, 1000, 500),
    )
    assert (found.outstanding, found.pending, found.held, found.debt) == (1217, 30, 20, 0)
    assert (found.worth_minor, found.breakage, found.expected_minor) == (619, None, 619)
    assert liability.table(found)[-1] == ("never", 1000, 500)


def test_breakage_is_what_expired_of_lots_that_are_over(shop: Database) -> None:
    with shop.write() as session:
        burning.burn(session, 1, 70, source_id="o", idempotency_key="o", now=NOW)
    later = NOW + 40 * DAY
    for swept in (False, True):
        with shop.write() as session:
            if swept:
                points.expire(session, later, 10)
            found = liability.report(session, later)
        # Lots of 100 and 40 are over; 30 and 40 of them were never burnt.
        assert (found.breakage, found.breakage_base) == (0.5, 140)
        assert found.outstanding == 50 + 10 + 1000 + 7
        assert found.expected_minor == 1067 - 33  # half of the 67 that have an end, rounded half up


def test_a_shop_without_points_owes_nothing(db: Database) -> None:
    with db.read() as session:
        found = liability.report(session, NOW)
    assert (found.months, found.outstanding, found.worth_minor, found.breakage) == ((), 0, 0, None)
