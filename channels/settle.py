"""Settling a batch: what each outcome means (pure), and one short transaction that writes it.

A message's new state, its event, a suppression, the pause of the account, the stop of its source,
the next channel's message and the warehouse's mark stand or fall together.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import outbox
from channels.bounces import book
from channels.bounces.classify import Kind
from channels.claim import Claimed, release
from channels.consent import MARKETING, SuppressionRow, set_many, suppress_many
from channels.models import Account, Message
from channels.outbox import CREATED, FAILED, KEEP, LEASED, QUEUED, SENT, SKIPPED, UNKNOWN, EventRow
from channels.sql import mark_touches, table_of
from channels.transports.base import Outcome, Reaction, TransportError
from core import audit
from core.bulk import update_each
from core.contacts import EMAIL, SMS, WEBHOOK, WECHAT, WECOM
from core.db import among
from core.imports import ConsentChange
from core.models import Todo

_HOUR = 3600.0
BACKOFF_S: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        EMAIL: (300.0, 900.0, _HOUR, 4 * _HOUR, *[8 * _HOUR] * 8),
        SMS: (30.0, 120.0, 600.0, 1800.0, _HOUR),
        # Inside the ten minutes in which WeChat drops a repeated client_msg_id.
        WECHAT: (15.0, 60.0, 240.0),
        WEBHOOK: (30.0, 120.0, 600.0, 1800.0, _HOUR, 4 * _HOUR),
        WECOM: (60.0, 300.0, 1800.0, _HOUR),
    }
)
"""Seconds before the next attempt, by channel; after the last one the message has failed."""
JITTER = 0.2
HOLD_JITTER = 0.02
"""What was held back has an order of its own already."""
STOP_QUEUE = "campaigns.stop"
"""The to-do queue in which campaigns find the run that a provider refused as a whole."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of a message: its row, and what else its outcome asks for."""

    message: Claimed
    state: str
    reason: str | None = None
    code: str = ""
    provider_id: str | None = None
    not_before: datetime | None = None
    attempted: bool = True
    perhaps_sent_at: datetime | None = None
    """When a message that is queued again may already have reached the provider."""
    suppression: str | None = None
    bounce: str = ""
    """The class of a refused e-mail that counts against its address."""
    stop: bool = False
    pause: bool = False
    fall_back: bool = False
    provider: str | None = None
    """Who answered, where it is not the transport itself."""
    withdraws: bool = False
    """The provider says that the member left this channel's marketing."""


def decide(
    message: Claimed,
    outcome: Outcome,
    channel: str,
    on_unknown: str,
    idempotent: bool,
    now: datetime,
    chance: float,
) -> Settlement:
    """What an outcome means for a message. Pure; ``chance`` (0 to 1) spreads the retries."""
    error = outcome.error
    if error is None:
        state = CREATED if outcome.created else SENT
        found = Settlement(message, state, provider_id=outcome.provider_id)
    else:
        keep = on_unknown == KEEP and not (idempotent and error.repeatable)
        found = _refused(message, error, channel, keep, now, chance)
    withdraws = error is not None and error.withdraws
    if outcome.provider is None and not withdraws:
        return found
    return replace(found, provider=outcome.provider, withdraws=withdraws)


def _refused(
    message: Claimed, error: TransportError, channel: str, keep_unknown: bool, now: datetime, chance: float
) -> Settlement:
    reason, code, reaction = str(error)[:200], error.code, error.reaction
    match reaction:
        case Reaction.RETURN | Reaction.UNREACHABLE | Reaction.PAUSE:
            return Settlement(
                message,
                QUEUED,
                reason,
                code,
                not_before=now,
                attempted=False,
                perhaps_sent_at=message.handed_over_at,
                pause=reaction is Reaction.PAUSE,
            )
        case Reaction.HOLD:
            due = now + timedelta(seconds=(error.after_s or 0.0) * (1 + HOLD_JITTER * chance))
            return Settlement(
                message,
                QUEUED,
                reason,
                code,
                not_before=due,
                attempted=False,
                perhaps_sent_at=message.handed_over_at,
            )
        case Reaction.STOP:
            return Settlement(message, FAILED, reason, code, stop=True)
        case Reaction.SUPPRESS:
            return Settlement(message, FAILED, reason, code, suppression=error.suppression, fall_back=True)
        case Reaction.FAIL:
            return Settlement(message, FAILED, reason, code, bounce=error.bounce, fall_back=True)
        case Reaction.UNKNOWN if keep_unknown:
            return Settlement(message, UNKNOWN, reason, code)
        case _:
            return _again(message, error, channel, now, chance)


