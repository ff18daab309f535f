"""Signatures and encryption of WeChat's callbacks (its "safe mode"). Pure.

AES-256-CBC with the key's first half as IV, PKCS#7 to blocks of 32 bytes; the plaintext is 16 random
bytes, the message's length (4 bytes, big-endian), the message, and the appid it is for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core.errors import InvalidInput

KEY_CHARACTERS = 43
_RANDOM = 16
_BLOCK = 32


def signature(*parts: str) -> str:
    """sha1 of the sorted parts: token, timestamp, nonce, and the encrypted text where there is one."""
    return hashlib.sha1("".join(sorted(parts)).encode()).hexdigest()  # noqa: S324 - WeChat's own scheme


def is_signed(expected: str, found: str) -> bool:
    """Whether two signatures are the same, in constant time."""
    return hmac.compare_digest(expected.encode(), found.encode("utf-8", "replace"))


def encrypt(key: str, appid: str, message: bytes, random: bytes | None = None) -> str:
    """``message`` for ``appid`` as WeChat encrypts it. ``key`` has 43 characters; ``random`` 16 bytes."""
    secret = _key(key)
    text = (random or os.urandom(_RANDOM)) + len(message).to_bytes(4, "big") + message + appid.encode()
    padding = _BLOCK - len(text) % _BLOCK
    encryptor = Cipher(algorithms.AES(secret), modes.CBC(secret[:16])).encryptor()
    sealed = encryptor.update(text + bytes([padding]) * padding) + encryptor.finalize()
    return base64.b64encode(sealed).decode()


def decrypt(key: str, appid: str, encrypted: str) -> bytes:
    """The message. Raises InvalidInput when it cannot be opened or is for another account."""
    secret = _key(key)
    try:
        sealed = base64.b64decode(encrypted, validate=True)
        decryptor = Cipher(algorithms.AES(secret), modes.CBC(secret[:16])).decryptor()
        text = decryptor.update(sealed) + decryptor.finalize()
    except (binascii.Error, ValueError):
        raise InvalidInput("The encrypted callback is damaged.") from None
    padding = text[-1] if text else 0
    end = _RANDOM + 4 + int.from_bytes(text[_RANDOM : _RANDOM + 4], "big")
    if not 1 <= padding <= _BLOCK or end > len(text) - padding:
        raise InvalidInput("The encrypted callback cannot be opened: check HUILIU_WECHAT_AES_KEY.")
    if not hmac.compare_digest(text[end:-padding], appid.encode()):
        raise InvalidInput("The encrypted callback is for another account: check HUILIU_WECHAT_APPID.")
    return text[_RANDOM + 4 : end]


def _key(key: str) -> bytes:
    try:
        # Not validated: the 43rd character may carry bits that belong to no byte.
        found = base64.b64decode(f"{key}=") if len(key) == KEY_CHARACTERS else b""
    except binascii.Error:
        found = b""
    if len(found) != 32:
        raise InvalidInput("HUILIU_WECHAT_AES_KEY is the EncodingAESKey of the account: 43 characters.")
    return found
