"""Tencent: the published signature, every code's reaction, and two clients at the same stand-in."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from tencentcloud.common import credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.sms.v20210111 import models, sms_client

from channels.sandbox import inbox
from channels.transports import sms_tencent
from channels.transports.base import Reaction, TransportError
from channels.transports.sms_groups import grouped
from channels.transports.sms_tencent import Credentials, error_of, parameters, sign
from core.db import Database
from core.settings import Settings
from tests.channels.seed import NOW, sandbox
from tests.channels.sms import codes, reactions, send, sms, tencent

NUMBERS = [f"+8613900{n:06d}" for n in range(100, 500)]


def test_the_published_tc3_vector() -> None:
    body = b'{"Limit": 1, "Filters": [{"Values": ["\\u672a\\u547d\\u540d"], "Name": "instance-name"}]}'
    headers = {
        "content-type": "application/json; charset=utf-8",
        "host": "cvm.tencentcloudapi.com",
        "x-tc-action": "DescribeInstances",
    }
    found = sign(Credentials("id", "*" * 32), "cvm", headers, body, 1551113065)
    assert found == (
        "TC3-HMAC-SHA256 Credential=id/2019-02-25/cvm/tc3_request, "
        "SignedHeaders=content-type;host;x-tc-action, "
        "Signature=10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f"
    )


@pytest.mark.parametrize(
    ("code", "reaction", "after_s"),
    [
        ("FailedOperation.PhoneNumberInBlacklist", Reaction.SUPPRESS, None),
        ("FailedOperation.MarketingSendTimeConstraint", Reaction.DEFER, 3600),
        ("LimitExceeded.PhoneNumberThirtySecondLimit", Reaction.DEFER, 30),
        ("LimitExceeded.PhoneNumberOneHourLimit", Reaction.DEFER, 3600),
        ("LimitExceeded.PhoneNumberDailyLimit", Reaction.DEFER, 12 * 3600),
        ("LimitExceeded.PhoneNumberSameContentDailyLimit", Reaction.DEFER, 12 * 3600),
        ("LimitExceeded.DeliveryFrequencyLimit", Reaction.DEFER, 3600),
        ("FailedOperation.InsufficientBalanceInSmsPackage", Reaction.PAUSE, None),
        ("UnauthorizedOperation.ServiceSuspendDueToArrears", Reaction.PAUSE, None),
        ("LimitExceeded.AppDailyLimit", Reaction.PAUSE, None),
        ("LimitExceeded.AppMainlandChinaDailyLimit", Reaction.PAUSE, None),
        ("AuthFailure.SignatureFailure", Reaction.PAUSE, None),
        ("InvalidParameterValue.IncorrectPhoneNumber", Reaction.FAIL, None),
        ("FailedOperation.PhoneNumberParseFail", Reaction.FAIL, None),
        ("LimitExceeded.AppCountryOrRegionInBlacklist", Reaction.FAIL, None),
        ("FailedOperation.SignatureIncorrectOrUnapproved", Reaction.STOP, None),
        ("FailedOperation.TemplateIncorrectOrUnapproved", Reaction.STOP, None),
        ("FailedOperation.TemplateParamSetNotMatchApprovedTemplate", Reaction.STOP, None),
        ("InvalidParameterValue.TemplateParameterLengthLimit", Reaction.STOP, None),
        ("FailedOperation.ContainSensitiveWord", Reaction.STOP, None),
        ("InvalidParameterValue.ProhibitedUseUrlInTemplateParameter", Reaction.STOP, None),
        ("InvalidParameterValue.UnsupportedTemplateVariable", Reaction.STOP, None),
        ("RequestLimitExceeded", Reaction.RETRY, None),
        ("RequestLimitExceeded.UinLimitExceeded", Reaction.RETRY, None),
        ("InternalError.OtherError", Reaction.RETRY, None),
        ("InternalError", Reaction.RETRY, None),
        ("InternalError.Timeout", Reaction.UNKNOWN, None),
        ("InternalError.SendAndRecvFail", Reaction.UNKNOWN, None),
        ("Something.New", Reaction.FAIL, None),
    ],
)
def test_every_code_has_its_reaction(code: str, reaction: Reaction, after_s: float | None) -> None:
    found = error_of(code, "why", NOW)
    assert (found.reaction, found.after_s, found.code) == (reaction, after_s, code)
    assert str(found) == f"{code} why"


def test_marketing_at_night_waits_for_the_morning() -> None:
    code = "FailedOperation.MarketingSendTimeConstraint"
    for hour, hours in ((23, 9), (2, 6), (7, 1), (22, 10)):
        at = datetime(2026, 3, 2, hour, tzinfo=sms_tencent.CHINA)
        assert error_of(code, "", at).after_s == hours * 3600


def test_parameters_go_by_their_places() -> None:
    assert parameters({"10": "j", "2": "b", "1": "a", "name": "x"}) == ["a", "b", "j"]
    assert parameters({}) == []
    with pytest.raises(TransportError, match="name the parameters 1, 2") as found:
        parameters({"name": "x"})
    assert found.value.reaction is Reaction.STOP


def test_sms_go_in_requests_of_200_with_the_same_content(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        messages = [sms(number, **{"1": "a" if n % 2 else "b"}) for n, number in enumerate(NUMBERS)]
        messages += [sms(f"+4477009{n:05d}", **{"1": "a"}) for n in range(100, 110)]
        messages.append(sms(NUMBERS[0], **{"1": "b"}))
        found = send(tencent(there), *messages)
        assert reactions(found) == [None] * 411
        assert len({outcome.provider_id for outcome in found}) == 411
        assert inbox.count(there, "sms") == 411
        listed = inbox.list_messages(there, "sms", limit=500)
        # The messages of a request share its session: 2 groups of 200, one abroad, and the double.
        assert len({tuple(m.fields["params"].items()) for m in listed}) == 2
        assert inbox.list_messages(there, "sms", "+447700900100")[0].fields["sign_name"] == ""
        assert inbox.list_messages(there, "sms", NUMBERS[3])[0].fields["sign_name"] == "回流"


def test_groups_never_mix_countries_nor_repeat_a_number() -> None:
    messages = [sms(number) for number in [*NUMBERS, NUMBERS[0], "+447700900100"]]
    groups, refused = grouped(messages, sms_tencent._shared, sms_tencent.BATCH)
    abroad = [
        [message.address.startswith("+44") for message in map(messages.__getitem__, group)]
        for group in groups
    ]
    assert abroad == [[False] * 200, [False] * 200, [False], [True]]
    assert refused == {}
    # Also where the group has room: its statuses name numbers.
    twice, _ = grouped([sms(number) for number in (NUMBERS[0], NUMBERS[1], NUMBERS[0])], lambda _: "", 200)
    assert twice == [[0, 1], [2]]


def test_each_number_has_its_own_status(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        endings = ("0001", "0002", "0004", "0005", "0006", "1234")
        found = send(tencent(there), *[sms(f"+861390000{end}") for end in endings])
        assert reactions(found) == [
            Reaction.FAIL,
            Reaction.DEFER,
            Reaction.SUPPRESS,
            Reaction.UNKNOWN,
            Reaction.DEFER,
            None,
        ]
        assert inbox.count(there) == 2, "the one that timed out was taken all the same"
        found = send(tencent(there), sms("+8613900000003"), sms("+8613900001234", "invalid"))
        assert reactions(found) == [Reaction.PAUSE, Reaction.STOP]


def test_a_wrong_key_and_an_old_request_are_refused(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        found = send(tencent(there, "wrong"), sms(NUMBERS[0]))
        assert (codes(found), reactions(found)) == (["AuthFailure.SignatureFailure"], [Reaction.PAUSE])
        for minutes in (-6, 6):
            late = tencent(there, clock=lambda m=minutes: datetime.now(UTC) + timedelta(minutes=m))
            assert codes(send(late, sms(NUMBERS[0]))) == ["AuthFailure.SignatureExpire"]
        assert codes(send(tencent(there, sdk_app_id="1"), sms(NUMBERS[0]))) == [
            "UnauthorizedOperation.SmsSdkAppIdVerifyFail"
        ]
        unsigned = httpx.post(f"{there.tencent}/", json={}, headers={"x-tc-action": "SendSms"})
        assert unsigned.json()["Response"]["Error"]["Code"] == "AuthFailure.InvalidAuthorization"
        assert inbox.count(there) == 0


def test_a_changed_body_and_a_header_left_out_are_refused(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        url, stamp = f"{there.tencent}/", int(time.time())
        body = json.dumps(
            {
                "PhoneNumberSet": [NUMBERS[0]],
                "SmsSdkAppId": there.tencent_sdk_app_id,
                "TemplateId": "1",
                "SignName": "x",
            }
        ).encode()
        keys = Credentials(there.tencent_secret_id, there.tencent_secret_key)
        named = {"content-type": "application/json", "host": url.split("/")[2]}
        rest = {"x-tc-action": "SendSms", "x-tc-version": "2021-01-11", "x-tc-region": "ap-guangzhou"}

        def post(signed: dict[str, str], content: bytes) -> dict[str, object]:
            headers = {**named, **rest, "x-tc-timestamp": str(stamp)}
            headers["authorization"] = sign(keys, "sms", signed, body, stamp)
            found: dict[str, object] = httpx.post(url, content=content, headers=headers).json()["Response"]
            return found

        assert "Error" not in post(named, body)
        assert "Error" not in post({**named, "x-tc-action": "SendSms"}, body), "whatever is named is checked"
        for refused in (
            post(named, body.replace(b'"x"', b'"y"')),
            post({"host": named["host"]}, body),
            post({**named, "x-tc-action": "Other"}, body),
        ):
            assert refused["Error"]["Code"] == "AuthFailure.SignatureFailure"  # type: ignore[index]
        assert inbox.count(there) == 2


def official(settings: Settings, key: str | None = None) -> sms_client.SmsClient:
    profile = ClientProfile(
        httpProfile=HttpProfile(protocol="http", endpoint=f"127.0.0.1:{settings.sandbox_http_port}")
    )
    keys = credential.Credential(settings.tencent_secret_id, key or settings.tencent_secret_key)
    return sms_client.SmsClient(keys, settings.tencent_region, profile)


def test_the_official_client_is_accepted_and_refused_alike(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, running):
        request = models.SendSmsRequest()
        request.from_json_string(
            json.dumps(
                {
                    "PhoneNumberSet": ["+8613900001234", "+8613900000001"],
                    "SmsSdkAppId": there.tencent_sdk_app_id,
                    "TemplateId": "1110",
                    "SignName": "回流",
                    "TemplateParamSet": ["好"],
                    "SessionContext": "s1",
                }
            )
        )
        answer = official(there).SendSms(request)
        assert [(s.Code, s.PhoneNumber, s.Fee) for s in answer.SendStatusSet] == [
            ("Ok", "+8613900001234", 1),
            ("InvalidParameterValue.IncorrectPhoneNumber", "+8613900000001", 0),
        ]
        assert inbox.list_messages(there)[0].title == '【回流】1110 ["好"]'
        with pytest.raises(TencentCloudSDKException) as refused:
            official(there, "wrong").SendSms(request)
        assert refused.value.code == "AuthFailure.SignatureFailure"
        running.sandbox.tencent.reply("+8613900001234", "TD")
        pull = models.PullSmsReplyStatusRequest()
        pull.Limit, pull.SmsSdkAppId = 100, there.tencent_sdk_app_id
        replies = official(there).PullSmsReplyStatus(pull).PullSmsReplyStatusSet
        assert [(r.PhoneNumber, r.ReplyContent) for r in replies] == [("+8613900001234", "TD")]
        pull = models.PullSmsSendStatusRequest()
        pull.Limit, pull.SmsSdkAppId = 100, there.tencent_sdk_app_id
        statuses = official(there).PullSmsSendStatus(pull).PullSmsSendStatusSet
        assert [(s.SerialNo, s.ReportStatus, s.SessionContext) for s in statuses] == [
            (answer.SendStatusSet[0].SerialNo, "SUCCESS", "s1")
        ]
        pull.Limit = 101
        with pytest.raises(TencentCloudSDKException, match="LimitVerifyFail"):
            official(there).PullSmsSendStatus(pull)


def test_a_request_that_is_refused_for_one_number_is_halved(
    sqlite_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        transport = tencent(there)
        call = transport._call

        async def refusing(action: str, content: dict[str, object], texts: object) -> dict[str, object]:
            if NUMBERS[5] in content["PhoneNumberSet"]:  # type: ignore[operator]
                raise error_of("FailedOperation.PhoneNumberInBlacklist", "", NOW)
            return await call(action, content, texts)  # type: ignore[arg-type]

        monkeypatch.setattr(transport, "_call", refusing)
        found = send(transport, *[sms(number) for number in NUMBERS[:9]])
        assert reactions(found) == [None] * 5 + [Reaction.SUPPRESS] + [None] * 3


def test_an_answer_that_leaves_a_number_out_is_unknown(settings: Settings) -> None:
    async def main() -> list[Reaction | None]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            body = b'{"Response": {"SendStatusSet": [], "RequestId": "r"}}'
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        there = settings.model_copy(update={"tencent_endpoint": f"http://127.0.0.1:{port}"})
        async with tencent(there) as transport:
            found = await transport.send_many([sms(NUMBERS[0])], 30)
        server.close()
        return reactions(found)

    assert asyncio.run(main()) == [Reaction.UNKNOWN]
