"""Adjustments by hand, transfers between members, and points as payment."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from loyalty import adjustments, burning, point_holds, point_transfers, point_value, points, points_check
from loyalty.earn_rules import EarnRule
from loyalty.earning import accrue_orders
from loyalty.ledger import NotEnough
from loyalty.models import PointsEntry, PointsLot
from loyalty.point_transfers import TransferRefused, TransferRule
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, put_order

DAY = timedelta(days=1)
NEVER = EarnRule(expiry_months=None)
MONTHLY = EarnRule(pending_days=0, expiry_months=1, timezone="UTC")


@pytest.fixture
def two(db: Database) -> Database:
    add_members(db, 2)
    return db


def adjust(
    database: Database, number: int, key: str = "k", by: str = "ann", debt: bool = False
) -> tuple[int, str]:
    with database.write() as session:
        found = adjustments.ask(session, 1, number, "spilt tea", key=key, by=by, now=NOW, allow_debt=debt)
        return found.id, found.state


def decide(database: Database, number: int, approve: bool, by: str) -> None:
    with database.write() as session:
        adjustments.decide(session, number, approve=approve, by=by, now=NOW)


def grant(database: Database, number: int, source: str, rule: EarnRule = NEVER) -> None:
    with database.write() as session:
        points.grant_many(session, [(1, number, source)], NOW, rule=rule)


def balance(database: Database, member: int = 1) -> points.Balance:
    with database.read() as session:
        assert points.check(session) == []
        assert points_check.totals(session, NOW).conserved
        return points.balance(session, member, NOW)


def test_a_small_adjustment_is_made_at_once_and_once(two: Database) -> None:
    first = adjust(two, 300)
    assert first[1] == "done"
    assert adjust(two, 300) == first
    with pytest.raises(Conflict, match="another request"):
        adjust(two, 301)
    assert adjust(two, -100, "k2")[1] == "done"
    assert balance(two).available == 200
    assert count(two, "points_adjustments") == 2
    assert count(two, "audit_entries") == 2


def test_a_large_one_waits_for_a_second_person(two: Database) -> None:
    number, state = adjust(two, 1001)
    assert state == "pending"
    assert balance(two) == points.Balance()
    with pytest.raises(Conflict, match="cannot decide"):
        decide(two, number, True, "ann")
    decide(two, number, True, "bob")
    assert balance(two).available == 1001
    with pytest.raises(Conflict, match="decided before"):
        decide(two, number, False, "bob")
    other, _ = adjust(two, -1001, "k2")
    decide(two, other, False, "bob")
    assert balance(two).available == 1001
    with pytest.raises(NotFound):
        decide(two, 999, True, "bob")
    with two.write() as session:
        adjustments.save_limit(session, 0, "ann", NOW)
    assert adjust(two, 1, "k3")[1] == "pending"


def test_what_the_member_has_not_is_refused_or_becomes_a_debt(two: Database) -> None:
    grant(two, 50, "a")
    with pytest.raises(NotEnough, match="has 50 points; 80"):
        adjust(two, -80)
    assert count(two, "points_adjustments") == 0
    assert balance(two).available == 50
    adjust(two, -80, debt=True)
    assert balance(two) == points.Balance(debt=30)
    adjust(two, 100, "k2")
    found = balance(two)
    assert (found.available, found.debt) == (70, 0)


@pytest.mark.parametrize("number", [0, 10**15, -(10**15)])
def test_bad_adjustments_write_nothing(two: Database, number: int) -> None:
    with pytest.raises(InvalidInput):
        adjust(two, number)
    with two.write() as session, pytest.raises(InvalidInput, match="reason"):
        adjustments.ask(session, 1, 5, "  ", key="k", by="ann", now=NOW)
    assert count(two, "points_adjustments") == 0


def transfer(
    database: Database, number: int, key: str = "t", now: object = NOW
) -> point_transfers.Transferred:
    with database.write() as session:
        return point_transfers.transfer(session, 1, 2, number, idempotency_key=key, now=now)  # type: ignore[arg-type]


def allow(database: Database, per_day: int = 1000) -> None:
    with database.write() as session:
        point_transfers.save(session, TransferRule(True, per_day), "ann", NOW)


def test_a_transfer_keeps_the_ends_and_sums_to_nothing(two: Database) -> None:
    grant(two, 50, "dated", MONTHLY)
    grant(two, 100, "undated")
    with pytest.raises(TransferRefused, match="switched off"):
        transfer(two, 80)
    allow(two)
    assert transfer(two, 80) == point_transfers.Transferred(80, 70)
    assert transfer(two, 80) == point_transfers.Transferred(80, 70)
    assert balance(two).available == 70
    assert balance(two, 2).available == 80
    with two.read() as session:
        rows = session.execute(
            sa.select(PointsLot.member_id, PointsLot.issued, PointsLot.remaining, PointsLot.expires_at)
            .order_by(PointsLot.id)
        ).all()  # fmt: skip
        end = rows[0].expires_at
        assert [tuple(row) for row in rows[2:]] == [(2, 50, 50, end), (2, 30, 30, None)]
        moved = PointsEntry.kind.in_(("transfer", "receive"))
        assert session.scalar(sa.select(sa.func.sum(PointsEntry.delta)).where(moved)) == 0
        totals = points_check.totals(session, NOW)
        assert (totals.issued, totals.available) == (150, 150)
        # Of one member, what was received counts as issued and what was given does not.
        assert points_check.totals(session, NOW, 1).issued == 70
        assert points_check.totals(session, NOW, 2).issued == 80


def test_transfers_have_a_limit_a_day_of_the_shop(two: Database) -> None:
    allow(two, 100)
    grant(two, 500, "a")
    transfer(two, 60)
    with pytest.raises(TransferRefused, match="60 were given today"):
        transfer(two, 41, "t2")
    transfer(two, 40, "t3")
    with pytest.raises(TransferRefused):
        transfer(two, 1, "t4", NOW + timedelta(hours=3))
    transfer(two, 100, "t5", NOW + timedelta(hours=4))  # midnight in Shanghai
    given = balance(two, 2)
    assert (given.available, given.pending) == (100, 100)  # as of before the second gift


def test_bad_transfers_are_refused_and_write_nothing(two: Database) -> None:
    allow(two)
    grant(two, 50, "a")
    with two.write() as session:
        point_holds.hold(session, 1, 20, source_id="o", idempotency_key="h", now=NOW)
    for number in (0, -1, 10**15):
        with pytest.raises(InvalidInput):
            transfer(two, number)
    with pytest.raises(NotEnough, match="has 30 points"):
        transfer(two, 31)
    with two.write() as session, pytest.raises(InvalidInput, match="another member"):
        point_transfers.transfer(session, 1, 1, 5, idempotency_key="self", now=NOW)
    assert count(two, "points_transfers") == 0
    assert transfer(two, 30).available == 0
    with pytest.raises(InvalidInput, match="a day"):
        TransferRule(True, 0)


def test_the_takers_debt_is_repaid_first(two: Database) -> None:
    allow(two)
    grant(two, 50, "a")
    with two.write() as session:
        put_order(session, 1, 2, 4000)
        accrue_orders(session, MONTHLY, NOW, 10)
        burning.burn(session, 2, 40, source_id="s", idempotency_key="s", now=NOW)
        put_order(session, 1, 2, 4000, status="cancelled")
        accrue_orders(session, MONTHLY, NOW, 10)
    transfer(two, 50)
    assert balance(two, 2) == points.Balance(available=10)


def test_the_check_finds_a_transfer_whose_sides_differ(two: Database) -> None:
    allow(two)
    grant(two, 50, "a")
    transfer(two, 20)
    with two.write() as session:
        given = PointsEntry.kind == "transfer"
        session.execute(sa.update(PointsEntry).where(given).values(delta=-19))
    with two.read() as session:
        assert "transfer 1" in [found.what for found in points.check(session)]


def test_points_pay_by_the_promotions_allocation() -> None:
    """Worked case 11: 100 points of 0.01 each on 200 + 150 → 0.57/0.43."""
    paid = point_value.allocate_to_lines(100, [20_000, 15_000], Fraction(1))
    assert paid == point_value.Payment(100, 100, (57, 43))
    # More than the lines cost: only as many points as are needed.
    assert point_value.allocate_to_lines(10**9, [30, 0, 20], Fraction(1, 3)).points == 150
    assert point_value.allocate_to_lines(7, [100], Fraction("0.3")) == point_value.Payment(7, 2, (2,))
    for value in ("0", "-1", "x", "1/2", "1e3", "nan", ""):
        with pytest.raises(InvalidInput):
            point_value.check_value(value)
    with pytest.raises(InvalidInput):
        point_value.allocate_to_lines(0, [100], Fraction(1))


@given(
    st.integers(1, 10**6),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
    st.sampled_from([Fraction(1), Fraction("0.3"), Fraction("12.5")]),
)
def test_a_payment_is_never_more_than_the_points_or_the_lines(
    number: int, lines: list[int], value: Fraction
) -> None:
    paid = point_value.allocate_to_lines(number, lines, value)
    assert sum(paid.shares) == paid.discount <= sum(lines)
    assert all(0 <= share <= line for share, line in zip(paid.shares, lines, strict=True))
    assert paid.points <= number
    assert paid.discount <= paid.points * value < paid.discount + value + 1


def test_the_value_of_a_point_is_a_preference(two: Database) -> None:
    with two.write() as session:
        assert point_value.load(session) == 1
        point_value.save(session, "0.5", "ann", NOW)
        assert point_value.load(session) == Fraction(1, 2)
    assert point_value.worth(3, Fraction(1, 2)) == 2
