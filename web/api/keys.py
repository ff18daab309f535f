"""Keys of the HTTP API: made, recognised, revoked. Only a key's SHA-256 is kept.

A key is ``hl_`` and 32 random bytes: nothing to guess, so a plain digest is enough and a look-up by it
leaks nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from core import audit
from core.errors import InvalidInput, NotFound
from web.models import ApiKey

INGEST, LOYALTY, READ, EXPERIMENTS = "ingest", "loyalty", "read", "experiments"
SCOPES = (INGEST, LOYALTY, READ, EXPERIMENTS)
"""Import rows; issue, redeem, earn and spend; look things up; make experiments and ask for arms."""
IMPLIED = {LOYALTY: (EXPERIMENTS,)}
"""What a scope brings along: experiments were part of ``loyalty`` before they had a scope of their own."""
MARK = "hl_"
PREFIX_CHARS = 10
KEPT = timedelta(seconds=2)
MAX_KNOWN = 1000
USED_EVERY = timedelta(minutes=5)
"""``last_used_at`` is this coarse, so that a busy key does not write on every request."""


@dataclass(frozen=True)
class Principal:
    """Who calls: the key's id, name and scopes; ``stale`` when its last use should be noted."""

    id: int
    name: str
    scopes: tuple[str, ...]
    stale: bool


def create(session: Session, name: str, scopes: Sequence[str], by: str, now: datetime) -> tuple[ApiKey, str]:
    """A new key: its row, and the key itself, which can be shown this once only."""
    if not 0 < len(name.strip()) <= 80:
        raise InvalidInput("Name the key in 1 to 80 characters, after the system that will use it.", "name")
    wrong = sorted(set(scopes) - set(SCOPES))
    if wrong or not scopes:
        raise InvalidInput(f"Choose one or more of the scopes {', '.join(SCOPES)}.", "scopes")
    secret = MARK + secrets.token_urlsafe(32)
    row = ApiKey(
        name=name.strip(),
        prefix=secret[:PREFIX_CHARS],
        digest=_digest(secret),
        scopes=sorted(set(scopes)),
        created_by=by,
        created_at=now,
    )
    session.add(row)
    session.flush()
    audit.record(session, by, "create", "api_key", row.id, now, {"name": row.name, "scopes": row.scopes})
    return row, secret


def verify(session: Session, secret: str, now: datetime) -> Principal | None:
    """Whose key it is, or None for an unknown or revoked one."""
    if not secret.startswith(MARK):
        return None
    row = session.execute(
        sa.select(ApiKey.id, ApiKey.name, ApiKey.scopes, ApiKey.last_used_at).where(
            ApiKey.digest == _digest(secret), ApiKey.revoked_at.is_(None)
        )
    ).one_or_none()
    if row is None:
        return None
    stale = row.last_used_at is None or now - row.last_used_at >= USED_EVERY
    brought = [other for scope in row.scopes for other in IMPLIED.get(scope, ())]
    return Principal(row.id, row.name, tuple(dict.fromkeys((*row.scopes, *brought))), stale)


class Known:
    """Whose keys were verified a moment ago: a busy system's key is not looked up for every request.

    A key that another process revokes works for at most ``KEPT`` more.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[Principal, datetime]] = {}

    def get(self, secret: str, now: datetime) -> Principal | None:
        """The key's principal, if it was put here less than ``KEPT`` ago."""
        kept = self._found.get(_digest(secret))
        return kept[0] if kept is not None and timedelta(0) <= now - kept[1] < KEPT else None

    def put(self, secret: str, principal: Principal, now: datetime) -> None:
        if len(self._found) >= MAX_KNOWN:
            self._found.clear()
        self._found[_digest(secret)] = (replace(principal, stale=False), now)

    def clear(self) -> None:
        """Look every key up again."""
        self._found.clear()


known = Known()
"""Of this process."""


def note_use(session: Session, key_id: int, now: datetime) -> None:
    """Remember that the key was used."""
    session.execute(
        sa.update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=now),
        execution_options={"synchronize_session": False},
    )


def revoke(session: Session, key_id: int, by: str, now: datetime) -> None:
    """End a key for good. Doing it again changes nothing. NotFound: no such key."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound(f"There is no API key {key_id}.")
    if row.revoked_at is None:
        row.revoked_at = now
        audit.record(session, by, "revoke", "api_key", key_id, now, {"name": row.name})
        # Also once it is committed: a request may have put the key back meanwhile.
        known.clear()
        event.listen(session, "after_commit", lambda _session: known.clear(), once=True)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
