"""Points: grants, spends, refunds, expiry, earning on orders, and the ledger's check."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.models import Todo, WarehouseMark
from loyalty import burning, earning, points
from loyalty.earning import EarnRule, accrue_orders
from loyalty.lots import add_months, earned, refund_due
from loyalty.models import PointsEntry, PointsLot
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, put_order

NEVER = EarnRule(expiry_months=None)
MONTHLY = EarnRule(points_per_unit="1", pending_days=0, expiry_months=1, timezone="UTC")
DAY = timedelta(days=1)


def grant(
    database: Database, number: int, source: str, *, rule: EarnRule = NEVER, now: datetime = NOW
) -> int:
    with database.write() as session:
        return points.grant_many(session, [(1, number, source)], now, rule=rule)


def spend(
    database: Database, number: int, source: str = "s1", key: str | None = None, now: datetime = NOW
) -> burning.Burned:
    with database.write() as session:
        return burning.burn(session, 1, number, source_id=source, idempotency_key=key or source, now=now)


def refund(
    database: Database, source: str, key: str, number: int | None = None, now: datetime = NOW
) -> burning.Refunded:
    with database.write() as session:
        return burning.refund_burn(session, 1, source_id=source, idempotency_key=key, now=now, points=number)


def balance(database: Database, now: datetime = NOW) -> points.Balance:
    with database.read() as session:
        assert points.check(session) == []
        return points.balance(session, 1, now)


def order(database: Database, order_id: int, total: int, refunded: int = 0, **more: str) -> None:
    with database.write() as session:
        put_order(session, order_id, 1, total, refunded=refunded, **more)  # type: ignore[arg-type]


def accrue(database: Database, rule: EarnRule = MONTHLY, now: datetime = NOW) -> earning.Accrued:
    with database.write() as session:
        return accrue_orders(session, rule, now, 100)


@pytest.fixture
def one(db: Database) -> Database:
    add_members(db, 1)
    return db


def test_five_thousand_grants_are_made_once(db: Database) -> None:
    add_members(db, 5000)
    rows = [(n, n % 7 + 1, f"run:1:{n}") for n in range(1, 5001)]
    for expected in (5000, 0):
        with db.write() as session:
            assert points.grant_many(session, rows, NOW) == expected
    with db.read() as session:
        found = points.balances(session, range(1, 5002), NOW)
        assert {found[n].available for n in (6, 13)} == {7}
        assert found[5001] == points.Balance()
        assert found[1].next_expiry == add_months(NOW, 12, ZoneInfo("Asia/Shanghai"))
        assert points.check(session) == []
        months = session.execute(sa.select(WarehouseMark.table_name, WarehouseMark.month)).all()
        assert [tuple(row) for row in months] == [("points", "2026-03")]
    assert count(db, "points_entries") == 5000


def test_a_grant_again_with_another_number_is_a_conflict(one: Database) -> None:
    grant(one, 10, "a")
    with pytest.raises(Conflict, match="another number"):
        grant(one, 11, "a")
    assert balance(one).available == 10
    with one.write() as session, pytest.raises(InvalidInput, match="1 to"):
        points.grant_many(session, [(1, 0, "z")], NOW)


def test_the_nearest_expiry_is_spent_first_and_undated_last(one: Database) -> None:
    """Worked case 14: A 575, spend 500; B 805 with a later expiry, spend 500 → A 0, B 380; then 0."""
    grant(one, 50, "undated")
    grant(one, 575, "A", rule=MONTHLY)
    assert spend(one, 500) == burning.Burned(500, 125)
    grant(one, 805, "B", rule=MONTHLY, now=NOW + DAY)
    assert spend(one, 500, "s2", now=NOW + DAY) == burning.Burned(500, 430)
    with one.read() as session:
        left = session.execute(sa.select(PointsLot.source_id, PointsLot.remaining)).all()
        assert dict(tuple(row) for row in left) == {"undated": 50, "A": 0, "B": 380}
    assert balance(one, NOW + 40 * DAY).available == 50
    with one.write() as session:
        assert points.expire(session, NOW + 40 * DAY, 10) == 1
        assert points.expire(session, NOW + 40 * DAY, 10) == 0
    assert balance(one, NOW + 40 * DAY).available == 50


def test_after_expiry_nothing_can_be_spent(one: Database) -> None:
    """Worked case 16: +300, +200, −200, both lots expire → spending 1 is refused."""
    grant(one, 300, "a", rule=MONTHLY)
    grant(one, 200, "b", rule=MONTHLY)
    spend(one, 200)
    later = NOW + 40 * DAY
    with pytest.raises(burning.NotEnough, match="has 0 points"):  # swept or not
        spend(one, 1, "s2", now=later)
    with one.write() as session:
        assert [points.expire(session, later, 1) for _ in range(3)] == [1, 1, 0]
    with pytest.raises(burning.NotEnough):
        spend(one, 1, "s2", now=later)


def test_the_same_key_answers_the_same_and_another_body_is_refused(one: Database) -> None:
    grant(one, 100, "a")
    first = spend(one, 30, "s1", "key")
    spend(one, 20, "s2")
    assert spend(one, 30, "s1", "key") == first == burning.Burned(30, 70)
    with pytest.raises(Conflict, match="another request"):
        spend(one, 31, "s1", "key")
    with pytest.raises(Conflict, match="before"):
        spend(one, 1, "s1", "other key")
    assert balance(one).available == 50
    with pytest.raises(burning.NotEnough):
        spend(one, 51, "s3", "k3")
    assert spend(one, 50, "s3", "k3").available == 0  # a refusal frees its key


def test_a_refund_goes_back_to_the_lots_the_last_taken_first(one: Database) -> None:
    grant(one, 50, "a", rule=MONTHLY)
    grant(one, 100, "b")
    spend(one, 120)
    first = refund(one, "s1", "r1", 90)
    assert first == burning.Refunded(90, 0, 0, 120)
    assert refund(one, "s1", "r1", 90) == first
    with one.read() as session:
        left = session.execute(sa.select(PointsLot.source_id, PointsLot.remaining)).all()
        assert dict(tuple(row) for row in left) == {"a": 20, "b": 100}
    with pytest.raises(Conflict, match="30 points can still"):
        refund(one, "s1", "r2", 31)
    assert refund(one, "s1", "r3").points == 30
    with pytest.raises(Conflict, match="0 points can still"):
        refund(one, "s1", "r4")
    with pytest.raises(NotFound):
        refund(one, "s9", "r5")
    assert balance(one).available == 150


def test_what_returns_to_a_lot_that_is_over_expires_at_once(one: Database) -> None:
    grant(one, 50, "a", rule=MONTHLY)
    grant(one, 10, "b")
    spend(one, 60)
    later = NOW + 40 * DAY
    assert refund(one, "s1", "r1", now=later) == burning.Refunded(60, 50, 0, 10)
    assert balance(one, later).available == 10


def test_a_paid_order_earns_once_after_its_pending_days(one: Database) -> None:
    order(one, 1, 12_345)
    rule = EarnRule(points_per_unit="1.5", pending_days=7, expiry_months=12)
    assert accrue(one, rule) == earning.Accrued(todos=1, earned=185)
    assert count(one, "todos") == 0
    order(one, 1, 12_345)
    assert accrue(one, rule) == earning.Accrued(todos=1)
    assert balance(one) == points.Balance(pending=185)
    assert balance(one, NOW + 7 * DAY).available == 185
    with pytest.raises(burning.NotEnough):
        spend(one, 1)


@pytest.mark.parametrize(
    ("total", "refunded", "status", "at"),
    [
        (99, 0, "paid", NOW),
        (5000, 5000, "refunded", NOW),
        (5000, 0, "cancelled", NOW),
        (5000, 0, "paid", NOW - 60 * DAY),  # its points would be over by now
    ],
)
def test_orders_that_earn_nothing(
    one: Database, total: int, refunded: int, status: str, at: datetime
) -> None:
    with one.write() as session:
        put_order(session, 1, 1, total, refunded=refunded, status=status, at=at)
    assert accrue(one) == earning.Accrued(todos=1)
    assert count(one, "points_lots") == 0


def test_partial_refunds_add_up_to_what_was_earned_by_the_old_rule(one: Database) -> None:
    """Worked cases 15 and 18: 40 earned 70; 20 returned → −35; the rule of today does not matter."""
    order(one, 1, 4000)
    assert accrue(one, EarnRule("1.75", 0)).earned == 70
    order(one, 1, 4000, 2000, status="refunded")
    assert accrue(one, EarnRule("5", 0)).taken_back == 35
    order(one, 1, 4000, 3333, status="refunded")
    assert accrue(one).taken_back == 23  # floor(70 · 3333 / 4000) = 58
    order(one, 1, 4000, 3333, status="refunded")
    assert accrue(one).taken_back == 0
    order(one, 1, 4000, 4000, status="refunded")
    assert accrue(one).taken_back == 12
    assert balance(one) == points.Balance()
    order(one, 1, 4000, 0)
    assert accrue(one) == earning.Accrued(todos=1)


def test_points_already_spent_become_a_debt_that_later_earnings_repay(one: Database) -> None:
    order(one, 1, 10_000)
    accrue(one)
    spend(one, 80)
    order(one, 1, 10_000, status="cancelled")
    assert accrue(one).taken_back == 100
    assert balance(one) == points.Balance(debt=80)
    with pytest.raises(burning.NotEnough):
        spend(one, 1, "s2")
    grant(one, 30, "gift")
    assert balance(one) == points.Balance(debt=50)
    order(one, 2, 6000)
    assert accrue(one) == earning.Accrued(todos=1, earned=60, repaid=50)
    assert balance(one).available == 10
    assert balance(one).debt == 0


def test_a_spend_given_back_repays_the_debt_first(one: Database) -> None:
    order(one, 1, 10_000)
    accrue(one)
    spend(one, 100)
    order(one, 1, 10_000, 10_000, status="refunded")
    accrue(one)
    assert refund(one, "s1", "r1") == burning.Refunded(100, 0, 100, 0)
    assert balance(one) == points.Balance()


def test_other_lots_pay_before_a_debt_arises(one: Database) -> None:
    order(one, 1, 10_000)
    accrue(one)
    spend(one, 100)
    grant(one, 150, "gift")
    order(one, 1, 10_000, 10_000, status="refunded")
    assert accrue(one).taken_back == 100
    assert balance(one).available == 50
    assert balance(one).debt == 0


def test_points_that_expired_unspent_are_not_asked_for_again(one: Database) -> None:
    order(one, 1, 10_000)
    accrue(one)
    spend(one, 30)
    later = NOW + 40 * DAY
    order(one, 1, 10_000, 10_000, status="refunded")
    assert accrue(one, now=later).taken_back == 30
    with one.write() as session:
        points.expire(session, later, 10)
    order(one, 1, 10_000, 10_000, status="refunded")
    assert accrue(one, now=later).taken_back == 0
    assert balance(one, later) == points.Balance(debt=30)


def test_the_queue_is_worked_off_in_parts(one: Database) -> None:
    for number in range(1, 6):
        order(one, number, 1000)
    with one.write() as session:
        session.add(Todo(queue="somebody.else", subject_id=1))
    for expected in (2, 2, 1, 0):
        with one.write() as session:
            assert accrue_orders(session, MONTHLY, NOW, 2).todos == expected
    assert count(one, "todos") == 1
    assert balance(one).available == 50


def test_the_rule_is_stored_as_a_preference(one: Database) -> None:
    rule = EarnRule("2.5", 3, None, "Europe/Berlin")
    with one.write() as session:
        assert earning.load_rule(session) == EarnRule()
        earning.save_rule(session, rule, "ann", NOW)
        assert earning.load_rule(session) == rule
    for wrong in (
        {"points_per_unit": "-1"},
        {"points_per_unit": "x"},
        {"pending_days": -1},
        {"expiry_months": 0},
    ):
        with pytest.raises(InvalidInput) as caught:
            EarnRule(**wrong)  # type: ignore[arg-type]
        assert caught.value.field in wrong


def test_the_check_finds_every_kind_of_difference(one: Database) -> None:
    grant(one, 100, "a")
    grant(one, 100, "b")
    with one.write() as session:
        lots = sorted(session.scalars(sa.select(PointsLot.id)))
        session.execute(sa.update(PointsLot).where(PointsLot.id == lots[0]).values(remaining=99))
        session.execute(sa.update(PointsEntry).where(PointsEntry.lot_id == lots[1]).values(lot_id=999))
        session.add(PointsEntry(member_id=1, lot_id=None, kind="repay", source_id="x", delta=5, at=NOW))
    with one.read() as session:
        assert points.check(session) == [
            points.Difference(1, lots[0], "remaining", 99, 100),
            points.Difference(1, lots[1], "remaining", 100, 0),
            points.Difference(1, lots[1], "issued", 100, 0),
            points.Difference(1, 999, "missing lot", 0, 100),
            points.Difference(1, None, "debt", 0, -5),
        ]


@pytest.mark.parametrize(
    ("at", "months", "expected"),
    [
        (datetime(2026, 1, 25, tzinfo=UTC), 1, datetime(2026, 2, 25, tzinfo=UTC)),
        (datetime(2026, 1, 31, tzinfo=UTC), 1, datetime(2026, 2, 28, tzinfo=UTC)),
        (datetime(2024, 2, 29, 8, tzinfo=UTC), 12, datetime(2025, 2, 28, 8, tzinfo=UTC)),
        (datetime(2026, 12, 31, tzinfo=UTC), 2, datetime(2027, 2, 28, tzinfo=UTC)),
    ],
)
def test_months_end_on_the_last_day_there_is(at: datetime, months: int, expected: datetime) -> None:
    assert add_months(at, months, ZoneInfo("UTC")) == expected


def test_months_are_counted_in_the_shops_zone() -> None:
    at = datetime(2026, 1, 30, 18, tzinfo=UTC)  # 31 January, 02:00 in Shanghai
    assert add_months(at, 1, ZoneInfo("Asia/Shanghai")) == datetime(2026, 2, 27, 18, tzinfo=UTC)


def test_points_for_an_amount_follow_the_currency() -> None:
    assert earned(1999, "CNY", Decimal(1)) == 19
    assert earned(1999, "JPY", Decimal("0.01")) == 19
    assert refund_due(issued=10, base_minor=300, net_minor=-5, expired=0, taken=0) == 10
