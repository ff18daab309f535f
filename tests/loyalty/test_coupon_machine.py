"""A batch with holds, redemptions, releases and rollbacks in any order, against a plain Python oracle.

The oracle knows the rules and nothing of the database: limits in all and a member, a budget that holds
take from as well, holds that end by time, parts of a basket that come back cumulatively. After every step
its money, states and answers are the database's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.db import Database
from core.errors import Conflict, InvalidInput
from loyalty import coupon_holds, coupons
from loyalty.models import Coupon, CouponBatch, CouponHold, Redemption
from tests.loyalty.data import NOW, add_batch, add_members

MEMBERS = 3
TOTAL, EACH, BUDGET = 6, 3, 2_600
PERCENT = 12.5
BASKETS = st.integers(0, 9_000)
KEYS = st.integers(0, 10**6)


@dataclass
class Hold:
    code: str
    order: str
    basket: int
    off: int
    ends: datetime
    state: str = "held"


@dataclass
class Use:
    code: str
    order: str
    basket: int
    off: int
    back: int = 0
    off_back: int = 0
    over: bool = False


@dataclass
class Oracle:
    """What must be true, by the rules alone."""

    owner: dict[str, int] = field(default_factory=dict)
    holds: dict[int, Hold] = field(default_factory=dict)
    uses: dict[int, Use] = field(default_factory=dict)

    @staticmethod
    def discount(basket: int) -> int:
        """12.5 %, half up: a basket's eighth."""
        return (basket * 2 + 8) // 16

    def held(self, code: str, now: datetime) -> int | None:
        live = [n for n, one in self.holds.items() if one.code == code and one.state == "held"]
        return next((n for n in live if self.holds[n].ends > now), None)

    def used(self, code: str) -> int | None:
        return next((n for n, one in self.uses.items() if one.code == code and not one.over), None)

    def unswept(self, now: datetime, but: str = "") -> int:
        """Money of holds that are over, which nobody has swept: it is not free yet."""
        found = [one for one in self.holds.values() if one.state == "held" and one.ends <= now]
        return sum(one.off for one in found if one.code != but)

    def money(self, now: datetime) -> int:
        """What uses and live holds take of the budget."""
        held = sum(one.off for one in self.holds.values() if one.state == "held" and one.ends > now)
        return held + sum(one.off - one.off_back for one in self.uses.values())


