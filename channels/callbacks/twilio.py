"""Twilio's webhooks: verified by X-Twilio-Signature; statuses become receipts, replies opt-outs. Pure.

Only ends become receipts, and the outbox's table lets none of them turn another back, so the order in
which statuses arrive does not matter.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from channels.callbacks.opt_out import OptOut, reply
from channels.events import UNDELIVERED, Receipt
from channels.outbox import DELIVERED
from channels.sms.lost import Clue
from channels.transports.sms_twilio import NAME, OPTED_OUT
from core.contacts import SMS
from core.errors import InvalidInput

ENDS: Mapping[str, str] = MappingProxyType(
    {
        "delivered": DELIVERED,
        "read": DELIVERED,
        # Some of it arrived: the next channel would say it twice.
        "partially_delivered": DELIVERED,
        "undelivered": UNDELIVERED,
        "failed": UNDELIVERED,
        "canceled": UNDELIVERED,
    }
)
Found = tuple[list[Receipt], list[OptOut], list[Clue]]


def signature(token: str, url: str, form: Iterable[tuple[str, str]]) -> str:
    """base64 of HMAC-SHA1 over the exact URL and every name with its value, in order of their names."""
    text = url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.digest(token.encode(), text.encode(), "sha1")).decode()


def signed(token: str, url: str, form: Iterable[tuple[str, str]], given: str) -> bool:
    """Whether a request comes from who knows the account's token."""
    return hmac.compare_digest(signature(token, url, form).encode(), given.encode("utf-8", "replace"))


def twilio_callback(form: Mapping[str, str], client_id: str, now: datetime) -> Found:
    """A status callback (``client_id`` is our own name of the message, if its address had one) or a
    member's message. Raises InvalidInput without a MessageSid.
    """
    sid = form.get("MessageSid") or form.get("SmsSid") or ""
    if not sid:
        raise InvalidInput("A webhook of Twilio has a MessageSid.")
    status = (form.get("MessageStatus") or form.get("SmsStatus") or "").lower()
    if status in ("received", "receiving") or (not status and "Body" in form):
        # Where a shop has words of its own at Twilio, Twilio says what they mean.
        text, phone = form.get("OptOutType") or form.get("Body", ""), form.get("From", "")
        return [], reply(text, phone, now, f"{NAME}:reply", sid, blocks=True), []
    return _told(sid, status, form.get("ErrorCode", ""), form, client_id, now)


def twilio_asked(resource: Mapping[str, Any], now: datetime) -> Found:
    """What a Message resource tells, in the same receipts that callbacks bring."""
    form = {"To": str(resource.get("to") or ""), "ErrorMessage": str(resource.get("error_message") or "")}
    code = str(resource.get("error_code") or "")
    return _told(str(resource["sid"]), str(resource.get("status") or "").lower(), code, form, "", now)


def _told(sid: str, status: str, code: str, form: Mapping[str, str], client_id: str, now: datetime) -> Found:
    kind = ENDS.get(status)
    if kind is None:
        return [], [], []
    detail = {"code": code[:40], "reason": (form.get("ErrorMessage") or status)[:100]}
    receipt = Receipt(kind, now, f"twilio:{sid}:{kind}"[:160], provider_id=sid[:128], detail=detail)
    left = []
    if code == str(OPTED_OUT):
        left = [OptOut(SMS, form.get("To", ""), now, f"{NAME}:{code}", False, sid, blocked=True)]
    return [receipt], left, [Clue(NAME, sid[:128], now, "", client_id)]
