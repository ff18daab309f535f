"""What orders and events earn: categories, exclusions, multipliers, tiers, expiry policies, limits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa

from channels.consent import set_many
from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.imports import load_rows, numbered
from core.models import Member, OrderLine, Preference
from core.settings import Settings
from loyalty import earn_events, earn_rules, earning, erasure, multipliers, points, segment_members
from loyalty.earn_events import EventRule
from loyalty.earn_rules import EarnRule
from loyalty.models import PointsLot
from loyalty.multipliers import Multiplier
from loyalty.tiers.models import MemberTier, TierRow
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, put_order

DAY = timedelta(days=1)
PLAIN = EarnRule("1", 0, 12, "UTC")


@pytest.fixture
def one(db: Database) -> Database:
    add_members(db, 2)
    return db


def put_lines(database: Database, order_id: int, *lines: tuple[str, str, int, bool], **more: object) -> None:
    """(sku, category, amount, refunded) each; the order's totals follow."""
    refunded = sum(amount for *_, amount, gone in lines if gone)
    status = "refunded" if refunded else "paid"
    with database.write() as session:
        session.execute(sa.delete(OrderLine).where(OrderLine.order_id == order_id))
        total = sum(line[2] for line in lines)
        put_order(session, order_id, 1, total, refunded=refunded, status=status, **more)  # type: ignore[arg-type]
        for number, (sku, category, amount, gone) in enumerate(lines, 1):
            session.add(
                OrderLine(
                    order_id=order_id, line_no=number, sku=sku, category=category, quantity=1,
                    amount_minor=amount, discount_minor=0, refunded=gone,
                )
            )  # fmt: skip


def accrue(database: Database, rule: EarnRule, now: datetime = NOW) -> earning.Accrued:
    with database.write() as session:
        done = earning.accrue_orders(session, rule, now, 100)
        assert points.check(session) == []
        return done


def test_categories_multiply_and_what_is_excluded_earns_nothing(one: Database) -> None:
    rule = EarnRule(
        "1", 0, 12, "UTC",
        category_times={"tea": "2.5"}, excluded_categories=("gift cards",), excluded_skus=("sale",),
    )  # fmt: skip
    put_lines(
        one, 1, ("a", "tea", 1000, False), ("b", "cups", 1000, False), ("c", "gift cards", 5000, False),
        ("sale", "tea", 900, False),
    )  # fmt: skip
    assert accrue(one, rule).earned == 35
    # The tea alone goes back: 25, by what was multiplied then, whatever the rule says now.
    put_lines(
        one, 1, ("b", "cups", 1000, False), ("a", "tea", 1000, True), ("c", "gift cards", 5000, False),
        ("sale", "tea", 900, False),
    )  # fmt: skip
    assert accrue(one, EarnRule("7", 0)).taken_back == 25
    # What earned nothing takes nothing back.
    put_lines(
        one, 1, ("b", "cups", 1000, False), ("a", "tea", 1000, True), ("c", "gift cards", 5000, True),
        ("sale", "tea", 900, True),
    )  # fmt: skip
    assert accrue(one, PLAIN).taken_back == 0
    put_lines(
        one, 1, ("b", "cups", 1000, True), ("a", "tea", 1000, True), ("c", "gift cards", 5000, True),
        ("sale", "tea", 900, True),
    )  # fmt: skip
    assert accrue(one, PLAIN).taken_back == 10


