"""Referral programmes, joining by a link, and rewards after the return window, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.contacts import blind_index
from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.models import Member
from core.settings import Settings
from loyalty.abuse import signals
from loyalty.referrals import joining, links, programs, reasons, settling
from loyalty.referrals.joining import Joined, join
from loyalty.referrals.models import Referral
from loyalty.referrals.programs import NewProgram
from loyalty.referrals.settling import Settled
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members, put_order, scalar, together

NEW = NewProgram(
    "friends", "Bring a friend", "CNY", referrer_points=200, friend_points=100, return_days=14,
    weekly_limit=2, min_order_minor=5000,
)  # fmt: skip
DUE = NOW + timedelta(days=14)


def given_program(database: Database, members: int = 6, **changes: Any) -> None:
    add_members(database, members)
    with database.write() as session:
        programs.create(session, replace(NEW, **changes), "ann", NOW)


def bring(
    database: Database, friend: int, referrer: int = 1, *, at: datetime = NOW, **options: Any
) -> Joined:
    with database.write() as session:
        return join(session, links.token_of(referrer), friend, at, **options)


def ordered(database: Database, friend: int, total: int = 9000, order: int = 1, **options: Any) -> None:
    with database.write() as session:
        put_order(session, order, friend, total, **{"at": NOW, **options})


def settled(database: Database, at: datetime = DUE) -> Settled:
    with database.write() as session:
        return settling.settle(session, at, 100)


def stored(database: Database) -> list[tuple[str, str | None]]:
    with database.read() as session:
        return [
            tuple(row)
            for row in session.execute(sa.select(Referral.state, Referral.reason).order_by(Referral.id))
        ]


def given(database: Database) -> dict[int, int]:
    with database.engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT member_id, sum(issued) FROM points_lots GROUP BY member_id")
        )
        return {member: int(number) for member, number in rows}


def test_both_sides_are_rewarded_once_after_the_return_window(db: Database) -> None:
    given_program(db)
    assert bring(db, 2).state == "joined"
    ordered(db, 2)
    assert settled(db, DUE - timedelta(seconds=1)) == Settled(ordered=1)
    assert given(db) == {}
    assert settled(db) == Settled(rewarded=1)
    assert settled(db) == Settled()
    assert given(db) == {1: 200, 2: 100}
    assert stored(db) == [("rewarded", None)]
    assert count(db, "points_lots") == 2


def test_coupons_are_given_where_the_programme_says_so(db: Database) -> None:
    batch = add_batch(db)
    given_program(db, referrer_points=None, referrer_batch_id=batch.id)
    bring(db, 2)
    ordered(db, 2)
    assert settled(db).rewarded == 1
    assert scalar(db, "SELECT issue_key FROM coupons WHERE member_id = 1") == "referral:1:referrer"
    assert given(db) == {2: 100}


def test_a_coupon_that_is_used_up_holds_the_referral_until_somebody_lets_it_go_on(db: Database) -> None:
    batch = add_batch(db, total_limit=1)
    given_program(db, referrer_points=None, referrer_batch_id=batch.id)
    for number in (2, 3):
        bring(db, number)
        ordered(db, number, order=number)
    assert settled(db) == Settled(ordered=2, rewarded=1, held=1)
    assert stored(db) == [("rewarded", None), ("held", "no_reward")]
    with db.write() as session:
        session.execute(sa.text("UPDATE coupon_batches SET total_limit = 2"))
        joining.decide(session, 2, approve=True, by="ann", now=NOW)
    assert settled(db) == Settled(rewarded=1)
    assert (given(db), count(db, "coupons")) == ({2: 100, 3: 100}, 2)


def test_what_a_side_has_is_not_given_again_by_a_programme_that_changed(db: Database) -> None:
    batch = add_batch(db, total_limit=1)
    given_program(db, referrer_points=None, referrer_batch_id=batch.id)
    with db.write() as session:
        session.execute(sa.text("UPDATE coupon_batches SET issued = 1"))
    bring(db, 2)
    ordered(db, 2)
    assert settled(db).held == 1
    with db.write() as session:
        programs.change(session, 1, replace(NEW, friend_points=300), "ann", NOW)
        joining.decide(session, 1, approve=True, by="ann", now=NOW)
    assert settled(db) == Settled(rewarded=1)
    assert given(db) == {1: 200, 2: 100}


def test_a_batch_that_was_archived_holds_its_referrals_and_no_other(db: Database) -> None:
    batch = add_batch(db)
    given_program(db, referrer_points=None, referrer_batch_id=batch.id)
    bring(db, 2)
    ordered(db, 2)
    with db.write() as session:
        session.execute(sa.text("UPDATE coupon_batches SET archived_at = created_at"))
    assert settled(db) == Settled(ordered=1, held=1)


@pytest.mark.parametrize(
    ("order", "state"),
    [
        ({"total": 4999}, ("rejected", "below_minimum")),
        ({"refunded": 4001, "status": "refunded"}, ("rejected", "below_minimum")),
        ({"refunded": 4000, "status": "refunded"}, ("rewarded", None)),
        ({"refunded": 9000, "status": "refunded"}, ("rejected", "refunded")),
        ({"currency": "USD"}, ("rejected", "below_minimum")),
        ({"status": "cancelled"}, ("joined", None)),
    ],
)
def test_what_the_first_order_is_worth_at_the_end_of_the_window_decides(
    db: Database, order: dict[str, Any], state: tuple[str, str | None]
) -> None:
    given_program(db)
    bring(db, 2)
    ordered(db, 2)
    settled(db, NOW)
    ordered(db, 2, **order)
    settled(db)
    assert stored(db) == [state]
    assert (given(db) != {}) == (state[0] == "rewarded")


def test_after_a_cancelled_order_the_next_one_counts(db: Database) -> None:
    given_program(db)
    bring(db, 2)
    ordered(db, 2)
    settled(db, NOW)
    ordered(db, 2, status="cancelled")
    assert settled(db) == Settled(reopened=1)
    ordered(db, 2, order=2, at=DUE)
    assert settled(db) == Settled(ordered=1)
    assert settled(db, DUE + timedelta(days=14)) == Settled(rewarded=1)


def test_the_first_of_several_orders_counts(db: Database) -> None:
    given_program(db)
    bring(db, 2)
    ordered(db, 2, order=1, at=NOW + timedelta(days=3))
    ordered(db, 2, order=2, at=NOW + timedelta(days=1))
    settled(db, NOW)
    assert scalar(db, "SELECT order_id FROM referrals") == 2


def test_nobody_invites_themselves(db: Database) -> None:
    given_program(db)
    found = bring(db, 1)
    assert (found.state, found.reason) == ("rejected", "oneself")
    assert found.words == ("Nobody can invite themselves.", "不能邀请自己。")


def test_who_ordered_before_is_no_friend_to_bring(db: Database) -> None:
    given_program(db)
    ordered(db, 2, at=NOW - timedelta(days=400))
    assert bring(db, 2).reason == "ordered_before"


def test_a_cancelled_order_is_no_order(db: Database) -> None:
    given_program(db)
    ordered(db, 2, at=NOW - timedelta(days=400), status="cancelled")
    assert bring(db, 2).state == "joined"


def test_an_earlier_order_that_arrives_later_rejects_at_the_end(db: Database) -> None:
    given_program(db)
    bring(db, 2)
    ordered(db, 2)
    ordered(db, 2, order=2, at=NOW - timedelta(days=1))
    assert settled(db).rejected == 1
    assert stored(db) == [("rejected", "ordered_before")]
    assert given(db) == {}


@pytest.mark.parametrize("kind", ["device", "address", "phone"])
def test_what_both_sides_share_rejects_at_joining(db: Database, kind: str) -> None:
    given_program(db)
    value = "13800138000" if kind == "phone" else "one and the same"
    with db.write() as session:
        signals.observe(session, "redeem", {kind: value}, 1, NOW)
    assert bring(db, 2, client={kind: value}).reason == f"same_{kind}"
    assert bring(db, 3, client={kind: "13900139000"}).state == "joined"


def test_the_phone_of_the_members_themselves_counts_too(db: Database) -> None:
    given_program(db)
    index = blind_index("phone", "+8613800138000")
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id.in_((1, 3))).values(phone_index=index))
    assert bring(db, 2, client={"phone": "138 0013 8000"}).reason == "same_phone"
    assert bring(db, 3).reason == "same_phone"


def test_what_comes_to_light_later_rejects_before_the_reward(db: Database) -> None:
    given_program(db)
    bring(db, 2)
    ordered(db, 2)
    with db.write() as session:
        for member in (1, 2):
            signals.observe(session, "redeem", {"device": "shared"}, member, NOW)
    assert settled(db).rejected == 1
    assert (stored(db), given(db)) == ([("rejected", "same_device")], {})


def test_more_friends_than_a_week_allows_are_held_and_released_by_hand(db: Database) -> None:
    given_program(db)
    assert [bring(db, friend).state for friend in (2, 3, 4)] == ["joined", "joined", "held"]
    assert bring(db, 5, at=NOW + timedelta(days=7)).state == "joined"
    ordered(db, 4)
    assert settled(db) == Settled()
    with db.write() as session:
        joining.decide(session, 3, approve=True, by="ann", now=NOW)
    assert settled(db) == Settled(ordered=1, rewarded=1)
    with pytest.raises(Conflict, match="not held any more"), db.write() as session:
        joining.decide(session, 3, approve=False, by="ann", now=NOW)


@pytest.mark.parametrize(
    ("decision", "state"), [("hold", ("held", "suspicious")), ("block", ("rejected", "abuse"))]
)
def test_what_the_rules_against_abuse_say_is_heard(
    db: Database, decision: str, state: tuple[str, str]
) -> None:
    given_program(db)
    bring(db, 2, decision=decision)
    assert stored(db) == [state]


def test_joining_again_answers_the_same_and_writes_nothing(db: Database) -> None:
    given_program(db)
    first = bring(db, 2)
    assert bring(db, 2, at=NOW + timedelta(days=1)) == first
    assert count(db, "referrals") == 1


def test_a_friend_has_one_referrer(db: Database) -> None:
    given_program(db)
    bring(db, 2)
    with pytest.raises(Conflict, match="one referrer"):
        bring(db, 2, referrer=3)
    assert count(db, "referrals") == 1


def test_who_was_rejected_with_one_referrer_may_come_by_another(db: Database) -> None:
    given_program(db)
    with db.write() as session:
        signals.observe(session, "redeem", {"device": "d"}, 1, NOW)
    assert bring(db, 2, client={"device": "d"}).state == "rejected"
    assert bring(db, 2, referrer=3).state == "joined"


@pytest.mark.parametrize("token", ["", "x", "MQ.AAAA", links.token_of(1)[:-1]])
def test_a_made_up_link_is_refused(db: Database, token: str) -> None:
    given_program(db)
    with pytest.raises(NotFound, match="link is not valid"), db.write() as session:
        join(session, token, 2, NOW)


def test_without_a_programme_in_force_nobody_joins(db: Database) -> None:
    given_program(db, ends_at=NOW)
    with pytest.raises(Conflict, match="No referral programme"):
        bring(db, 2)
    assert bring(db, 2, at=NOW - timedelta(seconds=1)).state == "joined"


def test_an_erased_member_brings_nobody_and_is_not_rewarded(db: Database) -> None:
    given_program(db)
    bring(db, 2)
    ordered(db, 2)
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 1).values(erased_at=NOW))
    with pytest.raises(NotFound):
        bring(db, 3)
    assert settled(db).rejected == 1
    assert stored(db) == [("rejected", "erased")]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": " "}, "name"),
        ({"currency": "yuan"}, "currency"),
        ({"return_days": 366}, "return_days"),
        ({"weekly_limit": 0}, "weekly_limit"),
        ({"min_order_minor": -1}, "min_order_minor"),
        ({"referrer_points": 0}, "referrer_points"),
        ({"referrer_points": None, "friend_points": None}, "referrer_points"),
        ({"friend_batch_id": 1}, "friend_points"),
        ({"friend_points": None, "friend_batch_id": 99}, "friend_batch_id"),
        ({"starts_at": NOW, "ends_at": NOW}, "ends_at"),
    ],
)
def test_a_programme_that_makes_no_sense_is_refused_by_field(
    db: Database, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        given_program(db, **changes)
    assert error.value.field == field
    assert count(db, "referral_programs") == 0


def test_a_programme_is_changed_but_for_its_name(db: Database) -> None:
    given_program(db)
    with db.write() as session:
        programs.change(session, 1, replace(NEW, return_days=7), "ann", NOW)
    with pytest.raises(InvalidInput, match="name of a programme stays"), db.write() as session:
        programs.change(session, 1, replace(NEW, name="other"), "ann", NOW)
    with pytest.raises(Conflict, match="already"), db.write() as session:
        programs.create(session, NEW, "ann", NOW)
    assert scalar(db, "SELECT return_days FROM referral_programs") == 7


def test_openings_of_a_link_are_counted(db: Database) -> None:
    given_program(db)
    for _ in range(3):
        with db.write() as session:
            links.opened(session, 1, 2, NOW)
    assert scalar(db, "SELECT opens FROM referral_opens") == 3


def test_the_shops_address_keeps_its_own_query(settings: Settings) -> None:
    shop = settings.model_copy(update={"shop_url": "https://shop.example/start?from=poster"})
    assert links.shop_url(shop, "T.x") == "https://shop.example/start?from=poster&ref=T.x"


def test_every_reason_has_words_in_both_languages() -> None:
    assert all(en and zh and en != zh for en, zh in reasons.WORDS.values())


# --- Races, on PostgreSQL ------------------------------------------------------------------------------


def join_all(database: Database) -> None:
    def job(friend: int) -> Any:
        return lambda: bring(database, friend)

    assert together([job(friend) for friend in range(2, 22)]) == {"done": 20}


def test_of_twenty_friends_at_once_no_more_pass_than_a_week_allows(pg_db: Database) -> None:
    given_program(pg_db, 21)
    join_all(pg_db)
    assert sorted(stored(pg_db)) == [("held", "weekly_limit")] * 18 + [("joined", None)] * 2


def test_without_the_members_lock_they_all_pass(pg_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    given_program(pg_db, 21)
    gate, judge = threading.Barrier(20), joining._judge

    def judge_and_wait(*arguments: Any) -> Any:
        found = judge(*arguments)
        gate.wait(timeout=30)
        return found

    monkeypatch.setattr(joining, "_lock_members", lambda *_: None)
    monkeypatch.setattr(joining, "_judge", judge_and_wait)
    join_all(pg_db)
    assert stored(pg_db) == [("joined", None)] * 20


def test_ten_workers_reward_each_referral_once(pg_db: Database) -> None:
    given_program(pg_db, 11, weekly_limit=100)
    for friend in range(2, 12):
        bring(pg_db, friend)
        ordered(pg_db, friend, order=friend)
    assert together([lambda: settled(pg_db)] * 10) == {"done": 10}
    while settled(pg_db) != Settled():
        pass
    assert given(pg_db) == {1: 2000, **dict.fromkeys(range(2, 12), 100)}
