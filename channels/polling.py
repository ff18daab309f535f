"""Receipts that no callback brought: asking the providers about messages that are still open.

Aliyun is asked about each message by its number and day, Twilio by its own id; Tencent gives out, once,
what nobody has fetched yet, members' replies too. What they say becomes the same
receipts that callbacks bring, with the same keys, so that one that comes after all changes nothing. A
message without an answer (``unknown``) is recognised at Aliyun by its OutId, which a batch shares:
there, only the batch's first; at Tencent by its number. WeCom is asked about tasks that employees confirm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import events
from channels.callbacks import tencent
from channels.callbacks.aliyun import CHINA, aliyun_key, aliyun_time
from channels.callbacks.twilio import Found as TwilioFound
from channels.callbacks.twilio import twilio_asked
from channels.delivery import aliyun_transport, tencent_transport, twilio_transport, wecom_transport
from channels.events import UNDELIVERED, Receipt
from channels.models import Message
from channels.outbox import DELIVERED, SENT, UNKNOWN
from channels.render import client_id
from channels.sms import lost
from channels.transports import sms_tencent
from channels.transports.base import TransportError
from channels.transports.sms_aliyun import AliyunTransport
from channels.transports.sms_twilio import NAME, TwilioTransport
from channels.wecom import poll as wecom
from core.contacts import SMS
from core.db import Database
from core.models import Member
from core.settings import Settings

Answer = TypeVar("Answer")
log = logging.getLogger(__name__)

AFTER = timedelta(minutes=30)
"""A receipt that comes at all has come by then."""
UNTIL = timedelta(hours=72)
LIMIT = 500
"""Messages asked about in one run; the longest open first."""
CONCURRENCY = 4
PAGES = 50
"""Pulls of Tencent's in one run."""
_OUTCOME = {"2": UNDELIVERED, "3": DELIVERED}
"""Aliyun's SendStatus; 1 is waiting."""


@dataclass(frozen=True, slots=True)
class Open:
    """A message whose end nobody knows."""

    message_id: int
    phone: str
    provider_id: str | None
    handed_over_at: datetime


async def poll_receipts(database: Database, settings: Settings, now: datetime) -> dict[str, int]:
    """Ask about open messages and apply the answers: {"asked", "answered", "applied"}.

    Tencent is asked without naming messages; what it gives counts as answered.
    """
    with database.read() as session:
        waiting = _open(session, _aliyuns(settings), now)
        at_twilio = _open(session, sa.and_(Message.provider == NAME, Message.provider_id.is_not(None)), now)
    found: list[Receipt] = []
    if waiting:
        async with aliyun_transport(settings, CONCURRENCY) as transport:
            found = await _ask_all(transport, waiting, now)
    heard: list[TwilioFound] = []
    if at_twilio:
        async with twilio_transport(settings, CONCURRENCY) as transport:
            heard = await _ask_twilio(transport, at_twilio, now)
    pulled = (0, 0)
    if sms_tencent.NAME in settings.sms_providers:
        pulled = await _pull(database, settings, now)
    confirmed = await wecom.poll(
        database, now, lambda: wecom_transport(database, settings, CONCURRENCY, lambda: now)
    )
    with database.write() as session:
        lost.adopt_early(session)
        events.apply_early(session, now)
        applied = events.apply(session, found, now).new
        applied += lost.take(session, *_together(heard), now)
    return {
        "asked": len(waiting) + len(at_twilio) + confirmed.asked,
        "answered": len(found) + len(heard) + pulled[0] + confirmed.answered,
        "applied": applied + pulled[1] + confirmed.applied,
    }


def _together(heard: Sequence[TwilioFound]) -> TwilioFound:
    return (
        [receipt for found in heard for receipt in found[0]],
        [reply for found in heard for reply in found[1]],
        [clue for found in heard for clue in found[2]],
    )


