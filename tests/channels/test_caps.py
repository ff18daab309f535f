"""Caps and quiet hours of the whole shop: when campaigns decide, and again when workers claim."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from campaigns.run import run, simulate
from channels import caps
from channels.caps import Cap, Rules
from channels.claim import Batch, Terms, claim
from channels.models import Message
from channels.quiet import quiet_until
from core.db import Database
from core.errors import InvalidInput
from core.models import AuditEntry
from core.settings import Settings
from tests.campaigns.conftest import Shop
from tests.channels.seed import NOW, add_members, add_template, enqueue, message, row

SHANGHAI = ZoneInfo("Asia/Shanghai")
OWNERS = itertools.count()


def set_rules(database: Database, **given: Cap | dict[str, str]) -> None:
    quiet = given.pop("quiet_hours", None)
    with database.write() as session:
        caps.save(session, Rules(given, quiet), "ann", NOW)  # type: ignore[arg-type]


def take(database: Database, channel: str = "email", now: datetime = NOW) -> Batch:
    with database.write() as session:
        return claim(session, Terms(channel, 0, SHANGHAI), f"w{next(OWNERS)}", 500, now)


def sent(database: Database, *members: int, at: datetime = NOW) -> None:
    with database.write() as session:
        session.execute(
            sa.update(Message).where(Message.member_id.in_(members)).values(state="sent", sent_at=at)
        )


def reasons(database: Database) -> dict[str, str | None]:
    with database.read() as session:
        return {key: why for key, why in session.execute(sa.select(Message.dedupe_key, Message.reason))}  # noqa: C416


def test_rules_are_kept_checked_and_audited(db: Database) -> None:
    rules = Rules({"email": Cap(3), "all": Cap(5, 14)}, {"start": "21:00", "end": "08:00", "mode": "drop"})
    with db.write() as session:
        assert caps.load(session) == Rules()
        caps.save(session, rules, "ann", NOW)
        with pytest.raises(InvalidInput) as error:
            caps.save(session, Rules({"sms": Cap(0)}), "ann", NOW)
        assert error.value.field == "caps.sms"
        with pytest.raises(InvalidInput):
            caps.save(session, Rules({"fax": Cap(1)}), "ann", NOW)
    with db.read() as session:
        assert caps.load(session) == rules
        assert [(e.actor, e.object_id) for e in session.scalars(sa.select(AuditEntry))] == [("ann", caps.KEY)]


def test_of_two_queued_messages_the_older_is_sent_and_the_other_never(
    db: Database, settings: Settings
) -> None:
    add_members(db, [1, 2])
    email = add_template(db, settings, "email")
    enqueue(
        db,
        *[row(1, "email", email, key=f"m1-{n}", not_before=NOW - timedelta(hours=n)) for n in (3, 2, 1)],
        row(2, "email", email, key="m2"),
        row(1, "email", email, key="receipt", purpose="transactional"),
        row(1, "email", email, key="try", source_kind="test"),
    )
    set_rules(db, email=Cap(1))
    found = take(db)
    assert (len(found.ready), found.skipped, found.deferred) == (4, 2, 0)
    assert reasons(db) == {
        "m1-3": None, "m1-2": "capped", "m1-1": "capped", "m2": None, "receipt": None, "try": None,
    }  # fmt: skip
    set_rules(db)
    assert take(db, now=NOW + timedelta(days=1)).ready == (), "what was skipped is never sent later"


def test_a_cap_over_all_channels_counts_each_of_them_and_a_window_ends(
    db: Database, settings: Settings
) -> None:
    add_members(db, [1])
    email, sms = add_template(db, settings, "email"), add_template(db, settings, "sms")
    enqueue(db, row(1, "email", email, key="first"))
    sent(db, 1)
    set_rules(db, sms=Cap(1), all=Cap(1, 3))
    enqueue(
        db,
        row(1, "sms", sms, key="second"),
        row(1, "sms", sms, key="later", not_before=NOW + timedelta(days=3)),
    )
    assert take(db, "sms", NOW + timedelta(days=2, hours=23)).skipped == 1
    assert message(db, "second").reason == "capped"
    assert len(take(db, "sms", NOW + timedelta(days=3)).ready) == 1


def test_a_capped_message_does_not_fall_back_to_another_channel(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    email, sms = add_template(db, settings, "email"), add_template(db, settings, "sms")
    enqueue(db, row(1, "email", email, key="first"))
    sent(db, 1)
    set_rules(db, email=Cap(1))
    back = [{"channel": "sms", "template_id": sms[0], "template_version": sms[1]}]
    enqueue(db, row(1, "email", email, key="second", fallback=back))
    assert take(db).skipped == 1
    assert set(reasons(db)) == {"first", "second"}


def test_workers_at_once_send_a_member_no_more_than_the_cap(pg_db: Database, settings: Settings) -> None:
    add_members(pg_db, range(1, 101))
    email, sms = add_template(pg_db, settings, "email"), add_template(pg_db, settings, "sms")
    enqueue(
        pg_db,
        *[row(n, "email", email, key=f"e{copy}-{n}") for copy in range(3) for n in range(1, 101)],
        *[row(n, "sms", sms, key=f"s{copy}-{n}") for copy in range(3) for n in range(1, 101)],
    )
    set_rules(pg_db, all=Cap(2))
    barrier, got = threading.Barrier(6), []

    def work(number: int) -> None:
        barrier.wait()
        channel = ("email", "sms")[number % 2]
        with pg_db.write() as session:
            batch = claim(session, Terms(channel, 0, SHANGHAI), f"w{number}", 100, NOW)
        got.extend(one.member.id for one in batch.ready)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Counter(got).values()) == {2}
    assert len(got) == 200


def test_eight_campaigns_at_once_send_each_member_one_message(pg_db: Database, settings: Settings) -> None:
    shop = Shop(pg_db, settings.model_copy(update={"database_url": pg_db.url, "batch_size": 50}))
    shop.prepare()
    shop.batch()
    shop.members(200)
    shop.control(0)
    names = [f"c{n}" for n in range(8)]
    for name in names:
        shop.campaign(name, holdout=0)
    set_rules(pg_db, all=Cap(1))
    shop.engine.replica.sync(pg_db)
    threads = [
        threading.Thread(target=run, args=(pg_db, shop.engine, shop.settings, name, NOW)) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shop.rows("SELECT count(*), count(DISTINCT member_id) FROM messages") == [(200, 200)]
    assert sorted(shop.rows("SELECT coalesce(reason, ''), count(*) FROM decisions GROUP BY 1")) == [
        ("", 200), ("capped", 1400),
    ]  # fmt: skip


def test_a_campaign_takes_the_next_channel_where_one_is_capped(db: Database, settings: Settings) -> None:
    shop = Shop(db, settings.model_copy(update={"database_url": db.url}))
    shop.prepare()
    shop.batch()
    shop.members(30)
    shop.control(0)
    for name in ("one", "two", "three"):
        shop.campaign(name, holdout=0, channels=["email", "sms"])
    set_rules(db, email=Cap(1), sms=Cap(1))
    assert run(db, shop.engine, shop.settings, "one", NOW).sent == {"email": 30}
    expected = simulate(db, shop.engine, shop.settings, "two", NOW).counts
    assert run(db, shop.engine, shop.settings, "two", NOW) == expected
    assert expected.sent == {"sms": 30}
    assert run(db, shop.engine, shop.settings, "three", NOW).skipped == {"capped": 30}


def test_the_shops_quiet_hours_hold_for_all_marketing_and_for_nothing_else(
    db: Database, settings: Settings
) -> None:
    add_members(db, [1, 2])
    add_members(db, [3], timezone="America/New_York")
    email = add_template(db, settings, "email")
    own = {"start": "12:30", "end": "14:00", "mode": "defer"}
    enqueue(
        db,
        row(1, "email", email, key="plain"),
        row(1, "email", email, key="receipt", purpose="transactional"),
        row(2, "email", email, key="short", expires_at=NOW + timedelta(minutes=30)),
        row(2, "email", email, key="own", quiet_hours=own),
        row(3, "email", email, key="abroad"),
    )
    set_rules(db, quiet_hours={"start": "11:00", "end": "13:00", "mode": "defer"})
    found = take(db)  # noon in Shanghai, 23:00 in New York
    assert {one.message_id for one in found.ready} == {message(db, key).id for key in ("receipt", "abroad")}
    assert reasons(db)["short"] == "expired"
    assert message(db, "plain").not_before == NOW + timedelta(hours=1)
    # At one the shop's hours end, and the message's own are not over.
    assert [one.message_id for one in take(db, now=NOW + timedelta(hours=1)).ready] == [
        message(db, "plain").id
    ]
    assert message(db, "own").not_before == NOW + timedelta(hours=2)


def test_a_shop_that_drops_in_quiet_hours_skips(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    enqueue(db, row(1, "email", add_template(db, settings, "email"), key="plain"))
    set_rules(db, quiet_hours={"start": "11:00", "end": "13:00", "mode": "drop"})
    assert take(db).skipped == 1
    assert reasons(db) == {"plain": "quiet_hours"}


@pytest.mark.parametrize(
    ("now", "until"),
    [
        # Clocks go forward at 02:00 on 8 March: the night is an hour shorter, 08:00 stays 08:00.
        (datetime(2026, 3, 8, 4, tzinfo=UTC), datetime(2026, 3, 8, 12, tzinfo=UTC)),
        # And back on 1 November: an hour longer.
        (datetime(2026, 11, 1, 3, tzinfo=UTC), datetime(2026, 11, 1, 13, tzinfo=UTC)),
        (datetime(2026, 11, 1, 13, tzinfo=UTC), None),
    ],
)
def test_the_night_ends_at_the_members_eight_o_clock_when_clocks_change(
    now: datetime, until: datetime | None
) -> None:
    night = {"start": "21:00", "end": "08:00"}
    assert quiet_until(night, ZoneInfo("America/New_York"), now) == until


def test_an_end_within_the_hour_that_comes_twice_lies_ahead() -> None:
    night, zone = {"start": "21:00", "end": "01:30"}, ZoneInfo("America/New_York")
    first, second = datetime(2026, 11, 1, 5, 15, tzinfo=UTC), datetime(2026, 11, 1, 6, 15, tzinfo=UTC)
    assert quiet_until(night, zone, first) == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    assert quiet_until(night, zone, second) == datetime(2026, 11, 1, 6, 30, tzinfo=UTC)
