"""Keys: what was stored and sent under an earlier release is still found and still opens."""

from __future__ import annotations

import hashlib
import hmac

from core.crypto import Keyring, _derive

MASTER = bytes(range(32))


def test_indexes_and_tokens_are_those_of_the_first_release() -> None:
    keys = Keyring(MASTER)
    assert keys.blind_index("email", "a@example.com") == "5e2339f85f1f33aa383aefd211f0f7bd"
    token = "NzpodHRwczovL3Nob3AuZXhhbXBsZS8.UuD9pweCt_c5_nIN6Seu3Ske"
    assert keys.sign("click", "7:https://shop.example/") == token
    assert keys.verify("click", token) == "7:https://shop.example/"
    assert keys.verify("open", token) is None


def test_a_keyed_hash_is_hmac_and_nothing_of_one_stays_for_the_next() -> None:
    keys = Keyring(MASTER)
    for text in ("a", "a", "好" * 100, ""):
        whole = hmac.new(_derive(MASTER, b"blind-index"), f"phone:{text}".encode(), hashlib.sha256)
        assert keys.blind_index("phone", text) == whole.hexdigest()[:32]