def _again(message: Claimed, error: TransportError, channel: str, now: datetime, chance: float) -> Settlement:
    waits, reason, code = BACKOFF_S[channel], str(error)[:200], error.code
    silent = error.reaction is Reaction.UNKNOWN
    # What was silent to the last is not known to have failed, so nothing else may be sent for it.
    end, fall_back = (UNKNOWN, False) if silent else (FAILED, True)
    bounce = "" if silent else str(Kind.EXPIRED)
    if message.attempts >= len(waits):
        text = f"gave up after {message.attempts + 1} attempts: {reason}"[:200]
        return Settlement(message, end, text, code, bounce=bounce, fall_back=fall_back)
    wait = error.after_s if error.after_s is not None else waits[message.attempts]
    due = now + timedelta(seconds=wait * (1 + JITTER * chance))
    if message.expires_at is not None and due >= message.expires_at:
        return Settlement(message, end, f"expired: {reason}"[:200], code, fall_back=fall_back)
    perhaps = (message.handed_over_at or now) if silent else None
    return Settlement(message, QUEUED, reason, code, not_before=due, perhaps_sent_at=perhaps)


def settle(
    session: Session,
    channel: str,
    provider: str,
    owner: str,
    settlements: Sequence[Settlement],
    now: datetime,
    handed_over_at: datetime | None = None,
) -> None:
    """Write a batch's settlements and end its lease; messages that somebody took over keep their new state.

    A message that somebody called unknown in between still becomes sent or failed: that is news.
    ``handed_over_at``: when the provider was asked.
    """
    _update(session, provider, owner, settlements, now, handed_over_at)
    release(session, owner)
    outbox.add_events(session, [_event(found, provider, now) for found in settlements if found.attempted])
    sent = [found.message.created_at for found in settlements if found.state == SENT]
    months = {(at.year, at.month): at for at in sent}
    mark_touches(session, months.values())
    suppress_many(
        session,
        [
            SuppressionRow(
                channel,
                found.message.address_index,
                found.suppression,
                found.provider or provider,
                now,
                {"code": found.code, "reason": found.reason, "message_id": found.message.message_id},
            )
            for found in settlements
            if found.suppression is not None
        ],
    )
    set_many(
        session,
        [
            ConsentChange(
                found.message.member.id,
                channel,
                MARKETING,
                False,
                f"{found.provider or provider}:{found.code}"[:60],
                now,
            )
            for found in settlements
            if found.withdraws
        ],
    )
    if channel == EMAIL:
        _count_bounces(session, channel, provider, [found for found in settlements if found.bounce], now)
    for found in settlements:
        if found.pause:
            why = f"{found.code}: {found.reason}"
            if outbox.pause(session, channel, why, now):
                by = found.provider or provider
                audit.record(session, by, "channel.pause", "channel", channel, now, {"reason": why[:300]})
            break
    _stop_sources(session, channel, [found for found in settlements if found.stop], now)
    falling = [
        found.message.message_id for found in settlements if found.fall_back and found.message.has_fallback
    ]
    if falling:
        outbox.enqueue_fallbacks(session, falling, now)


def _count_bounces(
    session: Session, channel: str, provider: str, settlements: Sequence[Settlement], now: datetime
) -> None:
    """A refusal at send time is a bounce as well."""
    book.count(
        session,
        channel,
        [
            book.Bounced(
                found.message.address_index,
                found.message.member.id,
                found.bounce,
                found.code,
                now,
                {"reason": found.reason, "message_id": found.message.message_id},
            )
            for found in settlements
        ],
        provider,
        now,
    )


