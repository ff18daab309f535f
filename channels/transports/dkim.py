"""DKIM signatures (RFC 6376, Ed25519: RFC 8463): relaxed/simple, one header a key.

The body is signed as it stands: ours are quoted-printable and base64, without spaces at lines' ends
that a relay could lose, and looking for them took as long as two hashes of the body.

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
_PADDING, _HASH = padding.PKCS1v15(), SHA256()
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
            return self.private.sign(data, _PADDING, _HASH)
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
    """The simple form of a body (RFC 6376, 3.4.3): one line end at its end, whatever was there."""
    if body.endswith(b"\r\n") and not body.endswith(b"\r\n\r\n"):
        return body
    while body.endswith(b"\r\n"):
        body = body[:-2]
    return body + b"\r\n"


def canonical_headers(head: bytes) -> list[tuple[bytes, bytes]]:
    """(name, value) of a header block, both in the relaxed form (RFC 6376, 3.4.2)."""
    if b"\r\n " in head or b"\r\n\t" in head:
        head = _FOLD.sub(b"", head)
    # By searches: a regular expression a header costs several times as much.
    if b"\t" in head:
        head = head.replace(b"\t", b" ")
    while b"  " in head:
        head = head.replace(b"  ", b" ")
    split = [line.partition(b":") for line in head.split(b"\r\n") if line]
    return [(name.strip().lower(), value.strip()) for name, _, value in split]


def signing_input(headers: Sequence[tuple[bytes, bytes]], names: Sequence[bytes], signature: bytes) -> bytes:
    """What is signed: the named headers, the last occurrence first, then the signature's own, b= empty.

    ``headers`` and ``signature`` are in their relaxed form.
    """
    left: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        left.setdefault(name, []).append(value)
    found = [name + b":" + left[name].pop() for name in names if left.get(name)]
    return b"\r\n".join([*found, b"dkim-signature:" + signature])


@lru_cache(maxsize=64)
def _fields(key: Key, seconds: int, names: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """A signature's value up to its body hash: as it is written, and in the relaxed form.

    Cached because a batch shares it: messages of one time with the same headers.
    """
    written = b" v=1; a=%b; c=relaxed/simple; d=%b; s=%b;\r\n t=%d; h=%b;\r\n bh=" % (
        key.algorithm.encode(),
        key.domain.encode(),
        key.selector.encode(),
        seconds,
        _folded(b":".join(names)),
    )
    ((_, relaxed),) = canonical_headers(b"dkim-signature:" + written)
    return written, relaxed


class Signer:
    """Signs messages with all keys of an installation."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    def sign(self, content: bytes, now: datetime, tail: bytes = b"") -> bytes:
        """``content`` with its signatures in front; lines end in CRLF. ``tail`` is signed, not returned."""
        head, _, body = content.partition(b"\r\n\r\n")
        body += tail
        headers = canonical_headers(head)
        there = {name for name, _ in headers}
        # From once more: a second one would break the signature.
        names = (*[name for name in SIGNED if name in there], b"from")
        digest = base64.b64encode(hashlib.sha256(canonical_body(body)).digest())
        seconds = int(now.timestamp())
        found = []
        for key in self._keys:
            written, relaxed = _fields(key, seconds, names)
            data = signing_input(headers, names, b"%b%b; b=" % (relaxed, digest))
            signed = base64.b64encode(key.sign(data))
            lines = b"\r\n ".join([signed[at : at + _B64_LINE] for at in range(0, len(signed), _B64_LINE)])
            found.append(b"DKIM-Signature:%b%b;\r\n b=%b\r\n" % (written, digest, lines))
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
