"""The stand-in for Aliyun Dysmsapi: verifies ACS3-HMAC-SHA256 by its own reading of the rules."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
import urllib.parse
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from aiohttp import web

from channels.sandbox import inbox
from channels.sandbox.callbacks import Callbacks
from channels.sandbox.inbox import Received, Store
from core.contacts import SMS
from core.settings import Settings
from core.times import now

CLOCK_SKEW_S = 900
NONCES = 200_000
MAX_BATCH = 100
_CHINA = timezone(timedelta(hours=8))
_MAGIC = {
    "0001": ("isv.MOBILE_NUMBER_ILLEGAL", "The number is illegal."),
    "0002": ("isv.BUSINESS_LIMIT_CONTROL", "触发天级流控"),
    "0003": ("isv.AMOUNT_NOT_ENOUGH", "账户余额不足"),
}


class Refusal(Exception):
    """An error answer of Aliyun's."""

    def __init__(self, code: str, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class Aliyun:
    """Handlers of the SMS API."""

    def __init__(self, settings: Settings, store: Store, callbacks: Callbacks, delay_s: float) -> None:
        self._settings, self._store, self._callbacks, self._delay_s = settings, store, callbacks, delay_s
        self._nonces: OrderedDict[str, None] = OrderedDict()

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        answer: dict[str, Any] = {"RequestId": secrets.token_hex(16).upper()}
        status = 200
        try:
            self._verify(request, body)
            action = request.headers.get("x-acs-action", "")
            form = dict(urllib.parse.parse_qsl(body.decode()))
            if action == "QuerySendDetails":
                found = await asyncio.to_thread(self._details, dict(request.query))
                answer |= {"TotalCount": str(len(found)), "SmsSendDetailDTOs": {"SmsSendDetailDTO": found}}
            else:
                messages = _messages(action, dict(request.query), form)
                answer["BizId"] = await self._accept(messages, _texts(request))
            answer |= {"Code": "OK", "Message": "OK"}
        except Refusal as refusal:
            answer |= {"Code": refusal.code, "Message": str(refusal)}
            status = refusal.status
        return web.json_response(answer, status=status)

    def _verify(self, request: web.Request, body: bytes) -> None:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        fields = dict(part.partition("=")[::2] for part in rest.split(","))
        if scheme != "ACS3-HMAC-SHA256" or not {"Credential", "SignedHeaders", "Signature"} <= fields.keys():
            raise Refusal("MissingAuthorization", "No ACS3-HMAC-SHA256 authorization.", 400)
        if fields["Credential"] != self._settings.aliyun_access_key_id:
            raise Refusal("InvalidAccessKeyId.NotFound", "Specified access key is not found.", 404)
        named = fields["SignedHeaders"].split(";")
        needed = {"host", *[k.lower() for k in request.headers if k.lower().startswith("x-acs-")]}
        if not needed <= set(named):
            raise Refusal("SignatureDoesNotMatch", "host and every x-acs- header must be signed.", 400)
        digest = hashlib.sha256(body).hexdigest()
        if request.headers.get("x-acs-content-sha256") != digest:
            raise Refusal("SignatureDoesNotMatch", "x-acs-content-sha256 is not the body's.", 400)
        pairs = sorted(urllib.parse.parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))
        query = urllib.parse.urlencode(pairs, quote_via=urllib.parse.quote, safe="~")
        lines = [request.method, request.rel_url.raw_path, query]
        lines += [f"{name}:{request.headers.get(name, '').strip()}" for name in named]
        lines += ["", fields["SignedHeaders"], digest]
        hashed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        key = self._settings.aliyun_access_key_secret.encode()
        expected = hmac.digest(key, b"ACS3-HMAC-SHA256\n" + hashed.encode(), "sha256").hex()
        if not hmac.compare_digest(expected, fields["Signature"]):
            raise Refusal("SignatureDoesNotMatch", "Specified signature does not match our calculation.", 400)
        self._verify_freshness(request)

    def _verify_freshness(self, request: web.Request) -> None:
        try:
            at = datetime.strptime(request.headers["x-acs-date"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except (KeyError, ValueError):
            raise Refusal("InvalidTimeStamp.Format", "x-acs-date is no UTC time.", 400) from None
        if abs(at.timestamp() - time.time()) > CLOCK_SKEW_S:
            raise Refusal("InvalidTimeStamp.Expired", "Specified time stamp is expired.", 400)
        nonce = request.headers.get("x-acs-signature-nonce", "")
        if not nonce or nonce in self._nonces:
            raise Refusal("SignatureNonceUsed", "Specified signature nonce was used already.", 400)
        self._nonces[nonce] = None
        if len(self._nonces) > NONCES:
            self._nonces.popitem(last=False)

    def _details(self, query: dict[str, str]) -> list[dict[str, Any]]:
        missing = {"PhoneNumber", "SendDate", "PageSize", "CurrentPage"} - query.keys()
        if missing:
            raise Refusal("MissingParameter", f"{min(missing)} is mandatory for this action.", 400)
        found = [
            (message.fields, message.received_at.astimezone(_CHINA))
            for message in inbox.list_messages(self._settings, SMS, query["PhoneNumber"], 500)
        ]
        return [
            {
                "PhoneNum": fields["number"],
                "SendStatus": 2 if fields["number"].endswith("0000") else 3,
                "ErrCode": "MOBILE_OFF" if fields["number"].endswith("0000") else "DELIVERED",
                "SendDate": f"{at:%Y-%m-%d %H:%M:%S}",
                "ReceiveDate": f"{at:%Y-%m-%d %H:%M:%S}",
                "OutId": fields["out_id"],
                "TemplateCode": fields["template_code"],
                "Content": fields["text"],
            }
            for fields, at in found
            if f"{at:%Y%m%d}" == query["SendDate"]
            and query.get("BizId", fields["biz_id"]) == fields["biz_id"]
        ][: int(query["PageSize"])]

    async def _accept(self, messages: list[dict[str, Any]], texts: list[str]) -> str:
        # As at Aliyun, one bad number refuses its whole request.
        for message in messages:
            if message["number"][-4:] in _MAGIC:
                raise Refusal(*_MAGIC[message["number"][-4:]])
        if messages[0]["template_code"].startswith("invalid"):
            raise Refusal("isv.SMS_TEMPLATE_ILLEGAL", "The template does not exist.")
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        biz_id = f"{time.time_ns() // 1_000_000}^{secrets.randbelow(10**9)}"
        rows = []
        for number, message in enumerate(messages):
            shown = f"{message['template_code']} {json.dumps(message['params'], ensure_ascii=False)}"
            text = texts[number] if number < len(texts) else shown
            fields = {**message, "biz_id": biz_id, "text": f"【{message['sign_name']}】{text}"}
            rows.append(Received(SMS, message["number"], message["out_id"], json.dumps(fields).encode()))
        await self._store.add(*rows)
        for message in messages:
            self._callbacks.sms_report(_report(message, biz_id, now(self._settings)))
        return biz_id


def _texts(request: web.Request) -> list[str]:
    found = request.headers.get("x-sandbox-texts")
    return list(json.loads(urllib.parse.unquote(found))) if found else []


def _messages(action: str, query: dict[str, str], form: dict[str, str]) -> list[dict[str, Any]]:
    """The messages of a request, checked as Aliyun checks them."""
    given = {**query, **form}
    try:
        if action == "SendSms":
            numbers = given["PhoneNumbers"].split(",")
            signs = [given["SignName"]] * len(numbers)
            params = [json.loads(given.get("TemplateParam") or "{}")] * len(numbers)
        elif action == "SendBatchSms":
            numbers = json.loads(given["PhoneNumberJson"])
            signs = json.loads(given["SignNameJson"])
            params = json.loads(given.get("TemplateParamJson") or "[]") or [{}] * len(numbers)
        else:
            raise Refusal("InvalidAction.NotFound", f"Specified api is not found: {action}", 404)
        code = given["TemplateCode"]
    except KeyError as missing:
        raise Refusal("MissingParameter", f"{missing.args[0]} is mandatory for this action.", 400) from None
    except ValueError:
        raise Refusal("isv.INVALID_JSON_PARAM", "JSON参数不合法") from None
    if not numbers or len(numbers) > MAX_BATCH or not len(numbers) == len(signs) == len(params):
        raise Refusal("isv.INVALID_PARAMETERS", "参数异常")
    return [
        {
            "number": number,
            "sign_name": sign,
            "template_code": code,
            "params": values,
            "out_id": given.get("OutId", ""),
        }
        for number, sign, values in zip(numbers, signs, params, strict=True)
    ]


def _report(message: dict[str, Any], biz_id: str, at: datetime) -> dict[str, Any]:
    failed = message["number"].endswith("0000")
    moment = f"{at.astimezone(_CHINA):%Y-%m-%d %H:%M:%S}"
    return {
        "phone_number": message["number"],
        "send_time": moment,
        "report_time": moment,
        "success": not failed,
        "err_code": "MOBILE_OFF" if failed else "DELIVERED",
        "err_msg": "用户关机" if failed else "用户接收成功",
        "sms_size": "1",
        "biz_id": biz_id,
        "out_id": message["out_id"],
    }