def _update(
    session: Session,
    provider: str,
    owner: str,
    settlements: Sequence[Settlement],
    now: datetime,
    handed_over_at: datetime | None,
) -> None:
    plain = [
        found.message.message_id
        for found in settlements
        if found.state == SENT and found.provider_id is None and found.provider is None
    ]
    if plain:
        session.execute(
            sa.update(Message)
            .where(
                among(session, Message.id, plain),
                Message.lease_owner == owner,
                Message.state.in_((LEASED, UNKNOWN)),
            )
            .values(
                state=SENT,
                reason=None,
                provider=provider,
                sent_at=now,
                settled_at=now,
                lease_until=None,
                attempts=Message.attempts + sa.case((Message.state == LEASED, 1), else_=0),
                handed_over_at=sa.func.coalesce(Message.handed_over_at, handed_over_at),
            ),
            execution_options={"synchronize_session": False},
        )
    others = [
        found
        for found in settlements
        if found.state != SENT or found.provider_id is not None or found.provider is not None
    ]
    for again in (False, True):
        rows = [
            _row(found, provider, now, handed_over_at) for found in others if (found.state == QUEUED) is again
        ]
        states = f"'{LEASED}'" if again else f"'{LEASED}', '{UNKNOWN}'"
        update_each(
            session,
            table_of(Message),
            "id",
            rows,
            where=f"messages.lease_owner = :owner AND messages.state IN ({states})",
            params={"owner": owner},
        )


def _row(found: Settlement, provider: str, now: datetime, handed_over_at: datetime | None) -> dict[str, Any]:
    again = found.state == QUEUED
    row = {
        "id": found.message.message_id,
        "state": found.state,
        "reason": found.reason,
        "provider": found.provider or provider,
        "provider_id": found.provider_id,
        "sent_at": now if found.state == SENT else None,
        "settled_at": None if again or found.state == CREATED else now,
        "lease_until": None,
        "attempts": found.message.attempts + int(found.attempted),
        "handed_over_at": found.message.handed_over_at or handed_over_at,
    }
    if again:
        row |= {
            "not_before": found.not_before or now,
            "lease_owner": None,
            "handed_over_at": found.perhaps_sent_at,
        }
    return row


def _event(found: Settlement, provider: str, now: datetime) -> EventRow:
    number = found.message.message_id
    kind = "deferred" if found.state == QUEUED else found.state
    detail: dict[str, Any] = {"provider": found.provider or provider}
    if found.reason is not None:
        detail |= {"reason": found.reason, "code": found.code}
    if found.bounce:
        detail["class"] = found.bounce
    return EventRow(number, kind, now, f"{kind}:{number}:{found.message.attempts + 1}", "", detail)


def _stop_sources(session: Session, channel: str, stops: Iterable[Settlement], now: datetime) -> None:
    """The rest of a refused template's messages would be refused too: skip them, and tell campaigns."""
    by_source = {
        (found.message.source_kind, found.message.source_id, found.message.template_id): found
        for found in stops
    }
    for (kind, source_id, template_id), found in sorted(by_source.items()):
        session.execute(
            sa.update(Message)
            .where(
                Message.source_kind == kind,
                Message.source_id == source_id,
                Message.channel == channel,
                Message.template_id == template_id,
                Message.state == QUEUED,
            )
            .values(state=SKIPPED, reason=f"stopped: {found.code} {found.reason}"[:200], settled_at=now)
        )
        if kind == "run":
            session.add(Todo(queue=STOP_QUEUE, subject_id=source_id))
    session.flush()


def on_unknown(session: Session, channel: str) -> str:
    """The account's choice for messages without an answer."""
    return session.scalar(sa.select(Account.on_unknown).where(Account.channel == channel)) or KEEP


def chance() -> float:
    """Spreads retries, so that what failed together does not come back together."""
    return random.random()  # noqa: S311 - no secret depends on it
