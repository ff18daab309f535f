"""The switch over all channels, restarts, jumping clocks, and schedules that were missed: nobody twice."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from campaigns import campaigns
from campaigns.run import run
from channels import stop
from channels.claim import LEASE, Batch, Terms, claim, hand_over, take_over
from channels.delivery import run_delivery
from channels.models import Message
from channels.sandbox import inbox
from channels.stop import EVERYTHING, MARKETING_ONLY
from core.db import Database
from core.errors import Conflict, InvalidInput
from core.models import AuditEntry
from core.settings import Settings
from tests.campaigns.conftest import Shop
from tests.channels.seed import NOW, add_members, add_template, enqueue, message, row, sandbox, states

TERMS = Terms("email", 0, ZoneInfo("Asia/Shanghai"))
OWNERS = itertools.count()


def press(database: Database, scope: str = MARKETING_ONLY, now: datetime = NOW) -> None:
    with database.write() as session:
        stop.stop(session, scope, "wrong prices", "ann", now)


def go_on(database: Database, now: datetime = NOW) -> None:
    with database.write() as session:
        stop.resume(session, "bob", now)


def take(database: Database, now: datetime = NOW, limit: int = 500) -> tuple[str, Batch]:
    owner = f"w{next(OWNERS)}"
    with database.write() as session:
        take_over(session, TERMS, now)
        return owner, claim(session, TERMS, owner, limit, now)


def test_who_stopped_what_and_why_is_known_and_audited(db: Database) -> None:
    with db.write() as session:
        assert stop.current(session) is None
        with pytest.raises(Conflict):
            stop.resume(session, "ann", NOW)
        for scope, reason in (("some", "x"), (EVERYTHING, "  "), (EVERYTHING, "x" * 301)):
            with pytest.raises(InvalidInput):
                stop.stop(session, scope, reason, "ann", NOW)
    press(db)
    press(db, EVERYTHING, NOW + timedelta(minutes=1))
    with db.read() as session:
        assert stop.current(session) == stop.Stop(
            EVERYTHING, "wrong prices", "ann", NOW + timedelta(minutes=1)
        )
    go_on(db, NOW + timedelta(hours=1))
    with db.read() as session:
        assert stop.current(session) is None
        entries = session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id)).all()
    assert [(e.actor, e.action) for e in entries] == [
        ("ann", "delivery.stop"), ("ann", "delivery.stop"), ("bob", "delivery.resume"),
    ]  # fmt: skip
    assert entries[1].detail == {"scope": EVERYTHING, "reason": "wrong prices"}


@pytest.mark.parametrize("scope", [MARKETING_ONLY, EVERYTHING])
def test_nothing_stopped_is_handed_out_and_all_of_it_goes_on(
    db: Database, settings: Settings, scope: str
) -> None:
    add_members(db, range(1, 11))
    email = add_template(db, settings, "email")
    soon = NOW + timedelta(hours=1)
    enqueue(
        db,
        *[row(n, "email", email, key=f"m{n}", expires_at=NOW + timedelta(hours=n)) for n in range(1, 11)],
        row(1, "email", email, key="receipt", purpose="transactional"),
    )
    press(db, scope)
    with sandbox(db, settings) as (there, _):
        done = run_delivery(db, there, now=lambda: NOW)
        assert done.sent == (1 if scope == MARKETING_ONLY else 0)
        assert states(db)["queued"] == (10 if scope == MARKETING_ONLY else 11)
        later = soon + timedelta(hours=4)
        go_on(db, later)
        done = run_delivery(db, there, now=lambda: later)
        assert (done.sent, done.skipped) == ((5, 5) if scope == MARKETING_ONLY else (6, 5))
        assert [message(db, f"m{n}").reason for n in range(1, 11)] == ["expired"] * 5 + [None] * 5
        assert inbox.count(there) == 6
        assert run_delivery(db, there, now=lambda: later + timedelta(days=3)).sent == 0
    assert states(db) == {"sent": 6, "skipped": 5}


def test_a_claimed_batch_goes_back_when_the_button_is_pressed_before_it_is_handed_over(
    db: Database, settings: Settings
) -> None:
    add_members(db, [1, 2])
    email = add_template(db, settings, "email")
    enqueue(db, row(1, "email", email, key="m"), row(2, "email", email, key="r", purpose="transactional"))
    owner, batch = take(db)
    assert len(batch.ready) == 2
    press(db)
    with db.write() as session:
        assert not hand_over(session, owner, NOW)
    assert (states(db), message(db, "m").attempts) == ({"queued": 2}, 0)
    owner, batch = take(db)
    assert [one.message_id for one in batch.ready] == [message(db, "r").id]
    with db.write() as session:
        assert hand_over(session, owner, NOW), "a batch without marketing goes out"
    go_on(db)
    assert [one.message_id for one in take(db)[1].ready] == [message(db, "m").id]


def test_workers_notice_within_a_batch(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 61))
    email = add_template(db, settings, "email")
    enqueue(db, *[row(n, "email", email) for n in range(1, 61)])
    asked = itertools.count()

    def clock() -> datetime:
        if next(asked) == 8:  # while a batch is on its way
            press(db)
        return NOW

    with sandbox(db, settings) as (there, _):
        first = run_delivery(db, there, now=clock, batch=10, channels=["email"])
        assert 0 < first.sent < 60
        assert states(db) == {"sent": first.sent, "queued": 60 - first.sent}
        assert run_delivery(db, there, now=lambda: NOW).sent == 0, "a restarted worker finds the stop"
        go_on(db)
        assert run_delivery(db, there, now=lambda: NOW).sent == 60 - first.sent
        assert sorted(m.to for m in inbox.list_messages(there, limit=100)) == sorted(
            f"m{n}@example.com" for n in range(1, 61)
        )


def test_a_clock_that_jumps_sends_nothing_twice_and_misses_nobody(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 31))
    email = add_template(db, settings, "email")
    enqueue(db, *[row(n, "email", email) for n in range(1, 31)])
    with sandbox(db, settings) as (there, _):
        back = NOW - timedelta(days=2)
        assert run_delivery(db, there, now=lambda: back).sent == 0, "not due yet by this clock"
        # A worker holds a batch, and another's clock is a day ahead: the lease looks lost.
        owner, batch = take(db, limit=10)
        assert len(batch.ready) == 10
        ahead = NOW + timedelta(days=1)
        assert run_delivery(db, there, now=lambda: ahead).sent == 30
        with db.write() as session:
            assert not hand_over(session, owner, NOW), "the first worker finds its batch taken over"
        for moment in (back, NOW, ahead, ahead + LEASE):
            assert run_delivery(db, there, now=lambda moment=moment: moment).sent == 0
        assert inbox.count(there) == 30
        assert len({m.to for m in inbox.list_messages(there, limit=100)}) == 30


def test_a_campaign_that_ran_while_stopped_reaches_everybody_in_time_once(
    db: Database, settings: Settings
) -> None:
    shop = Shop(db, settings.model_copy(update={"database_url": db.url}))
    shop.prepare()
    shop.batch()
    shop.members(40)
    shop.control(0)
    shop.campaign("short", holdout=0, expires_hours=1, channels=["email"], quiet_hours=None)
    shop.campaign("long", holdout=0, expires_hours=48, channels=["email"], quiet_hours=None)
    press(db)
    for name in ("short", "long"):
        assert run(db, shop.engine, shop.settings, name, NOW).sent == {"email": 40}
    with sandbox(db, settings) as (there, _):
        assert run_delivery(db, there, now=lambda: NOW).sent == 0
        later = NOW + timedelta(hours=2)
        go_on(db, later)
        done = run_delivery(db, there, now=lambda: later)
        assert (done.sent, done.skipped) == (40, 40)
        assert inbox.count(there) == 40


def test_a_schedule_missed_in_downtime_runs_once_and_whole(db: Database, settings: Settings) -> None:
    shop = Shop(db, settings.model_copy(update={"database_url": db.url, "batch_size": 10}))
    shop.prepare()
    shop.batch()
    shop.members(30)
    shop.control(0)
    shop.campaign(holdout=0)
    with db.write() as session:
        campaigns.by_name(session, "back").scheduled_at = NOW - timedelta(hours=20)

    def due(now: datetime) -> list[str]:
        with db.read() as session:
            return campaigns.due(session, now)

    assert due(NOW - timedelta(days=1)) == [], "a clock set back begins nothing"
    assert due(NOW) == ["back"]

    def crash(done: int, _total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(db, shop.engine, shop.settings, "back", NOW, progress=crash)
    assert due(NOW) == ["back"], "a crash is gone on with"
    run(db, shop.engine, shop.settings, "back", NOW + timedelta(hours=3))
    assert due(NOW + timedelta(days=9)) == []
    run(db, shop.engine, shop.settings, "back", NOW + timedelta(days=9))
    assert shop.rows("SELECT count(*), count(DISTINCT member_id) FROM messages") == [(30, 30)]


def test_resumed_messages_are_found_by_the_transactional_index(pg_db: Database, settings: Settings) -> None:
    add_members(pg_db, range(1, 2001))
    email = add_template(pg_db, settings, "email")
    enqueue(
        pg_db,
        *[row(n, "email", email) for n in range(1, 2001)],
        row(7, "email", email, key="receipt", purpose="transactional"),
    )
    from channels.claim import _due

    with pg_db.write() as session:
        session.execute(sa.text("ANALYZE messages"))
        found = sa.select(_due("email", 500, NOW, marketing=False).c.id)
        compiled = found.compile(
            dialect=session.get_bind().dialect, compile_kwargs={"render_postcompile": True}
        )
        plan = session.connection().exec_driver_sql(f"EXPLAIN {compiled}", compiled.params).all()
        assert any("ix_messages_transactional" in line for (line,) in plan), plan
        assert session.scalars(found).all() == [
            session.scalar(sa.select(Message.id).where(Message.dedupe_key == "receipt"))
        ]
