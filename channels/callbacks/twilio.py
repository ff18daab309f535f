"""Twilio's webhooks: verified by X-Twilio-Signature; statuses become receipts, replies opt-outs. Pure.

They come as forms, or as JSON: one object, or the events of a stream, which name the same facts differently.

Only ends become receipts, and the outbox's table lets none of them turn another back, so the order in
which statuses arrive does not matter.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

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
BODY_HASH = "bodySHA256"
OUTBOUND, INBOUND = "com.twilio.messaging.message.", "com.twilio.messaging.inbound-message.received"
"""Types of Event Streams: the first goes on with a status."""
MAX_EVENTS = 1000
Found = tuple[list[Receipt], list[OptOut], list[Clue]]


def signature(token: str, url: str, form: Iterable[tuple[str, str]]) -> str:
    """base64 of HMAC-SHA1 over the exact URL and every name with its value, in order of their names."""
    text = url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.digest(token.encode(), text.encode(), "sha1")).decode()


def signed(token: str, url: str, form: Iterable[tuple[str, str]], given: str) -> bool:
    """Whether a request comes from who knows the account's token."""
    return hmac.compare_digest(signature(token, url, form).encode(), given.encode("utf-8", "replace"))


def signed_json(token: str, url: str, body: bytes, given: str) -> bool:
    """:func:`signed` for a body that is no form: the address has its hash, the signature the address."""
    hashes = parse_qs(urlsplit(url).query).get(BODY_HASH, [])
    if len(hashes) != 1:  # without it nothing would say that the body is Twilio's
        return False
    expected = hashlib.sha256(body).hexdigest()
    return hmac.compare_digest(expected.encode(), hashes[0].lower().encode()) and signed(
        token, url, (), given
    )


def twilio_json(body: bytes, client_id: str, now: datetime) -> Found:
    """What a JSON body tells: a webhook's fields, or one event or many of Event Streams; those that are
    about no message tell nothing. Raises InvalidInput when it cannot be read.
    """
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        read = None
    events = read if isinstance(read, list) else [read]
    if not all(isinstance(event, dict) for event in events) or len(events) > MAX_EVENTS:
        raise InvalidInput(f"A JSON webhook of Twilio is an object, or a list of at most {MAX_EVENTS:,}.")
    receipts: list[Receipt] = []
    leavings: list[OptOut] = []
    clues: list[Clue] = []
    for event in events:
        form = _form_of(event)
        if not form.get("MessageSid") and (event.get("type") or isinstance(read, list)):
            continue  # an event about something else, such as the test of a new sink
        found = twilio_callback(form, client_id or form.pop("ClientId", ""), now)
        receipts += found[0]
        leavings += found[1]
        clues += found[2]
    return receipts, leavings, clues


def _form_of(event: Mapping[str, Any]) -> dict[str, str]:
    """The fields of an event under their names in forms."""
    data = event.get("data")
    if not isinstance(data, Mapping):
        return {name: str(value) for name, value in event.items() if value is not None}
    form = {name[:1].upper() + name[1:]: str(value) for name, value in data.items() if value is not None}
    kind = str(event.get("type") or "")
    if kind == INBOUND:
        form["SmsStatus"] = "received"
    elif kind.startswith(OUTBOUND) and "MessageStatus" not in form:
        form["MessageStatus"] = kind.removeprefix(OUTBOUND)
    # An event has no address of its own that could name the message; the one of its callback does.
    form["ClientId"] = "".join(
        parse_qs(urlsplit(form.get("StatusCallBackUrl", "")).query).get("message", [])[:1]
    )
    return form


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
