"""Keys: encryption of contact details at rest, their blind index, and signed public tokens.

One 32-byte master key (``HUILIU_SECRET`` or ``home/secret.key``) yields the others by HKDF,
so that losing one derived key reveals nothing of the rest.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import HuiliuError
from core.settings import Settings

_VERSION = b"\x01"
_NONCE_BYTES = 12


class Keyring:
    """The derived keys of one master key."""

    def __init__(self, master: bytes) -> None:
        if len(master) != 32:
            raise HuiliuError(
                "The secret key must be 32 bytes in base64. Make one with `openssl rand -base64 32`."
            )
        self._aead = AESGCM(_derive(master, b"pii"))
        # Keyed once and copied: a third of what a new one takes, and a message is signed for ten times.
        self._index = HMAC(_derive(master, b"blind-index"), SHA256())
        self._token = HMAC(_derive(master, b"token"), SHA256())
        self.session_secret = _derive(master, b"session").hex()

    def encrypt(self, text: str) -> bytes:
        """AES-256-GCM with a random nonce: version byte, 12-byte nonce, ciphertext and tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._aead.encrypt(nonce, text.encode(), _VERSION)

    def decrypt(self, blob: bytes) -> str:
        try:
            nonce, body = blob[1 : 1 + _NONCE_BYTES], blob[1 + _NONCE_BYTES :]
            return self._aead.decrypt(nonce, body, _VERSION).decode()
        except InvalidTag:
            raise HuiliuError(
                "A contact detail cannot be decrypted: the secret key is not the one it was written with. "
                "Restore HUILIU_SECRET or the home folder's secret.key."
            ) from None

    def blind_index(self, kind: str, normalised: str) -> str:
        """Keyed hash (32 hex characters) by which an exact value is found without decrypting."""
        return _mac(self._index, f"{kind}:{normalised}").hex()[:32]

    def sign(self, purpose: str, payload: str) -> str:
        """A URL-safe token ``payload.signature``; ``purpose`` keeps one link's token from opening another."""
        body = base64.urlsafe_b64encode(payload.encode()).rstrip(b"=").decode()
        return f"{body}.{self._signature(purpose, body)}"

    def verify(self, purpose: str, token: str) -> str | None:
        """The payload of a token made by :meth:`sign` for the same purpose, or None."""
        body, _, signature = token.partition(".")
        if not signature or not hmac.compare_digest(signature, self._signature(purpose, body)):
            return None
        try:
            return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None

    def _signature(self, purpose: str, body: str) -> str:
        return base64.urlsafe_b64encode(_mac(self._token, f"{purpose}:{body}")[:18]).decode()


def _mac(keyed: HMAC, text: str) -> bytes:
    found = keyed.copy()
    found.update(text.encode())
    return found.finalize()


def _derive(master: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"huiliu " + info).derive(master)


_current: Keyring | None = None


def install(keyring: Keyring) -> None:
    """Make ``keyring`` the one that encrypted columns of this process use."""
    global _current
    _current = keyring


def keyring() -> Keyring:
    """The process's keyring, opened from the settings on first use."""
    global _current
    if _current is None:
        from core.settings import load

        _current = open_keyring(load())
    return _current


def open_keyring(settings: Settings) -> Keyring:
    """The keyring of ``settings``; makes ``home/secret.key`` (mode 0600) when there is none."""
    if settings.secret:
        try:
            return Keyring(base64.b64decode(settings.secret, validate=True))
        except binascii.Error:
            raise HuiliuError("HUILIU_SECRET is not base64.") from None
    path = settings.home / "secret.key"
    if not path.exists():
        _create_key(path)
    return Keyring(base64.b64decode(path.read_text().strip()))


def _create_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    try:
        os.link(temporary, path)  # atomic: readers see no half-written key, and the first of a race wins
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
