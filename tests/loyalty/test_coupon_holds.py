"""Codes kept for an order: held, redeemed, released, over; on orders of the till and of imports."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.settings import Settings
from loyalty import codes, coupons
from loyalty.coupons import Refused
from loyalty.models import CouponBatch, CouponHold
from loyalty.settlement import Settled
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch
from tests.loyalty.test_settlement import ORDERED, Till

LATER = NOW + timedelta(minutes=15)


def a_code(database: Database, **batch: Any) -> str:
    made = add_batch(database, **{"budget_minor": 5000, **batch})
    with database.write() as session:
        return coupons.issue(session, made, [(None, made.name)], NOW)[made.name]


def hold(database: Database, code: str, key: str = "h1", **changes: Any) -> coupons.Held:
    values: dict[str, Any] = {
        "order_ref": "o1",
        "basket_minor": 5000,
        "currency": "CNY",
        "member_external_id": None,
        "now": NOW,
        **changes,
    }
    with database.write() as session:
        return coupons.hold(session, code, idempotency_key=key, **values)


def redeem(
    database: Database, code: str | int, key: str = "k1", now: datetime = NOW, **changes: Any
) -> coupons.Redeemed:
    values: dict[str, Any] = {
        "order_ref": "o1", "basket_minor": 5000, "currency": "CNY", "member_external_id": None, **changes
    }  # fmt: skip
    with database.write() as session:
        if isinstance(code, int):
            return coupons.redeem_hold(session, code, idempotency_key=key, now=now, **values)
        return coupons.redeem(session, code, idempotency_key=key, now=now, **values)


def release(database: Database, hold_id: int, now: datetime = NOW) -> coupons.Held:
    with database.write() as session:
        return coupons.release(session, hold_id, now)


def used(database: Database) -> int:
    with database.read() as session:
        return session.scalars(sa.select(CouponBatch.budget_used_minor)).one()


def state_of(database: Database, code: str, now: datetime = NOW) -> str:
    with database.read() as session:
        return coupons.look_up(session, code, now).state


def refusal(what: Any) -> str:
    with pytest.raises(Refused) as caught:
        what()
    return caught.value.reason


def test_a_held_code_is_kept_for_its_order(db: Database) -> None:
    code = a_code(db)
    held = hold(db, code)
    assert (held.state, held.discount_minor, held.expires_at) == ("held", 1000, LATER)
    assert hold(db, code) == held
    with pytest.raises(Conflict, match="another request"):
        hold(db, code, basket_minor=6000)
    assert (state_of(db, code), used(db), count(db, "coupon_holds")) == ("held", 1000, 1)
    assert refusal(lambda: redeem(db, code, order_ref="o2")) == "held"
    assert refusal(lambda: hold(db, code, "h2", order_ref="o2")) == "held"
    done = redeem(db, code, basket_minor=900)
    assert done.discount_minor == 900
    assert (state_of(db, code), used(db)) == ("redeemed", 900)
    assert hold(db, code) == held, "a repetition answers what it answered"
    assert refusal(lambda: release(db, held.hold_id)) == "already_redeemed"
    assert refusal(lambda: redeem(db, held.hold_id, "k2")) == "already_redeemed"


def test_a_hold_is_redeemed_by_its_id_on_the_order_it_became(db: Database) -> None:
    code = a_code(db, benefit={"type": "percent", "percent": 10})
    held = hold(db, code, order_ref="cart-7")
    first = redeem(db, held.hold_id, order_ref="o9", basket_minor=90_000)
    assert (first.order_ref, first.discount_minor) == ("o9", 500), "at most what was held is taken"
    assert redeem(db, held.hold_id, order_ref="o9", basket_minor=90_000) == first
    with pytest.raises(Conflict, match="another request"):
        redeem(db, held.hold_id, order_ref="o9", basket_minor=1)
    with pytest.raises(NotFound):
        redeem(db, 999)


def test_a_released_hold_frees_code_and_money_once(db: Database) -> None:
    code = a_code(db)
    held = hold(db, code)
    assert release(db, held.hold_id).state == "released"
    assert release(db, held.hold_id).state == "released"
    assert (state_of(db, code), used(db)) == ("issued", 0)
    assert refusal(lambda: redeem(db, held.hold_id)) == "hold_released"
    redeem(db, code, order_ref="o2")
    with pytest.raises(NotFound):
        release(db, 999)


def test_a_hold_that_is_over_frees_its_code_before_any_sweep(db: Database) -> None:
    code = a_code(db)
    held = hold(db, code)
    assert refusal(lambda: redeem(db, held.hold_id, now=LATER)) == "hold_expired"
    again = hold(db, code, "h2", order_ref="o2", now=LATER)
    assert (again.hold_id != held.hold_id, used(db)) == (True, 1000)
    assert release(db, held.hold_id, LATER).state == "expired"
    assert redeem(db, code, "k2", LATER + timedelta(hours=1), order_ref="o3").order_ref == "o3"
    with db.read() as session:
        states = session.scalars(sa.select(CouponHold.state).order_by(CouponHold.id)).all()
    assert (states, used(db)) == (["expired", "expired"], 1000)


def test_the_sweep_ends_holds_and_then_codes(db: Database) -> None:
    batch = add_batch(db, budget_minor=9000, valid_days=1, generic_code="MANY26", total_limit=5)
    with db.write() as session:
        made = coupons.issue(session, batch, [(None, f"i{n}") for n in range(3)], NOW)
    for number, code in enumerate([*made.values(), "MANY26"]):
        hold(db, code, f"h{number}", order_ref=f"o{number}")
    hold(db, "MANY26", "long", order_ref="o8", minutes=60)
    with db.write() as session:
        assert coupons.expire(session, LATER - timedelta(seconds=1), 100) == 0
        assert coupons.expire(session, LATER, 2) == 2
        assert coupons.expire(session, LATER, 100) == 2
        assert coupons.expire(session, LATER, 100) == 0
    with db.read() as session:
        found = session.scalars(sa.select(CouponBatch)).one()
        assert (found.budget_used_minor, found.issued) == (1000, 4)
    assert {state_of(db, code, LATER) for code in made.values()} == {"issued"}
    assert release(db, 1, LATER).state == "expired"


def test_a_hold_outlives_the_end_of_its_code_but_not_its_batch(db: Database) -> None:
    code = a_code(db, ends_at=NOW + timedelta(minutes=5))
    hold(db, code)
    after = NOW + timedelta(minutes=10)
    with db.write() as session:
        assert coupons.expire(session, after, 10) == 0
        assert coupons.revoke(session, [code], "ann", after) == 0
        with pytest.raises(Conflict):
            coupons.take_back(session, [code])
    assert redeem(db, code, now=after).discount_minor == 1000
    other = a_code(db, name="other")
    hold(db, other, "h2")
    with db.write() as session:
        coupons.archive_batch(session, coupons.find_batch(session, "other"), "ann", NOW)
    assert refusal(lambda: redeem(db, other, "k2")) == "archived"


def test_a_code_for_many_is_held_for_an_order(db: Database) -> None:
    add_batch(db, generic_code="SPRING26", total_limit=1)
    held = hold(db, "spring-26")
    assert refusal(lambda: hold(db, "SPRING26", "h2", order_ref="o2")) == "total_limit"
    done = redeem(db, "SPRING26")
    assert done.code == held.code
    with db.write() as session:
        coupons.rollback(session, "SPRING26", order_ref="o1", idempotency_key="r", now=NOW)
    held = hold(db, "SPRING26", "h3", order_ref="o3")
    release(db, held.hold_id)
    assert hold(db, "SPRING26", "h4", order_ref="o4").code != held.code


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"minutes": 0}, "minutes"),
        ({"minutes": 1.5}, "minutes"),
        ({"minutes": 1441}, "minutes"),
        ({"basket_minor": -1}, "basket_minor"),
        ({"basket_minor": 0.5}, "basket_minor"),
        ({"basket_minor": 10**15}, "basket_minor"),
        ({"order_ref": ""}, "order_ref"),
        ({"currency": "yuan"}, "currency"),
        ({"key": ""}, "idempotency_key"),
    ],
)
def test_a_hold_that_makes_no_sense_writes_nothing(db: Database, changes: dict[str, Any], field: str) -> None:
    code = a_code(db)
    with pytest.raises(InvalidInput) as caught:
        hold(db, code, **changes)
    assert caught.value.field == field
    with pytest.raises(InvalidInput, match="typing error"):
        hold(db, code[:-1] + next(symbol for symbol in codes.ALPHABET if symbol != code[-1]))
    assert refusal(lambda: hold(db, code, currency="USD")) == "wrong_currency"
    assert (count(db, "coupon_holds"), used(db), state_of(db, code)) == (0, 0, "issued")


@pytest.fixture
def till(db: Database, settings: Settings) -> Till:
    return Till(db, settings)


def test_an_imported_order_takes_its_hold_and_another_one_not(till: Till) -> None:
    mine, other = till.codes(1, 1, budget_minor=2500)
    hold(till.database, mine, "h1", order_ref="o1", minutes=600, basket_minor=600)
    hold(till.database, other, "h2", order_ref="elsewhere", minutes=600)
    till.order(mine, 1)
    till.order(other, 2)
    assert till.settle() == Settled(todos=2, redeemed=1, refused=1)
    assert [entry.detail["reason"] for entry in till.refusals()] == ["held"]
    assert [use.discount_minor for use in till.uses()] == [600]
    assert (till.state(mine), till.state(other), used(till.database)) == ("redeemed", "held", 1600)
    till.order(other, 3)
    assert till.settle(NOW + timedelta(hours=11)) == Settled(todos=1, redeemed=1)
    assert used(till.database) == 1600, "the old hold's money came back before the use took its own"


def test_imported_orders_keep_within_the_budget_and_give_it_back(till: Till) -> None:
    made = till.codes(1, 1, 1, budget_minor=2500)
    for number, code in enumerate(made, 1):
        till.order(code, number)
    assert till.settle() == Settled(todos=3, redeemed=2, refused=1)
    assert [entry.detail["reason"] for entry in till.refusals()] == ["budget"]
    assert used(till.database) == 2000
    till.order(made[0], 1, status="refunded")
    till.settle()
    assert (used(till.database), till.state(made[0])) == (1000, "issued")


def test_an_imported_day_has_the_members_limit(till: Till) -> None:
    first, second, third = till.codes(1, 1, 1, daily_per_member_limit=1)
    till.order(first, 1)
    till.order(second, 2)
    till.order(third, 3, ordered_at=(ORDERED + timedelta(days=1)).isoformat())
    assert till.settle() == Settled(todos=3, redeemed=2, refused=1)
    assert [entry.detail["reason"] for entry in till.refusals()] == ["daily_member_limit"]


def test_an_imported_order_with_a_code_for_many_uses_one_of_its_own(till: Till) -> None:
    till.codes(generic_code="WELCOME10", total_limit=2)
    for number in (1, 2, 3):
        till.order("welcome-10", number)
    assert till.settle() == Settled(todos=3, redeemed=2, refused=1)
    assert [entry.detail["reason"] for entry in till.refusals()] == ["total_limit"]
    till.order("WELCOME10", 1, sku="again")
    assert till.settle() == Settled(todos=1)
    till.order("WELCOME10", 1, status="refunded")
    assert till.settle() == Settled(todos=1, rolled_back=1)
    till.order("WELCOME10", 4)
    assert till.settle() == Settled(todos=1, redeemed=1)
    assert len([use for use in till.uses() if use.rolled_back_at is None]) == 2
