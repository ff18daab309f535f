"""The stand-in for Twilio's Messages.json: Basic auth, Twilio's checks, and signed status callbacks.

Numbers that end in 0001 to 0004 are refused (:data:`MAGIC`); those that end in 0000 and 0006 are taken
and found unreachable, or a landline, later.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import secrets
from collections import OrderedDict
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from channels.sandbox.callbacks import Callbacks
from channels.sandbox.inbox import Received, Store
from channels.sms.segments import count_abroad
from core.contacts import SMS
from core.settings import Settings
from core.times import now

MAX_BODY = 1600
KEPT = 100_000
MAGIC = {
    "0001": (21211, "The 'To' number is not a valid phone number.", 400),
    "0002": (20429, "Too Many Requests", 429),
    "0003": (30002, "Account suspended", 400),
    "0004": (21610, "Attempt to send to unsubscribed recipient", 400),
}
_UNREACHED = {"0000": 30003, "0006": 30006}


class Refusal(Exception):
    """An error answer of Twilio's."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class Twilio:
    """Handler of the Messages resource."""

    def __init__(self, settings: Settings, store: Store, callbacks: Callbacks, delay_s: float) -> None:
        self._settings, self._store, self._callbacks, self._delay_s = settings, store, callbacks, delay_s
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def handle(self, request: web.Request) -> web.Response:
        """POST Messages.json, and GET Messages/<sid>.json."""
        try:
            self._verify(request)
            if request.method == "GET":
                answer, status = self._fetch(request.match_info["sid"]), 200
            else:
                form = {name: str(value) for name, value in (await request.post()).items()}
                answer, status = await self._send(form), 201
        except Refusal as refusal:
            status = refusal.status
            answer = {
                "code": refusal.code,
                "message": str(refusal),
                "more_info": f"https://www.twilio.com/docs/errors/{refusal.code}",
                "status": status,
            }
        return web.json_response(answer, status=status)

    def _verify(self, request: web.Request) -> None:
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except ValueError:
            given = b""
        expected = f"{self._settings.twilio_account_sid}:{self._settings.twilio_auth_token}".encode()
        if scheme.lower() != "basic" or not hmac.compare_digest(given, expected):
            raise Refusal(20003, "Authenticate", 401)
        if request.match_info["account"] != self._settings.twilio_account_sid:
            raise Refusal(20404, "The requested resource was not found", 404)

    async def _send(self, form: dict[str, str]) -> dict[str, Any]:
        to, body = form.get("To", ""), form.get("Body", "")
        if not to.startswith("+"):
            raise Refusal(21604, "A 'To' phone number is required.")
        if not form.get("From") and not form.get("MessagingServiceSid"):
            raise Refusal(21603, "A 'From' phone number is required.")
        if not body:
            raise Refusal(21602, "Message body is required.")
        if len(body) > MAX_BODY:
            raise Refusal(21617, "The concatenated message body exceeds the 1600 character limit.")
        if to[-4:] in MAGIC:
            raise Refusal(*MAGIC[to[-4:]])
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        sid = f"SM{secrets.token_hex(16)}"
        url = form.get("StatusCallback", "")
        fields = {
            "provider": "twilio",
            "number": to,
            "sign_name": "",
            "template_code": "",
            "params": {},
            "sender": form.get("From") or form["MessagingServiceSid"],
            "sid": sid,
            "text": body,
        }
        await self._store.add(Received(SMS, to, url.rpartition("=")[2], json.dumps(fields).encode()))
        if url:
            self._report(url, sid, form)
        answer = self._resource(sid, form)
        error = _UNREACHED.get(to[-4:])
        end = {"status": "undelivered" if error else "delivered", "error_code": error}
        self._known[sid] = {**answer, **end}
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return answer

    def _fetch(self, sid: str) -> dict[str, Any]:
        if sid not in self._known:
            raise Refusal(20404, "The requested resource was not found", 404)
        return self._known[sid]

    def _resource(self, sid: str, form: dict[str, str]) -> dict[str, Any]:
        at, account = format_datetime(now(self._settings)), self._settings.twilio_account_sid
        return {
            "sid": sid,
            "account_sid": account,
            "api_version": "2010-04-01",
            "body": form["Body"],
            "date_created": at,
            "date_updated": at,
            "date_sent": None,
            "direction": "outbound-api",
            "error_code": None,
            "error_message": None,
            "from": form.get("From"),
            "messaging_service_sid": form.get("MessagingServiceSid"),
            "num_media": "0",
            "num_segments": str(count_abroad(form["Body"]).segments),
            "price": None,
            "price_unit": "USD",
            "status": "queued",
            "subresource_uris": {},
            "to": form["To"],
            "uri": f"/2010-04-01/Accounts/{account}/Messages/{sid}.json",
        }

    def _report(self, url: str, sid: str, form: dict[str, str]) -> None:
        error = _UNREACHED.get(form["To"][-4:])
        base = {
            "AccountSid": self._settings.twilio_account_sid,
            "ApiVersion": "2010-04-01",
            "MessageSid": sid,
            "SmsSid": sid,
            "To": form["To"],
            "From": form.get("From", self._settings.twilio_sender),
        }
        statuses = ["sent", "undelivered" if error else "delivered"]
        for status in statuses:
            more = {"ErrorCode": str(error)} if error and status == "undelivered" else {}
            self._callbacks.twilio_status(url, {**base, "MessageStatus": status, "SmsStatus": status, **more})
