"""Callbacks of Tencent and Twilio: who may call, what follows, and that a replay changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from twilio.request_validator import RequestValidator

from channels import consent
from channels.callbacks.opt_out import wish
from channels.callbacks.tencent import tencent_callback, tencent_callback_url, tencent_pulled
from channels.callbacks.twilio import ENDS, twilio_json
from channels.consent import MARKETING
from channels.events import apply_early
from channels.models import Consent, EarlyReceipt, Message, MessageEvent, Suppression
from channels.render import client_id
from channels.sms import lost
from core.contacts import blind_index
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, phone_of, row
from tests.conftest import count
from web.public.views import create_blueprint

TWILIO = "/callbacks/twilio"


class Clock:
    def __init__(self) -> None:
        self.now = NOW + timedelta(minutes=5)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(db: Database, settings: Settings, clock: Clock) -> FlaskClient:
    add_members(db, [1, 2])
    sms = add_template(db, settings, "sms")
    enqueue(db, row(1, "sms", sms), row(2, "sms", sms))
    with db.write() as session:
        session.execute(
            sa.update(Message).values(
                state="sent",
                sent_at=NOW,
                handed_over_at=NOW,
                provider_id=sa.func.coalesce("SM", "").concat(sa.cast(Message.member_id, sa.Text)),
            )
        )
    app = Flask("test")
    app.register_blueprint(create_blueprint(db, settings, clock))
    return app.test_client()


def set_messages(database: Database, **values: Any) -> None:
    with database.write() as session:
        session.execute(sa.update(Message).where(Message.member_id == 1).values(**values))


def state(database: Database, member: int = 1) -> tuple[str, str | None, str | None]:
    with database.read() as session:
        found = session.execute(
            sa.select(Message.state, Message.reason, Message.provider_id).where(Message.member_id == member)
        ).one()
        return found.state, found.reason, found.provider_id


def kinds(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(sa.select(MessageEvent.kind).order_by(MessageEvent.id)))


def granted(database: Database, member: int = 1) -> bool | None:
    with database.read() as session:
        return session.scalar(
            sa.select(Consent.granted).where(Consent.member_id == member, Consent.channel == "sms")
        )


def suppressed(database: Database) -> list[tuple[str, str, str]]:
    with database.read() as session:
        found = session.execute(
            sa.select(Suppression.address_index, Suppression.reason, Suppression.source)
        ).all()
        return [tuple(r) for r in found]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["R", "t", " TD ", "Ｔ", "退订", "退订。", "“拒收”", "取消", "退 订"], False),
        (
            ["STOP", "Stop.", "StopAll", "unsubscribe", "cancel", "END", "quit", "REVOKE", "ＯＰＴＯＵＴ"],
            False,
        ),
        (["START", "yes!", "UnStop"], True),
        (["HELP", "INFO", "thanks", "", "不要", "stop it please", "TR", "no"], None),
    ],
)
def test_words_are_understood_whatever_their_case_and_width(texts: list[str], expected: bool | None) -> None:
    assert {text: wish(text) for text in texts} == dict.fromkeys(texts, expected)


def report(**changes: Any) -> dict[str, Any]:
    return {
        "user_receive_time": "2026-03-02 12:01:00",
        "nationcode": "86",
        "mobile": phone_of(1)[3:],
        "report_status": "SUCCESS",
        "errmsg": "DELIVRD",
        "description": "用户短信送达成功",
        "sid": "SM1",
        "ext": "",
        **changes,
    }


def test_tencent_calls_back_at_an_address_nobody_guesses(
    db: Database, client: FlaskClient, settings: Settings
) -> None:
    url = tencent_callback_url(settings).removeprefix(settings.base_url)
    assert client.post("/callbacks/tencent/guess", json=[report()]).status_code == 404
    assert client.post(url, data="{").status_code == 400
    assert client.post(url, json={"a": 1}).status_code == 400
    assert client.post(url, json=[report()] * 101).status_code == 400
    assert kinds(db) == []
    for _ in range(2):
        answer = client.post(
            url, json=[report(), report(sid="SM2", mobile=phone_of(2)[3:], report_status="FAIL")]
        )
        assert (answer.status_code, answer.json) == (200, {"result": 0, "errmsg": "OK"})
    assert kinds(db) == ["delivered", "undelivered"]
    assert state(db)[0] == "delivered"
    assert state(db, 2)[:2] == ("failed", "undelivered: DELIVRD 用户短信送达成功")
    # The same news by the other way.
    pulled = {"SerialNo": "SM1", "ReportStatus": "SUCCESS", "UserReceiveTime": 1772424060}
    with db.write() as session:
        assert lost.take(session, *tencent_pulled([pulled], [], NOW), NOW) == 0


def test_tencents_replies_change_consent_once(
    db: Database, client: FlaskClient, settings: Settings, clock: Clock
) -> None:
    url = tencent_callback_url(settings).removeprefix(settings.base_url)
    at = int(clock.now.timestamp())

    def answer(text: str, time: int, member: int = 1) -> None:
        found = {"extend": "", "mobile": phone_of(member)[3:], "nationcode": "86", "sign": "回流"}
        assert client.post(url, json={**found, "text": text, "time": time}).status_code == 200

    events_before = count(db, "consent_events")
    answer("Ｔ", at - 60)
    answer("Ｔ", at - 60)
    assert (granted(db), granted(db, 2)) == (False, True)
    assert count(db, "consent_events") == events_before + 1
    answer("START", at - 30)
    assert granted(db) is True
    answer("Ｔ", at - 60)
    assert granted(db) is True, "an old reply that comes again changes nothing"
    answer("HELP", at)
    assert count(db, "consent_events") == events_before + 2


def test_a_yes_of_somebody_who_never_answered_is_no_consent(
    db: Database, client: FlaskClient, settings: Settings, clock: Clock
) -> None:
    add_members(db, [9], consent=False)
    url = tencent_callback_url(settings).removeprefix(settings.base_url)
    reply = {"mobile": phone_of(9)[3:], "nationcode": "86", "text": "yes", "time": int(clock.now.timestamp())}
    assert client.post(url, json=reply).status_code == 200
    assert granted(db, 9) is None


def test_tencents_shapes_are_read() -> None:
    receipts, replies, clues = tencent_callback(
        [report(nationcode="+1", mobile="4155550100", ext="s"), report(report_status="", sid="x")], NOW
    )
    assert [(r.kind, r.provider_id, r.at) for r in receipts] == [
        ("delivered", "SM1", datetime(2026, 3, 2, 4, tzinfo=UTC))
    ], "a time after now is now; a report without an end is none"
    assert (replies, [(c.phone_index, c.client_id) for c in clues]) == (
        [],
        [(blind_index("phone", "+14155550100"), "s")],
    )
    for wrong in ({}, [1], "x", None):
        with pytest.raises(InvalidInput):
            tencent_callback(wrong, NOW)


def post(
    client: FlaskClient, settings: Settings, form: dict[str, str], query: str = "", token: str | None = None
) -> int:
    """A webhook as Twilio's own library signs it."""
    url = f"{settings.base_url}{TWILIO}{query}"
    signature = RequestValidator(token or settings.twilio_auth_token).compute_signature(url, form)
    return client.post(f"{TWILIO}{query}", data=form, headers={"X-Twilio-Signature": signature}).status_code


