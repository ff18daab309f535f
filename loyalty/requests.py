"""Idempotency keys: the first answer to a key is given again to every repetition.

Guarantees: of several requests with one key at the same time, one does the work; the others wait
for its transaction and get its answer. The same key with another body is refused. A transaction
that rolls back frees its key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.errors import Conflict, InvalidInput
from loyalty.models import LoyaltyRequest
from loyalty.sets import insert_new

MAX_KEY = 128
_TABLE = LoyaltyRequest.__table__
assert isinstance(_TABLE, sa.Table)
_STORED = sa.select(_TABLE.c.request_hash, _TABLE.c.answer).where(_TABLE.c.key == sa.bindparam("key"))
_REMEMBER = sa.update(_TABLE).where(_TABLE.c.key == sa.bindparam("of")).values(answer=sa.bindparam("answer"))


def fingerprint(body: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a request's body, whatever the order of its fields."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def check_key(key: str) -> str:
    """The key, or InvalidInput when it is empty or too long to be kept."""
    if not key or len(key) > MAX_KEY:
        raise InvalidInput(
            f"An idempotency key of 1 to {MAX_KEY} characters is needed, a new one for every new request.",
            "idempotency_key",
        )
    return key


def other_body(key: str) -> Conflict:
    """The error of a key that comes back with another body."""
    return Conflict(
        f"The idempotency key “{key}” was used for another request. "
        "Send a new key with a new request, and the same body when you repeat one."
    )


def claim(session: Session, key: str, body: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
    """None when the key is new and now the caller's; else the answer that was given first.

    Call it before any lock is taken, and :func:`remember` before the transaction ends.
    """
    digest = fingerprint(body)
    row = {"key": check_key(key), "request_hash": digest, "answer": {}, "at": now}
    if insert_new(session, LoyaltyRequest.__table__, row, ["key"]) is not None:
        return None
    stored = session.execute(_STORED, {"key": key}).one()
    if stored.request_hash != digest:
        raise other_body(key)
    return dict(stored.answer)


def remember(session: Session, key: str, answer: Mapping[str, Any]) -> None:
    """Keep the answer of a key claimed in this transaction."""
    session.execute(_REMEMBER, {"of": key, "answer": dict(answer)})
