"""DKIM signatures (RFC 6376, Ed25519: RFC 8463): relaxed/relaxed, one header a key.

Guarantees: From is signed once more than it occurs, so that no second one can be added; List-Unsubscribe
and List-Unsubscribe-Post are always signed (RFC 8058). Keys are read once, and every message is signed
by all of them: a receiver that does not know Ed25519 takes the RSA one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from channels.transports.servers import ascii_domain
from core.errors import InvalidInput

MIN_RSA_BITS = 1024
SIGNED = (
    b"from",
    b"to",
    b"subject",
    b"date",
    b"message-id",
    b"reply-to",
    b"mime-version",
    b"content-type",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
)
"""Headers that are signed where they occur."""
_B64_LINE = 72
_SPACE = re.compile(rb"[ \t]+")
_FOLD = re.compile(rb"\r\n(?=[ \t])")


@dataclass(frozen=True)
class Key:
    """A private key with the place of its public one: ``selector._domainkey.domain``."""

    selector: str
    domain: str
    private: RSAPrivateKey | Ed25519PrivateKey

    @property
    def algorithm(self) -> str:
        return "rsa-sha256" if isinstance(self.private, RSAPrivateKey) else "ed25519-sha256"

    def sign(self, data: bytes) -> bytes:
        """The signature of canonical data. RFC 8463: Ed25519 signs its SHA-256, not itself."""
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(data, padding.PKCS1v15(), SHA256())
        return self.private.sign(hashlib.sha256(data).digest())


def load_keys(text: str) -> tuple[Key, ...]:
    """The keys of ``HUILIU_DKIM_KEYS``: ``selector:domain:path`` separated by spaces. Raises InvalidInput."""
    return tuple(_load(part) for part in text.split())


def _load(part: str) -> Key:
    selector, _, rest = part.partition(":")
    domain, _, path = rest.partition(":")
    if not (selector and domain and path):
        raise InvalidInput("HUILIU_DKIM_KEYS must look like selector:example.com:/path/to/key.pem.")
    try:
        private = load_pem_private_key(Path(path).read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            f"The DKIM key {path} cannot be read: {error}. It must be an unencrypted PEM file."
        ) from None
    if not isinstance(private, RSAPrivateKey | Ed25519PrivateKey):
        raise InvalidInput(f"The DKIM key {path} must be RSA (2048 bits) or Ed25519.")
    if isinstance(private, RSAPrivateKey) and private.key_size < MIN_RSA_BITS:
        raise InvalidInput(f"The DKIM key {path} has {private.key_size} bits; receivers want 2048.")
    return Key(selector, ascii_domain(domain), private)


def canonical_body(body: bytes) -> bytes:
    """The relaxed form of a body (RFC 6376, 3.4.4)."""
    # Not by regular expressions: these searches cost a fiftieth of one.
    if b"\t" in body:
        body = body.replace(b"\t", b" ")
    while b"  " in body:
        body = body.replace(b"  ", b" ")
    body = body.replace(b" \r\n", b"\r\n").rstrip(b" ")
    while body.endswith(b"\r\n\r\n"):
        body = body[:-2]
    if body and not body.endswith(b"\r\n"):
        body += b"\r\n"
    return b"" if body == b"\r\n" else body


def canonical_header(name: bytes, value: bytes) -> bytes:
    """The relaxed form of a header without its line end (RFC 6376, 3.4.2)."""
    return name.strip().lower() + b":" + _SPACE.sub(b" ", _FOLD.sub(b"", value)).strip()


def headers_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """(name in lower case, value as it stands) of a header block."""
    fields = _FOLD.sub(b"\x00", head).split(b"\r\n")
    split = (field.partition(b":") for field in fields if field)
    return [(name.strip().lower(), value.replace(b"\x00", b"\r\n")) for name, _, value in split]


def signing_input(headers: Sequence[tuple[bytes, bytes]], names: Sequence[bytes], signature: bytes) -> bytes:
    """What is signed: the named headers, the last occurrence first, then the signature's own, b= empty."""
    left: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        left.setdefault(name, []).append(value)
    lines = []
    for name in names:
        if values := left.get(name):
            lines.append(canonical_header(name, values.pop()) + b"\r\n")
    return b"".join(lines) + canonical_header(b"dkim-signature", signature)


class Signer:
    """Signs messages with all keys of an installation."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    def sign(self, content: bytes, now: datetime, tail: bytes = b"") -> bytes:
        """``content`` with its signatures in front; lines end in CRLF. ``tail`` is signed, not returned."""
        head, _, body = content.partition(b"\r\n\r\n")
        body += tail
        headers = headers_of(head)
        there = {name for name, _ in headers}
        # From once more: a second one would break the signature.
        names = [name for name in SIGNED if name in there] + [b"from"]
        listed = b":".join(names)
        digest = base64.b64encode(hashlib.sha256(canonical_body(body)).digest())
        seconds = b"%d" % int(now.timestamp())
        found = []
        for key in self._keys:
            value = b" v=1; a=%b; c=relaxed/relaxed; d=%b; s=%b;\r\n t=%b; h=%b;\r\n bh=%b;\r\n b=" % (
                key.algorithm.encode(),
                key.domain.encode(),
                key.selector.encode(),
                seconds,
                _folded(listed),
                digest,
            )
            signed = base64.b64encode(key.sign(signing_input(headers, names, value)))
            lines = b"\r\n ".join(signed[at : at + _B64_LINE] for at in range(0, len(signed), _B64_LINE))
            found.append(b"DKIM-Signature:%b%b\r\n" % (value, lines))
        return b"".join([*found, content])


@lru_cache(maxsize=16)
def _folded(names: bytes) -> bytes:
    """A long list of names over two lines; the space belongs to the relaxed form and is ignored in h=."""
    if len(names) < _B64_LINE:
        return names
    at = names.rindex(b":", 0, _B64_LINE) + 1
    return names[:at] + b"\r\n " + names[at:]


def signer(text: str) -> Signer | None:
    """The signer of ``HUILIU_DKIM_KEYS``, or None where mail is not signed (or a relay does it)."""
    keys = load_keys(text)
    return Signer(keys) if keys else None