def status(name: str, sid: str = "SM1", **more: str) -> dict[str, str]:
    return {"MessageSid": sid, "MessageStatus": name, "To": phone_of(1), "From": "+15005550006", **more}


def test_twilio_must_sign_the_public_address(db: Database, client: FlaskClient, settings: Settings) -> None:
    assert post(client, settings, status("delivered"), token="wrong") == 403
    assert client.post(TWILIO, data=status("delivered")).status_code == 403
    url = f"{settings.base_url}{TWILIO}"
    signature = RequestValidator(settings.twilio_auth_token).compute_signature(url, status("delivered"))
    forged = client.post(TWILIO, data=status("failed"), headers={"X-Twilio-Signature": signature})
    elsewhere = client.post(
        f"{TWILIO}?message=1", data=status("delivered"), headers={"X-Twilio-Signature": signature}
    )
    assert (forged.status_code, elsewhere.status_code) == (403, 403)
    assert kinds(db) == []
    assert post(client, settings, {"AccountSid": "x"}) == 400
    for _ in range(2):
        assert post(client, settings, status("delivered")) == 200
    assert kinds(db) == ["delivered"]
    assert state(db)[0] == "delivered"


def post_json(
    client: FlaskClient, settings: Settings, body: Any, *, query: str = "", sent: bytes | None = None
) -> int:
    """Post as Twilio signs JSON; ``sent``: another body than the signed one."""
    text = json.dumps(body, ensure_ascii=False)
    validator = RequestValidator(settings.twilio_auth_token)
    path = f"{TWILIO}?{query}bodySHA256={validator.compute_hash(text)}"
    url = f"{settings.base_url}{path}"
    given = validator.compute_signature(url, {})
    assert validator.validate(url, text, given), "the official validator takes it"
    headers = {"X-Twilio-Signature": given}
    data = text.encode() if sent is None else sent
    return client.post(path, data=data, headers=headers, content_type="application/json").status_code


