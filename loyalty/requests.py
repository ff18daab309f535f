"""Idempotency keys: the first answer to a key is given again to every repetition.

Guarantees: of several requests with one key at the same time, one does the work; the others wait
for its transaction and get its answer. The same key with another body is refused. A transaction
that rolls back frees its key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert, update_each
from core.db import among
from core.errors import Conflict, InvalidInput
from loyalty.models import LoyaltyRequest

MAX_KEY = 128
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode
_TABLE = LoyaltyRequest.__table__


def fingerprint(body: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a request's body, whatever the order of its fields."""
    return hashlib.sha256(_encode(body).encode()).hexdigest()


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
    return repeated(claim_many(session, {check_key(key): digest}, now).get(key), key, digest)


def claim_many(session: Session, digests: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """Of keys (each with its body's fingerprint) those that were used before, with what is stored of them;
    the others are now the caller's. In order of the keys: two who want the same ones do not block each other.
    """
    answer: dict[str, Any] = {}
    rows = ((key, digest, answer, now) for key, digest in sorted(digests.items()))
    new = bulk_insert(
        session, _TABLE, ("key", "request_hash", "answer", "at"), rows, conflict=["key"], returning=["key"]
    )
    others = digests.keys() - {key for (key,) in new}
    if not others:
        return {}
    stored = sa.select(_TABLE).where(among(session, _TABLE.c.key, sorted(others)))
    return {row.key: row for row in session.execute(stored)}


def repeated(stored: Any, key: str, digest: str) -> dict[str, Any] | None:
    """The answer of a key that was used before; None where it was not; Conflict where for another body."""
    if stored is None:
        return None
    if stored.request_hash != digest:
        raise other_body(key)
    return dict(stored.answer)


def remember(session: Session, key: str, answer: Mapping[str, Any]) -> None:
    """Keep the answer of a key claimed in this transaction."""
    remember_many(session, {key: answer})


def remember_many(session: Session, answers: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the answers of keys claimed in this transaction."""
    rows = [{"key": key, "answer": dict(answer)} for key, answer in sorted(answers.items())]
    update_each(session, _TABLE, "key", rows)


def give_up(session: Session, keys: Collection[str]) -> None:
    """Free keys claimed in this transaction, where their requests were refused and others go on."""
    if keys:
        session.execute(sa.delete(LoyaltyRequest).where(among(session, LoyaltyRequest.key, sorted(keys))))
