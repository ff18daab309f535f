"""What a batch allows: a code for many, days, members, money, and when its codes are valid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from loyalty import codes, coupons
from loyalty.batches import activation_of, plus_months, validity
from loyalty.coupons import Refused
from loyalty.models import Coupon, CouponBatch
from loyalty.uses import REASONS
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members

SHANGHAI = ZoneInfo("Asia/Shanghai")


def redeem(database: Database, code: str, key: str, **changes: Any) -> coupons.Redeemed:
    values: dict[str, Any] = {
        "order_ref": f"order-{key}",
        "basket_minor": 5000,
        "currency": "CNY",
        "member_external_id": None,
        "now": NOW,
        **changes,
    }
    with database.write() as session:
        return coupons.redeem(session, code, idempotency_key=key, **values)


def roll(database: Database, code: str, order: str, key: str, amount: int | None = None) -> coupons.Redeemed:
    with database.write() as session:
        return coupons.rollback(
            session, code, order_ref=order, idempotency_key=key, now=NOW, amount_minor=amount
        )


def issue(database: Database, batch: CouponBatch, *rows: tuple[int | None, str], now: datetime = NOW) -> Any:
    with database.write() as session:
        return coupons.issue_detailed(session, batch, rows, now)


def batch_of(database: Database) -> CouponBatch:
    with database.read() as session:
        return session.scalars(sa.select(CouponBatch)).one()


def refusal(database: Database, code: str, key: str, **changes: Any) -> str:
    with pytest.raises(Refused) as caught:
        redeem(database, code, key, **changes)
    assert caught.value.reason in REASONS
    return caught.value.reason


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"daily_limit": 0}, "daily_limit"),
        ({"daily_per_member_limit": -1}, "daily_per_member_limit"),
        ({"total_limit": 2**31}, "total_limit"),
        ({"budget_minor": 0}, "budget_minor"),
        ({"budget_minor": 10**15}, "budget_minor"),
        ({"budget_minor": 1.5}, "budget_minor"),
        ({"activation": "soon"}, "activation"),
        ({"activation": "days"}, "activation_days"),
        ({"activation": "next_month", "generic_code": "SPRING26"}, "activation"),
        ({"valid_days": 1, "valid_months": 1}, "valid_months"),
        ({"valid_months": 0}, "valid_months"),
        ({"reminder_days": 0}, "reminder_days"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"generic_code": "AB"}, "generic_code"),
        ({"generic_code": "50%!"}, "generic_code"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_field(
    sqlite_db: Database, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        add_batch(sqlite_db, **changes)
    assert caught.value.field == field
    assert count(sqlite_db, "coupon_batches") == 0


def test_a_code_for_many_is_used_by_many_each_with_a_code_of_its_own(db: Database) -> None:
    add_members(db, 3)
    add_batch(db, generic_code=" spring-26 ", total_limit=2, per_member_limit=1)
    first = redeem(db, "SPRING26", "k1", member_external_id="m1")
    assert (first.batch, first.discount_minor) == ("spring", 1000)
    assert codes.check(first.code) == first.code
    assert redeem(db, "Spring 26", "k1", member_external_id="m1") == first
    with pytest.raises(Conflict, match="another request"):
        redeem(db, "SPRING26", "k1", member_external_id="m2")
    assert refusal(db, "SPRING26", "k2", member_external_id="m1") == "per_member_limit"
    assert refusal(db, "SPRING26", "k3") == "member_needed"
    redeem(db, "SPRING26", "k4", member_external_id="m2")
    assert refusal(db, "SPRING26", "k5", member_external_id="m3") == "total_limit"
    assert (count(db, "coupons"), count(db, "redemptions"), batch_of(db).issued) == (2, 2, 2)


def test_a_rollback_of_a_code_for_many_frees_its_place(db: Database) -> None:
    add_members(db, 2)
    add_batch(db, generic_code="SPRING26", total_limit=1, per_member_limit=1, daily_limit=1)
    redeem(db, "SPRING26", "k1", member_external_id="m1")
    with pytest.raises(Conflict, match="not redeemed on the order"):
        roll(db, "SPRING26", "another", "r0")
    back = roll(db, "SPRING26", "order-k1", "r1")
    assert back.rolled_back_at == NOW
    assert roll(db, "SPRING26", "order-k1", "r1") == back
    assert batch_of(db).issued == 0
    assert redeem(db, "SPRING26", "k2", member_external_id="m1").code != back.code
    assert refusal(db, back.code, "k3", member_external_id="m1") == "revoked"
    assert batch_of(db).issued == 1


def test_a_code_for_many_is_bound_by_its_batch_and_taken_once(db: Database) -> None:
    add_batch(db, generic_code="SPRING26", ends_at=NOW + timedelta(days=2), starts_at=NOW)
    assert refusal(db, "SPRING26", "a", now=NOW + timedelta(days=2)) == "expired"
    assert refusal(db, "SPRING26", "b", now=NOW - timedelta(days=1)) == "not_yet_valid"
    assert refusal(db, "SPRING26", "c", currency="USD") == "wrong_currency"
    assert count(db, "coupons") == 0
    with pytest.raises(InvalidInput, match="in use already"):
        add_batch(db, name="other", generic_code="spring26")
    with db.read() as session:
        view = coupons.look_up(session, "spring26", NOW)
        assert (view.code, view.state, view.batch) == ("SPRING26", "issued", "spring")
    with db.write() as session:
        coupons.archive_batch(session, coupons.find_batch(session, "spring"), "ann", NOW)
    assert refusal(db, "SPRING26", "d") == "archived"
    for wrong, error in (("SPRING27", InvalidInput), (codes.generate("", 12, 1)[0], NotFound)):
        with pytest.raises(error):
            redeem(db, wrong, "e")


def test_the_limit_of_a_day_follows_the_shops_midnight(db: Database) -> None:
    batch = add_batch(db, daily_limit=2, timezone="Asia/Shanghai")
    before = datetime(2026, 3, 1, 15, 59, tzinfo=UTC)  # 23:59 in Shanghai
    issued = issue(db, batch, (None, "a"), (None, "b"), (None, "c"), now=before)
    assert (set(issued.codes), issued.refused) == ({"a", "b"}, {"c": "daily_limit"})
    assert issue(db, batch, (None, "a"), (None, "d"), now=before).refused == {"d": "daily_limit"}
    assert set(issue(db, batch, (None, "c"), now=before + timedelta(minutes=1)).codes) == {"c"}
    assert batch_of(db).issued == 0, "only a total is counted on the batch"


def test_a_members_uses_of_a_day_are_limited_and_come_back(db: Database) -> None:
    add_members(db, 1)
    batch = add_batch(db, daily_per_member_limit=1, timezone="Asia/Shanghai")
    made = issue(db, batch, (1, "a"), (1, "b"), (None, "c")).codes
    redeem(db, made["a"], "k1")
    assert refusal(db, made["b"], "k2") == "daily_member_limit"
    assert refusal(db, made["c"], "k3", member_external_id="m1") == "daily_member_limit"
    assert refusal(db, made["c"], "k4") == "member_needed"
    tomorrow = datetime(2026, 3, 1, 16, tzinfo=UTC)  # midnight in Shanghai
    redeem(db, made["b"], "k5", now=tomorrow)
    roll(db, made["a"], "order-k1", "r1")
    redeem(db, made["a"], "k6")


def test_a_budget_is_never_passed_and_gets_its_money_back(db: Database) -> None:
    batch = add_batch(db, budget_minor=2500)
    made = issue(db, batch, *((None, key) for key in "abc")).codes
    redeem(db, made["a"], "k1")
    redeem(db, made["b"], "k2", basket_minor=700)
    assert batch_of(db).budget_used_minor == 1700
    assert refusal(db, made["c"], "k3") == "budget"
    assert (batch_of(db).budget_used_minor, count(db, "redemptions")) == (1700, 2)
    roll(db, made["a"], "order-k1", "r1", 2500)
    assert batch_of(db).budget_used_minor == 1200
    redeem(db, made["c"], "k3")
    roll(db, made["a"], "order-k1", "r2")
    assert batch_of(db).budget_used_minor == 1700


def test_parts_that_come_back_add_up_to_the_minor_unit(db: Database) -> None:
    batch = add_batch(db, benefit={"type": "fixed", "amount": 1000}, budget_minor=10_000)
    (code,) = issue(db, batch, (None, "a")).codes.values()
    redeem(db, code, "k1", basket_minor=3000)
    parts = [roll(db, code, "order-k1", f"r{n}", 1) for n in (1, 2, 3)]
    assert [part.returned_discount_minor for part in parts] == [0, 0, 1]
    assert {part.rolled_back_at for part in parts} == {None}
    assert roll(db, code, "order-k1", "r2", 1) == parts[1], "a repetition is not counted again"
    with pytest.raises(Conflict, match="another request"):
        roll(db, code, "order-k1", "r2", 2)
    assert refusal(db, code, "k2") == "already_redeemed"
    with pytest.raises(InvalidInput, match="2997 minor units are left"):
        roll(db, code, "order-k1", "r4", 2998)
    last = roll(db, code, "order-k1", "r5", 2997)
    assert (last.returned_basket_minor, last.returned_discount_minor) == (3000, 1000)
    assert last.rolled_back_at == NOW
    assert batch_of(db).budget_used_minor == 0
    redeem(db, code, "k2")


@pytest.mark.parametrize("amount", [0, -1, 1.5, True, 10**15])
def test_amounts_that_make_no_sense_are_refused(db: Database, amount: Any) -> None:
    (code,) = issue(db, add_batch(db), (None, "a")).codes.values()
    redeem(db, code, "k1")
    with pytest.raises(InvalidInput) as caught:
        roll(db, code, "order-k1", "r", amount)
    assert caught.value.field == "amount_minor"
    if amount != 0 and amount is not True:
        with pytest.raises(InvalidInput):
            redeem(db, code, "k2", basket_minor=amount)
    assert (count(db, "coupon_returns"), count(db, "redemptions")) == (0, 1)


def test_a_code_becomes_valid_with_the_next_month_of_the_shop() -> None:
    at = datetime(2026, 1, 22, 3, tzinfo=UTC)
    first = datetime(2026, 2, 1, tzinfo=SHANGHAI)
    assert activation_of("next_month", None, SHANGHAI, at) == first
    assert activation_of("next_month", None, SHANGHAI, datetime(2026, 1, 31, 16, tzinfo=UTC)) == datetime(
        2026, 3, 1, tzinfo=SHANGHAI
    )
    assert activation_of("next_month", None, SHANGHAI, datetime(2026, 12, 5, tzinfo=UTC)) == datetime(
        2027, 1, 1, tzinfo=SHANGHAI
    )
    assert activation_of("days", 3, SHANGHAI, at) == at + timedelta(days=3)


@pytest.mark.parametrize(("day", "month", "expected"), [(25, 1, (2, 25)), (31, 1, (2, 28)), (30, 4, (5, 30))])
def test_a_month_later_is_the_same_day_or_the_months_last(
    day: int, month: int, expected: tuple[int, int]
) -> None:
    found = plus_months(datetime(2026, month, day, 9, tzinfo=SHANGHAI), 1, SHANGHAI)
    assert found == datetime(2026, *expected, 9, tzinfo=SHANGHAI)


def test_codes_keep_the_validity_of_their_issue(db: Database) -> None:
    batch = add_batch(db, activation="next_month", valid_months=1, timezone="Asia/Shanghai")
    at = datetime(2026, 1, 22, 3, tzinfo=UTC)
    begins, until = datetime(2026, 2, 1, tzinfo=SHANGHAI), datetime(2026, 3, 1, tzinfo=SHANGHAI)
    assert validity(batch, at) == (begins, until)
    (code,) = issue(db, batch, (None, "a"), now=at).codes.values()
    assert refusal(db, code, "k1", now=begins - timedelta(seconds=1)) == "not_yet_valid"
    assert refusal(db, code, "k1", now=until) == "expired"
    redeem(db, code, "k1", now=begins)
    short = add_batch(db, name="short", activation="days", activation_days=9, ends_at=NOW + timedelta(days=9))
    with pytest.raises(Conflict, match="only after the batch ends"):
        issue(db, short, (None, "b"))


def test_a_batch_without_limits_is_never_written(db: Database) -> None:
    batch = add_batch(db, generic_code="SPRING26")
    statements: list[str] = []
    sa.event.listen(
        db.engine, "before_cursor_execute", lambda _c, _x, sql, *_: statements.append(sql.lower())
    )
    (code,) = issue(db, batch, (None, "a")).codes.values()
    redeem(db, code, "k1")
    redeem(db, "SPRING26", "k2")
    roll(db, "SPRING26", "order-k2", "r")
    assert not [sql for sql in statements if "update coupon_batches set" in sql and "total_limit" not in sql]
    locking = [
        sql for sql in statements if "for " in sql and "update" in sql and "from coupon_batches" in sql
    ]
    assert locking == []
    with db.read() as session:
        assert session.scalars(sa.select(Coupon.freed_at)).all() == [None, NOW]


def test_the_member_is_served_with_the_code_that_ends_first(db: Database) -> None:
    add_members(db, 2)
    batch = add_batch(db, valid_days=10)
    late = issue(db, batch, (1, "late"), now=NOW + timedelta(days=1)).codes["late"]
    soon = issue(db, batch, (1, "soon"), (2, "other"), now=NOW).codes["soon"]
    at = NOW + timedelta(days=2)

    def serve(key: str, member: int = 1, now: datetime = at) -> coupons.Redeemed:
        with db.write() as session:
            return coupons.redeem_for_member(
                session, "spring", member, order_ref=f"o-{key}", basket_minor=5000, currency="CNY",
                idempotency_key=key, now=now,
            )  # fmt: skip

    assert serve("k1").code == soon
    assert serve("k1").code == soon
    with pytest.raises(Conflict, match="another request"):
        serve("k1", 2)
    assert serve("k2").code == late
    with pytest.raises(Refused) as caught:
        serve("k3")
    assert caught.value.reason == "no_coupon"
    with pytest.raises(Refused):
        serve("k4", 2, NOW + timedelta(days=10))
    assert count(db, "redemptions") == 2