def event(kind: str, **data: Any) -> dict[str, Any]:
    """An event of Event Streams."""
    return {
        "specversion": "1.0",
        "type": f"com.twilio.messaging.{kind}",
        "source": "/2010-04-01/Accounts/AC1/Messages/SM1.json",
        "id": "EZ1",
        "datacontenttype": "application/json",
        "data": {"accountSid": "AC1", "timestamp": "2026-03-02T04:00:00Z", **data},
    }


def test_twilios_json_is_read_as_its_forms_are(db: Database, client: FlaskClient, settings: Settings) -> None:
    assert post_json(client, settings, status("delivered", note="好")) == 200
    failed = event(
        "message.undelivered", messageSid="SM2", messageStatus="UNDELIVERED", errorCode=30003, to=phone_of(2)
    )
    test_of_sink = {"specversion": "1.0", "type": "com.twilio.eventstreams.test-event", "data": {"x": 1}}
    for _ in range(2):
        assert post_json(client, settings, [failed, test_of_sink]) == 200
    assert kinds(db) == ["delivered", "undelivered"]
    assert state(db)[0] == "delivered"


def test_a_reply_by_event_streams_withdraws_consent(
    db: Database, client: FlaskClient, settings: Settings
) -> None:
    said = event(
        "inbound-message.received", messageSid="SM77", body="STOP", to="+15005550006", **{"from": phone_of(1)}
    )
    assert post_json(client, settings, [said]) == 200
    with db.read() as session:
        granted = sa.select(Consent.granted).where(Consent.member_id == 1, Consent.channel == "sms")
        assert session.scalar(granted) is False


def test_an_event_names_our_message_by_its_callbacks_address(settings: Settings) -> None:
    sent = event(
        "message.delivered",
        messageSid="SM9",
        to=phone_of(1),
        statusCallBackUrl="https://h/callbacks/twilio?message=7.abc",
    )
    receipts, _, clues = twilio_json(json.dumps(sent).encode(), "", NOW)
    assert [(one.kind, one.provider_id) for one in receipts] == [("delivered", "SM9")]
    assert [clue.client_id for clue in clues] == ["7.abc"]


def test_json_that_twilio_did_not_sign_changes_nothing(
    db: Database, client: FlaskClient, settings: Settings
) -> None:
    body = status("failed")
    assert post_json(client, settings, status("delivered"), sent=json.dumps(body).encode()) == 403
    url = f"{settings.base_url}{TWILIO}"
    bare = RequestValidator(settings.twilio_auth_token).compute_signature(url, {})
    answer = client.post(TWILIO, json=body, headers={"X-Twilio-Signature": bare})
    assert answer.status_code == 403, "a signature that says nothing of the body"
    assert client.post(TWILIO, json=body).status_code == 403
    assert post_json(client, settings, "text") == 400
    assert post_json(client, settings, {"AccountSid": "x"}) == 400
    assert kinds(db) == []


def test_twilios_statuses_never_go_back(db: Database, client: FlaskClient, settings: Settings) -> None:
    for name in ("delivered", "sent", "queued", "sending", "accepted", "undelivered", "failed"):
        assert post(client, settings, status(name)) == 200
        assert state(db)[0] == "delivered"
    assert post(client, settings, status("undelivered", "SM2", ErrorCode="30003")) == 200
    assert post(client, settings, status("delivered", "SM2")) == 200
    assert state(db, 2)[:2] == ("failed", "undelivered: 30003 undelivered")


def test_only_ends_are_news() -> None:
    for name in ("accepted", "scheduled", "queued", "sending", "sent"):
        assert name not in ENDS
    assert {ENDS[name] for name in ("delivered", "read")} == {"delivered"}
    assert {ENDS[name] for name in ("undelivered", "failed", "canceled")} == {"undelivered"}


def test_twilios_replies_count_once_though_they_have_no_time(
    db: Database, client: FlaskClient, settings: Settings, clock: Clock
) -> None:
    def inbound(sid: str, text: str, **more: str) -> None:
        form = {"MessageSid": sid, "SmsStatus": "received", "From": phone_of(1), "To": "+1", "Body": text}
        assert post(client, settings, {**form, **more}) == 200
        clock.now += timedelta(minutes=1)

    inbound("SMa", "Stop")
    assert (granted(db), granted(db, 2)) == (False, True)
    inbound("SMb", "UNSTOP")
    assert granted(db) is True
    inbound("SMa", "Stop")
    assert granted(db) is True, "the old reply again"
    inbound("SMc", "INFO", OptOutType="HELP")
    assert granted(db) is True
    inbound("SMd", "Basta", OptOutType="STOP")
    inbound("SMb", "UNSTOP")
    assert granted(db) is False


