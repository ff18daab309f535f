"""Delivery through real loopback servers, on both databases."""

from __future__ import annotations

import asyncio
import gc
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from channels import consent, outbox
from channels.claim import Claimed
from channels.consent import MARKETING
from channels.delivery import TURN, Delivered, _Channel, run_delivery, transport_for
from channels.models import Account, Message, MessageEvent, Suppression
from channels.sandbox import inbox
from channels.transports.base import Outgoing
from core.collector import SURVIVORS
from core.contacts import CHANNELS, blind_index
from core.db import Database
from core.models import Member, Todo, WarehouseMark
from core.settings import Settings
from tests.channels.seed import (
    CONTEXT,
    NOW,
    add_members,
    add_template,
    email_of,
    enqueue,
    message,
    openid_of,
    phone_of,
    row,
    sandbox,
    states,
)


def counts(found: Delivered) -> tuple[int, int, int, int, int]:
    return found.sent, found.deferred, found.failed, found.skipped, found.unknown


def at(moment: object = NOW) -> object:
    return lambda: moment


def test_every_channel_reaches_its_inbox_once_and_leaves_its_traces(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 31))
    rows = [row(n, channel, add_template(db, settings, channel)) for channel in CHANNELS for n in (1,)]
    made = {r.channel: (r.template_id, r.template_version) for r in rows}
    enqueue(db, *[row(n, channel, made[channel]) for channel in CHANNELS for n in range(1, 31)])
    with sandbox(db, settings) as (found, _):
        assert counts(run_delivery(db, found, now=lambda: NOW, batch=7)) == (120, 0, 0, 0, 0)
        assert counts(run_delivery(db, found, now=lambda: NOW)) == (0, 0, 0, 0, 0)
    assert states(db) == {"sent": 120, "created": 30}, "an employee has to confirm the last channel's"
    assert inbox.count(found) == 150
    assert [m.title for m in inbox.list_messages(found, to=email_of(7))] == ["会员7，我们想你了"]
    sms = inbox.list_messages(found, to=phone_of(7)[3:])
    assert [m.title for m in sms] == ["【回流】会员7，券码ABCD-2345，拒收请回复R"]
    assert sms[0].fields["params"] == {"name": "会员7", "code": "ABCD-2345"}
    wechat = inbox.list_messages(found, to=openid_of(7))
    assert [m.fields["data"] for m in wechat] == [{"first": "会员7，你好", "code": "ABCD-2345"}]
    assert wechat[0].fields["url"].startswith(f"{found.base_url}/t/c/")
    pushed = inbox.list_messages(found, to="m7")
    assert [m.fields["data"] for m in pushed] == [
        {"title": "会员7，你好", "body": "券码ABCD-2345", "screen": "coupons"}
    ]
    with db.read() as session:
        kinds = session.execute(
            sa.select(MessageEvent.kind, sa.func.count()).group_by(MessageEvent.kind)
        ).all()
        assert sorted(tuple(kind) for kind in kinds) == [("created", 30), ("sent", 120)]
        assert set(
            session.scalars(sa.select(WarehouseMark.month).where(WarehouseMark.table_name == "touches"))
        ) == {"2026-03"}
        sent = session.execute(
            sa.select(Message.attempts, Message.sent_at, Message.provider)
            .where(Message.state == "sent")
            .distinct()
        ).all()
        assert sorted(sent) == [(1, NOW, "aliyun"), (1, NOW, "smtp"), (1, NOW, "webhook"), (1, NOW, "wechat")]


def test_nothing_is_sent_to_whom_it_must_not_be(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 7))
    template = add_template(db, settings, "email")
    quiet = {"start": "11:00", "end": "13:30", "mode": "defer"}
    enqueue(
        db,
        *[row(n, "email", template) for n in (1, 2, 3)],
        row(4, "email", template, expires_at=NOW),
        row(5, "email", template, quiet_hours={**quiet, "mode": "drop"}),
        row(6, "email", template, quiet_hours=quiet),
    )
    with db.write() as session:
        consent.withdraw(session, 1, "email", MARKETING, "test", NOW + timedelta(seconds=1))
        consent.suppress(session, "email", blind_index("email", email_of(2)) or "", "complaint", "test", NOW)
        session.execute(sa.update(Member).where(Member.id == 3).values(erased_at=NOW))
    with sandbox(db, settings) as (found, _):
        assert counts(run_delivery(db, found, now=lambda: NOW)) == (0, 1, 0, 5, 0)
        assert inbox.count(found) == 0
        with db.read() as session:
            reasons = session.execute(
                sa.select(Message.member_id, Message.reason).order_by(Message.member_id)
            ).all()
        assert [reason for _, reason in reasons] == [
            "no_consent", "suppressed", "erased", "expired", "quiet_hours", "quiet_hours",
        ]  # fmt: skip
        assert message(db, "run:1:6:email").not_before == NOW.replace(hour=5, minute=30)
        later = NOW + timedelta(hours=2)
        assert counts(run_delivery(db, found, now=lambda: later)) == (1, 0, 0, 0, 0)


