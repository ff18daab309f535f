"""Reading mail that strangers' servers made: parts, addresses, and which of our messages it is about. Pure
but for the key that proves our own ids.
"""

from __future__ import annotations

import email.policy
import hmac
import re
from collections.abc import Iterator
from email.message import EmailMessage, Message
from email.parser import BytesParser

from channels import tracking, verp
from channels.render import client_id

MAX_BYTES = 1024 * 1024
"""What is read of a report; it may carry the whole message it is about."""
TEXT_LIMIT = 20_000
_RECIPIENT_HEADERS = ("Delivered-To", "X-Original-To", "Envelope-To", "X-Envelope-To", "To", "Cc")
_MESSAGE_ID = re.compile(r"(?<![0-9])([0-9]{1,19})\.([0-9a-f]{12})@", re.IGNORECASE)
_LINK = re.compile(r"/(?:u|p)/([A-Za-z0-9_-]{2,40}\.[A-Za-z0-9_=-]{20,40})")
_ANGLE = re.compile(r"<([^<>\s]+@[^<>\s]+)>")
_BARE = re.compile(r"[^\s<>,;:\"'()\[\]]+@[^\s<>,;:\"'()\[\]]+")


def parse(raw: bytes) -> EmailMessage:
    """The mail, tolerant of whatever is wrong with it."""
    found = BytesParser(policy=email.policy.default).parsebytes(raw[:MAX_BYTES])
    assert isinstance(found, EmailMessage)
    return found


def header(message: Message, name: str) -> str:
    """A header's text; empty where there is none or it cannot be read."""
    try:
        return str(message.get(name, "") or "")
    except (ValueError, IndexError, AttributeError, TypeError, KeyError):
        # The standard library's parsers trip over headers of some mail systems.
        return ""


def parts(message: EmailMessage) -> Iterator[tuple[str, Message]]:
    """(content type, part) of every part."""
    for part in message.walk():
        yield part.get_content_type(), part


def text_of(part: Message) -> str:
    """The readable text of a part."""
    payload = part.get_payload(decode=True)
    if isinstance(payload, bytes):
        charset = part.get_content_charset() or "utf-8"
        try:
            return payload.decode(charset, "replace")[:TEXT_LIMIT]
        except LookupError:
            return payload.decode("utf-8", "replace")[:TEXT_LIMIT]
    return str(part.get_payload())[:TEXT_LIMIT]


def address_in(text: str) -> str:
    """The first address of a text, in lower case; ``rfc822; <A@B.c>`` → ``a@b.c``."""
    found = _ANGLE.search(text)
    if found:
        return found[1].lower()
    bare = _BARE.search(text)
    return bare[0].strip(".").lower() if bare else ""


def ours(message: EmailMessage, raw: bytes, envelope_to: str = "") -> int | None:
    """Which message of ours a report is about, or None: by the address it was sent to (VERP), by the
    Message-ID of what it returns, by a signed link in it. Nothing unsigned counts.
    """
    own = " ".join([envelope_to, *(header(message, name) for name in _RECIPIENT_HEADERS)])
    if (found := verp.read(own)) is not None:
        return found
    text = raw[:MAX_BYTES].decode("utf-8", "replace")
    if (found := verp.read(text)) is not None:
        return found
    for number, signature in _MESSAGE_ID.findall(text):
        if hmac.compare_digest(f"{number}.{signature.lower()}", client_id(int(number))):
            return int(number)
    # Quoted-printable breaks links over lines.
    joined = text.replace("=\r\n", "").replace("=\n", "")
    for token in _LINK.findall(joined):
        for purpose in (tracking.UNSUBSCRIBE, tracking.PREFERENCES):
            if (found := tracking.read_message(purpose, token)) is not None:
                return found
    return None
