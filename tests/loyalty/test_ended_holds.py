"""Holds whose time is over give their share of a budget back to whoever needs it, before any sweep."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import Database
from loyalty import coupon_holds, coupons, ended_holds
from loyalty.models import Coupon, CouponBatch, CouponHold
from loyalty.redemptions import Use, redeem_many
from loyalty.uses import Basket
from tests.loyalty.data import NOW, add_batch, scalar, together

LATER = NOW + timedelta(minutes=16)


def hold(session: Session, code: str, key: str, minutes: int = 15) -> Any:
    return coupon_holds.hold(
        session, code, order_ref=key, basket_minor=5000, currency="CNY", member_external_id=None,
        idempotency_key=key, now=NOW, minutes=minutes,
    )  # fmt: skip


def redeem(session: Session, code: str, key: str) -> Any:
    return coupons.redeem(
        session, code, order_ref=key, basket_minor=5000, currency="CNY", member_external_id=None,
        idempotency_key=key, now=LATER,
    )  # fmt: skip


def given(database: Database, batch: CouponBatch, number: int) -> list[str]:
    with database.write() as session:
        issued = coupons.issue(session, batch, [(None, f"{batch.name}{n}") for n in range(number)], NOW)
        return [issued[f"{batch.name}{n}"] for n in range(number)]


def test_what_ended_holds_kept_is_free_and_what_live_ones_keep_is_not(db: Database) -> None:
    batch, other = add_batch(db, budget_minor=3000), add_batch(db, name="other", budget_minor=1000)
    one, two, three, four = given(db, batch, 4)
    [elsewhere] = given(db, other, 1)
    with db.write() as session:
        for place, code in enumerate((one, two)):
            hold(session, code, f"h{place}")
        hold(session, three, "h2", minutes=60)
        hold(session, elsewhere, "h3")
    with db.write() as session:
        assert ended_holds.free(session, [batch.id], LATER) == {batch.id: 2000}
        assert ended_holds.free(session, [batch.id], LATER) == {}
    used = "SELECT budget_used_minor FROM coupon_batches WHERE name = "
    assert (scalar(db, f"{used}'spring'"), scalar(db, f"{used}'other'")) == (1000, 1000)
    with db.read() as session:
        states = dict(session.execute(sa.select(CouponHold.order_ref, CouponHold.state)).all())
        assert states == {"h0": "expired", "h1": "expired", "h2": "held", "h3": "held"}
        codes = dict(session.execute(sa.select(Coupon.code, Coupon.state)).all())
    assert codes == {one: "issued", two: "issued", three: "held", four: "issued", elsewhere: "held"}
    with db.write() as session:
        assert redeem(session, four, "r1").discount_minor == 1000


def test_a_code_that_somebody_works_on_is_passed_over(pg_db: Database) -> None:
    batch = add_batch(pg_db, budget_minor=2000)
    one, two = given(pg_db, batch, 2)
    with pg_db.write() as session:
        hold(session, one, "h0")
        hold(session, two, "h1")
    with pg_db.write() as first:
        first.execute(sa.select(Coupon.id).where(Coupon.code == one).with_for_update())
        with pg_db.write() as second:
            assert ended_holds.free(second, [batch.id], LATER) == {batch.id: 1000}
    with pg_db.write() as session:
        assert ended_holds.free(session, [batch.id], LATER) == {batch.id: 1000}


def test_many_who_need_room_at_once_free_each_hold_once(pg_db: Database) -> None:
    batch = add_batch(pg_db, budget_minor=10_000)
    with pg_db.write() as session:
        codes = coupons.issue(session, batch, [(None, f"i{n}") for n in range(10)], NOW)
        for place, code in enumerate(codes.values()):
            hold(session, code, f"h{place}")
    freed: list[int] = []

    def run() -> None:
        with pg_db.write() as session:
            freed.append(ended_holds.free(session, [batch.id], LATER).get(batch.id, 0))

    assert together([run] * 16) == {"done": 16}
    assert sum(freed) == 10_000
    assert scalar(pg_db, "SELECT budget_used_minor FROM coupon_batches") == 0


def test_whoever_needs_room_gets_what_ended_holds_kept(db: Database) -> None:
    """Nobody swept: the next use, the next uses together and the next hold find the room themselves."""
    batch = add_batch(db, budget_minor=2000)
    codes = given(db, batch, 6)
    with db.write() as session:
        hold(session, codes[0], "h0")
        hold(session, codes[1], "h1")
    with db.write() as session:
        uses = [Use(code, Basket(code, 5000, "CNY"), code, LATER) for code in codes[2:5]]
        found = redeem_many(session, uses)
    assert [type(one).__name__ for one in found] == ["Redeemed", "Redeemed", "Refused"]
    assert scalar(db, "SELECT budget_used_minor FROM coupon_batches") == 2000
    assert scalar(db, "SELECT count(*) FROM coupon_holds WHERE state = 'expired'") == 2


def test_the_next_hold_finds_the_room_of_an_ended_one(db: Database) -> None:
    one, two = given(db, add_batch(db, budget_minor=1000), 2)
    with db.write() as session:
        hold(session, one, "h0")
    with db.write() as session:
        held = coupon_holds.hold(
            session, two, order_ref="h1", basket_minor=5000, currency="CNY", member_external_id=None,
            idempotency_key="h1", now=LATER,
        )  # fmt: skip
    assert held.discount_minor == 1000
    assert scalar(db, "SELECT budget_used_minor FROM coupon_batches") == 1000