def test_refusals_retry_fail_suppress_and_fall_back(db: Database, settings: Settings) -> None:
    add_members(db, [1], email="bounce@example.com")
    add_members(db, [2], email="defer@example.com")
    add_members(db, [3], email="policy@example.com")
    email, sms = add_template(db, settings, "email"), add_template(db, settings, "sms")
    back = [{"channel": "sms", "template_id": sms[0], "template_version": sms[1]}]
    enqueue(db, *[row(n, "email", email, fallback=back) for n in (1, 2, 3)])
    with sandbox(db, settings) as (found, _):
        # Two SMS are sent: for the hard bounce and for the refusal; the deferred one waits.
        assert counts(run_delivery(db, found, now=lambda: NOW)) in {(2, 1, 2, 0, 0), (0, 1, 2, 0, 0)}
        run_delivery(db, found, now=lambda: NOW)
        assert states(db) == {"failed": 2, "queued": 1, "sent": 2}
        assert {m.to for m in inbox.list_messages(found)} == {phone_of(1)[3:], phone_of(3)[3:]}
        waiting = message(db, "run:1:2:email")
        assert waiting.attempts == 1
        assert timedelta(seconds=300) <= waiting.not_before - NOW <= timedelta(seconds=360)
        with db.read() as session:
            bounced = session.execute(sa.select(Suppression.address_index, Suppression.reason)).all()
            assert [tuple(r) for r in bounced] == [
                (blind_index("email", "bounce@example.com"), "hard_bounce")
            ]
        # To the end: it is tried again and again, and then the next channel is.
        now = NOW
        for _ in range(14):
            now += timedelta(hours=10)
            run_delivery(db, found, now=lambda: now)  # noqa: B023
        assert states(db) == {"failed": 3, "sent": 3}
        assert message(db, "run:1:2:email").attempts == 13
        fallback = message(db, f"fallback:{waiting.id}")
        assert (fallback.channel, fallback.state, fallback.context) == ("sms", "sent", CONTEXT)


def test_an_account_without_credit_is_paused_and_goes_on_when_resumed(
    db: Database, settings: Settings
) -> None:
    add_members(db, [1], phone="+8613800000003")
    add_members(db, range(2, 6))
    template = add_template(db, settings, "sms")
    enqueue(db, *[row(n, "sms", template) for n in range(1, 6)])
    with sandbox(db, settings) as (found, _):
        run_delivery(db, found, now=lambda: NOW)
        with db.write() as session:
            account = session.get_one(Account, "sms")
            assert account.paused_at == NOW
            assert account.paused_reason is not None
            assert "isv.AMOUNT_NOT_ENOUGH" in account.paused_reason
            assert states(db) == {"queued": 5}
            session.execute(sa.update(Message).where(Message.member_id == 1).values(state="skipped"))
            outbox.resume(session, "sms")
        assert counts(run_delivery(db, found, now=lambda: NOW)) == (4, 0, 0, 0, 0)


def test_a_refused_template_stops_its_run_and_tells_campaigns(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 11))
    template = add_template(db, settings, "wechat", provider_template="invalid-template")
    enqueue(db, *[row(n, "wechat", template, source_id=77) for n in range(1, 11)])
    with sandbox(db, settings) as (found, _):
        run_delivery(db, found, now=lambda: NOW, batch=2, concurrency=1)
    found_states = states(db)
    assert found_states["failed"] <= 4
    assert found_states["failed"] + found_states["skipped"] == 10
    with db.read() as session:
        assert set(session.execute(sa.select(Todo.queue, Todo.subject_id)).all()) == {("campaigns.stop", 77)}


def test_one_bad_number_does_not_stop_its_batch(db: Database, settings: Settings) -> None:
    add_members(db, [1], phone="+8613800000001")
    add_members(db, [2], phone="+8613800000002")
    add_members(db, range(3, 150))
    template = add_template(db, settings, "sms")
    enqueue(db, *[row(n, "sms", template) for n in range(1, 150)])
    with sandbox(db, settings) as (found, _):
        assert counts(run_delivery(db, found, now=lambda: NOW)) == (147, 1, 1, 0, 0)
        assert inbox.count(found) == 147
    assert message(db, "run:1:1:sms").reason == "The number is illegal."
    assert message(db, "run:1:2:sms").not_before >= NOW + timedelta(days=1)


