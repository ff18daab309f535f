"""What comes back: receipts, bounces, opens, clicks, unsubscribes; each counted once.

Every receipt has a ``dedupe_key``; only the first with that key changes anything. States move by
the outbox's transition table alone. A receipt that overtakes the settlement of its message waits
in ``early_receipts`` until :func:`apply_early` finds the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import outbox
from channels.consent import MARKETING, SuppressionRow, set_many, suppress_many
from channels.models import Consent, EarlyReceipt, Message, MessageEvent
from channels.outbox import DELIVERED, FAILED, SENT, EventRow
from channels.sql import mark_touches, table_of
from channels.tracking import HUMAN
from core.bulk import bulk_insert
from core.contacts import ADDRESS_COLUMN
from core.db import among
from core.imports import ConsentChange
from core.models import Member

OPENED, CLICKED, UNSUBSCRIBED = "opened", "clicked", "unsubscribed"
HARD_BOUNCE, SOFT_BOUNCE, COMPLAINT, UNDELIVERED = "hard_bounce", "soft_bounce", "complaint", "undelivered"
UNFRIENDED, NOT_CONFIRMED = "unfriended", "not_confirmed"
"""Of a message that an employee sends: its member is no contact any more; nobody confirmed it in time."""
KINDS = (
    *(DELIVERED, OPENED, CLICKED, UNSUBSCRIBED, HARD_BOUNCE, SOFT_BOUNCE, COMPLAINT, UNDELIVERED),
    *(SENT, UNFRIENDED, NOT_CONFIRMED),
)

NEW_STATE: Mapping[str, str] = MappingProxyType(
    {
        SENT: SENT,
        DELIVERED: DELIVERED,
        **dict.fromkeys((HARD_BOUNCE, SOFT_BOUNCE, UNDELIVERED, UNFRIENDED, NOT_CONFIRMED), FAILED),
    }
)
"""What a receipt makes of its message's state, where the table allows it."""
SUPPRESSION: Mapping[str, str] = MappingProxyType(
    {HARD_BOUNCE: "hard_bounce", COMPLAINT: "complaint", UNFRIENDED: "unfollowed"}
)
WITHDRAWS = frozenset({UNSUBSCRIBED, COMPLAINT})
"""Receipts after which the member gets no more marketing by that channel."""
EARLY_KEPT = timedelta(days=3)
EARLY_BATCH = 1_000


@dataclass(frozen=True)
class Receipt:
    """Something reported of a message, named by our ``message_id`` or by the ``provider_id``."""

    kind: str
    at: datetime
    dedupe_key: str
    message_id: int | None = None
    provider_id: str | None = None
    actor: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Applied:
    """How many receipts were new, repeated, and of messages not (yet) known."""

    new: int = 0
    repeated: int = 0
    early: int = 0


def apply(session: Session, receipts: Iterable[Receipt], now: datetime) -> Applied:
    """Apply receipts, each once; set-based for any number up to a few thousand."""
    listed = list({receipt.dedupe_key: receipt for receipt in receipts}.values())
    known, unknown = _resolve(session, listed)
    _keep_early(session, unknown, now)
    new = _record(session, known)
    if new:
        _act(session, new, now)
    return Applied(len(new), len(known) - len(new), len(unknown))


def _resolve(session: Session, receipts: Sequence[Receipt]) -> tuple[list[Receipt], list[Receipt]]:
    """(with their message ids, of messages not there)."""
    named = {
        receipt.provider_id for receipt in receipts if receipt.message_id is None and receipt.provider_id
    }
    found: dict[str, int] = {}
    if named:
        found = {
            str(provider_id): message_id
            for provider_id, message_id in session.execute(
                sa.select(Message.provider_id, Message.id).where(
                    among(session, Message.provider_id, sorted(named))
                )
            )
        }
    ids = {receipt.message_id for receipt in receipts if receipt.message_id is not None}
    there = (
        set(session.scalars(sa.select(Message.id).where(among(session, Message.id, sorted(ids)))))
        if ids
        else set()
    )
    known, unknown = [], []
    for receipt in receipts:
        if receipt.message_id is not None:
            if receipt.message_id in there:
                known.append(receipt)
        elif receipt.provider_id in found:
            known.append(replace(receipt, message_id=found[receipt.provider_id]))
        elif receipt.provider_id:
            unknown.append(receipt)
    return known, unknown


def _keep_early(session: Session, receipts: Sequence[Receipt], now: datetime) -> None:
    if receipts:
        bulk_insert(
            session,
            table_of(EarlyReceipt),
            ("dedupe_key", "provider_id", "kind", "at", "detail", "received_at"),
            [(r.dedupe_key, r.provider_id, r.kind, r.at, dict(r.detail), now) for r in receipts],
            conflict=("dedupe_key",),
        )


def apply_early(session: Session, now: datetime) -> Applied:
    """Apply the receipts that came before their message was settled; forget those of nobody's message."""
    rows = session.execute(
        sa.select(EarlyReceipt)
        .where(
            sa.or_(
                EarlyReceipt.received_at < now - EARLY_KEPT,
                EarlyReceipt.provider_id.in_(
                    sa.select(Message.provider_id).where(Message.provider_id == EarlyReceipt.provider_id)
                ),
            )
        )
        .limit(EARLY_BATCH)
    ).scalars()
    receipts = [
        Receipt(row.kind, row.at, row.dedupe_key, provider_id=row.provider_id, detail=row.detail)
        for row in rows
    ]
    if not receipts:
        return Applied()
    keys = [receipt.dedupe_key for receipt in receipts]
    session.execute(sa.delete(EarlyReceipt).where(among(session, EarlyReceipt.dedupe_key, keys)))
    known, _ = _resolve(session, receipts)
    new = _record(session, known)
    if new:
        _act(session, new, now)
    return Applied(len(new), len(known) - len(new))


