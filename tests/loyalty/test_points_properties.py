"""The points ledger against a slow oracle that keeps every single point as an object of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.db import Database
from core.errors import Conflict
from core.models import Order
from loyalty import burning, points
from loyalty.earning import EarnRule, accrue_orders
from loyalty.lots import CREATION
from loyalty.models import PointsEntry, PointsLot
from tests.loyalty.data import NOW, add_members, put_order

RULE = EarnRule(points_per_unit="0.5", pending_days=3, expiry_months=1, timezone="UTC")
LASTING = EarnRule(expiry_months=None)
DAY = timedelta(days=1)


@dataclass
class Point:
    lot: int
    usable_from: datetime
    over_at: datetime | None
    state: str = "held"
    spent_on: str = ""


@dataclass
class Oracle:
    """One member's points, each on its own; everything is counted, nothing is stored."""

    points: list[Point] = field(default_factory=list)
    debt: int = 0
    taken: Counter[int] = field(default_factory=Counter)

    def held(self, now: datetime, lot: int | None = None) -> list[Point]:
        alive = [p for p in self.points if p.state == "held" and (p.over_at is None or p.over_at > now)]
        # False sorts first: dated before undated; then by expiry, then by lot.
        alive.sort(key=lambda p: (p.over_at is None, p.over_at or NOW, p.lot))
        return [p for p in alive if p.lot == lot] + [p for p in alive if p.lot != lot]

    def issue(
        self, number: int, lot: int, usable_from: datetime, over_at: datetime | None, now: datetime
    ) -> None:
        self.points += [Point(lot, usable_from, over_at) for _ in range(number)]
        self.repay(now)

    def repay(self, now: datetime) -> None:
        for point in self.held(now):
            if self.debt:
                point.state, self.debt = "taken", self.debt - 1

    def usable(self, now: datetime) -> list[Point]:
        return [p for p in self.held(now) if p.usable_from <= now]

    def refund_order(self, lot: int, base: int, net: int, now: datetime) -> None:
        own = [p for p in self.points if p.lot == lot]
        gone = sum(
            p.state == "expired" or (p.state == "held" and p.over_at is not None and p.over_at <= now)
            for p in own
        )
        due = min(len(own) * (base - net) // base, len(own) - gone) - self.taken[lot]
        for _ in range(max(0, due)):
            self.taken[lot] += 1
            held = self.held(now, lot)
            if held:
                held[0].state = "taken"
            else:
                self.debt += 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.integers(1, 40), st.booleans()),
        st.tuples(st.just("order"), st.integers(1, 80), st.just(0)),
        st.tuples(st.just("refund_order"), st.integers(0, 3), st.integers(0, 100)),
        st.tuples(st.just("spend"), st.integers(1, 50), st.just(0)),
        st.tuples(st.just("refund_spend"), st.integers(0, 3), st.integers(1, 50)),
        st.tuples(st.just("expire"), st.just(0), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([1, 3, 20, 40]), st.just(0)),
    ),
    min_size=3,
    max_size=18,
)
numbers = count(1)


