"""SMS through the whole of delivery: each reaction's consequence, two providers, and lost answers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from channels.consent import MARKETING, TRANSACTIONAL
from channels.delivery import run_delivery
from channels.models import Account, Consent, Message, Suppression
from channels.polling import poll_receipts
from channels.sandbox import inbox
from channels.transports.base import Reaction, TransportError
from channels.transports.sms_codes import code_for
from core.contacts import blind_index
from core.db import Database
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, message, row, sandbox, states
from tests.channels.test_workers import public_pages, until
from tests.postgres import free_port

TENCENT: dict[str, Any] = {"sms_provider": "tencent"}
TWILIO: dict[str, Any] = {"sms_provider": "twilio"}
PARAMS = {"1": "{{ coupon.code }}", "code": "{{ coupon.code }}"}
MEMBERS = 5


def seed(
    database: Database, settings: Settings, *endings: str, country: str = "+861390000", **fields: Any
) -> None:
    """A marketing message to a member a number; keys are run:1:<place>:sms."""
    template = add_template(database, settings, "sms", params=PARAMS, **fields)
    for place, ending in enumerate(endings, 1):
        add_members(database, [place], phone=f"{country}{ending}")
    enqueue(database, *[row(place, "sms", template) for place in range(1, len(endings) + 1)])


def suppressions(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        rows = session.execute(sa.select(Suppression.reason, Suppression.source)).all()
        return [(reason, source) for reason, source in rows]


def granted(database: Database, member: int) -> bool | None:
    with database.read() as session:
        return session.scalar(
            sa.select(Consent.granted).where(Consent.member_id == member, Consent.channel == "sms")
        )


def test_tencents_answers_have_their_consequences(db: Database, settings: Settings) -> None:
    seed(db, settings, "1234", "0001", "0002", "0004", "0005", "0000")
    with sandbox(db, settings, changes=TENCENT) as (there, _):
        found = run_delivery(db, there, now=lambda: NOW)
        assert (found.sent, found.failed, found.deferred, found.unknown) == (2, 2, 1, 1)
        assert {m.fields["provider"] for m in inbox.list_messages(there)} == {"tencent"}
        assert inbox.list_messages(there, to="+8613900001234")[0].title == (
            "【回流】会员1，券码ABCD-2345，拒收请回复R"
        )
    sent, bad, limited, black, lost = (message(db, f"run:1:{n}:sms") for n in range(1, 6))
    assert (sent.state, sent.provider, str(sent.provider_id)[:5]) == ("sent", "tencent", "2019:")
    assert (bad.state, bad.reason) == (
        "failed",
        "InvalidParameterValue.IncorrectPhoneNumber The number is wrong.",
    )
    assert limited.state == "queued"
    assert timedelta(seconds=30) <= limited.not_before - NOW <= timedelta(seconds=37)
    assert (black.state, suppressions(db), granted(db, 4)) == ("failed", [("blocked", "tencent")], True)
    assert (lost.state, lost.reason) == ("unknown", "InternalError.Timeout Request timed out.")


def test_tencents_pull_settles_what_nobody_knew(db: Database, settings: Settings) -> None:
    seed(db, settings, "1234", "0005", "0000", "0001")
    with sandbox(db, settings, changes=TENCENT) as (there, running):
        run_delivery(db, there)
        assert states(db) == {"sent": 2, "unknown": 1, "failed": 1}
        running.sandbox.tencent.reply("+8613900001234", "退订")
        later = datetime.now(UTC) + timedelta(minutes=1)
        assert asyncio.run(poll_receipts(db, there, later)) == {"asked": 0, "answered": 3, "applied": 3}
        assert states(db) == {"delivered": 2, "failed": 2}
        assert message(db, "run:1:2:sms").state == "delivered", "the one without an answer"
        assert message(db, "run:1:3:sms").reason == "undelivered:  用户关机"
        assert (granted(db, 1), granted(db, 2)) == (False, True)
        assert asyncio.run(poll_receipts(db, there, later)) == {"asked": 0, "answered": 0, "applied": 0}


def test_more_receipts_than_a_page_are_pulled(sqlite_db: Database, settings: Settings) -> None:
    members = range(1, 251)
    add_members(sqlite_db, members)
    template = add_template(sqlite_db, settings, "sms", params=PARAMS)
    enqueue(sqlite_db, *[row(n, "sms", template) for n in members])
    with sandbox(sqlite_db, settings, changes=TENCENT) as (there, _):
        run_delivery(sqlite_db, there)
        later = datetime.now(UTC) + timedelta(minutes=1)
        assert asyncio.run(poll_receipts(sqlite_db, there, later))["applied"] == 250
    assert states(sqlite_db) == {"delivered": 250}


def test_a_refused_template_stops_its_campaign_and_an_empty_account_the_channel(
    db: Database, settings: Settings
) -> None:
    seed(db, settings, "1234", provider_template="invalid-1")
    add_members(db, [2])
    first = message(db, "run:1:1:sms")
    enqueue(db, row(2, "sms", (first.template_id, 1), not_before=NOW + timedelta(hours=1)))
    with sandbox(db, settings, changes=TENCENT) as (there, _):
        run_delivery(db, there, now=lambda: NOW)
        assert message(db, "run:1:1:sms").state == "failed"
        assert (message(db, "run:1:2:sms").reason or "").startswith(
            "stopped: FailedOperation.TemplateIncorrectOrUnapproved"
        )
        add_members(db, [8], phone="+8613900000003")
        enqueue(
            db, row(8, "sms", add_template(db, settings, "sms", params=PARAMS, text="拒收请回复R"), key="k")
        )
        run_delivery(db, there, now=lambda: NOW)
    with db.read() as session:
        account = session.execute(sa.select(Account).where(Account.channel == "sms")).scalar_one()
        assert account.paused_at == NOW
        assert "InsufficientBalanceInSmsPackage" in (account.paused_reason or "")
    assert message(db, "k").state == "queued"


def test_parameters_without_places_stop_with_a_clear_reason(sqlite_db: Database, settings: Settings) -> None:
    add_members(sqlite_db, [1])
    enqueue(sqlite_db, row(1, "sms", add_template(sqlite_db, settings, "sms")))
    with sandbox(sqlite_db, settings, changes=TENCENT) as (there, _):
        run_delivery(sqlite_db, there, now=lambda: NOW)
    assert "name the parameters 1, 2" in (message(sqlite_db, "run:1:1:sms").reason or "")


def test_twilios_answers_have_their_consequences(db: Database, settings: Settings) -> None:
    seed(db, settings, "1234", "0001", "0002", "0004", country="+1415555")
    with sandbox(db, settings, changes=TWILIO) as (there, _):
        # Two in the afternoon in San Francisco.
        now = NOW.replace(hour=22)
        found = run_delivery(db, there, now=lambda: now)
        assert (found.sent, found.failed, found.deferred) == (1, 2, 1)
        assert inbox.list_messages(there)[0].title == "会员1，券码ABCD-2345，拒收请回复R"
    assert message(db, "run:1:1:sms").provider == "twilio"
    assert message(db, "run:1:2:sms").state == "failed"
    assert message(db, "run:1:3:sms").state == "queued"
    assert suppressions(db) == [("blocked", "twilio")]
    assert (granted(db, 3), granted(db, 4)) == (True, False), "who left at Twilio has left here"
    with db.read() as session:
        source = session.scalar(
            sa.select(Consent.source).where(Consent.member_id == 4, Consent.channel == "sms")
        )
        index = session.scalar(sa.select(Suppression.address_index))
    assert (source, index) == ("twilio:21610", blind_index("phone", "+14155550004"))


def test_twilios_receipts_come_back(sqlite_db: Database, settings: Settings) -> None:
    seed(sqlite_db, settings, "1234", "0000", "1235", country="+4477009")
    port = free_port()
    changes = {**TWILIO, "base_url": f"http://127.0.0.1:{port}"}
    with (
        sandbox(sqlite_db, settings, changes=changes, callback_delay_s=0.0) as (there, _),
        public_pages(sqlite_db, there, port),
    ):
        assert run_delivery(sqlite_db, there).sent == 3
        until(
            lambda: (
                bool(run_delivery(sqlite_db, there)) and states(sqlite_db) == {"delivered": 2, "failed": 1}
            ),
            "the receipts",
        )
    assert message(sqlite_db, "run:1:2:sms").reason == "undelivered: 30003 undelivered"


def test_twilio_is_asked_about_what_no_callback_brought(db: Database, settings: Settings) -> None:
    seed(db, settings, "1234", "0000", "1235", country="+4477009")
    with sandbox(db, settings, changes=TWILIO) as (there, _):
        sent = datetime.now(UTC)
        assert run_delivery(db, there).sent == 3
        assert asyncio.run(poll_receipts(db, there, sent))["asked"] == 0, "callbacks come first"
        later = sent + timedelta(hours=1)
        with db.write() as session:
            session.execute(
                sa.update(Message).where(Message.dedupe_key == "run:1:3:sms").values(provider_id="SMgone")
            )
        assert asyncio.run(poll_receipts(db, there, later)) == {"asked": 3, "answered": 2, "applied": 2}
        assert states(db) == {"delivered": 1, "failed": 1, "sent": 1}
    assert message(db, "run:1:2:sms").reason == "undelivered: 30003 undelivered"


def test_tencents_receipts_come_back(sqlite_db: Database, settings: Settings) -> None:
    seed(sqlite_db, settings, "1234", "0000", "0005")
    port = free_port()
    changes = {**TENCENT, "base_url": f"http://127.0.0.1:{port}", "sms_hours": ""}
    with (
        sandbox(sqlite_db, settings, changes=changes) as (there, _),
        public_pages(sqlite_db, there, port),
    ):
        assert run_delivery(sqlite_db, there).sent == 2
        until(
            lambda: (
                bool(run_delivery(sqlite_db, there)) and states(sqlite_db) == {"delivered": 2, "failed": 1}
            ),
            "the receipts, of the message without an answer too",
        )


def test_numbers_abroad_go_to_the_other_provider(db: Database, settings: Settings) -> None:
    template = add_template(
        db, settings, "sms", TRANSACTIONAL, params=PARAMS, provider_template="aliyun=SMS_7 tencent=77"
    )
    phones = [
        "+8613900001234",
        "+14155551234",
        "+85251234567",
        "+8613900001235",
        "+8613900000001",
        "+14155550004",
    ]
    for place, phone in enumerate(phones, 1):
        add_members(db, [place], phone=phone)
    enqueue(db, *[row(n, "sms", template, purpose=TRANSACTIONAL) for n in range(1, 7)])
    changes = {"sms_provider": "aliyun", "sms_provider_abroad": "twilio"}
    with sandbox(db, settings, changes=changes) as (there, _):
        found = run_delivery(db, there, now=lambda: NOW)
        assert (found.sent, found.failed) == (4, 2)
        assert [inbox.count(there, to=to) for to in ("13900001234", "+14155551234", "+85251234567")] == [
            1,
            1,
            1,
        ]
        assert inbox.list_messages(there, to="13900001234")[0].fields["template_code"] == "SMS_7"
        # Each is asked about at its own provider; Aliyun's stand-in has taken nothing on that day.
        asked = asyncio.run(poll_receipts(db, there, NOW + timedelta(hours=1)))
        assert asked == {"asked": 4, "answered": 2, "applied": 2}
    assert [message(db, f"run:1:{n}:sms").provider for n in range(1, 7)] == [
        "aliyun",
        "twilio",
        "twilio",
        "aliyun",
        "aliyun",
        "twilio",
    ]
    assert suppressions(db) == [("blocked", "twilio")]


def test_codes_of_templates_are_chosen_by_provider() -> None:
    assert code_for("tencent", "SMS_1") == "SMS_1"
    assert code_for("tencent", "aliyun=SMS_1 tencent=2") == "2"
    with pytest.raises(TransportError, match="write tencent=") as found:
        code_for("tencent", "aliyun=SMS_1")
    assert found.value.reaction is Reaction.STOP


def test_a_marketing_text_of_ours_ends_in_a_way_out(sqlite_db: Database, settings: Settings) -> None:
    phones = ["+14155551234", "+8613900001234"]
    made = {
        purpose: add_template(
            sqlite_db, settings, "sms", purpose, params=PARAMS, text="Hello {{ member.name }}"
        )
        for purpose in (MARKETING, TRANSACTIONAL)
    }
    for place, phone in enumerate(phones, 1):
        add_members(sqlite_db, [place], phone=phone)
    enqueue(
        sqlite_db,
        *[
            row(n, "sms", made[p], purpose=p, key=f"{p}{n}")
            for n in (1, 2)
            for p in (MARKETING, TRANSACTIONAL)
        ],
    )
    with sandbox(sqlite_db, settings, changes={**TWILIO, "sms_hours": ""}) as (there, _):
        assert run_delivery(sqlite_db, there, now=lambda: NOW).sent == 4
        titles = [{m.title for m in inbox.list_messages(there, to=phone)} for phone in phones]
    assert titles == [
        {"Hello 会员1 Reply STOP to opt out", "Hello 会员1"},
        {"Hello 会员2，拒收请回复R", "Hello 会员2"},
    ]
    with sqlite_db.read() as session:
        assert set(session.scalars(sa.select(Message.provider))) == {"twilio"}
