"""Envelope senders that name their message (VERP), so that a bounce says what bounced. Signed."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable

from core import crypto
from core.settings import Settings

PREFIX = "b+"
_LOCAL = re.compile(r"b\+([0-9]{1,19})\.([0-9a-f]{16})", re.IGNORECASE)


def _signature(message_id: str) -> str:
    return crypto.keyring().blind_index("verp", message_id)[:16]


def address(message_id: int, domain: str) -> str:
    """``b+<id>.<signature>@domain``: at most 38 characters before the @, safe in any case."""
    return f"{PREFIX}{message_id}.{_signature(str(message_id))}@{domain}"


def read(text: str) -> int | None:
    """The message that an address of ours names, or None where it is none or its signature is wrong."""
    for number, signature in _LOCAL.findall(text):
        if hmac.compare_digest(signature.lower(), _signature(number)):
            return int(number)
    return None


def senders(settings: Settings) -> Callable[[int], str] | None:
    """The envelope senders of the settings; None where bounces come to the shop's own address."""
    domain = settings.bounce_domain
    return (lambda message_id: address(message_id, domain)) if domain else None
