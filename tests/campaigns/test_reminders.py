"""Reminders of coupons and points that end soon: whom, once, by the rules of all marketing."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from campaigns import flows, reminders
from campaigns.reminders import Counts, Reminders, Rule
from channels import caps, consent, outbox, templates, tracking
from channels.caps import Cap, Rules
from channels.delivery import deliver
from channels.models import Message
from channels.sandbox import inbox
from core import settings as core_settings
from core.db import Database
from core.errors import InvalidInput
from core.models import AuditEntry, Member, Preference
from core.settings import Settings
from loyalty import batches, coupon_holds, coupons, points, transfers
from loyalty.coupons import NewBatch
from loyalty.models import PointsLot
from tests.channels.seed import NOW, add_members, email_of, sandbox
from tests.conftest import count
from tests.loyalty.data import together

MAIL = {
    "subject": "{{ coupon.title }}",
    "html": "<p>{{ coupon.code }} {{ coupon.valid_until|date }}</p><a href='{{ wallet_url }}'>w</a>"
    "<a href='{{ unsubscribe_url }}'>x</a>",
}
POINTS_MAIL = {
    "subject": "{{ points.amount }}/{{ points.balance }} {{ points.expires_at|date }}",
    "html": "<p>{{ points.amount }}</p><a href='{{ unsubscribe_url }}'>x</a>",
}
SMS = {"text": "{{ coupon.code }}", "provider_template": "SMS_1", "params": {"code": "{{ coupon.code }}"}}
COUPONS_ON = Reminders(coupons=Rule(True, 3, ("ends-mail", "ends-sms")))
POINTS_ON = Reminders(points=Rule(True, 7, ("points-mail",), least=100))


@pytest.fixture
def shop(db: Database, settings: Settings) -> Settings:
    """Four members who agreed to everything, templates, and no control group."""
    add_members(db, [1, 2, 3, 4])
    with db.write() as session:
        for name, channel, fields in (
            ("ends-mail", "email", MAIL),
            ("ends-sms", "sms", SMS),
            ("points-mail", "email", POINTS_MAIL),
        ):
            templates.save(
                session, settings, name=name, channel=channel, purpose="marketing",
                contents={"zh_CN": fields}, by="test", now=NOW,
            )  # fmt: skip
        session.add(Preference(key="campaigns.control", value=0.0, updated_at=NOW))
    return settings.model_copy(update={"database_url": db.url})


def put(db: Database, wanted: Reminders) -> None:
    with db.write() as session:
        reminders.save(session, wanted, "boss", NOW)


def give(db: Database, name: str, member_ids: list[int], days: float, **changes: Any) -> dict[int, str]:
    """Codes that end ``days`` from now, by member."""
    benefit = {"type": "fixed", "amount": 1000}
    with db.write() as session:
        ends = NOW + timedelta(days=days)
        new = NewBatch(
            name=name, title=f"About {name}", benefit=benefit, currency="CNY", ends_at=ends, **changes
        )
        batch = coupons.create_batch(session, new, "test", NOW - timedelta(days=20))
        rows = [(member, f"{name}:{member}") for member in member_ids]
        codes = coupons.issue(session, batch, rows, NOW - timedelta(days=9))
        return {member: codes[key] for member, key in rows}


def give_points(db: Database, held: dict[int, int], days: float) -> None:
    with db.write() as session:
        rows = [(member, number, f"p{member}:{days}") for member, number in held.items()]
        points.grant_many(session, rows, NOW - timedelta(days=30))
        session.execute(
            sa.update(PointsLot)
            .where(PointsLot.source_id.like(f"%:{days}"))
            .values(expires_at=NOW + timedelta(days=days))
        )


def send(db: Database, shop: Settings, now: datetime = NOW, **options: Any) -> dict[str, Counts]:
    return reminders.send(db, shop, now, **options)


def queued(db: Database) -> list[tuple[int, str, str]]:
    """(member, channel, key) of every message."""
    with db.read() as session:
        rows = session.execute(
            sa.select(Message.member_id, Message.channel, Message.dedupe_key).order_by(
                Message.member_id, Message.id
            )
        )
        return [(member, channel, key) for member, channel, key in rows]


def test_a_coupon_is_reminded_of_once_whatever_runs(db: Database, shop: Settings) -> None:
    put(db, COUPONS_ON)
    give(db, "soon", [1, 2], 2)
    give(db, "later", [3], 4)
    give(db, "over", [4], -1)
    done = send(db, shop)
    assert done["coupons"].to_json() == {"due": 2, "queued": {"email": 2}, "skipped": {}}
    assert queued(db) == [(1, "email", "reminder:coupon:1"), (2, "email", "reminder:coupon:2")]
    with db.read() as session:
        one = session.scalars(sa.select(Message).order_by(Message.id)).first()
        assert one is not None
        assert one.fallback == [{"channel": "sms", "template_id": 2, "template_version": 1}]
        assert (one.source_kind, one.source_id, one.purpose) == ("reminder", 20260302, "marketing")
        assert one.expires_at == NOW + timedelta(days=2), "not after the coupon's end"
        assert one.quiet_hours == {"start": "21:00", "end": "08:00", "mode": "defer"}
    assert send(db, shop)["coupons"].to_json() == {"due": 0, "queued": {}, "skipped": {}}
    tomorrow = send(db, shop, NOW + timedelta(days=1))["coupons"]
    assert tomorrow.queued == {"email": 1}, "the one that ended too late before"
    assert len(queued(db)) == 3


def test_two_workers_at_once_queue_each_reminder_once(db: Database, shop: Settings) -> None:
    put(db, Reminders(coupons=COUPONS_ON.coupons, points=POINTS_ON.points))
    give(db, "soon", [1, 2, 3, 4], 2)
    give_points(db, {1: 500, 2: 500, 3: 500}, 5)
    found: list[dict[str, Counts]] = []
    assert together([lambda: found.append(send(db, shop))] * 4) == {"done": 4}
    assert sum(one["coupons"].queued["email"] for one in found) == 4
    assert sum(one["points"].queued["email"] for one in found) == 3
    assert count(db, "messages") == 7


def test_a_member_is_reminded_of_one_coupon_a_day_the_first_to_end(db: Database, shop: Settings) -> None:
    put(db, COUPONS_ON)
    give(db, "second", [1], 2.5)
    give(db, "first", [1], 1.5)
    assert send(db, shop)["coupons"].queued == {"email": 1}
    assert send(db, shop, NOW + timedelta(hours=2))["coupons"].due == 0
    assert queued(db) == [(1, "email", "reminder:coupon:2")]
    assert send(db, shop, NOW + timedelta(days=1))["coupons"].queued == {"email": 1}
    assert queued(db)[1] == (1, "email", "reminder:coupon:1")


def test_a_batchs_own_days_win_and_empty_means_only_those(db: Database, shop: Settings) -> None:
    put(db, COUPONS_ON)
    give(db, "early", [1], 9, reminder_days=10)
    give(db, "late", [2], 2, reminder_days=1)
    give(db, "plain", [3], 2)
    assert send(db, shop)["coupons"].due == 2
    assert [member for member, _, _ in queued(db)] == [1, 3]
    put(db, Reminders(coupons=Rule(True, None, ("ends-mail",))))
    give(db, "plain-2", [4], 2)
    assert send(db, shop)["coupons"].due == 0


def test_codes_that_cannot_be_used_are_not_reminded_of(db: Database, shop: Settings) -> None:
    put(db, COUPONS_ON)
    used = give(db, "used", [1], 2)[1]
    held = give(db, "held", [2], 2)[2]
    give(db, "not-begun", [3], 2, starts_at=NOW + timedelta(days=1))
    revoked = give(db, "revoked", [4], 2)[4]
    with db.write() as session:
        coupons.redeem(
            session, used, order_ref="o", basket_minor=5000, currency="CNY", member_external_id="m1",
            idempotency_key="r", now=NOW,
        )  # fmt: skip
        coupons.hold(
            session, held, order_ref="o2", basket_minor=5000, currency="CNY", member_external_id="m2",
            idempotency_key="h", now=NOW,
        )  # fmt: skip
        coupons.revoke(session, [revoked], "boss", NOW)
    assert send(db, shop)["coupons"].due == 0
    assert count(db, "messages") == 0


def test_points_are_reminded_of_once_a_month_from_enough_points(db: Database, shop: Settings) -> None:
    put(db, POINTS_ON)
    give_points(db, {1: 500, 2: 99}, 5)
    give_points(db, {1: 40}, 30)
    done = send(db, shop)
    assert done["points"].to_json() == {"due": 1, "queued": {"email": 1}, "skipped": {}}
    assert queued(db) == [(1, "email", "reminder:points:1:2026-03")]
    with db.read() as session:
        context = session.scalars(sa.select(Message.context)).one()
    expires = (NOW + timedelta(days=5)).isoformat()
    assert context == {"points": {"amount": 500, "balance": 540, "expires_at": expires, "expiring": 500}}
    assert send(db, shop, NOW + timedelta(days=2))["points"].due == 0
    assert send(db, shop, NOW + timedelta(days=29))["points"].due == 0, "40 are too few"


def test_a_reminder_of_a_coupon_may_show_the_members_points(db: Database, shop: Settings) -> None:
    fields = {**MAIL, "subject": "{{ points.balance }}/{{ points.expiring }} {{ points.expires_at|date }}"}
    with db.write() as session:
        templates.save(
            session, shop, name="ends-mail", channel="email", purpose="marketing", contents={"zh_CN": fields},
            by="test", now=NOW,
        )  # fmt: skip
    put(db, COUPONS_ON)
    give(db, "soon", [1, 2], 2)
    give_points(db, {1: 500}, 5)
    give_points(db, {1: 40}, 30)
    send(db, shop)
    with db.read() as session:
        rows = session.execute(sa.select(Message.member_id, Message.context).order_by(Message.member_id))
        found = {member: context["points"] for member, context in rows}
    ends = (NOW + timedelta(days=5)).isoformat()
    assert found == {
        1: {"amount": 0, "balance": 540, "expires_at": ends, "expiring": 500},
        2: {"amount": 0, "balance": 0, "expires_at": None, "expiring": 0},
    }


def test_consent_caps_and_the_control_group_count_as_for_campaigns(db: Database, shop: Settings) -> None:
    put(db, COUPONS_ON)
    give(db, "soon", [1, 2, 3, 4], 2)
    with db.write() as session:
        consent.withdraw(session, 1, "email", "marketing", "test", NOW)
        for channel in ("email", "sms"):
            consent.withdraw(session, 2, channel, "marketing", "test", NOW)
        session.execute(sa.update(Member).where(Member.id == 3).values(erased_at=NOW))
    done = send(db, shop, dry_run=True)["coupons"].to_json()
    assert done == {"due": 3, "queued": {"email": 1, "sms": 1}, "skipped": {"no_consent": 1}}
    assert count(db, "messages") == 0
    assert send(db, shop)["coupons"].to_json() == done
    assert [row[:2] for row in queued(db)] == [(1, "sms"), (4, "email")]
    give(db, "again", [1, 4], 2.5)
    tomorrow = NOW + timedelta(days=1)
    with db.write() as session:
        caps.save(session, Rules({"sms": Cap(1)}), "boss", NOW)
    assert send(db, shop, tomorrow, dry_run=True)["coupons"].skipped == {"no_consent": 1, "capped": 1}
    with db.write() as session:
        session.merge(Preference(key="campaigns.control", value=1.0, updated_at=NOW))
    assert send(db, shop, tomorrow)["coupons"].skipped == {"no_consent": 1, "capped": 1, "control": 1}


def test_the_message_arrives_with_the_code_and_the_wallet(db: Database, shop: Settings) -> None:
    put(db, COUPONS_ON)
    code = give(db, "soon", [1], 2)[1]
    assert send(db, shop)["coupons"].queued == {"email": 1}
    with sandbox(db, shop) as (there, _):
        done = asyncio.run(deliver(db, there, now=lambda: NOW + timedelta(minutes=1)))
        assert done.sent == 1
        [listed] = inbox.list_messages(there)
        message = inbox.get(there, listed.id)
    assert message is not None
    assert (message.to, message.title) == (email_of(1), "About soon")
    assert message.html is not None
    assert code in message.html
    assert tracking.wallet_url(there.base_url, 1) in message.html


def test_who_withdraws_after_the_queueing_gets_nothing(db: Database, shop: Settings) -> None:
    put(db, COUPONS_ON)
    give(db, "soon", [1], 2)
    send(db, shop)
    with db.write() as session:
        for channel in ("email", "sms"):
            consent.withdraw(session, 1, channel, "marketing", "test", NOW)
    with sandbox(db, shop) as (there, _):
        done = asyncio.run(deliver(db, there, now=lambda: NOW + timedelta(minutes=1)))
        assert (done.sent, done.skipped) == (0, 1)
        assert inbox.list_messages(there) == []


@pytest.mark.parametrize("what", ["redeemed", "held", "handed on", "archived", "kept"])
def test_nobody_is_reminded_of_a_code_that_was_used_after_the_queueing(
    db: Database, shop: Settings, what: str
) -> None:
    put(db, COUPONS_ON)
    code = give(db, "soon", [1], 2, transferable=True)[1]
    give(db, "soon-too", [3], 2)
    send(db, shop)
    later = NOW + timedelta(minutes=1)
    order = {"order_ref": "o", "basket_minor": 5000, "currency": "CNY", "member_external_id": None}
    with db.write() as session:
        if what == "redeemed":
            coupons.redeem(session, code, **order, idempotency_key="k", now=later)
        elif what == "held":
            coupon_holds.hold(session, code, **order, idempotency_key="k", now=later)
        elif what == "handed on":
            transfers.transfer(session, code, 1, 2, idempotency_key="k", now=later)
        elif what == "archived":
            batch = coupons.find_batch(session, "soon")
            batches.archive_batch(session, batch, "boss", later)
    with sandbox(db, shop) as (there, _):
        done = asyncio.run(deliver(db, there, now=lambda: later))
        seen = {message.to for message in inbox.list_messages(there)}
    gone = what != "kept"
    assert (done.sent, done.skipped) == ((1, 1) if gone else (2, 0))
    assert seen == ({email_of(3)} if gone else {email_of(1), email_of(3)})
    with db.read() as session:
        reasons = session.scalars(sa.select(Message.reason).where(Message.state == "skipped")).all()
    assert reasons == ([reminders.COUPON_GONE] if gone else [])


def test_a_reminder_that_fell_back_to_another_channel_is_looked_at_too(db: Database, shop: Settings) -> None:
    put(db, COUPONS_ON)
    code = give(db, "soon", [1], 2)[1]
    send(db, shop)
    later = NOW + timedelta(minutes=1)
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 1).values(email=None, email_index=None))
        outbox.enqueue_fallbacks(session, session.scalars(sa.select(Message.id)).all(), later)
        session.execute(sa.delete(Message).where(Message.channel == "email"))
        coupons.redeem(
            session, code, order_ref="o", basket_minor=5000, currency="CNY", member_external_id=None,
            idempotency_key="k", now=later,
        )  # fmt: skip
    with sandbox(db, shop) as (there, _):
        done = asyncio.run(deliver(db, there, now=lambda: later))
    assert (done.sent, done.skipped) == (0, 1)


def test_the_days_reminders_wait_for_their_hour_and_come_once(
    db: Database, shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(db, Reminders(coupons=COUPONS_ON.coupons, hour=13))
    give(db, "soon", [1], 2)
    monkeypatch.setattr(core_settings, "load", lambda: shop)
    monkeypatch.setattr(flows, "Database", lambda _url: db)
    monkeypatch.setattr(flows, "get_run_logger", lambda: logging.getLogger("test"))
    noon, one = NOW, NOW + timedelta(hours=1)
    assert flows.send_reminders.fn(noon) == {}
    assert flows.send_reminders.fn(one) == {"coupons": {"due": 1, "queued": {"email": 1}, "skipped": {}}}
    give(db, "another", [2], 2)
    assert flows.send_reminders.fn(one + timedelta(hours=5)) == {}, "the day is done"
    next_day = datetime(2026, 3, 3, 5, tzinfo=UTC)
    assert flows.send_reminders.fn(next_day)["coupons"]["queued"] == {"email": 1}


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (Reminders(hour=24), "hour"),
        (Reminders(coupons=Rule(True, 3, ())), "coupons.templates"),
        (Reminders(coupons=Rule(True, 3, ("gone",))), "coupons.templates"),
        (Reminders(coupons=Rule(True, 3, ("ends-mail", "points-mail"))), "coupons.templates"),
        (Reminders(coupons=Rule(days=0)), "coupons.days"),
        (Reminders(points=Rule(days=None)), "points.days"),
        (Reminders(points=Rule(least=0)), "points.least"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(
    db: Database, shop: Settings, wanted: Reminders, field: str
) -> None:
    with pytest.raises(InvalidInput) as error, db.write() as session:
        reminders.save(session, wanted, "boss", NOW)
    assert error.value.field == field
    with db.read() as session:
        assert reminders.load(session) == Reminders()


def test_a_saved_choice_is_read_again_and_audited(db: Database, shop: Settings) -> None:
    put(db, COUPONS_ON)
    with db.read() as session:
        assert reminders.load(session) == COUPONS_ON
        row = session.scalars(sa.select(AuditEntry).where(AuditEntry.object_id == reminders.KEY)).one()
        assert (row.actor, row.action) == ("boss", "save")


def test_nothing_is_queued_when_a_template_is_gone(db: Database, shop: Settings) -> None:
    put(db, Reminders(coupons=COUPONS_ON.coupons, points=POINTS_ON.points))
    give(db, "soon", [1], 2)
    with db.write() as session:
        session.execute(
            sa.text("UPDATE templates SET archived_at = '2026-03-02 00:00:00+00:00' WHERE id = 3")
        )
    with pytest.raises(InvalidInput, match="points-mail"):
        send(db, shop)
    assert count(db, "messages") == 0