async def _ask_twilio(
    transport: TwilioTransport, waiting: Sequence[Open], now: datetime
) -> list[TwilioFound]:
    """What Twilio knows of messages, without those that it is still working on."""

    async def ask(message: Open) -> list[TwilioFound]:
        told = twilio_asked(await transport.status(message.provider_id or ""), now)
        return [told] if told[0] else []

    return await _each(waiting, ask)


async def _pull(database: Database, settings: Settings, now: datetime) -> tuple[int, int]:
    """(receipts that Tencent gave, those that were news). Each page is written before the next is
    fetched: Tencent does not repeat it.
    """
    answered = applied = 0
    async with tencent_transport(settings, CONCURRENCY, lambda: now) as transport:
        try:
            for _ in range(PAGES):
                statuses = await transport.pull_statuses()
                found = tencent.tencent_pulled(statuses, [], now)
                with database.write() as session:
                    applied += lost.take(session, *found, now)
                answered += len(found[0])
                if len(statuses) < sms_tencent.PULL:
                    break
            for _ in range(PAGES):
                replies = await transport.pull_replies()
                found = tencent.tencent_pulled([], replies, now)
                with database.write() as session:
                    lost.take(session, *found, now)
                if len(replies) < sms_tencent.PULL:
                    break
        except TransportError as error:
            log.warning("Tencent gave no receipts: %s", error)
    return answered, applied


def _aliyuns(settings: Settings) -> sa.ColumnElement[bool]:
    """Messages of Aliyun's; a lost worker leaves no provider's name, so they may be."""
    provider: sa.ColumnElement[bool] = Message.provider == AliyunTransport.name
    if AliyunTransport.name in settings.sms_providers:
        provider = sa.or_(provider, Message.provider.is_(None))
    return provider


def _open(session: Session, provider: sa.ColumnElement[bool], now: datetime) -> list[Open]:
    rows = session.execute(
        sa.select(Message.id, Member.phone, Message.provider_id, Message.handed_over_at)
        .join(Member, Member.id == Message.member_id)
        .where(
            Message.channel == SMS,
            Message.state.in_((SENT, UNKNOWN)),
            provider,
            Message.handed_over_at.between(now - UNTIL, now - AFTER),
            Member.phone.is_not(None),
        )
        .order_by(Message.handed_over_at, Message.id)
        .limit(LIMIT)
    )
    return [
        Open(number, phone, provider_id, at)
        for number, phone, provider_id, at in rows
        if phone is not None and at is not None
    ]


async def _ask_all(transport: AliyunTransport, waiting: Sequence[Open], now: datetime) -> list[Receipt]:
    return await _each(waiting, lambda message: _ask(transport, message, now))


async def _each(waiting: Sequence[Open], ask: Callable[[Open], Awaitable[list[Answer]]]) -> list[Answer]:
    """Answers about messages, a few asked at once; what fails is asked again in the next run."""
    found: list[Answer] = []
    pending = iter(waiting)

    async def worker() -> None:
        for message in pending:
            try:
                found.extend(await ask(message))
            except TransportError as error:
                log.warning("Nothing learned of message %s: %s", message.message_id, error)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(worker())
    return found


async def _ask(transport: AliyunTransport, message: Open, now: datetime) -> list[Receipt]:
    """The message's receipt, or none while Aliyun itself waits."""
    biz_id = message.provider_id.partition(":")[0] if message.provider_id else None
    entries = await transport.details(message.phone, message.handed_over_at.astimezone(CHINA).date(), biz_id)
    ours = [entry for entry in entries if biz_id or entry.get("OutId") == client_id(message.message_id)]
    return [_receipt(message, entry, now) for entry in ours if str(entry.get("SendStatus")) in _OUTCOME][:1]


def _receipt(message: Open, entry: Mapping[str, Any], now: datetime) -> Receipt:
    code = str(entry.get("ErrCode", ""))
    return Receipt(
        _OUTCOME[str(entry["SendStatus"])],
        aliyun_time(entry.get("ReceiveDate"), now),
        aliyun_key(message.provider_id or f"out:{message.message_id}", code),
        message_id=message.message_id,
        detail={"code": code[:40], "reason": ""},
    )