def _record(session: Session, receipts: Sequence[Receipt]) -> list[Receipt]:
    """Write the events; those that were new."""
    rows = [
        EventRow(
            receipt.message_id or 0,
            receipt.kind,
            receipt.at,
            receipt.dedupe_key,
            receipt.actor,
            receipt.detail,
        )
        for receipt in receipts
    ]
    if not rows:
        return []
    added = bulk_insert(
        session,
        table_of(MessageEvent),
        EventRow._fields,
        rows,
        conflict=("dedupe_key",),
        returning=("dedupe_key",),
    )
    keys = {row[0] for row in added}
    return [receipt for receipt in receipts if receipt.dedupe_key in keys]


def _act(session: Session, new: Sequence[Receipt], now: datetime) -> None:
    """State, suppression, consent, next channel and warehouse's mark for receipts that are news."""
    for state in (SENT, DELIVERED, FAILED):
        ids = [receipt.message_id for receipt in new if NEW_STATE.get(receipt.kind) == state]
        if ids:
            _move(session, ids, state, {r.message_id: _reason(r) for r in new}, now)
    telling = [r for r in new if r.kind not in (OPENED, CLICKED) or r.actor == HUMAN]
    messages = {
        row.id: row
        for row in session.execute(
            sa.select(
                Message.id, Message.channel, Message.member_id, Message.created_at, Message.sent_at
            ).where(among(session, Message.id, {r.message_id for r in telling}))
        )
    }
    months = {
        f"{row.created_at:%Y-%m}": row.created_at for row in messages.values() if row.sent_at is not None
    }
    mark_touches(session, months.values())
    _suppress(session, [r for r in new if r.kind in SUPPRESSION], messages)
    set_many(
        session,
        [
            ConsentChange(
                messages[r.message_id].member_id,
                messages[r.message_id].channel,
                MARKETING,
                False,
                f"message:{r.kind}",
                r.at,
            )
            for r in new
            if r.kind in WITHDRAWS and r.message_id is not None
        ],
    )


def _reason(receipt: Receipt) -> str:
    if receipt.kind == NOT_CONFIRMED:
        return NOT_CONFIRMED
    return f"{receipt.kind}: {receipt.detail.get('code', '')} {receipt.detail.get('reason', '')}".strip()[
        :200
    ]


def _move(
    session: Session, ids: Sequence[int | None], state: str, reasons: Mapping[int | None, str], now: datetime
) -> None:
    """Change states where the table allows, and try the next channel for what has just failed."""
    values: dict[str, Any] = {"state": state, "settled_at": now}
    if state == DELIVERED:
        # A receipt proves the sending that nobody had settled.
        values |= {"sent_at": sa.func.coalesce(Message.sent_at, now), "reason": None}
    elif state == SENT:
        told = sa.select(sa.func.min(MessageEvent.at)).where(
            MessageEvent.message_id == Message.id, MessageEvent.kind == SENT
        )
        values |= {"sent_at": told.correlate(Message).scalar_subquery(), "reason": None}
    moved = session.scalars(
        sa.update(Message)
        .where(
            among(session, Message.id, ids),
            Message.state.in_(outbox.states_before(state)),
            Message.state != "leased",
        )
        .values(**values)
        .returning(Message.id)
    ).all()
    if state == FAILED and moved:
        for reason in sorted({reasons[number] for number in moved}):
            same = [number for number in moved if reasons[number] == reason]
            session.execute(sa.update(Message).where(among(session, Message.id, same)).values(reason=reason))
        outbox.enqueue_fallbacks(session, moved, now)


def _suppress(session: Session, receipts: Sequence[Receipt], messages: Mapping[int, Any]) -> None:
    """Suppress the addresses that bounced or complained, as the members have them now."""
    by_channel: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        if receipt.message_id is not None:
            by_channel.setdefault(messages[receipt.message_id].channel, []).append(receipt)
    for channel, found in by_channel.items():
        index = getattr(Member, f"{ADDRESS_COLUMN[channel]}_index")
        ids = {messages[r.message_id].member_id for r in found if r.message_id is not None}
        rows = session.execute(
            sa.select(Member.id, index).where(among(session, Member.id, ids), index.is_not(None))
        ).all()
        indexes: dict[int, str] = {row[0]: row[1] for row in rows}
        suppress_many(
            session,
            [
                SuppressionRow(
                    channel,
                    indexes[member_id],
                    SUPPRESSION[r.kind],
                    "receipt",
                    r.at,
                    {"message_id": r.message_id},
                )
                for r in found
                if r.message_id is not None and (member_id := messages[r.message_id].member_id) in indexes
            ],
        )


def unsubscribe(session: Session, message_id: int, now: datetime, how: str) -> bool:
    """The member of a message leaves its channel's marketing; whether the message exists.

    Pressed again, it changes nothing; pressed again after a new consent, it withdraws that.
    """
    message = session.get(Message, message_id)
    if message is None:
        return False
    receipt = Receipt(UNSUBSCRIBED, now, f"unsubscribed:{message_id}", message_id, detail={"how": how})
    new = apply(session, [receipt], now).new
    if not new and is_granted(session, message.member_id, message.channel):
        row = ConsentChange(message.member_id, message.channel, MARKETING, False, f"message:{how}", now)
        set_many(session, [row])
    return True


def is_granted(session: Session, member_id: int, channel: str) -> bool:
    """Whether the member agrees to this channel's marketing now."""
    return bool(
        session.scalar(
            sa.select(Consent.granted).where(
                Consent.member_id == member_id, Consent.channel == channel, Consent.purpose == MARKETING
            )
        )
    )
