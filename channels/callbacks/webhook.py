"""The shop's own address: how messages to it and receipts from it are signed, and what a receipt says. Pure.

``X-Huiliu-Signature: t=<seconds>,v1=<hex>``, HMAC-SHA-256 with the shared secret over ``<t>.<body>``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from channels.events import CLICKED, COMPLAINT, HARD_BOUNCE, OPENED, UNDELIVERED, UNSUBSCRIBED, Receipt
from channels.outbox import DELIVERED
from channels.tracking import HUMAN
from core.errors import InvalidInput

FRESH_S = 600.0
MAX_RECEIPTS = 1_000
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "delivered": DELIVERED,
        "failed": UNDELIVERED,
        "gone": HARD_BOUNCE,
        "opened": OPENED,
        "clicked": CLICKED,
        "unsubscribed": UNSUBSCRIBED,
        "complaint": COMPLAINT,
    }
)
"""What a receipt may say, and what that is to us. ``gone``: nothing more reaches this member."""
_HEADER = re.compile(r"t=(\d{1,11}),v1=([0-9a-f]{64})\Z")


def sign(secret: str, body: bytes, at: int) -> str:
    """The header's value for ``body``; ``at`` in seconds since 1970."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def signed(secret: str, header: str, body: bytes, now_s: float, fresh_s: float = FRESH_S) -> bool:
    """Whether who sent ``body`` knows the secret, and signed it within ``fresh_s`` of ``now_s``."""
    found = _HEADER.match(header)
    if found is None or abs(now_s - int(found[1])) > fresh_s:
        return False
    return hmac.compare_digest(sign(secret, body, int(found[1])), header)


def webhook_callback(body: Any, now: datetime) -> list[Receipt]:
    """Receipts: an object or a list of {"message_id", "kind"[, "at", "reason"]}. Raises InvalidInput."""
    listed = body if isinstance(body, list) else [body]
    if len(listed) > MAX_RECEIPTS:
        raise InvalidInput(f"Send at most {MAX_RECEIPTS:,} receipts at once.")
    return [_receipt(entry, now) for entry in listed]


def _receipt(entry: Any, now: datetime) -> Receipt:
    number = entry.get("message_id") if isinstance(entry, Mapping) else None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**63:
        raise InvalidInput("A receipt is an object with the message_id that came with the message.")
    kind = KINDS.get(str(entry.get("kind")))
    if kind is None:
        raise InvalidInput(f"A receipt's kind is one of {', '.join(KINDS)}.")
    detail = {"code": str(entry.get("code", ""))[:40], "reason": str(entry.get("reason", ""))[:100]}
    actor = HUMAN if kind in (OPENED, CLICKED) else ""
    return Receipt(kind, _time(entry.get("at"), now), f"webhook:{number}:{kind}", number, None, actor, detail)


def _time(text: Any, now: datetime) -> datetime:
    if text is None:
        return now
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        raise InvalidInput("A receipt's at is a time in ISO 8601.") from None
    return min(at if at.tzinfo else at.replace(tzinfo=UTC), now)