def test_a_cut_connection_leaves_the_message_unknown_or_sends_it_again(
    db: Database, settings: Settings
) -> None:
    add_members(db, [1], email="drop@example.com")
    template = add_template(db, settings, "email")
    enqueue(db, row(1, "email", template))
    with sandbox(db, settings) as (found, _):
        assert counts(run_delivery(db, found, now=lambda: NOW)) == (0, 0, 0, 0, 1)
        assert counts(run_delivery(db, found, now=lambda: NOW + timedelta(days=1))) == (0, 0, 0, 0, 0)
        with db.write() as session:
            outbox.set_on_unknown(session, "email", "resend")
        enqueue(db, row(1, "email", template, key="run:2:1:email"))
        assert counts(run_delivery(db, found, now=lambda: NOW)) == (0, 1, 0, 0, 0)
        run_delivery(db, found, now=lambda: NOW + timedelta(hours=1))
        again = [m.client_id for m in inbox.list_messages(found)][:2]
        assert again[0] == again[1], "the second attempt keeps the Message-ID"


def test_an_unreachable_server_costs_no_attempt(db: Database, settings: Settings) -> None:
    from tests.channels.seed import sandbox_settings

    add_members(db, range(1, 6))
    template = add_template(db, settings, "email")
    enqueue(db, *[row(n, "email", template) for n in range(1, 6)])
    nobody = sandbox_settings(db, settings)
    found = run_delivery(db, nobody, channels=["email"], now=lambda: NOW)
    assert (found.sent, found.failed, found.unknown) == (0, 0, 0)
    assert states(db) == {"queued": 5}
    assert message(db, "run:1:1:email").attempts == 0


def test_a_message_that_does_not_render_fails_alone(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2])
    template = add_template(db, settings, "sms")
    enqueue(db, row(1, "sms", template, context={}), row(2, "sms", template))
    with sandbox(db, settings) as (found, _):
        assert counts(run_delivery(db, found, now=lambda: NOW)) == (1, 0, 1, 0, 0)
    assert "zh_CN.params.code, line 1" in (message(db, "run:1:1:sms").reason or "")


def test_a_paused_channel_sends_nothing(sqlite_db: Database, settings: Settings) -> None:
    add_members(sqlite_db, [1])
    enqueue(sqlite_db, row(1, "email", add_template(sqlite_db, settings, "email")))
    with sqlite_db.write() as session:
        outbox.pause(session, "email", "by hand", NOW)
    with sandbox(sqlite_db, settings) as (found, _):
        assert counts(run_delivery(sqlite_db, found, now=lambda: NOW)) == (0, 0, 0, 0, 0)
    assert states(sqlite_db) == {"queued": 1}


def test_an_unknown_channel_is_refused(sqlite_db: Database, settings: Settings) -> None:
    with pytest.raises(Exception, match="not a channel"):
        run_delivery(sqlite_db, settings, channels=["fax"])


def test_the_loop_sees_to_its_connections_while_a_batch_is_rendered(
    sqlite_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 4 * TURN
    add_members(sqlite_db, range(1, number + 1))
    template = add_template(sqlite_db, settings, "email")
    enqueue(sqlite_db, *[row(n, "email", template) for n in range(1, number + 1)])
    turns, seen = 0, []
    made = _Channel._outgoing

    def outgoing(self: _Channel, claimed: Claimed, now: datetime) -> Outgoing:
        seen.append(turns)
        return made(self, claimed, now)

    async def ticking() -> None:
        nonlocal turns
        while len(seen) < number:
            turns += 1
            await asyncio.sleep(0)

    async def render() -> int:
        transport = transport_for("email", sqlite_db, settings, None, lambda: NOW)
        channel = _Channel(sqlite_db, settings, "email", transport, "w", number, lambda: NOW)
        ready = channel._claim("w:1").ready
        (outgoing, failed), _ = await asyncio.gather(channel._render(ready), ticking())
        assert failed == []
        return len(outgoing)

    monkeypatch.setattr(_Channel, "_outgoing", outgoing)
    assert asyncio.run(render()) == number
    assert [seen.count(turn) for turn in sorted(set(seen))] == [TURN] * 4


def test_collections_are_rare_while_delivering_and_as_before_afterwards(
    sqlite_db: Database, settings: Settings
) -> None:
    before, during = gc.get_threshold(), set()

    def now() -> datetime:
        during.add(gc.get_threshold()[0])
        return NOW

    with sandbox(sqlite_db, settings) as (found, _):
        run_delivery(sqlite_db, found, channels=["email"], now=now)
    assert during == {SURVIVORS}
    assert gc.get_threshold() == before
