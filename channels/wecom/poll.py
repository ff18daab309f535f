"""What became of messages that an employee has to confirm: WeCom is asked about its tasks.

It calls nobody back, so that this is the only way for a message from ``created`` to anything else. Each
answer becomes a receipt with a key of its own: asked again, or by two at once, nothing changes. A message
that nobody confirmed within :data:`PATIENCE` fails, and the next channel is tried: its task is stopped
before WeCom is asked for the last time, so that nobody confirms it after that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import events
from channels.events import NOT_CONFIRMED, UNDELIVERED, UNFRIENDED, Receipt
from channels.models import Message
from channels.outbox import CREATED, SENT
from channels.transports.base import Reaction, TransportError
from channels.transports.wecom import WecomTransport, msgid_of, provider_id
from core.contacts import WECOM
from core.db import Database
from core.models import Preference

PATIENCE = timedelta(days=7)
PATIENCE_BEFORE_FALLBACK = timedelta(hours=24)
"""Where another channel waits for its turn: its message must still come in time."""
LIMIT = 5_000
"""Messages asked about in one run; the next run goes on where it ended."""
CONCURRENCY = 4
ROWS, PAGES = 1_000, 50
"""Of one task's answer: customers a page, and pages."""
PLACE = "channels.wecom.polled"
"""The preference with the last message that was asked about."""
_KINDS: Mapping[int, tuple[str, str]] = {
    1: (SENT, ""),
    2: (UNFRIENDED, "not a contact any more"),
    3: (UNDELIVERED, "the customer got another mass message"),
}
"""The provider's status → kind of receipt, and words for it; 0 is waiting."""
_DEFINITE = frozenset({Reaction.FAIL, Reaction.SUPPRESS})
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits for somebody's confirmation."""

    message_id: int
    provider_id: str
    until: datetime
    """Not confirmed by then, it fails."""


@dataclass(frozen=True, slots=True)
class Polled:
    """Messages asked about, those that WeCom knew an end of, and those whose state changed."""

    asked: int = 0
    answered: int = 0
    applied: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """What WeCom says of one customer of a task."""

    status: int
    at: datetime | None


async def poll(database: Database, now: datetime, transport: Callable[[], WecomTransport]) -> Polled:
    """Ask about messages that wait, and apply the answers; no request while none waits."""
    with database.read() as session:
        waiting = _waiting(session)
    if not waiting:
        return Polled()
    async with transport() as opened:
        told = await _ask_all(opened, _tasks(waiting, now))
    answers = _receipts(waiting, told, now)
    with database.write() as session:
        applied = events.apply(session, answers, now).new
        last = waiting[-1].message_id if len(waiting) == LIMIT else 0
        session.merge(Preference(key=PLACE, value=last, updated_at=now))
    answered = sum(receipt.kind != NOT_CONFIRMED for receipt in answers)
    return Polled(len(waiting), answered, applied)


def _waiting(session: Session) -> list[Waiting]:
    """The next messages after the last run's; from the first where there are none."""
    kept = session.get(Preference, PLACE)
    place = int(kept.value) if kept is not None else 0
    return _after(session, place) or (_after(session, 0) if place else [])


def _after(session: Session, place: int) -> list[Waiting]:
    rows = session.execute(
        sa.select(
            Message.id, Message.provider_id, Message.handed_over_at, Message.created_at, Message.fallback
        )
        .where(
            Message.channel == WECOM,
            Message.state == CREATED,
            Message.provider_id.is_not(None),
            Message.id > place,
        )
        .order_by(Message.id)
        .limit(LIMIT)
    )
    return [
        Waiting(
            number,
            provider or "",
            (since or made) + (PATIENCE_BEFORE_FALLBACK if fallback else PATIENCE),
        )
        for number, provider, since, made, fallback in rows
    ]


def _tasks(waiting: Sequence[Waiting], now: datetime) -> dict[str, bool]:
    """Tasks to ask about, and whether their time is over for all of these messages."""
    found: dict[str, bool] = {}
    for one in waiting:
        msgid = msgid_of(one.provider_id)
        found[msgid] = found.get(msgid, True) and now > one.until
    return found


async def _ask_all(transport: WecomTransport, tasks: Mapping[str, bool]) -> dict[str, dict[str, Told]]:
    """By task, what it tells by ``provider_id``; tasks that gave no answer are missing."""
    found: dict[str, dict[str, Told]] = {}
    pending = iter(tasks.items())

    async def worker() -> None:
        for msgid, over in pending:
            try:
                if over:
                    await _stop(transport, msgid)
                found[msgid] = await _ask(transport, msgid)
            except TransportError as error:
                log.warning("Nothing learned of the task %s: %s", msgid, error)
                if error.reaction in _DEFINITE:  # it is no task of WeCom's, and will never be confirmed
                    found[msgid] = {}

    async with asyncio.TaskGroup() as group:
        for _ in range(min(CONCURRENCY, len(tasks))):
            group.create_task(worker())
    return found


async def _stop(transport: WecomTransport, msgid: str) -> None:
    """End a task; one that cannot be ended (everybody has got the message) is asked about all the same."""
    try:
        await transport.cancel(msgid)
    except TransportError as error:
        if error.reaction not in _DEFINITE:
            raise
        log.info("The task %s cannot be stopped: %s", msgid, error)


async def _ask(transport: WecomTransport, msgid: str) -> dict[str, Told]:
    found: dict[str, Told] = {}
    cursor = ""
    for _ in range(PAGES):
        listed, cursor = await transport.results(msgid, ROWS, cursor)
        for entry in listed:
            found[provider_id(msgid, str(entry.get("external_userid", "")))] = _told(entry)
        if not cursor:
            break
    return found


def _told(entry: Mapping[str, Any]) -> Told:
    status, at = entry.get("status"), entry.get("send_time")
    moment = datetime.fromtimestamp(at, UTC) if isinstance(at, int) and 0 < at < 2**32 else None
    return Told(status if isinstance(status, int) else 0, moment)


def _receipts(
    waiting: Sequence[Waiting], told: Mapping[str, Mapping[str, Told]], now: datetime
) -> list[Receipt]:
    """What is known of the end of messages that wait. Pure."""
    found = []
    for one in waiting:
        task = told.get(msgid_of(one.provider_id))
        if task is None:
            continue
        answer = task.get(one.provider_id, Told(0, None))
        key = f"wecom:{one.message_id}"
        if answer.status in _KINDS:
            kind, reason = _KINDS[answer.status]
            detail = {} if kind == SENT else {"code": str(answer.status), "reason": reason}
            at = answer.at if kind == SENT and answer.at is not None else now
            found.append(Receipt(kind, at, f"{key}:{answer.status}", one.message_id, detail=detail))
        elif now > one.until:
            found.append(Receipt(NOT_CONFIRMED, now, f"{key}:{NOT_CONFIRMED}", one.message_id))
    return found
