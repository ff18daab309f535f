"""The stand-in for Tencent Cloud SMS: verifies TC3-HMAC-SHA256 by its own reading of the rules.

Numbers that end in 0001 to 0006 are refused, each in its own way (:data:`MAGIC`); 0005 is taken, and
answered as if nobody knew. Those that end in 0000 are taken and never reached.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
import urllib.parse
from collections import deque
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import phonenumbers
from aiohttp import web

from channels.sandbox.callbacks import Callbacks
from channels.sandbox.inbox import Received, Store
from core.contacts import SMS
from core.settings import Settings
from core.times import now

CLOCK_SKEW_S = 300
MAX_BATCH, MAX_PULL, MAX_SESSION = 200, 100, 512
KEPT = 100_000
MAGIC = {
    "0001": ("InvalidParameterValue.IncorrectPhoneNumber", "The number is wrong."),
    "0002": ("LimitExceeded.PhoneNumberThirtySecondLimit", "One message in 30 seconds."),
    "0003": ("FailedOperation.InsufficientBalanceInSmsPackage", "The package is used up."),
    "0004": ("FailedOperation.PhoneNumberInBlacklist", "The number is in the blacklist."),
    "0005": ("InternalError.Timeout", "Request timed out."),
    "0006": ("FailedOperation.MarketingSendTimeConstraint", "Marketing is sent from 8 to 22."),
}
_CHINA = timezone(timedelta(hours=8))


class Refusal(Exception):
    """``Response.Error`` of an answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Tencent:
    """Handlers of the SMS API."""

    def __init__(self, settings: Settings, store: Store, callbacks: Callbacks, delay_s: float) -> None:
        self._settings, self._store, self._callbacks, self._delay_s = settings, store, callbacks, delay_s
        self._statuses: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._replies: deque[dict[str, Any]] = deque(maxlen=KEPT)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        answer: dict[str, Any] = {}
        try:
            self._verify(request, body)
            answer = await self._answer(request, _object(body))
        except Refusal as refusal:
            answer = {"Error": {"Code": refusal.code, "Message": str(refusal)}}
        content = json.dumps({"Response": {**answer, "RequestId": secrets.token_hex(16)}}).encode()
        # Without a charset, as Tencent says it: its own client reads errors in nothing else.
        return web.Response(body=content, content_type="application/json")

    def reply(self, phone: str, text: str) -> None:
        """A member answers: the reply waits to be pulled."""
        country, number = _parts(phone)
        self._replies.append(
            {
                "ExtendCode": "",
                "CountryCode": country,
                "PhoneNumber": phone,
                "SubscriberNumber": number,
                "SignName": self._settings.tencent_sign_name,
                "ReplyContent": text,
                "ReplyTime": int(now(self._settings).timestamp()),
            }
        )

    async def _answer(self, request: web.Request, content: dict[str, Any]) -> dict[str, Any]:
        action = request.headers.get("x-tc-action", "")
        if action == "SendSms":
            return {"SendStatusSet": await self._send(content, _texts(request))}
        waiting = {"PullSmsSendStatus": self._statuses, "PullSmsReplyStatus": self._replies}.get(action)
        if waiting is None:
            raise Refusal("InvalidAction", f"The action {action} is not known.")
        self._check_app(content)
        limit = content.get("Limit")
        if not isinstance(limit, int) or not 0 < limit <= MAX_PULL:
            raise Refusal("InvalidParameterValue.LimitVerifyFail", "Limit is from 1 to 100.")
        return {f"{action}Set": [waiting.popleft() for _ in range(min(limit, len(waiting)))]}

    def _verify(self, request: web.Request, body: bytes) -> None:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        if scheme != "TC3-HMAC-SHA256" or not {"Credential", "SignedHeaders", "Signature"} <= fields.keys():
            raise Refusal("AuthFailure.InvalidAuthorization", "No TC3-HMAC-SHA256 authorization.")
        for name in ("x-tc-action", "x-tc-version", "x-tc-timestamp", "x-tc-region"):
            if not request.headers.get(name):
                raise Refusal("MissingParameter", f"The header {name} is missing.")
        identity, _, scope = fields["Credential"].partition("/")
        if identity != self._settings.tencent_secret_id:
            raise Refusal("AuthFailure.SecretIdNotFound", "The SecretId is not found.")
        stamp = request.headers["x-tc-timestamp"]
        if not stamp.isdecimal() or abs(int(stamp) - time.time()) > CLOCK_SKEW_S:
            raise Refusal("AuthFailure.SignatureExpire", "The signature has expired.")
        day = f"{datetime.fromtimestamp(int(stamp), UTC):%Y-%m-%d}"
        if scope != f"{day}/sms/tc3_request":
            raise Refusal("AuthFailure.SignatureFailure", "The credential's scope is wrong.")
        expected = self._signature(request, body, fields["SignedHeaders"], stamp, scope)
        if not hmac.compare_digest(expected, fields["Signature"].lower()):
            raise Refusal("AuthFailure.SignatureFailure", "The provided credentials could not be validated.")

    def _signature(self, request: web.Request, body: bytes, named: str, stamp: str, scope: str) -> str:
        names = named.split(";")
        if not {"content-type", "host"} <= set(names) or names != sorted(names):
            raise Refusal("AuthFailure.SignatureFailure", "content-type and host must be signed, in order.")
        lines = ["POST", "/", ""]
        lines += [f"{name}:{request.headers.get(name, '').strip().lower()}" for name in names]
        lines += ["", named, hashlib.sha256(body).hexdigest()]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        day, service, end = scope.split("/")
        secret = ("TC3" + self._settings.tencent_secret_key).encode()
        for part in (day, service, end):
            secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
        text = "\n".join(("TC3-HMAC-SHA256", stamp, scope, digest))
        return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()

    def _check_app(self, content: dict[str, Any]) -> None:
        if content.get("SmsSdkAppId") != self._settings.tencent_sdk_app_id:
            raise Refusal("UnauthorizedOperation.SmsSdkAppIdVerifyFail", "The SmsSdkAppId is not yours.")

    async def _send(self, content: dict[str, Any], texts: list[str]) -> list[dict[str, Any]]:
        self._check_app(content)
        numbers, template = content.get("PhoneNumberSet"), str(content.get("TemplateId", ""))
        if not isinstance(numbers, list) or not numbers:
            raise Refusal("MissingParameter.EmptyPhoneNumberSet", "PhoneNumberSet is empty.")
        if len(numbers) > MAX_BATCH:
            raise Refusal("LimitExceeded.PhoneNumberCountLimit", "At most 200 numbers.")
        mainland = [str(number).startswith("+86") for number in numbers]
        if any(mainland) and not all(mainland):
            code = "UnsupportedOperation.ContainDomesticAndInternationalPhoneNumber"
            raise Refusal(code, "Numbers of mainland China and others together.")
        if any(mainland) and not content.get("SignName"):
            raise Refusal("FailedOperation.SignatureIncorrectOrUnapproved", "The signature is missing.")
        if not template or template.startswith("invalid"):
            raise Refusal("FailedOperation.TemplateIncorrectOrUnapproved", "The template does not exist.")
        if len(str(content.get("SessionContext") or "").encode()) >= MAX_SESSION:
            raise Refusal("InvalidParameter", "SessionContext has 512 bytes or more.")
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        return await self._take([str(number) for number in numbers], content, texts)

    async def _take(
        self, numbers: list[str], content: dict[str, Any], texts: list[str]
    ) -> list[dict[str, Any]]:
        session = str(content.get("SessionContext") or "")
        rows, statuses, reports = [], [], []
        for place, number in enumerate(numbers):
            serial = f"2019:{secrets.randbelow(10**18)}"
            refused = MAGIC.get(number[-4:])
            code, message = refused or ("Ok", "send success")
            if refused is None or code == "InternalError.Timeout":
                rows.append(self._received(number, serial, content, texts[place : place + 1]))
                reports.append((number, serial))
            statuses.append(_status(number, "" if refused else serial, session, code, message))
        if rows:
            await self._store.add(*rows)
        for number, serial in reports:
            self._report(number, serial, session)
        return statuses

    def _received(self, number: str, serial: str, content: dict[str, Any], texts: list[str]) -> Received:
        params = content.get("TemplateParamSet") or []
        shown = texts[0] if texts else f"{content['TemplateId']} {json.dumps(params, ensure_ascii=False)}"
        sign = str(content.get("SignName") or "")
        fields = {
            "provider": "tencent",
            "number": number,
            "sign_name": sign,
            "template_code": content["TemplateId"],
            "params": {str(place): value for place, value in enumerate(params, 1)},
            "serial_no": serial,
            "out_id": str(content.get("SessionContext") or ""),
            "text": f"【{sign}】{shown}" if sign else shown,
        }
        return Received(SMS, number, fields["out_id"], json.dumps(fields).encode())

    def _report(self, number: str, serial: str, session: str) -> None:
        at, failed = now(self._settings), number.endswith("0000")
        country, subscriber = _parts(number)
        status, why = ("FAIL", "用户关机") if failed else ("SUCCESS", "用户短信送达成功")
        self._statuses.append(
            {
                "UserReceiveTime": int(at.timestamp()),
                "CountryCode": country,
                "SubscriberNumber": subscriber,
                "PhoneNumber": number,
                "SerialNo": serial,
                "ReportStatus": status,
                "Description": why,
                "SessionContext": session,
            }
        )
        self._callbacks.tencent_report(
            {
                "user_receive_time": f"{at.astimezone(_CHINA):%Y-%m-%d %H:%M:%S}",
                "nationcode": country,
                "mobile": subscriber,
                "report_status": status,
                "errmsg": "MK:0000" if failed else "DELIVRD",
                "description": why,
                "sid": serial,
                "ext": session,
            }
        )


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refusal("FailedOperation.JsonParseFail", "The body is no JSON object.")
    return found


def _texts(request: web.Request) -> list[str]:
    found = request.headers.get("x-sandbox-texts")
    return list(json.loads(urllib.parse.unquote(found))) if found else []


def _parts(number: str) -> tuple[str, str]:
    """(country code, national number)."""
    try:
        found = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return "", number
    return str(found.country_code), str(found.national_number)


def _status(number: str, serial: str, session: str, code: str, message: str) -> dict[str, Any]:
    return {
        "SerialNo": serial,
        "PhoneNumber": number,
        "Fee": 1 if code == "Ok" else 0,
        "SessionContext": session,
        "Code": code,
        "Message": message,
        "IsoCode": "CN" if number.startswith("+86") else "DEF",
    }