def test_a_campaign_multiplies_in_its_time_for_its_goods_and_the_highest_counts(one: Database) -> None:
    with one.write() as session:
        for name, times, categories in (("double", "2", ()), ("tea", "3", ("tea",)), ("half", "1.5", ())):
            multipliers.create(session, Multiplier(name, times, NOW - DAY, NOW + DAY, categories), "ann", NOW)
        with pytest.raises(Conflict, match="already"):
            multipliers.create(session, Multiplier("double", "2", NOW, NOW + DAY), "ann", NOW)
    put_lines(one, 1, ("a", "tea", 1000, False), ("b", "cups", 1000, False))
    assert accrue(one, PLAIN).earned == 50
    put_lines(one, 2, ("a", "tea", 1000, False), at=NOW + DAY)  # half-open: over by then
    assert accrue(one, PLAIN, NOW + DAY).earned == 10
    with one.write() as session:
        for name in ("double", "tea", "half"):
            multipliers.archive(session, name, "ann", NOW)
        with pytest.raises(NotFound):
            multipliers.archive(session, "none", "ann", NOW)
    put_lines(one, 3, ("a", "tea", 1000, False))
    assert accrue(one, PLAIN).earned == 10
    with one.read() as session:
        shots = dict(tuple(r) for r in session.execute(sa.select(PointsLot.source_id, PointsLot.snapshot)))
    assert shots["1"]["lines"] == [["a", "tea", 1000, "3"], ["b", "cups", 1000, "2"]]
    assert "lines" not in shots["3"]


def test_a_refund_takes_what_double_points_gave_after_they_are_over(one: Database) -> None:
    """Worked case 18 the other way round: earned at 2×, the rule is 1× today."""
    with one.write() as session:
        multipliers.create(session, Multiplier("double", "2", NOW - DAY, NOW + DAY), "ann", NOW)
    put_lines(one, 1, ("a", "tea", 5000, False))
    assert accrue(one, PLAIN).earned == 100
    with one.write() as session:
        multipliers.archive(session, "double", "ann", NOW)
    put_lines(one, 1, ("a", "tea", 5000, True))
    assert accrue(one, PLAIN).taken_back == 100


def test_the_tier_multiplies_and_a_campaign_may_be_for_tiers(one: Database) -> None:
    with one.write() as session:
        session.add(TierRow(name="gold", title="金卡", rank=1, threshold=100, benefits={"multiplier": "1.5"}))
        session.add(MemberTier(member_id=1, tier="gold", since=NOW, until=NOW + 90 * DAY, value=100))
        multipliers.create(session, Multiplier("g", "2", NOW, NOW + DAY, (), ("gold",)), "ann", NOW)
        put_order(session, 1, 1, 1000)
        put_order(session, 2, 2, 1000)
    assert accrue(one, PLAIN).earned == 30 + 10
    with one.read() as session:
        snapshot = session.scalars(sa.select(PointsLot.snapshot).where(PointsLot.member_id == 1)).one()
    assert (snapshot["tier"], snapshot["tier_times"]) == ("gold", "1.5")


def test_a_segment_multiplies_what_its_members_buy_and_the_highest_counts(one: Database) -> None:
    rule = EarnRule("1", 0, 12, "UTC", segment_times={"loyal": "2", "vip": "3", "slow": "0.5"})
    with one.write() as session:
        members = {"loyal": [1], "vip": [1], "other": [2]}
        assert segment_members.replace(session, members) == 3
        assert segment_members.replace(session, members) == 0
        put_order(session, 1, 1, 1000)
        put_order(session, 2, 2, 1000)
    assert accrue(one, rule).earned == 30 + 10
    with one.write() as session:
        lot = session.scalars(sa.select(PointsLot).where(PointsLot.member_id == 1)).one()
        assert (lot.snapshot["segment"], lot.snapshot["segment_times"]) == ("vip", "3")
        # Who left the segment keeps what it earned, and gives back by the multiplier of then.
        assert segment_members.replace(session, {"slow": [1]}) == 4
        put_order(session, 1, 1, 1000, refunded=500)
        put_order(session, 3, 1, 1000)
    done = accrue(one, rule)
    assert (done.taken_back, done.earned) == (15, 5)


def test_a_campaign_may_be_for_segments(one: Database) -> None:
    with one.write() as session:
        new = Multiplier("double", "2", NOW - DAY, NOW + DAY, segments=("loyal", "vip"))
        multipliers.create(session, new, "ann", NOW)
        assert segment_members.wanted(session, NOW) == {"loyal", "vip"}
        assert segment_members.wanted(session, NOW + 40 * DAY) == frozenset()
        segment_members.replace(session, {"vip": [2]})
        put_order(session, 1, 1, 1000)
        put_order(session, 2, 2, 1000)
    assert accrue(one, PLAIN).earned == 10 + 20


