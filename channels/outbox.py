"""The outbox: messages, their states, and the one table of how states may change.

    queued ──→ leased ──→ sent ──→ delivered
      ↑          │ │ ├──→ unknown ──→ created | sent | delivered | failed   (a late answer)
      │          │ │ └──→ created ──→ sent | delivered | failed   (somebody confirms it, or nobody does)
      └─deferred─┘ └────→ failed | skipped        sent ──→ failed (a bounce)

"Deferred" is no state of its own: the message is queued again with a later ``not_before``. ``created``
is a task at the provider that an employee has to confirm: not sent, and perhaps never.
``delivered``, ``failed`` and ``skipped`` are final. Every change of state in the package is an
UPDATE guarded by :func:`states_before`, so that late or repeated news never turns one back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import utm
from channels.models import Account, Message, MessageEvent
from channels.sql import table_of
from core.bulk import bulk_count, bulk_insert
from core.contacts import CHANNELS
from core.db import among
from core.errors import InvalidInput

QUEUED, LEASED, SENT, DELIVERED = "queued", "leased", "sent", "delivered"
FAILED, SKIPPED, UNKNOWN, CREATED = "failed", "skipped", "unknown", "created"

TRANSITIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        QUEUED: frozenset({LEASED, SKIPPED}),
        LEASED: frozenset({QUEUED, CREATED, SENT, FAILED, SKIPPED, UNKNOWN}),
        UNKNOWN: frozenset({CREATED, SENT, DELIVERED, FAILED}),
        CREATED: frozenset({SENT, DELIVERED, FAILED}),
        SENT: frozenset({DELIVERED, FAILED}),
        DELIVERED: frozenset(),
        FAILED: frozenset(),
        SKIPPED: frozenset(),
    }
)
STATES = tuple(TRANSITIONS)
FINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)

KEEP, RESEND = "keep", "resend"
"""What an account does with messages whose provider never answered."""


def may_become(before: str, after: str) -> bool:
    """Whether the table allows this change."""
    return after in TRANSITIONS[before]


def states_before(after: str) -> tuple[str, ...]:
    """The states from which a message may become ``after``."""
    return tuple(state for state in STATES if after in TRANSITIONS[state])


class OutboxRow(NamedTuple):
    """A message to queue. ``dedupe_key`` is its natural key: a row with a known one is left out."""

    dedupe_key: str
    member_id: int
    channel: str
    purpose: str
    template_id: int
    template_version: int
    context: Mapping[str, Any]
    source_kind: str
    source_id: int
    fallback: Sequence[Mapping[str, Any]]
    quiet_hours: Mapping[str, Any] | None
    not_before: datetime
    expires_at: datetime | None
    created_at: datetime


_COLUMNS = (*OutboxRow._fields, "state", "attempts")
_NEW = (QUEUED, 0)


def enqueue(session: Session, rows: Iterable[OutboxRow]) -> int:
    """Queue messages; the number that were new. Made for batches of up to 50,000."""
    queued = (row + _NEW for row in rows)
    table = table_of(Message)
    return bulk_count(session, table, _COLUMNS, queued, conflict=("dedupe_key",))


def cancel(session: Session, source_kind: str, source_id: int, reason: str, now: datetime) -> int:
    """Skip what a source still has in the queue (messages under way are not stopped); how many."""
    found: Any = session.execute(
        sa.update(Message)
        .where(Message.source_kind == source_kind, Message.source_id == source_id, Message.state == QUEUED)
        .values(state=SKIPPED, reason=reason, settled_at=now)
    )
    return int(found.rowcount)


def retry(session: Session, message_id: int, now: datetime) -> bool:
    """An operator sends a failed or unknown message again, as a message of its own; whether it was new.

    The old row keeps its state: what happened to it is history.
    """
    old = session.get(Message, message_id)
    if old is None or old.state not in (FAILED, UNKNOWN):
        raise InvalidInput("Only a message that failed or got no answer can be sent again.", "message_id")
    row = OutboxRow(
        f"retry:{old.id}",
        old.member_id,
        old.channel,
        old.purpose,
        old.template_id,
        old.template_version,
        old.context,
        old.source_kind,
        old.source_id,
        old.fallback,
        old.quiet_hours,
        now,
        None,
        now,
    )
    return enqueue(session, [row]) == 1


def account(session: Session, channel: str) -> Account:
    """The channel's switch, made on first use."""
    if channel not in CHANNELS:
        raise InvalidInput(f"“{channel}” is not a channel; use one of {', '.join(CHANNELS)}.", "channel")
    bulk_insert(
        session, table_of(Account), ("channel", "on_unknown"), [(channel, KEEP)], conflict=("channel",)
    )
    return session.execute(
        sa.select(Account).where(Account.channel == channel).execution_options(populate_existing=True)
    ).scalar_one()


def pause(session: Session, channel: str, reason: str, now: datetime) -> bool:
    """Send nothing more by this channel until :func:`resume`; whether it was on. The first reason stays."""
    known = account(session, channel)
    if known.paused_at is not None:
        return False
    known.paused_at, known.paused_reason = now, reason[:300]
    session.flush()
    return True


def resume(session: Session, channel: str) -> None:
    """Send again by this channel."""
    known = account(session, channel)
    known.paused_at = known.paused_reason = None
    session.flush()


def set_on_unknown(session: Session, channel: str, choice: str) -> None:
    """``keep``: at most once. ``resend``: at least once, with the same Message-ID or client id."""
    if choice not in (KEEP, RESEND):
        raise InvalidInput("on_unknown must be keep or resend.", "on_unknown")
    account(session, channel).on_unknown = choice
    session.flush()


class EventRow(NamedTuple):
    """Something that happened to a message; a known ``dedupe_key`` is left out."""

    message_id: int
    kind: str
    at: datetime
    dedupe_key: str
    actor: str
    detail: Mapping[str, Any]


def add_events(session: Session, rows: Iterable[EventRow]) -> None:
    """Record events of messages; repetitions change nothing."""
    bulk_insert(session, table_of(MessageEvent), EventRow._fields, rows, conflict=("dedupe_key",))


def enqueue_fallbacks(session: Session, message_ids: Iterable[int], now: datetime) -> int:
    """Queue the next channel's message for those of ``message_ids`` that name one; how many were new."""
    messages = session.execute(
        sa.select(Message)
        .where(among(session, Message.id, message_ids))
        .execution_options(populate_existing=True)
    ).scalars()
    rows = [
        OutboxRow(
            f"fallback:{old.id}",
            old.member_id,
            old.fallback[0]["channel"],
            old.purpose,
            old.fallback[0]["template_id"],
            old.fallback[0]["template_version"],
            utm.moved(old.context, old.channel, old.fallback[0]["channel"]),
            old.source_kind,
            old.source_id,
            old.fallback[1:],
            old.quiet_hours,
            now,
            old.expires_at,
            now,
        )
        for old in messages
        if old.fallback and (old.expires_at is None or old.expires_at > now)
    ]
    return enqueue(session, rows) if rows else 0