def test_whom_twilio_blocks_is_suppressed_until_they_come_back(
    db: Database, client: FlaskClient, settings: Settings, clock: Clock
) -> None:
    assert post(client, settings, status("undelivered", ErrorCode="21610")) == 200
    index = blind_index("phone", phone_of(1))
    assert suppressed(db) == [(index, "blocked", "twilio")]
    assert (state(db)[0], granted(db), granted(db, 2)) == ("failed", False, True)
    clock.now += timedelta(minutes=1)
    start = {"MessageSid": "SMx", "SmsStatus": "received", "From": phone_of(1), "Body": "START"}
    assert post(client, settings, start) == 200
    assert (suppressed(db), granted(db)) == ([], True)
    # What somebody else suppressed stays.
    with db.write() as session:
        consent.suppress(session, "sms", index or "", "blocked", "tencent", clock.now)
    assert post(client, settings, {**start, "MessageSid": "SMy"}) == 200
    assert suppressed(db) == [(index, "blocked", "tencent")]


def test_a_message_without_an_answer_is_found_by_our_own_name(
    db: Database, client: FlaskClient, settings: Settings
) -> None:
    with db.read() as session:
        number = session.scalar(sa.select(Message.id).where(Message.member_id == 1)) or 0
    set_messages(db, state="unknown", provider_id=None, provider="twilio")
    other = f"?message={number}.000000000000"
    assert post(client, settings, status("delivered", "SMz"), other) == 200
    assert state(db)[0] == "unknown", "a name that we never gave"
    set_messages(db, provider="aliyun")
    assert post(client, settings, status("delivered", "SMx"), f"?message={client_id(number)}") == 200
    assert state(db)[0] == "unknown", "a message of another provider"
    set_messages(db, provider="twilio")
    assert post(client, settings, status("delivered", "SMy"), f"?message={client_id(number)}") == 200
    assert state(db) == ("delivered", None, "SMy")


def test_a_receipt_that_overtakes_the_time_out_is_kept(
    db: Database, client: FlaskClient, settings: Settings
) -> None:
    with db.read() as session:
        number = session.scalar(sa.select(Message.id).where(Message.member_id == 1)) or 0
    set_messages(db, state="leased", provider_id=None, lease_owner="w")
    assert post(client, settings, status("delivered", "SMy"), f"?message={client_id(number)}") == 200
    assert state(db)[0] == "leased"
    set_messages(db, state="unknown", provider="twilio")
    with db.write() as session:
        assert lost.adopt_early(session) == 1
        assert apply_early(session, NOW).new == 1
    assert state(db) == ("delivered", None, "SMy")
    assert count(db, EarlyReceipt.__tablename__) == 0


def test_a_number_finds_its_unknown_message_only_if_no_other_can_be_meant(
    db: Database, client: FlaskClient, settings: Settings
) -> None:
    url = tencent_callback_url(settings).removeprefix(settings.base_url)
    set_messages(db, state="unknown", provider_id=None, provider="tencent")
    assert client.post(url, json=[report(sid="T0", mobile="13700000000")]).status_code == 200
    assert (
        client.post(url, json=[report(sid="T1", user_receive_time="2026-03-02 11:00:00")]).status_code == 200
    )
    assert state(db)[0] == "unknown", "somebody else's number; a receipt from before"
    enqueue(db, row(1, "sms", add_template(db, settings, "sms"), key="second"))
    with db.write() as session:
        session.execute(sa.update(Message).where(Message.dedupe_key == "second").values(state="leased"))
    assert client.post(url, json=[report(sid="T2")]).status_code == 200
    assert state_of(db, "run:1:1:sms") == "unknown", "it may be the one that is being sent"
    with db.write() as session:
        session.execute(sa.delete(Message).where(Message.dedupe_key == "second"))
        # The receipts that could not be placed are tried again.
        assert lost.adopt_early(session) == 1
        apply_early(session, NOW)
    assert state(db) == ("delivered", None, "T2")


def state_of(database: Database, key: str) -> str | None:
    with database.read() as session:
        return session.scalar(sa.select(Message.state).where(Message.dedupe_key == key))


def test_consent_is_marketings_only(db: Database, client: FlaskClient, settings: Settings) -> None:
    form = {"MessageSid": "SMa", "SmsStatus": "received", "From": phone_of(1), "Body": "STOP"}
    assert post(client, settings, form) == 200
    with db.read() as session:
        assert consent.refusals(session, [1], "sms", MARKETING) == {1: "no_consent"}
        assert consent.refusals(session, [1], "sms", "transactional") == {}
