"""Aliyun's own client at our stand-in: accepted with the right secret, refused with another, as ours is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alibabacloud_dysmsapi20170525 import models
from alibabacloud_dysmsapi20170525.client import Client
from alibabacloud_tea_openapi.utils_models import Config

from channels.sandbox import inbox
from channels.transports.base import Reaction
from channels.transports.sms_aliyun import AliyunTransport, Credentials
from core.db import Database
from core.settings import Settings
from tests.channels.seed import sandbox
from tests.channels.sms import codes, reactions, send, sms


def official(settings: Settings, secret: str | None = None) -> Client:
    return Client(
        Config(
            access_key_id=settings.aliyun_access_key_id,
            access_key_secret=secret or settings.aliyun_access_key_secret,
            endpoint=f"127.0.0.1:{settings.sandbox_http_port}",
            protocol="HTTP",
        )
    )


def request(number: str = "13900001234", **more: Any) -> models.SendSmsRequest:
    return models.SendSmsRequest(
        phone_numbers=number,
        sign_name="回流",
        template_code="SMS_1",
        template_param=json.dumps({"name": "好 a+b~*"}, ensure_ascii=False),
        out_id="o1",
        **more,
    )


def test_the_official_client_is_accepted_and_refused_alike(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        answer = official(there).send_sms(request()).body
        assert (answer.code, answer.message) == ("OK", "OK")
        stored = inbox.list_messages(there, "sms")
        assert [(m.to, m.fields["params"], m.client_id) for m in stored] == [
            ("13900001234", {"name": "好 a+b~*"}, "o1")
        ]
        assert official(there).send_sms(request("13900000001")).body.code == "isv.MOBILE_NUMBER_ILLEGAL"
        with pytest.raises(Exception, match="SignatureDoesNotMatch"):
            official(there, "wrong").send_sms(request())
        assert inbox.count(there) == 1


def test_the_official_client_sends_batches_and_asks_for_details(
    sqlite_db: Database, settings: Settings
) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        batch = models.SendBatchSmsRequest(
            phone_number_json=json.dumps(["13900001234", "13900000000"]),
            sign_name_json=json.dumps(["回流", "回流"], ensure_ascii=False),
            template_code="SMS_1",
            template_param_json=json.dumps([{"name": "好"}, {"name": "b"}], ensure_ascii=False),
        )
        sent = official(there).send_batch_sms(batch).body
        assert (sent.code, inbox.count(there)) == ("OK", 2)
        day = datetime.now(UTC) + timedelta(hours=8)
        details = models.QuerySendDetailsRequest(
            phone_number="13900000000",
            send_date=f"{day:%Y%m%d}",
            page_size=10,
            current_page=1,
            biz_id=sent.biz_id,
        )
        found = official(there).query_send_details(details).body.sms_send_detail_dtos.sms_send_detail_dto
        assert [(d.send_status, d.err_code) for d in found] == [(2, "MOBILE_OFF")]


def test_codes_for_another_provider_stop_only_their_messages(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        keys = Credentials(there.aliyun_access_key_id, there.aliyun_access_key_secret)
        found = send(
            AliyunTransport(there.aliyun, keys, "回流"),
            sms("+8613900001234", "tencent=1"),
            sms("+8613900001235", "aliyun=SMS_1 tencent=1"),
        )
        assert (reactions(found), codes(found)) == ([Reaction.STOP, None], ["template_code"])
        assert inbox.list_messages(there)[0].fields["template_code"] == "SMS_1"
