"""Tiers: what decides, the review of everybody, promotion after earning, and simulation."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import InvalidInput
from core.models import Member
from loyalty import points
from loyalty.earning import EarnRule, accrue_orders
from loyalty.tiers import review, store
from loyalty.tiers.model import Decision, Program, Standing, Tier, decide
from loyalty.tiers.models import MemberTier, TierMove
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, put_order

DAY = timedelta(days=1)
LADDER = (
    Tier("basic", "普通", 0),
    Tier("silver", "银卡", 1000, "Silver"),
    Tier("gold", "金卡", 5000, "Gold", {"multiplier": "1.5", "free_shipping": True}),
)
ROLLING = Program(LADDER, timezone="UTC", grace_days=10)
CALENDAR = Program(LADDER, window="calendar", timezone="UTC")


def at(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


def test_a_tier_lasts_to_the_end_of_the_next_year_or_of_the_window() -> None:
    """Worked case 19."""
    assert decide(5000, None, CALENDAR, at(2018, 11, 20)) == Decision("gold", at(2020, 1, 1), "reached")
    assert decide(5000, None, ROLLING, at(2019, 3, 3)) == Decision("gold", at(2020, 3, 3), "reached")
    shanghai = Program(LADDER, window="calendar")
    assert decide(5000, None, shanghai, at(2018, 11, 20)).until == datetime(2019, 12, 31, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "tier", "until", "now", "expected"),
    [
        (0, None, None, NOW, Decision("basic", None, "reached")),
        (999, "basic", None, NOW + 999 * DAY, Decision("basic", None)),
        (5000, "basic", None, NOW, Decision("gold", at(2027, 3, 1) + 12 * timedelta(hours=1), "reached")),
        (0, "gold", NOW + DAY, NOW, Decision("gold", NOW + DAY)),  # before the review
        (0, "gold", NOW, NOW + 9 * DAY, Decision("gold", NOW)),  # days of grace
        (0, "gold", NOW, NOW + 10 * DAY, Decision("silver", at(2027, 3, 11) + 12 * timedelta(hours=1), "review")),
        (5000, "gold", NOW, NOW + 10 * DAY, Decision("gold", at(2027, 3, 11) + 12 * timedelta(hours=1), "kept")),
        (0, "silver", NOW, NOW + 10 * DAY, Decision("basic", None, "review")),
    ],
)  # fmt: skip
def test_up_at_once_and_down_one_step_at_the_review(
    value: int, tier: str | None, until: datetime | None, now: datetime, expected: Decision
) -> None:
    assert decide(value, Standing(tier, until) if tier else None, ROLLING, now) == expected


def test_a_review_of_the_calendar_year_gives_this_year_alone() -> None:
    gold = Standing("gold", at(2020, 1, 1))
    assert decide(9000, gold, CALENDAR, at(2020, 1, 1)) == Decision("gold", at(2021, 1, 1), "kept")
    assert decide(0, gold, CALENDAR, at(2020, 1, 1)) == Decision("silver", at(2021, 1, 1), "review")


def test_a_tier_that_is_no_more_leaves_the_best_one_that_asked_for_no_more() -> None:
    program = Program((LADDER[0], LADDER[1]), timezone="UTC", retired={"gold": 5000})
    assert decide(0, Standing("gold", NOW), program, NOW) == Decision("silver", NOW, "removed")
    assert decide(0, Standing("unknown", NOW), program, NOW).tier == "basic"
    assert decide(0, None, Program(LADDER[1:]), NOW) == Decision(None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tiers": (LADDER[1], LADDER[0])},
        {"tiers": (LADDER[1], LADDER[1])},
        {"basis": "luck"},
        {"window": "week"},
        {"months": 0},
        {"grace_days": -1},
    ],
)
def test_a_program_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Program(**wrong)  # type: ignore[arg-type]
    for more in (
        {"threshold": -1},
        {"name": ""},
        {"benefits": {"luck": 1}},
        {"benefits": {"multiplier": "x"}},
    ):
        with pytest.raises(InvalidInput):
            Tier(**{"name": "n", "title": "t", "threshold": 1, **more})  # type: ignore[arg-type]


@pytest.fixture
def shop(db: Database) -> Database:
    """m1 spent 6000, m2 1500, m3 nothing that counts, m4 6000 two years ago; m5 was erased."""
    add_members(db, 5)
    with db.write() as session:
        put_order(session, 1, 1, 4000)
        put_order(session, 2, 1, 2000, at=NOW - 300 * DAY)
        put_order(session, 3, 2, 3000, refunded=1500, status="refunded")
        put_order(session, 4, 3, 9000, status="cancelled")
        put_order(session, 5, 3, 9000, currency="USD")
        put_order(session, 6, 4, 6000, at=NOW - 700 * DAY)
        put_order(session, 7, 5, 6000)
        session.execute(sa.update(Member).where(Member.id == 5).values(erased_at=NOW))
        store.save_program(session, ROLLING, "ann", NOW)
    return db


def reviewed(database: Database, now: datetime = NOW) -> review.Reviewed:
    with database.write() as session:
        return review.review(session, store.load_program(session), now)


def tiers_of(database: Database) -> dict[int, str]:
    with database.read() as session:
        return store.tier_of(session, range(1, 6))


def test_everybody_is_reviewed_by_one_scan(shop: Database) -> None:
    assert reviewed(shop) == review.Reviewed(4, 0, 0)
    assert tiers_of(shop) == {1: "gold", 2: "silver", 3: "basic", 4: "basic"}
    assert reviewed(shop) == review.Reviewed()
    assert count(shop, "tier_moves") == 4
    after = NOW + 375 * DAY  # the year and ten days of grace are over
    assert reviewed(shop, after) == review.Reviewed(0, 2, 0)
    assert tiers_of(shop) == {1: "silver", 2: "basic", 3: "basic", 4: "basic"}
    with shop.read() as session:
        last = session.scalars(sa.select(TierMove).order_by(TierMove.id.desc())).first()
        assert last is not None
        assert (last.from_tier, last.to_tier, last.why, last.value) == ("silver", "basic", "review", 0)


@pytest.mark.parametrize(("basis", "expected"), [("orders", {1: "two", 2: "one"}), ("points", {1: "two"})])
def test_orders_and_earned_points_are_bases_too(shop: Database, basis: str, expected: dict[int, str]) -> None:
    with shop.write() as session:
        accrue_orders(session, EarnRule("1", 0, None), NOW, 100)  # m1: 40 + 20, m2: 15
        points.grant_many(session, [(2, 500, "gift")], NOW)  # a gift was not earned
        ladder = (
            Tier("one", "一", 1 if basis == "orders" else 20),
            Tier("two", "二", 2 if basis == "orders" else 60),
        )
        store.save_program(session, Program(ladder, basis=basis, timezone="UTC"), "ann", NOW)
        session.execute(sa.delete(MemberTier))
        session.execute(sa.delete(TierMove))
    reviewed(shop)
    found = tiers_of(shop)
    assert {member: tier for member, tier in found.items() if member in (1, 2)} == expected


def test_points_taken_back_count_no_more(shop: Database) -> None:
    ladder = (Tier("one", "一", 20), Tier("two", "二", 60))
    with shop.write() as session:
        store.save_program(session, Program(ladder, basis="points", timezone="UTC"), "ann", NOW)
        assert accrue_orders(session, EarnRule("1", 0, None), NOW, 100).promoted == 3
        program = store.load_program(session)
        assert review.value_of(session, program, 1, NOW) == 60
        put_order(session, 1, 1, 4000, status="cancelled")
        accrue_orders(session, EarnRule("1", 0, None), NOW, 100)
        assert review.value_of(session, program, 1, NOW) == 20
    assert tiers_of(shop)[1] == "two"  # up at once, down at the review alone


def test_earning_promotes_at_once_and_nobody_goes_down_before_the_review(shop: Database) -> None:
    with shop.write() as session:
        assert accrue_orders(session, EarnRule("1", 0), NOW, 100).promoted == 4
        store.save_program(
            session, Program((LADDER[0], Tier("silver", "银", 10**6)), timezone="UTC"), "ann", NOW
        )
        assert review.promote(session, range(1, 6), NOW + DAY) == 0
    assert tiers_of(shop) == {1: "gold", 2: "silver", 3: "basic", 4: "basic"}


def test_the_better_of_this_calendar_year_and_the_last_counts(shop: Database) -> None:
    with shop.read() as session:
        # m1 spent 4000 this year and 2000 in the last: 6000 is of no single year.
        assert review.value_of(session, CALENDAR, 1, NOW) == 4000
        assert review.value_of(session, CALENDAR, 1, NOW + 400 * DAY) == 4000
        assert review.value_of(session, CALENDAR, 1, NOW + 800 * DAY) == 0


def test_a_simulation_says_who_would_move_and_writes_nothing(shop: Database) -> None:
    reviewed(shop)
    new = Program((LADDER[0], Tier("silver", "银", 1000), Tier("black", "黑", 6000)), timezone="UTC")
    with shop.read() as session:
        found = review.simulate(session, new, NOW)
        assert found.matrix == Counter({("gold", "black"): 1, ("silver", "silver"): 1, ("basic", "basic"): 2})
        assert found.down == 0
        strict = Program((LADDER[0], Tier("silver", "银", 2000), LADDER[2]), timezone="UTC")
        found = review.simulate(session, strict, NOW)
        assert (found.down, found.shown) == (1, ((2, "silver", "basic", 1500),))
    assert count(shop, "tier_moves") == 4
    assert tiers_of(shop)[1] == "gold"


def test_membership_says_what_is_missing_to_the_next_tier(shop: Database) -> None:
    reviewed(shop)
    with shop.read() as session:
        one, two = (review.membership(session, member, NOW) for member in (1, 2))
    assert (one.tier, one.next_tier, one.to_next) == ("gold", None, None)
    assert one.benefits == {"multiplier": "1.5", "free_shipping": True}
    assert (two.tier, two.next_tier, two.to_next, two.value) == ("silver", "gold", 3500, 1500)
    assert two.until is not None


@pytest.mark.parametrize(
    "program",
    [
        Program(LADDER, timezone="UTC", grace_days=10),
        Program(LADDER[1:], timezone="UTC", retired={"basic": 0}),
        Program(LADDER[:2], timezone="UTC", retired={"gold": 5000}, grace_days=1),
    ],
)
def test_the_database_leaves_out_only_those_whom_no_review_concerns(db: Database, program: Program) -> None:
    """Every tier, value and end there may be: what the decision says of all is what the query finds."""
    standings = [
        (tier, value, until)
        for tier in (None, "basic", "silver", "gold", "unknown")
        for value in (0, 999, 1000, 4999, 5000)
        for until in (None, NOW - 11 * DAY, NOW - 10 * DAY, NOW - DAY, NOW, NOW + DAY)
        if tier is not None or until is None
    ]
    add_members(db, len(standings))
    with db.write() as session:
        for number, (tier, value, until) in enumerate(standings, 1):
            if value:
                put_order(session, number, number, value)
            if tier is not None:
                session.add(MemberTier(member_id=number, tier=tier, since=NOW, until=until, value=value))
    expected = [
        number
        for number, (tier, value, until) in enumerate(standings, 1)
        if decide(value, Standing(tier, until) if tier else None, program, NOW).why is not None
    ]
    with db.read() as session:
        assert [move.member_id for move in review.due(session, program, NOW)] == expected
        listed = review._standings(session, program, NOW, None, news_only=True)
        assert len(list(listed)) == len(expected), "the database answers nobody in vain"
