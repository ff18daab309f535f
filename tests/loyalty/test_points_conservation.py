"""Random sequences of grants, holds, burns, transfers and adjustments: nothing is created, nothing lost."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.db import Database
from core.errors import HuiliuError
from loyalty import adjustments, burning, point_holds, point_transfers, points, points_check
from loyalty.earn_rules import EarnRule
from loyalty.point_transfers import TransferRule
from tests.loyalty.data import NOW, add_members

MONTHLY = EarnRule("1", 0, 1, "UTC")
LASTING = EarnRule(expires="never")
members = count(1)
keys = count(1)
number = st.integers(1, 60)
who = st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), who, number),
        st.tuples(st.just("lasting"), who, number),
        st.tuples(st.just("hold"), who, number),
        st.tuples(st.just("capture"), st.integers(0, 3), number),
        st.tuples(st.just("release"), st.integers(0, 3), number),
        st.tuples(st.just("burn"), who, number),
        st.tuples(st.just("transfer"), who, number),
        st.tuples(st.just("take"), who, number),
        st.tuples(st.just("sweep"), who, number),
        st.tuples(st.just("wait"), who, st.sampled_from([5, 31, 60 * 24 * 20])),
    ),
    min_size=4,
    max_size=25,
)


class Run:
    """Two fresh members; what is refused leaves everything as it was."""

    def __init__(self, database: Database) -> None:
        self.db, self.now = database, NOW
        first = next(members)
        next(members)
        self.pair = add_members(database, 2, first)
        self.holds: list[tuple[int, int, int]] = []
        with database.write() as session:
            point_transfers.save(session, TransferRule(True, 10**9), "ann", NOW)

    def step(self, kind: str, which: int, points_: int) -> None:
        before = self.totals()
        moved = {"grant": points_, "lasting": points_}.get(kind, 0)
        try:
            with self.db.write() as session:
                getattr(self, kind)(session, which, points_)
        except HuiliuError:
            assert self.totals() == before
            moved = 0
        assert sum(total.issued for total in self.totals()) == sum(t.issued for t in before) + moved
        self.compare()

    def grant(self, session: Any, which: int, points_: int, rule: EarnRule = MONTHLY) -> None:
        row = (self.pair[which], points_, f"c{next(keys)}")
        points.grant_many(session, [row], self.now, rule=rule)

    def lasting(self, session: Any, which: int, points_: int) -> None:
        self.grant(session, which, points_, LASTING)

    def hold(self, session: Any, which: int, points_: int) -> None:
        key, member = f"ch{next(keys)}", self.pair[which]
        found = point_holds.hold(session, member, points_, source_id=key, idempotency_key=key, now=self.now)
        self.holds.append((member, found.hold_id, points_))

    def capture(self, session: Any, which: int, points_: int) -> None:
        if self.holds:
            member, hold_id, held = self.holds[which % len(self.holds)]
            taken = burning.burn(
                session, member, points_, source_id=None, idempotency_key=f"cc{next(keys)}", now=self.now,
                hold_id=hold_id,
            )  # fmt: skip
            assert taken.points == points_ <= held

    def release(self, session: Any, which: int, _points: int) -> None:
        if self.holds:
            member, hold_id, _ = self.holds[which % len(self.holds)]
            key = f"cr{next(keys)}"
            point_holds.release(session, member, hold_id, idempotency_key=key, now=self.now)

    def burn(self, session: Any, which: int, points_: int) -> None:
        key = f"cb{next(keys)}"
        burning.burn(session, self.pair[which], points_, source_id=key, idempotency_key=key, now=self.now)

    def transfer(self, session: Any, which: int, points_: int) -> None:
        giver, taker = self.pair[which], self.pair[1 - which]
        key = f"ct{next(keys)}"
        point_transfers.transfer(session, giver, taker, points_, idempotency_key=key, now=self.now)

    def take(self, session: Any, which: int, points_: int) -> None:
        """Taken by hand, sometimes more than there is: a debt that later points repay."""
        adjustments.ask(
            session, self.pair[which], -points_, "x", key=f"ca{next(keys)}", by="ann", now=self.now,
            allow_debt=points_ % 2 == 0,
        )  # fmt: skip

    def sweep(self, session: Any, _which: int, _points: int) -> None:
        point_holds.expire_holds(session, self.now, 100)
        points.expire(session, self.now, 100)

    def wait(self, _session: Any, _which: int, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    def totals(self) -> list[points_check.Totals]:
        with self.db.read() as session:
            return [points_check.totals(session, self.now, member) for member in self.pair]

    def compare(self) -> None:
        with self.db.read() as session:
            assert points.check(session) == []
            found = points.balances(session, self.pair, self.now)
        for member, total in zip(self.pair, self.totals(), strict=True):
            assert total.conserved, total
            assert min(total.available, total.pending, total.held, total.spent, total.expired) >= 0
            balance = found[member]
            # Holds whose time is over are free in a balance, swept or not; a debt takes from them first.
            assert total.available <= balance.available <= total.available + total.held - balance.held
            assert not (balance.debt and balance.available)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_points_are_conserved_whatever_happens(
    sqlite_db: Database, steps: list[tuple[str, int, int]]
) -> None:
    run = Run(sqlite_db)
    for step in steps:
        run.step(*step)