class Run:
    """The same steps on the database and on the oracle, for one fresh member."""

    def __init__(self, database: Database) -> None:
        self.db, self.now, self.oracle = database, NOW, Oracle()
        self.member = add_members(database, 1, next(numbers))[0]
        self.orders: list[tuple[int, int, int]] = []
        self.spends: list[str] = []

    def last_lot(self) -> tuple[int, datetime, datetime | None] | None:
        with self.db.read() as session:
            row = session.execute(
                sa.select(PointsLot.id, PointsLot.available_at, PointsLot.expires_at)
                .where(PointsLot.member_id == self.member)
                .order_by(PointsLot.id.desc())
                .limit(1)
            ).one_or_none()
        return None if row is None else (row[0], row[1], row[2])

    def step(self, kind: str, first: int, second: Any) -> None:
        getattr(self, kind)(first, second)
        self.compare()

    def wait(self, days: int, _: Any) -> None:
        self.now += days * DAY

    def grant(self, number: int, lasting: bool) -> None:
        with self.db.write() as session:
            rule = LASTING if lasting else RULE
            points.grant_many(session, [(self.member, number, f"g{next(numbers)}")], self.now, rule=rule)
        lot = self.last_lot()
        assert lot is not None
        self.oracle.issue(number, *lot, self.now)

    def order(self, major: int, _: Any) -> None:
        order_id, base = next(numbers), major * 100
        with self.db.write() as session:
            put_order(session, order_id, self.member, base, at=self.now)
            earned = accrue_orders(session, RULE, self.now, 100).earned
        assert earned == major // 2
        lot = self.last_lot()
        if earned and lot is not None:
            self.orders.append((order_id, lot[0], base))
            self.oracle.issue(earned, *lot, self.now)

    def refund_order(self, which: int, percent: int) -> None:
        if not self.orders:
            return
        order_id, lot, base = self.orders[which % len(self.orders)]
        refunded = base * percent // 100
        with self.db.write() as session:
            at = session.get_one(Order, order_id).ordered_at
            put_order(session, order_id, self.member, base, refunded=refunded, status="refunded", at=at)
            accrue_orders(session, EarnRule("9"), self.now, 100)
        self.oracle.refund_order(lot, base, base - refunded, self.now)

    def spend(self, number: int, _: Any) -> None:
        source = f"s{next(numbers)}"
        usable = self.oracle.usable(self.now)
        refused = False
        try:
            with self.db.write() as session:
                burning.burn(
                    session, self.member, number, source_id=source, idempotency_key=source, now=self.now
                )
        except Conflict:
            refused = True
        assert refused == (len(usable) < number)
        if not refused:
            self.spends.append(source)
            for point in usable[:number]:
                point.state, point.spent_on = "spent", source

    def refund_spend(self, which: int, number: int) -> None:
        if not self.spends:
            return
        source, key = self.spends[which % len(self.spends)], f"r{next(numbers)}"
        spent = [p for p in self.oracle.points if p.state == "spent" and p.spent_on == source]
        refused = False
        try:
            with self.db.write() as session:
                burning.refund_burn(
                    session, self.member, source_id=source, idempotency_key=key, now=self.now, points=number
                )
        except Conflict:
            refused = True
        assert refused == (len(spent) < number)
        if refused:
            return
        spent.sort(key=lambda p: (p.over_at is None, p.over_at or NOW, p.lot), reverse=True)
        for point in spent[:number]:
            over = point.over_at is not None and point.over_at <= self.now
            point.state = "expired" if over else "held"
        self.oracle.repay(self.now)

    def expire(self, *_: Any) -> None:
        with self.db.write() as session:
            points.expire(session, self.now, 1000)
        for point in self.oracle.points:
            if point.state == "held" and point.over_at is not None and point.over_at <= self.now:
                point.state = "expired"

    def compare(self) -> None:
        held = self.oracle.held(self.now)
        usable = self.oracle.usable(self.now)
        with self.db.read() as session:
            found = points.balance(session, self.member, self.now)
            assert (found.available, found.pending) == (len(usable), len(held) - len(usable))
            assert found.debt == self.oracle.debt
            assert found.next_expiry == min((p.over_at for p in usable if p.over_at), default=None)
            assert not (found.debt and held)  # whoever has points owes none
            lots = session.execute(
                sa.select(PointsLot.id, PointsLot.issued, PointsLot.remaining).where(
                    PointsLot.member_id == self.member
                )
            ).all()
            states = Counter((p.lot, p.state) for p in self.oracle.points)
            for lot, issued, remaining in lots:
                assert 0 <= remaining <= issued
                assert remaining == states[lot, "held"]
            self.conserve(session, sum(lot.issued for lot in lots), sum(lot.remaining for lot in lots))
            assert points.check(session) == []

    def conserve(self, session: Any, issued: int, remaining: int) -> None:
        sums = session.execute(
            sa.select(PointsEntry.kind, sa.func.sum(PointsEntry.delta))
            .where(PointsEntry.member_id == self.member, PointsEntry.lot_id.is_not(None))
            .group_by(PointsEntry.kind)
        )
        by = Counter({kind: int(total) for kind, total in sums})
        assert issued == sum(by[kind] for kind in CREATION)
        spent, expired = -by["spend"] - by["refund"], -by["expire"]
        taken = -by["revoke"] - by["repay"]
        assert issued == remaining + spent + expired + taken
        states = Counter(p.state for p in self.oracle.points)
        assert (spent, expired, taken) == (states["spent"], states["expired"], states["taken"])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_ledger_agrees_with_the_oracle_after_every_step(
    sqlite_db: Database, steps: list[tuple[str, int, Any]]
) -> None:
    run = Run(sqlite_db)
    for step in steps:
        run.step(*step)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 997), min_size=1, max_size=6), points_earned=st.integers(1, 400))
def test_partial_refunds_are_cumulative_and_end_at_the_whole(
    sqlite_db: Database, cuts: list[int], points_earned: int
) -> None:
    """Invariant 6: the sum is floor(issued · refunded / base), and the last takes the rest."""
    member, order_id = add_members(sqlite_db, 1, next(numbers))[0], next(numbers)
    rule = EarnRule(points_per_unit=str(points_earned), pending_days=0)
    taken = 0
    with sqlite_db.write() as session:
        put_order(session, order_id, member, 997)
        issued = accrue_orders(session, rule, NOW, 10).earned
        for refunded in [*sorted(cuts), 997]:
            put_order(session, order_id, member, 997, refunded=refunded, status="refunded")
            taken += accrue_orders(session, rule, NOW, 10).taken_back
            assert taken == issued * refunded // 997
        assert taken == issued
        assert points.balance(session, member, NOW) == points.Balance()