def test_an_erased_member_is_in_no_segment_of_points(one: Database) -> None:
    with one.write() as session:
        segment_members.replace(session, {"vip": [1, 2]})
        erasure.forget(session, session.get_one(Member, 1), NOW)
        assert segment_members.of(session, [1, 2]) == {2: frozenset({"vip"})}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (EarnRule("1", 0, 1, "UTC"), datetime(2026, 4, 1, 12, tzinfo=UTC)),
        (EarnRule(expires="year_end", timezone="UTC"), datetime(2027, 1, 1, tzinfo=UTC)),
        (EarnRule(expires="year_end", expiry_years=1), datetime(2027, 12, 31, 16, tzinfo=UTC)),
        (EarnRule(expires="inactivity", expiry_months=6, timezone="UTC"), datetime(2026, 9, 1, 12, tzinfo=UTC)),
        (EarnRule(expires="never"), None),
        (EarnRule(expiry_months=None), None),
    ],
)  # fmt: skip
def test_points_expire_by_the_policy(rule: EarnRule, expected: datetime | None) -> None:
    assert rule.expiry(NOW) == expected


def test_each_earning_moves_the_end_of_all_live_points_of_the_member(one: Database) -> None:
    rule = EarnRule("1", 0, 6, "UTC", expires="inactivity")
    with one.write() as session:
        for member in (1, 2):
            points.grant_many(session, [(member, 10, f"g{member}")], NOW, rule=rule)
    put_lines(one, 1, ("a", "tea", 1000, False), at=NOW + 60 * DAY)
    assert accrue(one, rule, NOW + 61 * DAY).earned == 10
    with one.read() as session:
        ends = session.execute(
            sa.select(PointsLot.member_id, PointsLot.expires_at).order_by(PointsLot.id)
        ).all()
    moved, stayed = datetime(2026, 10, 30, 12, tzinfo=UTC), datetime(2026, 9, 1, 12, tzinfo=UTC)
    assert [tuple(row) for row in ends] == [(1, moved), (2, stayed), (1, moved)]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"expires": "later"}, "expires"),
        ({"expires": "inactivity", "expiry_months": None}, "expiry_months"),
        ({"expiry_years": -1}, "expiry_years"),
        ({"category_times": {"tea": "x"}}, "category_times.tea"),
        ({"segment_times": {"vip": "-1"}}, "segment_times.vip"),
        ({"category_times": {"tea": "101"}}, "category_times.tea"),
        ({"category_times": {"tea": "1.23456"}}, "category_times.tea"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        EarnRule(**wrong)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_the_whole_rule_is_stored_and_an_old_one_still_read(one: Database) -> None:
    rule = EarnRule(category_times={"tea": "2"}, excluded_skus=("x",), expires="year_end", expiry_years=1)
    with one.write() as session:
        earn_rules.save_rule(session, rule, "ann", NOW)
        assert earn_rules.load_rule(session) == rule
        old = {"points_per_unit": "2", "pending_days": 3, "expiry_months": None, "timezone": "UTC"}
        session.merge(Preference(key=earn_rules.PREFERENCE, value=old, updated_at=NOW))
        assert earn_rules.load_rule(session) == EarnRule("2", 3, None, "UTC")


def events(database: Database, settings: Settings, *rows: tuple[str, str, datetime]) -> None:
    report = load_rows(
        database,
        "events",
        numbered(
            {"event_id": f"{member}-{kind}-{number}-{at}", "member_id": member, "kind": kind, "occurred_at": at.isoformat()}
            for number, (member, kind, at) in enumerate(rows)
        ),
        settings=settings, source="shop", now=NOW, consents=set_many,
    )  # fmt: skip
    assert report.rejected == 0


def reward(database: Database, rule: EarnRule = PLAIN, now: datetime = NOW) -> earn_events.Rewarded:
    with database.write() as session:
        done = earn_events.reward_events(session, rule, now, 1000)
        assert points.check(session) == []
        return done


def test_only_events_that_a_rule_waits_for_leave_a_to_do(one: Database, settings: Settings) -> None:
    events(one, settings, ("m1", "review", NOW), ("m1", "page_view", NOW))
    assert count(one, "todos") == 0
    with one.write() as session:
        earn_events.create(session, EventRule("reviews", "review", 20, pending_days=3), "ann", NOW)
        with pytest.raises(Conflict):
            earn_events.create(session, EventRule("reviews", "survey", 20), "ann", NOW)
    events(one, settings, ("m2", "review", NOW), ("m2", "page_view", NOW))
    assert count(one, "todos") == 1
    assert reward(one) == earn_events.Rewarded(1, 1, 20, 0)
    events(one, settings, ("m2", "review", NOW))  # imported again
    assert reward(one) == earn_events.Rewarded()
    with one.write() as session:
        assert points.balance(session, 2, NOW) == points.Balance(pending=20)
        assert points.balance(session, 2, NOW + 3 * DAY).available == 20
        earn_events.archive(session, "reviews", "ann", NOW)
    events(one, settings, ("m1", "review", NOW + DAY))
    assert count(one, "todos") == 0


def test_limits_a_day_of_the_shop_and_in_all_hold_over_batches(one: Database, settings: Settings) -> None:
    rule = EarnRule("1", 0, 12, "Asia/Shanghai")
    with one.write() as session:
        earn_events.create(session, EventRule("c", "check_in", 5, per_day=2, per_member=4), "ann", NOW)
    midnight = datetime(2026, 2, 20, 16, tzinfo=UTC)  # of Shanghai
    hour = timedelta(hours=1)
    events(one, settings, *(("m1", "check_in", midnight - n * hour) for n in (1, 2, 3)))
    assert reward(one, rule) == earn_events.Rewarded(3, 2, 10, 1)
    events(one, settings, *(("m1", "check_in", midnight + n * hour) for n in (1, 2)))
    assert reward(one, rule) == earn_events.Rewarded(2, 2, 10, 0)
    events(one, settings, ("m1", "check_in", midnight + 3 * DAY), ("m2", "check_in", midnight))
    assert reward(one, rule) == earn_events.Rewarded(2, 1, 5, 1)


def test_an_event_outside_the_rules_time_brings_nothing(one: Database, settings: Settings) -> None:
    with one.write() as session:
        earn_events.create(session, EventRule("s", "survey", 5, starts_at=NOW - DAY, ends_at=NOW), "ann", NOW)
    events(one, settings, ("m1", "survey", NOW), ("m1", "survey", NOW - 2 * DAY), ("m1", "survey", NOW - DAY))
    assert reward(one) == earn_events.Rewarded(3, 1, 5, 0)


def test_a_birthday_is_rewarded_once_a_year_and_29_february_on_the_28th(one: Database) -> None:
    add_members(one, 3, first=3)
    with one.write() as session:
        for member, born in ((1, date(2000, 2, 29)), (2, date(1990, 2, 28)), (3, date(1990, 3, 1))):
            session.execute(sa.update(Member).where(Member.id == member).values(birthday=born))
        earn_events.create(session, EventRule("b", "birthday", 50), "ann", NOW)

    def sweep(day: date) -> int:
        rewards, after = 0, 0
        while True:
            with one.write() as session:
                done, last = earn_events.reward_birthdays(session, PLAIN, day, NOW, after=after, limit=1)
            if last is None:
                return rewards
            rewards, after = rewards + done.rewards, last

    assert sweep(date(2026, 2, 28)) == 2
    assert sweep(date(2026, 2, 28)) == 0
    assert sweep(date(2027, 2, 28)) == 2
    assert sweep(date(2028, 2, 28)) == 1
    assert sweep(date(2028, 2, 29)) == 1


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"points": 0}, "points"),
        ({"points": 10**15}, "points"),
        ({"name": ""}, "name"),
        ({"kind": ""}, "kind"),
        ({"per_day": 0}, "per_day"),
        ({"pending_days": -1}, "pending_days"),
        ({"starts_at": NOW, "ends_at": NOW}, "ends_at"),
    ],
)
def test_an_event_rule_that_makes_no_sense_is_refused(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        EventRule(**{"name": "n", "kind": "review", "points": 5, **wrong})  # type: ignore[arg-type]
    assert caught.value.field == field
