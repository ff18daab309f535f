"""Many codes and many burns in one transaction: each as if it had come alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import HuiliuError
from core.together import Together
from loyalty import budgets, burning, coupons, earn_rules, ledger, points, redemptions
from loyalty.burning import Burn, Burned
from loyalty.models import Coupon, CouponBatch
from loyalty.redemptions import Redeemed, Use
from loyalty.uses import Basket
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members, scalar, together
from tests.loyalty.test_races import drop_the_second_defence, meet

LATER = NOW + timedelta(days=400)
CASES = (
    "plain", "again", "other body", "redeemed", "revoked", "expired", "archived", "mistyped", "unknown",
    "wrong currency", "small basket", "another's", "own", "own, unnamed", "nobody's, named", "held",
    "held for this order", "for many", "daily limit", "no key", "negative",
)  # fmt: skip


def shop(database: Database) -> dict[str, Use]:
    """A use of every kind, by the name of its case."""
    add_members(database, 3)
    batch = add_batch(database, min_spend_minor=1000)
    daily = add_batch(database, name="daily", daily_per_member_limit=1)
    over = add_batch(database, name="over", ends_at=NOW + timedelta(days=1))
    gone = add_batch(database, name="gone")
    add_batch(database, name="many", generic_code="SPRING26")
    with database.write() as session:
        rows = [(None, name) for name in CASES] + [(2, "mine"), (2, "mine2"), (2, "mine3")]
        made = coupons.issue(session, batch, rows, NOW)
        made |= coupons.issue(session, daily, [(1, "daily")], NOW)
        made |= coupons.issue(session, over, [(None, "over")], NOW - timedelta(days=9))
        made |= coupons.issue(session, gone, [(None, "gone")], NOW)
        session.execute(sa.update(CouponBatch).where(CouponBatch.name == "gone").values(archived_at=NOW))
        session.execute(sa.update(Coupon).where(Coupon.code == made["revoked"]).values(state="revoked"))
    now = NOW + timedelta(days=2)

    def use(name: str, code: str, **changes: Any) -> Use:
        basket = replace(Basket(f"o-{name}", 5000, "CNY"), **changes.pop("basket", {}))
        return Use(code, basket, changes.get("key", f"k-{name}"), now)

    found = {name: use(name, made[name]) for name in CASES}
    found |= {
        "expired": use("expired", made["over"]),
        "archived": use("archived", made["gone"]),
        "mistyped": use("mistyped", made["plain"][:-1] + ("A" if made["plain"][-1] != "A" else "B")),
        "unknown": use("unknown", ""),
        "wrong currency": use("wrong currency", made["wrong currency"], basket={"currency": "USD"}),
        "small basket": use("small basket", made["small basket"], basket={"basket_minor": 999}),
        "another's": use("another's", made["mine"], basket={"member": "m3"}),
        "own": use("own", made["mine3"], basket={"member": "m2"}),
        "own, unnamed": use("own, unnamed", made["mine2"]),
        "nobody's, named": use("nobody's, named", made["nobody's, named"], basket={"member": "m1"}),
        "for many": use("for many", "SPRING26"),
        "daily limit": use("daily limit", made["daily"]),
        "no key": use("no key", made["no key"], key=""),
        "negative": use("negative", made["negative"], basket={"basket_minor": -1}),
    }
    with database.write() as session:
        for name in ("again", "other body", "redeemed"):
            earlier = found[name] if name != "redeemed" else use("before", made[name])
            redemptions.redeem_one(session, earlier)
        held: dict[str, Any] = {
            "basket_minor": 5000,
            "currency": "CNY",
            "member_external_id": None,
            "now": now,
        }
        coupons.hold(session, made["held"], order_ref="elsewhere", idempotency_key="h1", **held)
        coupons.hold(
            session,
            made["held for this order"],
            order_ref="o-held for this order",
            idempotency_key="h2",
            **held,
        )
    found["other body"] = use("other body", made["other body"], basket={"basket_minor": 6000})
    return found


def told(answer: Any) -> Any:
    """What a request got, in words that do not depend on the order in which ids were given."""
    if isinstance(answer, HuiliuError):
        return type(answer).__name__, getattr(answer, "reason", None), str(answer)
    return replace(answer, redemption_id=0) if isinstance(answer, Redeemed) else answer


def alone(database: Database, use: Use) -> Any:
    try:
        with database.write() as session:
            return redemptions.redeem_one(session, use)
    except HuiliuError as error:
        return error


def test_codes_together_are_answered_as_each_alone(db: Database) -> None:
    """Done together, rolled back, and done one after the other: the same answers."""
    uses = list(shop(db).values())
    with db.read() as session:
        many = redemptions.redeem_many(session, uses)
    assert {type(one) for one in many} > {Redeemed, type(None)}
    left = {name for name, one in zip(CASES, many, strict=True) if one is None}
    assert left == {"held", "held for this order", "for many", "daily limit", "mistyped"}
    for use, one in zip(uses, many, strict=True):
        if one is not None:
            assert told(one) == told(alone(db, use)), use


def test_codes_together_write_what_each_alone_would(db: Database) -> None:
    batch = add_batch(db, budget_minor=10**6)
    with db.write() as session:
        made = coupons.issue(session, batch, [(None, f"i{n}") for n in range(60)], NOW)
        codes = list(made.values())
        uses = [Use(code, Basket(f"o{n}", 5000, "CNY"), f"k{n}", NOW) for n, code in enumerate(codes)]
        first = redemptions.redeem_many(session, uses)
        again = redemptions.redeem_many(session, uses)
    assert first == again
    assert [one.code for one in first if isinstance(one, Redeemed)] == codes
    assert count(db, "redemptions") == 60
    assert scalar(db, "SELECT count(*) FROM coupons WHERE state = 'redeemed'") == 60
    assert scalar(db, "SELECT budget_used_minor FROM coupon_batches") == 60_000
    assert scalar(db, "SELECT count(*) FROM warehouse_marks WHERE table_name = 'redemptions'") >= 1


def test_a_code_or_key_named_twice_waits_for_its_own_turn(db: Database) -> None:
    batch = add_batch(db)
    with db.write() as session:
        one, two = coupons.issue(session, batch, [(None, "a"), (None, "b")], NOW).values()
        basket = Basket("o", 5000, "CNY")
        found = redemptions.redeem_many(
            session,
            [Use(one, basket, "k1", NOW), Use(one.lower(), basket, "k2", NOW), Use(two, basket, "k1", NOW)],
        )
    assert isinstance(found[0], Redeemed)
    assert found[1:] == [None, None]


def test_the_budget_goes_to_those_who_came_first(db: Database) -> None:
    batch = add_batch(db, budget_minor=2500)
    with db.write() as session:
        made = coupons.issue(session, batch, [(None, f"i{n}") for n in range(4)], NOW)
        uses = [Use(code, Basket("o", 5000, "CNY"), code, NOW) for code in made.values()]
        found = redemptions.redeem_many(session, uses)
    assert [type(one).__name__ for one in found] == ["Redeemed", "Redeemed", "Refused", "Refused"]
    assert [getattr(one, "reason", None) for one in found[2:]] == ["budget", "budget"]
    assert scalar(db, "SELECT budget_used_minor FROM coupon_batches") == 2000
    assert scalar(db, "SELECT count(*) FROM coupons WHERE state = 'redeemed'") == 2


def given(database: Database, amounts: dict[int, int]) -> None:
    add_members(database, max(amounts))
    with database.write() as session:
        points.grant_many(session, [(member, n, f"g{member}") for member, n in amounts.items()], NOW)


def test_burns_together_are_answered_as_each_alone(db: Database) -> None:
    given(db, {1: 100, 2: 100, 3: 100, 4: 5})
    with db.write() as session:
        burning.burn(session, 3, 10, source_id="o3", idempotency_key="again", now=NOW)
        burning.burn(session, 3, 1, source_id="old", idempotency_key="k0", now=NOW)
    asked = [
        Burn(1, 60, "o1", "a", NOW), Burn(1, 60, "o2", "b", NOW), Burn(1, 40, "o4", "c", NOW),
        Burn(2, 1, "o1", "d", NOW), Burn(2, 1, "o1", "e", NOW), Burn(3, 10, "o3", "again", NOW),
        Burn(3, 11, "o3", "again", NOW), Burn(3, 2, "old", "f", NOW), Burn(4, 6, "o1", "g", NOW),
        Burn(4, 0, "o1", "h", NOW), Burn(4, 5, "o1", "", NOW),
    ]  # fmt: skip
    with db.write() as session:
        found = burning.burn_many(session, asked)
    assert [one if isinstance(one, Burned) else type(one).__name__ for one in found] == [
        Burned(60, 40), "NotEnough", Burned(40, 0), Burned(1, 99), "Conflict", Burned(10, 90),
        "NoneType", "Conflict", "NotEnough", "InvalidInput", "InvalidInput",
    ]  # fmt: skip
    with db.read() as session:
        assert [points.balance(session, member, NOW).available for member in (1, 2, 3, 4)] == [0, 99, 89, 5]
        assert points.check(session) == []


def test_the_key_of_a_refused_burn_is_free_again(db: Database) -> None:
    given(db, {1: 10, 2: 10})
    with db.write() as session:
        refused, done = burning.burn_many(
            session, [Burn(1, 11, "o1", "key", NOW), Burn(2, 5, "o2", "other", NOW)]
        )
    assert isinstance(refused, ledger.NotEnough)
    assert done == Burned(5, 5)
    assert scalar(db, "SELECT count(*) FROM loyalty_requests") == 1
    with db.write() as session:
        assert burning.burn(session, 1, 10, source_id="o1", idempotency_key="key", now=NOW) == Burned(10, 0)


def test_burning_together_prolongs_the_points_of_who_burnt(db: Database) -> None:
    with db.write() as session:
        rule = earn_rules.EarnRule(expires=earn_rules.INACTIVITY)
        earn_rules.save_rule(session, rule, "ann", NOW)
    given(db, {1: 10, 2: 10})
    at = NOW + timedelta(days=30)
    with db.write() as session:
        burning.burn_many(session, [Burn(1, 1, "o1", "a", at), Burn(2, 99, "o2", "b", at)])
    with db.read() as session:
        ends: dict[int, Any] = dict(
            session.execute(sa.text("SELECT member_id, expires_at FROM points_lots")).all()
        )
    assert ends[1] > ends[2]


def a_hundred_tries(database: Database, tries: int) -> dict[str, int]:
    """As many threads as ``tries`` at one till, each with a code of its own, on a budget for 10."""
    batch = add_batch(database, budget_minor=10_000)
    with database.write() as session:
        codes = list(coupons.issue(session, batch, [(None, f"i{n}") for n in range(tries)], NOW).values())
    tills = [Together(database, redemptions.redeem_many, redemptions.redeem_one) for _ in range(2)]

    def job(number: int) -> Any:
        use = Use(codes[number], Basket(f"o{number}", 5000, "CNY"), f"k{number}", NOW)
        return lambda: tills[number % 2](use)

    return dict(together([job(number) for number in range(tries)]))


def test_two_tills_of_many_threads_keep_one_budget(pg_db: Database) -> None:
    assert a_hundred_tries(pg_db, 200) == {"done": 10, "Refused": 190}
    assert scalar(pg_db, "SELECT budget_used_minor FROM coupon_batches") == 10_000
    assert count(pg_db, "redemptions") == 10


def test_without_the_batchs_lock_two_tills_pass_the_budget(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def room(session: Any, batch_ids: Any) -> Any:
        left = CouponBatch.budget_minor - CouponBatch.budget_used_minor
        return dict(
            session.execute(sa.select(CouponBatch.id, left).where(CouponBatch.id.in_(list(batch_ids)))).all()
        )

    monkeypatch.setattr(budgets, "room", meet(2, room))
    assert a_hundred_tries(pg_db, 2) == {"done": 2}  # both read before either wrote
    drop_the_second_defence(pg_db, "UPDATE coupon_batches SET budget_used_minor = 9000")
    with pg_db.write() as session:
        batch = session.scalars(sa.select(CouponBatch)).one()
        codes = list(coupons.issue(session, batch, [(None, "x"), (None, "y")], NOW).values())
    tills = [Together(pg_db, redemptions.redeem_many, redemptions.redeem_one) for _ in range(2)]
    ends = together(
        [
            lambda n=n: tills[n](Use(codes[n], Basket(f"p{n}", 5000, "CNY"), f"p{n}", NOW))  # type: ignore[misc]
            for n in range(2)
        ]
    )
    assert ends == {"done": 2}
    assert scalar(pg_db, "SELECT budget_used_minor FROM coupon_batches") == 11_000


def test_of_fifty_threads_at_two_tills_one_uses_the_code(pg_db: Database) -> None:
    batch = add_batch(pg_db)
    with pg_db.write() as session:
        [code] = coupons.issue(session, batch, [(None, "i")], NOW).values()
    tills = [Together(pg_db, redemptions.redeem_many, redemptions.redeem_one) for _ in range(2)]

    def job(number: int) -> Any:
        return lambda: tills[number % 2](Use(code, Basket(f"o{number}", 5000, "CNY"), f"k{number}", NOW))

    assert together([job(number) for number in range(50)]) == {"done": 1, "Refused": 49}
    assert count(pg_db, "redemptions") == 1
