"""Receipts of messages whose answer was lost: a message that is ``unknown`` gets the provider's id.

A provider's receipt names the message by the provider's id, which we never learned. What else it tells
(our own id, else the number) finds the message, if exactly one can be meant; from then on receipts
find it by themselves. A receipt that comes before the message is given up for unknown waits, with what it
tells, in ``early_receipts``.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import events
from channels.callbacks.opt_out import OptOut, opt_out
from channels.events import Receipt
from channels.models import EarlyReceipt, Message
from channels.outbox import LEASED, UNKNOWN
from channels.render import client_id
from channels.sql import table_of
from core.bulk import update_each
from core.contacts import SMS
from core.db import among
from core.models import Member

KEPT = timedelta(hours=72)
EARLY_BATCH = 1_000
_CLUE = "clue"
SKEW = timedelta(minutes=10)
"""How far a provider's clock may be behind ours."""


@dataclass(frozen=True, slots=True)
class Clue:
    """What a receipt says of its message besides the provider's id."""

    provider: str
    provider_id: str
    at: datetime
    phone_index: str = ""
    """The number's blind index, or empty."""
    client_id: str = ""
    """Ours, or that of the first message of the same request, or empty."""


def adopt(session: Session, clues: Iterable[Clue]) -> int:
    """Give unknown messages the provider ids of their receipts; how many there were. Set-based; all clues
    of one call come from the same provider.
    """
    new = _unseen(session, {clue.provider_id: clue for clue in clues})
    if not new:
        return 0
    found = _by_client_id(session, new)
    rest = [clue for clue in new if clue.provider_id not in found.values() and clue.phone_index]
    found |= _by_phone(session, rest, found.keys())
    update_each(
        session,
        table_of(Message),
        "id",
        [{"id": number, "provider_id": name} for number, name in sorted(found.items())],
        where=f"messages.state = '{UNKNOWN}' AND messages.provider_id IS NULL",
    )
    return len(found)


def take(
    session: Session,
    receipts: Sequence[Receipt],
    replies: Sequence[OptOut],
    clues: Sequence[Clue],
    now: datetime,
) -> int:
    """Write what a provider told: receipts, with the messages that they find, and replies; the receipts
    that were new.
    """
    adopt(session, clues)
    applied = events.apply(session, receipts, now)
    if applied.early:
        remember(session, clues)
    opt_out(session, replies)
    return applied.new


def remember(session: Session, clues: Iterable[Clue]) -> None:
    """Keep what the receipts tell that now wait in ``early_receipts``."""
    by_name = {clue.provider_id: clue for clue in clues}
    if not by_name:
        return
    rows = session.execute(
        sa.select(EarlyReceipt.dedupe_key, EarlyReceipt.provider_id, EarlyReceipt.detail).where(
            among(session, EarlyReceipt.provider_id, sorted(by_name))
        )
    ).all()
    update_each(
        session,
        table_of(EarlyReceipt),
        "dedupe_key",
        [
            {"dedupe_key": key, "detail": {**detail, _CLUE: _written(by_name[name])}}
            for key, name, detail in sorted(rows, key=lambda row: row.dedupe_key)
        ],
    )


def adopt_early(session: Session) -> int:
    """:func:`adopt` for the receipts that wait; ``events.apply_early`` applies them afterwards."""
    rows = session.execute(
        sa.select(EarlyReceipt.provider_id, EarlyReceipt.at, EarlyReceipt.detail)
        .order_by(EarlyReceipt.received_at)
        .limit(EARLY_BATCH)
    ).all()
    by_provider: dict[str, list[Clue]] = {}
    for name, at, detail in rows:
        if told := detail.get(_CLUE):
            by_provider.setdefault(told[0], []).append(Clue(told[0], name, at, told[1], told[2]))
    return sum(adopt(session, clues) for clues in by_provider.values())


def _written(clue: Clue) -> list[str]:
    return [clue.provider, clue.phone_index, clue.client_id]


def _unseen(session: Session, clues: Mapping[str, Clue]) -> list[Clue]:
    known = set(
        session.scalars(
            sa.select(Message.provider_id).where(among(session, Message.provider_id, sorted(clues)))
        )
    )
    return [clue for name, clue in clues.items() if name not in known]


def _lost(provider: str) -> sa.ColumnElement[bool]:
    """Unknown messages that this provider may have; a lost worker leaves no provider's name."""
    return sa.and_(
        Message.state == UNKNOWN,
        Message.provider_id.is_(None),
        sa.or_(Message.provider == provider, Message.provider.is_(None)),
    )


def _by_client_id(session: Session, clues: Sequence[Clue]) -> dict[int, str]:
    """{message id: provider id} of receipts that carry the message's own id."""
    by_message: dict[int, list[Clue]] = {}
    for clue in clues:
        number = _message_of(clue.client_id)
        if number is not None:
            by_message.setdefault(number, []).append(clue)
    if not by_message:
        return {}
    rows = session.execute(
        sa.select(Message.id, Member.phone_index)
        .join(Member, Member.id == Message.member_id)
        .where(among(session, Message.id, sorted(by_message)), _lost(clues[0].provider))
    ).all()
    # The messages of a request share the id of its first: which of them is the first, the number says.
    return {
        number: clue.provider_id
        for number, index in rows
        for clue in by_message[number]
        if clue.phone_index in ("", index)
    }


def _message_of(name: str) -> int | None:
    """The message that one of our names names; None for what we never wrote."""
    head = name.partition(".")[0]
    if not (head.isascii() and head.isdecimal() and len(head) < 19):
        return None
    return int(head) if hmac.compare_digest(client_id(int(head)).encode(), name.encode()) else None


def _by_phone(session: Session, clues: Sequence[Clue], taken: Iterable[int]) -> dict[int, str]:
    """Those whose number has exactly one unknown message of the time, and none that is being sent."""
    if not clues:
        return {}
    used = set(taken)
    waiting: dict[str, list[Any]] = {}
    rows: Sequence[Any] = session.execute(
        sa.select(Message.id, Message.state, Message.handed_over_at, Member.phone_index)
        .join(Member, Member.id == Message.member_id)
        .where(
            among(session, Member.phone_index, sorted({clue.phone_index for clue in clues})),
            Message.channel == SMS,
            sa.or_(Message.state == LEASED, _lost(clues[0].provider)),
        )
    ).all()
    for row in rows:
        if row.id not in used:
            waiting.setdefault(row.phone_index, []).append(row)
    found: dict[int, str] = {}
    for clue in clues:
        candidates = [
            row
            for row in waiting.get(clue.phone_index, [])
            if row.state == LEASED or (row.handed_over_at and -SKEW <= clue.at - row.handed_over_at <= KEPT)
        ]
        # A message that is being sent may be the one: its own settlement will say.
        if len(candidates) == 1 and candidates[0].state == UNKNOWN and candidates[0].id not in found:
            found[candidates[0].id] = clue.provider_id
    return found
