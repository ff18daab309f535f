"""What members asked for: kept, counted when campaigns decide and when workers claim, and erased."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from campaigns.decide import REASONS
from campaigns.run import run, simulate
from channels import preferences
from channels.claim import Batch, Terms, claim
from channels.models import Consent, ConsentEvent, Message
from channels.preferences import Choices, Wish
from core.contacts import CHANNELS
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from segments.erasure import erase
from tests.campaigns.conftest import Shop
from tests.channels.seed import NOW, add_members, add_template, enqueue, message, row
from tests.conftest import count

EVERY = frozenset(CHANNELS)


def choose(
    database: Database, member: int, channels: frozenset[str] = EVERY, now: datetime = NOW, **wish: object
) -> None:
    with database.write() as session:
        wanted = Wish(wish.get("weekly_max"), wish.get("paused_until"))  # type: ignore[arg-type]
        preferences.save(session, member, Choices(channels, wanted), now)


def take(database: Database, now: datetime = NOW, channel: str = "email") -> Batch:
    with database.write() as session:
        return claim(session, Terms(channel, 0, ZoneInfo("Asia/Shanghai")), f"w{now}{channel}", 500, now)


def test_choices_are_kept_and_only_changes_are_recorded(db: Database) -> None:
    add_members(db, [1])
    later = NOW + timedelta(days=1)
    for _ in range(2):
        choose(db, 1, frozenset({"sms"}), later, weekly_max=2, paused_until=later + timedelta(days=30))
    with db.read() as session:
        found = preferences.load(session, 1)
        events = session.execute(
            sa.select(ConsentEvent.channel, ConsentEvent.granted).where(ConsentEvent.source == "preferences")
        )
        assert sorted(tuple(e) for e in events) == sorted((name, False) for name in EVERY - {"sms"})
        assert preferences.counts(session, later) == (1, 1)
        assert preferences.counts(session, later + timedelta(days=31)) == (1, 0)
    assert found == Choices(frozenset({"sms"}), Wish(2, later + timedelta(days=30)))


@pytest.mark.parametrize("weekly", [0, -1, 51])
def test_a_number_that_makes_no_sense_changes_nothing(sqlite_db: Database, weekly: int) -> None:
    add_members(sqlite_db, [1])
    with pytest.raises(InvalidInput):
        choose(sqlite_db, 1, frozenset(), weekly_max=weekly)
    assert count(sqlite_db, "member_preferences") == 0
    assert count(sqlite_db, "consent_events") == len(EVERY)


def test_a_pause_and_an_own_cap_hold_when_a_message_is_claimed(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 4))
    email = add_template(db, settings, "email")
    enqueue(
        db,
        *[row(n, "email", email, key=f"a{n}") for n in (1, 2, 3)],
        row(2, "email", email, key="b2"),
        row(1, "email", email, key="receipt1", purpose="transactional"),
        row(2, "email", email, key="receipt2", purpose="transactional"),
    )
    choose(db, 1, paused_until=NOW + timedelta(days=30))
    choose(db, 2, weekly_max=1)
    found = take(db)
    ready = {one.message_id for one in found.ready}
    assert ready == {message(db, key).id for key in ("a2", "a3", "receipt1", "receipt2")}
    assert (message(db, "a1").reason, message(db, "b2").reason) == ("paused", "preference_cap")
    assert message(db, "a1").state == "skipped"
    after = NOW + timedelta(days=30)
    enqueue(db, row(1, "email", email, key="c1", not_before=after))
    assert [one.member.id for one in take(db, after).ready] == [1], "a pause ends by itself"


def test_an_own_cap_is_over_all_channels_and_of_seven_days(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    email, sms = add_template(db, settings, "email"), add_template(db, settings, "sms")
    enqueue(db, row(1, "email", email))
    with db.write() as session:
        session.execute(sa.update(Message).values(state="delivered", sent_at=NOW))
    choose(db, 1, weekly_max=1)
    week = NOW + timedelta(days=7)
    enqueue(db, row(1, "sms", sms, key="soon"), row(1, "sms", sms, key="then", not_before=week))
    assert take(db, week - timedelta(seconds=1), "sms").skipped == 1
    assert len(take(db, week, "sms").ready) == 1


def test_campaigns_respect_wishes_and_say_so(db: Database, settings: Settings) -> None:
    shop = Shop(db, settings.model_copy(update={"database_url": db.url}))
    shop.prepare()
    shop.batch()
    shop.members(10)
    shop.control(0)
    for name in ("one", "two"):
        shop.campaign(name, holdout=0)
    choose(db, 1, paused_until=NOW + timedelta(days=1))
    choose(db, 2, weekly_max=1)
    choose(db, 3, frozenset(), NOW + timedelta(seconds=1), paused_until=NOW + timedelta(days=1))
    assert run(db, shop.engine, shop.settings, "one", NOW).skipped == {"paused": 1, "no_consent": 1}
    expected = simulate(db, shop.engine, shop.settings, "two", NOW).counts
    done = run(db, shop.engine, shop.settings, "two", NOW)
    assert done == expected
    assert done.skipped == {"paused": 1, "no_consent": 1, "preference_cap": 1}
    assert sum(done.sent.values()) == 7
    assert set(done.skipped) <= set(REASONS)


def test_an_erased_member_leaves_no_wishes(db: Database) -> None:
    add_members(db, [1, 2])
    for number in (1, 2):
        choose(db, number, weekly_max=3)
    with db.write() as session:
        erase(session, 1, "ann", NOW)
    with db.read() as session:
        assert set(preferences.wishes(session, [1, 2])) == {2}
        assert session.scalars(sa.select(Consent.member_id).distinct()).all() == [2]
