"""Holds of points: held, captured, released, over by their time; and the sum of all points."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from loyalty import burning, earn_rules, point_holds, points, points_check
from loyalty.earn_rules import EarnRule
from loyalty.earning import accrue_orders
from loyalty.ledger import NotEnough
from loyalty.models import PointsEntry, PointsHold, PointsHoldLot, PointsLot
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, put_order

NEVER = EarnRule(expiry_months=None)
MONTHLY = EarnRule(pending_days=0, expiry_months=1, timezone="UTC")
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
OVER = NOW + 28 * DAY + 12 * timedelta(hours=1)


@pytest.fixture
def one(db: Database) -> Database:
    add_members(db, 2)
    return db


def grant(database: Database, number: int, source: str, rule: EarnRule = NEVER) -> None:
    with database.write() as session:
        points.grant_many(session, [(1, number, source)], NOW, rule=rule)


def hold(
    database: Database, number: int, key: str = "h1", now: datetime = NOW, minutes: int = 30
) -> point_holds.Held:
    with database.write() as session:
        return point_holds.hold(
            session, 1, number, source_id=f"o-{key}", idempotency_key=key, now=now, minutes=minutes
        )


def burn(
    database: Database,
    number: int | None = None,
    key: str = "b1",
    hold_id: int | None = None,
    now: datetime = NOW,
    source: str | None = None,
) -> burning.Burned:
    with database.write() as session:
        return burning.burn(
            session, 1, number, source_id=source, idempotency_key=key, now=now, hold_id=hold_id
        )


def release(
    database: Database, hold_id: int, key: str = "r1", now: datetime = NOW, member: int = 1
) -> point_holds.Released:
    with database.write() as session:
        return point_holds.release(session, member, hold_id, idempotency_key=key, now=now)


def balance(database: Database, now: datetime = NOW) -> points.Balance:
    with database.read() as session:
        assert points.check(session) == []
        found = points_check.totals(session, now, 1)
        assert found.conserved, found
        return points.balance(session, 1, now)


def test_what_is_held_cannot_be_burnt_until_it_is_released(one: Database) -> None:
    grant(one, 100, "a")
    held = hold(one, 80)
    assert (held.points, held.available, held.expires_at) == (80, 20, NOW + 30 * MINUTE)
    assert balance(one) == points.Balance(available=20, held=80)
    with pytest.raises(NotEnough, match="has 20 points"):
        burn(one, 21, source="x")
    with pytest.raises(NotEnough):
        hold(one, 21, "h2")
    assert release(one, held.hold_id) == point_holds.Released(80, 0, 100)
    assert release(one, held.hold_id) == point_holds.Released(80, 0, 100)  # the same key again
    assert balance(one) == points.Balance(available=100)


def test_a_capture_takes_at_most_what_is_held_and_releases_the_rest(one: Database) -> None:
    grant(one, 50, "dated", MONTHLY)
    grant(one, 50, "undated")
    held = hold(one, 80)
    with pytest.raises(Conflict, match="has 80 points; 81"):
        burn(one, 81, hold_id=held.hold_id)
    assert burn(one, 60, hold_id=held.hold_id) == burning.Burned(60, 40)
    with one.read() as session:
        left = session.execute(sa.select(PointsLot.source_id, PointsLot.remaining)).all()
        assert dict(tuple(row) for row in left) == {"dated": 0, "undated": 40}
        row = session.scalars(sa.select(PointsHold)).one()
        assert (row.state, row.captured, row.resolved_at) == ("captured", 60, NOW)
    assert balance(one).available == 40
    with one.write() as session:  # what a capture burnt is given back like any other burn
        back = burning.refund_burn(session, 1, source_id="o-h1", idempotency_key="f", now=NOW)
    assert back == burning.Refunded(60, 0, 0, 100)


def test_a_hold_resolves_once(one: Database) -> None:
    grant(one, 100, "a")
    first, second = hold(one, 40).hold_id, hold(one, 40, "h2").hold_id
    assert burn(one, None, "b1", first) == burning.Burned(40, 20)
    assert burn(one, None, "b1", first) == burning.Burned(40, 20)
    for again in (lambda: burn(one, 1, "b2", first), lambda: release(one, first, "r2")):
        with pytest.raises(Conflict):
            again()
    release(one, second, "r3")
    with pytest.raises(point_holds.HoldOver, match="was released before"):
        burn(one, 1, "b3", second)
    assert balance(one) == points.Balance(available=60)


def test_a_hold_whose_time_is_over_frees_its_points_swept_or_not(one: Database) -> None:
    grant(one, 100, "a")
    held = hold(one, 80)
    later = NOW + 30 * MINUTE
    assert balance(one, later - timedelta(seconds=1)).available == 20
    assert balance(one, later) == points.Balance(available=100)
    entries = count(one, "points_entries")
    for refused in (
        lambda: burn(one, 10, "b1", held.hold_id, later),
        lambda: release(one, held.hold_id, "r1", later),
    ):
        with pytest.raises(point_holds.HoldOver, match="time of the hold"):
            refused()
    assert count(one, "points_entries") == entries
    assert burn(one, 90, "b2", now=later, source="x") == burning.Burned(90, 10)  # frees it on the way
    assert balance(one, later) == points.Balance(available=10)
    with one.write() as session:
        assert point_holds.expire_holds(session, later, 10) == 0


def test_the_sweep_frees_holds_in_parts_and_once(one: Database) -> None:
    grant(one, 100, "a")
    for number in range(5):
        hold(one, 10, f"h{number}")
    hold(one, 10, "long", minutes=60)
    later = NOW + 31 * MINUTE
    for expected in (2, 2, 1, 0):
        with one.write() as session:
            assert point_holds.expire_holds(session, later, 2) == expected
    assert balance(one, later) == points.Balance(available=90, held=10)


def test_what_returns_to_a_lot_that_is_over_expires_at_once(one: Database) -> None:
    """What was held in time can still be captured; the rest of its lot is over."""
    grant(one, 50, "dated", MONTHLY)
    grant(one, 10, "undated")
    at = OVER + 15 * DAY - 10 * MINUTE
    with one.write() as session:  # a lot that ends ten minutes after the hold began
        session.execute(
            sa.update(PointsLot).where(PointsLot.source_id == "dated").values(expires_at=at + 5 * MINUTE)
        )
    held = hold(one, 60, now=at)
    assert burn(one, 30, hold_id=held.hold_id, now=at + 10 * MINUTE) == burning.Burned(30, 10)
    found = balance(one, at + 10 * MINUTE)
    assert found == points.Balance(available=10)
    with one.read() as session:
        totals = points_check.totals(session, at + 10 * MINUTE)
        assert (totals.issued, totals.spent, totals.expired, totals.held) == (60, 30, 20, 0)


def test_points_taken_back_while_they_are_held_become_a_debt_that_the_release_repays(one: Database) -> None:
    with one.write() as session:
        put_order(session, 1, 1, 10_000)
        assert accrue_orders(session, MONTHLY, NOW, 10).earned == 100
    held = hold(one, 70)
    with one.write() as session:
        put_order(session, 1, 1, 10_000, refunded=10_000, status="refunded")
        assert accrue_orders(session, MONTHLY, NOW, 10).taken_back == 100
    assert balance(one) == points.Balance(debt=70, held=70)
    assert balance(one, NOW + 30 * MINUTE) == points.Balance()  # as if it was swept
    assert release(one, held.hold_id) == point_holds.Released(70, 0, 0)
    assert balance(one) == points.Balance()


def test_bad_holds_are_refused_and_write_nothing(one: Database) -> None:
    grant(one, 100, "a")
    for number in (0, -5, 10**15):
        with pytest.raises(InvalidInput):
            hold(one, number)
    for minutes in (0, 1441):
        with pytest.raises(InvalidInput, match="minutes"):
            hold(one, 5, minutes=minutes)
    held = hold(one, 10)
    with pytest.raises(Conflict, match="another request"):
        hold(one, 11)
    assert hold(one, 10) == held
    with pytest.raises(NotFound, match="no hold 999"):
        burn(one, 1, hold_id=999)
    with pytest.raises(NotFound):
        release(one, held.hold_id, member=2)
    with pytest.raises(Conflict, match="for “o-h1”"):
        burn(one, 1, "b9", held.hold_id, source="another")
    with pytest.raises(InvalidInput, match="name a hold"):
        burn(one, None)
    assert count(one, "points_holds") == 1
    assert balance(one) == points.Balance(available=90, held=10)


def test_the_check_finds_a_hold_that_its_lots_do_not_make_up(one: Database) -> None:
    grant(one, 100, "a")
    held = hold(one, 30)
    with one.write() as session:
        lot = session.scalars(sa.select(PointsLot.id)).one()
        session.execute(sa.update(PointsHoldLot).values(points=29))
    with one.read() as session:
        assert points.check(session) == [
            points.Difference(1, lot, "held", 29, 30),
            points.Difference(1, None, f"hold {held.hold_id}", 30, 29),
        ]
    with one.write() as session:
        session.execute(sa.update(PointsHoldLot).values(points=30))
        session.execute(sa.delete(PointsEntry).where(PointsEntry.kind == "grant"))
    with one.read() as session:
        assert not points_check.totals(session, NOW).conserved


def test_the_rule_of_inactivity_moves_the_end_of_what_is_left(one: Database) -> None:
    rule = EarnRule("1", 0, 6, "UTC", expires="inactivity")
    with one.write() as session:
        earn_rules.save_rule(session, rule, "ann", NOW)
        points.grant_many(session, [(1, 100, "a")], NOW)
        points.grant_many(session, [(1, 10, "fixed")], NOW, rule=MONTHLY)
    held = hold(one, 20)
    burn(one, 5, "b1", now=NOW + 10 * DAY, source="x")
    with one.read() as session:
        ends = dict(tuple(r) for r in session.execute(sa.select(PointsLot.source_id, PointsLot.expires_at)))
    assert ends == {"a": datetime(2026, 9, 11, 12, tzinfo=NOW.tzinfo), "fixed": NOW + 31 * DAY}
    assert held.points == 20
