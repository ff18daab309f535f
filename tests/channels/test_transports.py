"""Transports against published vectors, real servers, and the sandbox's own reading of the rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from channels.callbacks.aliyun import aliyun_callback
from channels.callbacks.opt_out import is_opt_out
from channels.callbacks.wechat import Found, wechat_callback, wechat_signature, wechat_signed
from channels.sandbox import inbox
from channels.transports import sms_aliyun, wechat
from channels.transports.base import (
    EmailPayload,
    Outcome,
    Outgoing,
    Reaction,
    SmsPayload,
    TransportError,
    WechatPayload,
    send_each,
)
from channels.transports.email import EmailTransport, Server, parse_url, reaction_of
from channels.transports.sms_aliyun import AliyunTransport, Credentials
from channels.transports.wechat import WechatTransport
from core.db import Database
from core.errors import HuiliuError, InvalidInput
from core.settings import Settings
from tests.channels.seed import NOW, Running, sandbox, sandbox_settings

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_published_acs3_vector() -> None:
    query = {"ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd", "RegionId": "cn-shanghai"}
    headers = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": EMPTY_SHA256,
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    found = sms_aliyun.sign(
        Credentials("YourAccessKeyId", "YourAccessKeySecret"), "POST", "/", query, headers, b""
    )
    assert found == (
        "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;"
        "x-acs-date;"
        "x-acs-signature-nonce;x-acs-version,"
        "Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
    )


def test_queries_are_encoded_as_rfc_3986_says() -> None:
    assert sms_aliyun.canonical_query({"b": "a b*~+/好", "A": ""}) == "A=&b=a%20b%2A~%2B%2F%E5%A5%BD"


@pytest.mark.parametrize(
    ("code", "reaction"),
    [
        ("isv.BUSINESS_LIMIT_CONTROL", Reaction.DEFER),
        ("isv.DAY_LIMIT_CONTROL", Reaction.PAUSE),
        ("isv.OUT_OF_SERVICE", Reaction.PAUSE),
        ("isv.AMOUNT_NOT_ENOUGH", Reaction.PAUSE),
        ("isv.ACCOUNT_ABNORMAL", Reaction.PAUSE),
        ("SignatureDoesNotMatch", Reaction.PAUSE),
        ("isv.SMS_SIGNATURE_ILLEGAL", Reaction.STOP),
        ("isv.SMS_TEMPLATE_ILLEGAL", Reaction.STOP),
        ("isv.PARAM_NOT_SUPPORT_URL", Reaction.STOP),
        ("isv.MOBILE_NUMBER_ILLEGAL", Reaction.FAIL),
        ("isp.SYSTEM_ERROR", Reaction.RETRY),
        ("isv.SOMETHING_NEW", Reaction.FAIL),
    ],
)
def test_aliyun_refusals(code: str, reaction: Reaction) -> None:
    assert sms_aliyun.error_of(code, "").reaction is reaction


@pytest.mark.parametrize(
    ("code", "reaction"),
    [
        (-1, Reaction.RETRY),
        (40003, Reaction.SUPPRESS),
        (43004, Reaction.SUPPRESS),
        (43019, Reaction.SUPPRESS),
        (43101, Reaction.FAIL),
        (40037, Reaction.STOP),
        (47003, Reaction.STOP),
        (45009, Reaction.HOLD),
        (45011, Reaction.RETRY),
        (45015, Reaction.FAIL),
        (45047, Reaction.FAIL),
        (40164, Reaction.PAUSE),
        (40001, Reaction.PAUSE),
        (99999, Reaction.FAIL),
    ],
)
def test_wechat_refusals(code: int, reaction: Reaction) -> None:
    assert wechat.error_of(code, "", NOW).reaction is reaction


@pytest.mark.parametrize(
    ("code", "text", "stage", "reaction"),
    [
        (550, "5.1.1 no such user", "rcpt", Reaction.SUPPRESS),
        (550, "no such user", "rcpt", Reaction.SUPPRESS),
        (550, "5.7.1 blocked by policy", "rcpt", Reaction.FAIL),
        (552, "5.2.2 mailbox full", "rcpt", Reaction.FAIL),
        (554, "spam", "data", Reaction.FAIL),
        (552, "5.3.4 too big", "data", Reaction.FAIL),
        (550, "5.7.515 access denied", "mail", Reaction.PAUSE),
        (530, "authentication required", "mail", Reaction.PAUSE),
        (550, "5.1.8 bad sender", "data", Reaction.PAUSE),
        (451, "4.7.1 greylisted", "rcpt", Reaction.RETRY),
        (421, "closing", "mail", Reaction.RETRY),
    ],
)
def test_smtp_refusals(code: int, text: str, stage: str, reaction: Reaction) -> None:
    found = reaction_of(code, text, stage)
    assert found.reaction is reaction
    assert found.retry is (reaction in (Reaction.RETRY, Reaction.PAUSE))


def test_smtp_addresses() -> None:
    assert parse_url("smtp://u:p%40@mail.example:587?tls=starttls") == Server(
        "mail.example", 587, "u", "p@", "starttls"
    )
    assert parse_url("smtp://u:p@mail.example") == Server("mail.example", 587, "u", "p", "starttls")
    assert parse_url("smtp://127.0.0.1:25") == Server("127.0.0.1", 25)
    for wrong in ("http://x", "smtp://", "smtp://h?tls=maybe"):
        with pytest.raises(InvalidInput):
            parse_url(wrong)


def sms(number: str, code: str = "SMS_1") -> Outgoing:
    return Outgoing(1, "c1", number, SmsPayload(code, {"name": "好"}, "你好"))


def card(openid: str, client_id: str = "c1") -> Outgoing:
    return Outgoing(1, client_id, openid, WechatPayload("t1", "", {"first": "你好"}))


def reactions(outcomes: Sequence[Outcome]) -> list[Reaction | None]:
    return [None if outcome.error is None else outcome.error.reaction for outcome in outcomes]


async def send(transport: Any, *messages: Outgoing) -> list[Outcome]:
    async with transport:
        found: list[Outcome] = await transport.send_many(messages, 30)
        return found


def aliyun(settings: Settings, secret: str | None = None, **options: Any) -> AliyunTransport:
    credentials = Credentials(settings.aliyun_access_key_id, secret or settings.aliyun_access_key_secret)
    return AliyunTransport(settings.aliyun, credentials, "回流", **options)


def test_the_sandbox_refuses_a_wrong_signature_and_an_old_one(
    sqlite_db: Database, settings: Settings
) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        found = asyncio.run(send(aliyun(there, "wrong"), sms("+8613800138000")))
        assert [(o.error.code, o.error.reaction) for o in found if o.error] == [
            ("SignatureDoesNotMatch", Reaction.PAUSE)
        ]
        old = aliyun(there, clock=lambda: datetime.now(UTC) - timedelta(minutes=20))
        found = asyncio.run(send(old, sms("+8613800138000")))
        assert [o.error.code for o in found if o.error] == ["InvalidTimeStamp.Expired"]
        assert inbox.count(there) == 0
        unsigned = httpx.post(f"{there.aliyun}/", params={"PhoneNumbers": "1"})
        assert (unsigned.status_code, unsigned.json()["Code"]) == (400, "MissingAuthorization")


def test_the_sandbox_refuses_a_replay_and_a_changed_body(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        query = {
            "PhoneNumbers": "13800138000",
            "SignName": "回流",
            "TemplateCode": "SMS_1",
            "TemplateParam": "{}",
        }
        url = f"{there.aliyun}/"
        host = url.split("/")[2]
        headers = {
            "host": host,
            "x-acs-action": "SendSms",
            "x-acs-version": "2017-05-25",
            "x-acs-signature-nonce": "n1",
            "x-acs-date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "x-acs-content-sha256": EMPTY_SHA256,
        }
        keys = Credentials(there.aliyun_access_key_id, there.aliyun_access_key_secret)
        signed = {**headers, "authorization": sms_aliyun.sign(keys, "POST", "/aliyun/", query, headers, b"")}
        first = httpx.post(f"{url}?{sms_aliyun.canonical_query(query)}", headers=signed)
        assert first.json()["Code"] == "OK"
        again = httpx.post(f"{url}?{sms_aliyun.canonical_query(query)}", headers=signed)
        assert again.json()["Code"] == "SignatureNonceUsed"
        other = httpx.post(f"{url}?{sms_aliyun.canonical_query({**query, 'SignName': 'x'})}", headers=signed)
        assert other.json()["Code"] == "SignatureDoesNotMatch"
        assert inbox.count(there) == 1


def test_sms_go_in_batches_and_numbers_are_told_apart(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        numbers = [f"+8613900{n:06d}" for n in range(100, 350)]
        messages = [sms(number, f"SMS_{n % 2}") for n, number in enumerate(numbers)] + [
            sms(numbers[248], "SMS_0")
        ]
        found = asyncio.run(send(aliyun(there), *messages))
        assert reactions(found) == [None] * 251
        assert len({outcome.provider_id for outcome in found}) == 251
        assert len({(o.provider_id or "").split(":")[0] for o in found}) == 5, (
            "2×125 in groups of 100, and the double"
        )
        assert inbox.count(there, "sms") == 251


def test_numbers_as_aliyun_writes_them() -> None:
    for phone, number in (("+8613800138000", "13800138000"), ("+85251234567", "85251234567")):
        assert sms_aliyun.aliyun_number(phone) == number
        assert sms_aliyun.e164(number) == phone
    assert sms_aliyun.e164("008613800138000") == "+8613800138000"


def wx(database: Database, settings: Settings, secret: str | None = None) -> WechatTransport:
    return WechatTransport(database, settings.wechat, settings.wechat_appid, secret or settings.wechat_secret)


def test_wechat_drops_a_repeated_client_id(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        found = asyncio.run(
            send(wx(sqlite_db, there), card("openid-1"), card("openid-1"), card("openid-1", "c2"))
        )
        assert reactions(found) == [None] * 3
        assert found[0].provider_id == found[1].provider_id != found[2].provider_id
        assert inbox.count(there) == 2


def test_wechat_errors_become_reactions(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        found = asyncio.run(
            send(wx(sqlite_db, there), card("x!"), card("stranger-1"), card("busy-00001"), card("openid-1"))
        )
        assert reactions(found) == [Reaction.SUPPRESS, Reaction.SUPPRESS, Reaction.RETRY, None]
        assert reactions(asyncio.run(send(wx(sqlite_db, there), card("openid-1")))) == [None]


def test_a_wrong_app_secret_pauses_the_account(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        found = asyncio.run(send(wx(sqlite_db, there, "wrong"), card("openid-1")))
        assert [(o.error.code, o.error.reaction) for o in found if o.error] == [("40125", Reaction.PAUSE)]


def test_one_token_is_fetched_for_all_workers_and_replaced_when_refused(
    db: Database, settings: Settings
) -> None:
    async def many(there: Settings) -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(send(wx(db, there), *[card(f"openid-{w}{n}") for n in range(20)]))
                for w in range(4)
            ]
        return [outcome for task in tasks for outcome in task.result()]

    with sandbox(db, settings) as (there, running):
        assert set(reactions(asyncio.run(many(there)))) == {None}
        assert running.sandbox.wechat.issued == 1
        running.sandbox.wechat.expire_tokens()
        assert set(reactions(asyncio.run(many(there)))) == {None}
        assert running.sandbox.wechat.issued == 2, "every worker was refused, one fetched a new token"
        assert inbox.count(there) == 80, "the same client ids: the second round was dropped as doubles"


def test_emails_go_over_kept_connections(sqlite_db: Database, settings: Settings) -> None:
    def one(number: int, address: str) -> Outgoing:
        content = f"Message-ID: <{number}@x>\r\nSubject: {number}\r\n\r\n.\r\n..x\r\n".encode()
        return Outgoing(number, str(number), address, EmailPayload(content))

    with sandbox(sqlite_db, settings) as (there, _):
        transport = EmailTransport(parse_url(there.smtp), "shop@example.com", connections=3)
        addresses = [
            "a@example.com",
            "bounce@example.com",
            "defer@x.com",
            "policy@x.com",
            "drop@x.com",
            "用户@例子.测试",
        ]
        # A domain a round: three refusals by policy in a batch are a reason to leave a domain alone.
        everybody = [a.replace("x.com", f"x{turn}.com") for turn in range(5) for a in addresses]
        messages = [one(n, address) for n, address in enumerate(everybody)]
        found = asyncio.run(send(transport, *messages))
        expected = [None, Reaction.SUPPRESS, Reaction.RETRY, Reaction.FAIL, Reaction.UNKNOWN, None]
        assert reactions(found) == expected * 5
        assert inbox.count(there) == 15, "5 each of a, 用户, and drop (taken, though the sender cannot know)"
        stored = inbox.get(there, 1)
        assert stored is not None
        assert stored.headers["Subject"] in {str(n) for n in range(30)}


def test_no_message_begins_after_the_deadline_or_after_a_pause() -> None:
    async def slow(number: int) -> str:
        await asyncio.sleep(0.02)
        return str(number)

    found = asyncio.run(send_each(range(100), slow, 2, 0.1))
    sent = sum(1 for outcome in found if outcome.error is None)
    assert 2 <= sent < 50
    assert set(reactions(found)) == {None, Reaction.RETURN}

    async def refused(number: int) -> str:
        if number == 3:
            raise TransportError("no credit", Reaction.PAUSE)
        return str(number)

    found = asyncio.run(send_each(range(10), refused, 1, 10))
    assert reactions(found) == [None] * 3 + [Reaction.PAUSE] + [Reaction.RETURN] * 6


def test_an_http_server_that_cuts_the_line_leaves_the_message_unknown(
    sqlite_db: Database, settings: Settings
) -> None:
    async def main() -> tuple[list[Outcome], list[Outcome]]:
        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(cut, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        lost = await send(
            AliyunTransport(f"http://127.0.0.1:{port}", Credentials("a", "b"), "s"), sms("+8613800138000")
        )
        server.close()
        await server.wait_closed()
        gone = await send(
            AliyunTransport(f"http://127.0.0.1:{port}", Credentials("a", "b"), "s"), sms("+8613800138000")
        )
        return lost, gone

    lost, gone = asyncio.run(main())
    assert reactions(lost) == [Reaction.UNKNOWN], "the request may have been read"
    assert reactions(gone) == [Reaction.UNREACHABLE], "nobody was there to read it"


def test_a_taken_port_is_said_clearly(sqlite_db: Database, settings: Settings) -> None:
    there = sandbox_settings(sqlite_db, settings)
    with Running(there), pytest.raises(HuiliuError, match="HUILIU_SANDBOX_SMTP_PORT"), Running(there):
        pass


def test_wechat_signatures_of_the_documentation() -> None:
    signature = "f464b24fc39322e44b38aa78f5edd27bd1441696"
    assert wechat_signature("AAAAA", "1714036504", "1514711492") == signature
    assert wechat_signed("AAAAA", "1714036504", "1514711492", signature)
    assert not wechat_signed("AAAAB", "1714036504", "1514711492", signature)
    assert not wechat_signed("AAAAA", "1714036504", "1514711492", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("R", True),
        (" td ", True),
        ("Ｔ", True),
        ("退订。", True),
        ("STOP", True),
        ("thanks", False),
        ("", False),
        ("TR", False),
    ],
)
def test_replies_that_opt_out(text: str, expected: bool) -> None:
    assert is_opt_out(text) is expected


def test_aliyun_callbacks_are_read() -> None:
    report = {
        "phone_number": "13800138000",
        "success": True,
        "err_code": "DELIVERED",
        "biz_id": "b1",
        "report_time": "2026-03-02 11:59:00",
        "out_id": "x",
        "new_field": 1,
    }
    reply = {
        "phone_number": "13800138000",
        "content": "TD",
        "send_time": "2026-03-02 11:59:00",
        "sequence_id": 1,
    }
    receipts, replies = aliyun_callback([report, {**report, "success": False, "err_code": "X"}, reply], NOW)
    assert [(r.kind, r.provider_id) for r in receipts] == [
        ("delivered", sms_aliyun.provider_id("b1", "+8613800138000")),
        ("undelivered", sms_aliyun.provider_id("b1", "13800138000")),
    ]
    assert receipts[0].at == datetime(2026, 3, 2, 3, 59, tzinfo=UTC)
    assert [(r.channel, r.address) for r in replies] == [("sms", "+8613800138000")]
    with pytest.raises(InvalidInput):
        aliyun_callback({"phone_number": 1}, NOW)


def test_wechat_events_are_read() -> None:
    def event(name: str, status: str) -> bytes:
        return (
            f"<xml><FromUserName><![CDATA[o1]]></FromUserName><CreateTime>1772424000</CreateTime><MsgType>event</MsgType>"
            f"<Event><![CDATA[{name}]]></Event><MsgID>77</MsgID><Status><![CDATA[ {status} ]]></Status></xml>"
        ).encode()

    receipts = wechat_callback(event("TEMPLATESENDJOBFINISH", "success"), NOW).receipts
    assert [(r.kind, r.provider_id, r.at) for r in receipts] == [("delivered", "77", NOW)]
    receipts = wechat_callback(event("TEMPLATESENDJOBFINISH", "failed: user block"), NOW).receipts
    assert [(r.kind, r.detail["reason"]) for r in receipts] == [("undelivered", "failed:user block")]
    replies = wechat_callback(event("unsubscribe", ""), NOW).opt_outs
    assert [(r.channel, r.address) for r in replies] == [("wechat", "o1")]
    assert wechat_callback(event("LOCATION", ""), NOW) == Found()
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><xml>&a;</xml>'
    for wrong in (b"", b"{}", json.dumps([]).encode(), bomb):
        with pytest.raises(InvalidInput):
            wechat_callback(wrong, NOW)