class Machine(RuleBasedStateMachine):
    """Steps of tills, some of them wrong on purpose."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        wipe(self.database)
        self.batch = add_batch(
            self.database, total_limit=TOTAL, per_member_limit=EACH, budget_minor=BUDGET,
            benefit={"type": "percent", "percent": str(PERCENT)},
        )  # fmt: skip
        self.oracle, self.now, self.number = Oracle(), NOW, 0

    def key(self) -> str:
        self.number += 1
        return f"k{self.number}"

    @contextmanager
    def refused(self, *reasons: str) -> Iterator[Any]:
        """The step's transaction; the refusal must be one of those that the oracle expects, and come."""
        try:
            with self.database.write() as session:
                yield session
        except (Conflict, InvalidInput) as error:
            assert getattr(error, "reason", type(error).__name__) in reasons, (error, reasons)  # noqa: PT017
        else:
            assert reasons == (), f"nothing was refused, but it should be for {reasons}"

    def pick(self, number: int) -> str | None:
        found = list(self.oracle.owner)  # in the order issued: codes are random
        return found[number % len(found)] if found else None

    @rule(member=st.integers(1, MEMBERS))
    def issue(self, member: int) -> None:
        key, owned = self.key(), list(self.oracle.owner.values())
        with self.database.write() as session:
            given = coupons.issue(session, self.batch, [(member, key)], self.now)
        room = len(owned) < TOTAL and owned.count(member) < EACH
        assert (key in given) == room
        if room:
            self.oracle.owner[given[key]] = member

    @precondition(lambda self: self.oracle.owner)
    @rule(number=KEYS, basket=BASKETS, minutes=st.integers(1, 30))
    def hold(self, number: int, basket: int, minutes: int) -> None:
        code, order = str(self.pick(number)), self.key()
        off = Oracle.discount(basket)
        reasons = self._why_not(code, off)
        with self.refused(*reasons) as session:
            made = coupons.hold(
                session, code, order_ref=order, basket_minor=basket, currency="CNY",
                member_external_id=None, idempotency_key=order, now=self.now, minutes=minutes,
            )  # fmt: skip
            assert made.discount_minor == off
            ends = self.now + timedelta(minutes=minutes)
            self._end_old(code)
            self.oracle.holds[made.hold_id] = Hold(code, order, basket, off, ends)

    def _why_not(self, code: str, off: int) -> tuple[str, ...]:
        if self.oracle.used(code) is not None:
            return ("already_redeemed",)
        if self.oracle.held(code, self.now) is not None:
            return ("held",)
        taken = self.oracle.money(self.now) + self.oracle.unswept(self.now, but=code)
        return ("budget",) if off and taken + off > BUDGET else ()

    def _end_old(self, code: str) -> None:
        for one in self.oracle.holds.values():
            if one.code == code and one.state == "held" and one.ends <= self.now:
                one.state = "expired"

    @precondition(lambda self: self.oracle.owner)
    @rule(number=KEYS, basket=BASKETS)
    def redeem(self, number: int, basket: int) -> None:
        code, order = str(self.pick(number)), self.key()
        off = Oracle.discount(basket)
        with self.refused(*self._why_not(code, off)) as session:
            self._redeemed(session, code, order, basket, off, {"code": code})

    def _redeemed(
        self, session: Any, code: str, order: str, basket: int, off: int, what: dict[str, Any]
    ) -> None:
        common = {"order_ref": order, "basket_minor": basket, "currency": "CNY", "now": self.now,
                  "member_external_id": None, "idempotency_key": order}  # fmt: skip
        if "code" in what:
            made = coupons.redeem(session, code, **common)
        else:
            made = coupons.redeem_hold(session, what["hold"], **common)
        assert made.discount_minor == off
        self._end_old(code)
        self.oracle.uses[made.redemption_id] = Use(code, order, basket, off)

    @precondition(lambda self: self.oracle.holds)
    @rule(number=KEYS, basket=BASKETS, by_order=st.booleans())
    def redeem_held(self, number: int, basket: int, by_order: bool) -> None:
        hold_id = sorted(self.oracle.holds)[number % len(self.oracle.holds)]
        held = self.oracle.holds[hold_id]
        over = held.ends <= self.now
        if by_order and (held.state != "held" or over):
            return  # the code without a hold of its order: what `redeem` does
        reasons: tuple[str, ...] = ()
        if held.state != "held" or over:
            ended = {"redeemed": "already_redeemed", "released": "hold_released"}
            reasons = (ended.get(held.state, "hold_expired"),)
        off = min(Oracle.discount(basket), held.off)
        order = held.order if by_order else self.key()
        with self.refused(*reasons) as session:
            if by_order:
                made = coupons.redeem(
                    session, held.code, order_ref=order, basket_minor=basket, currency="CNY",
                    member_external_id=None, idempotency_key=self.key(), now=self.now,
                )  # fmt: skip
                assert made.discount_minor == off
                self.oracle.uses[made.redemption_id] = Use(held.code, order, basket, off)
            else:
                self._redeemed(session, held.code, order, basket, off, {"hold": hold_id})
            held.state = "redeemed"

    @precondition(lambda self: self.oracle.holds)
    @rule(number=KEYS)
    def release(self, number: int) -> None:
        hold_id = sorted(self.oracle.holds)[number % len(self.oracle.holds)]
        held = self.oracle.holds[hold_id]
        reasons = ("already_redeemed",) if held.state == "redeemed" else ()
        with self.refused(*reasons) as session:
            told = coupons.release(session, hold_id, self.now)
            if held.state == "held":
                held.state = "expired" if held.ends <= self.now else "released"
            assert told.state == held.state

    @precondition(lambda self: self.oracle.uses)
    @rule(number=KEYS, part=st.one_of(st.none(), st.integers(1, 9_000)))
    def roll_back(self, number: int, part: int | None) -> None:
        use = self.oracle.uses[sorted(self.oracle.uses)[number % len(self.oracle.uses)]]
        live = self.oracle.used(use.code)
        left = use.basket - use.back
        reasons: tuple[str, ...] = ()
        if live is None or self.oracle.uses[live] is not use:
            reasons = ("Conflict",)
        elif part is not None and part > left:
            reasons = ("InvalidInput",)
        with self.refused(*reasons) as session:
            told = coupons.rollback(
                session, use.code, order_ref=use.order, idempotency_key=self.key(), now=self.now,
                amount_minor=part,
            )  # fmt: skip
            use.back += left if part is None else part
            use.over = use.back == use.basket
            use.off_back = use.off if use.over else use.off * use.back // use.basket
            assert (told.returned_basket_minor, told.returned_discount_minor) == (use.back, use.off_back)
            assert (told.rolled_back_at is not None) == use.over

    @rule(minutes=st.integers(1, 20), sweep=st.booleans())
    def later(self, minutes: int, sweep: bool) -> None:
        self.now += timedelta(minutes=minutes)
        if sweep:
            with self.database.write() as session:
                coupon_holds.expire(session, self.now, 100)
            for one in self.oracle.holds.values():
                if one.state == "held" and one.ends <= self.now:
                    one.state = "expired"

    @invariant()
    def agree(self) -> None:
        with self.database.read() as session:
            used = session.scalars(sa.select(CouponBatch.budget_used_minor)).one()
            issued = session.scalars(sa.select(CouponBatch.issued)).one()
            states = dict(session.execute(sa.select(Coupon.code, Coupon.state)).all())
            holds = dict(session.execute(sa.select(CouponHold.id, CouponHold.state)).all())
            uses = session.execute(
                sa.select(Redemption.id, Redemption.discount_minor, Redemption.returned_discount_minor)
            ).all()
        assert holds == {number: one.state for number, one in self.oracle.holds.items()}
        assert used == self.oracle.money(self.now) + self.oracle.unswept(self.now) <= BUDGET
        assert issued == len(self.oracle.owner) <= TOTAL
        assert {number: (off, back) for number, off, back in uses} == {
            number: (one.off, one.off_back) for number, one in self.oracle.uses.items()
        }
        held = {one.code for one in self.oracle.holds.values() if one.state == "held"}
        assert states == {
            code: "redeemed" if self.oracle.used(code) is not None else "held" if code in held else "issued"
            for code in self.oracle.owner
        }


def wipe(database: Database) -> None:
    tables = ("coupon_returns", "redemptions", "coupon_holds", "coupons", "coupon_batches",
              "loyalty_requests")  # fmt: skip
    with database.engine.begin() as connection:
        for table in tables:
            connection.execute(sa.text(f"DELETE FROM {table}"))


def run(database: Database, examples: int, steps: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    add_members(database, MEMBERS)
    machine = type("Machine", (Machine,), {"database": database})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_steps_keeps_money_and_states_right(sqlite_db: Database) -> None:
    run(sqlite_db, 60, 40)


def test_and_so_on_postgresql(pg_db: Database) -> None:
    run(pg_db, 8, 40)


def test_the_oracles_discount_is_half_up() -> None:
    assert [Oracle.discount(basket) for basket in (0, 3, 4, 11, 12, 8_000)] == [0, 0, 1, 1, 2, 1_000]


def test_the_machine_notices_money_that_is_not_given_back(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loyalty.budgets.give_back", lambda *_: None)
    with pytest.raises(AssertionError):
        run(sqlite_db, 60, 40, [Phase.generate])
