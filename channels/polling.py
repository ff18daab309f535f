"""Receipts that no callback brought: asking the provider about messages that are still open.

Aliyun only (WeChat has nothing to ask). What it says becomes the same receipts that its callbacks
bring, with the same keys, so that one that comes after all changes nothing. A message without an
answer (``unknown``) is recognised by its OutId, which a batch shares: there, only the batch's first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import events
from channels.callbacks.aliyun import CHINA, aliyun_key, aliyun_time
from channels.delivery import aliyun_transport
from channels.events import UNDELIVERED, Receipt
from channels.models import Message
from channels.outbox import DELIVERED, SENT, UNKNOWN
from channels.render import client_id
from channels.transports.base import TransportError
from channels.transports.sms_aliyun import AliyunTransport
from core.contacts import SMS
from core.db import Database
from core.models import Member
from core.settings import Settings

log = logging.getLogger(__name__)

AFTER = timedelta(minutes=30)
"""A receipt that comes at all has come by then."""
UNTIL = timedelta(hours=72)
LIMIT = 500
"""Messages asked about in one run; the longest open first."""
CONCURRENCY = 4
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
    """Ask about open messages and apply the answers: {"asked", "answered", "applied"}."""
    with database.read() as session:
        waiting = _open(session, now)
    found: list[Receipt] = []
    if waiting:
        async with aliyun_transport(settings, CONCURRENCY) as transport:
            found = await _ask_all(transport, waiting, now)
    with database.write() as session:
        events.apply_early(session, now)
        applied = events.apply(session, found, now)
    return {"asked": len(waiting), "answered": len(found), "applied": applied.new}


def _open(session: Session, now: datetime) -> list[Open]:
    rows = session.execute(
        sa.select(Message.id, Member.phone, Message.provider_id, Message.handed_over_at)
        .join(Member, Member.id == Message.member_id)
        .where(
            Message.channel == SMS,
            Message.state.in_((SENT, UNKNOWN)),
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
    found: list[Receipt] = []
    pending = iter(waiting)

    async def worker() -> None:
        for message in pending:
            try:
                found.extend(await _ask(transport, message, now))
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
