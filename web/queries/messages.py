"""The outbox's messages, and the whole story of one: events, reports, consent, chain, campaign."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.models import Campaign, CampaignRun, Decision
from channels.events import CLICKED, OPENED
from channels.models import BounceReport, ConsentEvent, Message, MessageEvent, Template
from channels.tracking import HUMAN
from core.db import dialect_of
from core.models import Member
from web.paging import PAGE_ROWS, Page, offset, page_of

EVENTS_SHOWN = 200
REPORTS_SHOWN = 20
CHAIN_SHOWN = 100
RUN = "run"
LAST_CHARACTER = chr(0x10FFFF)


@dataclass(frozen=True)
class MessageRow:
    id: int
    channel: str
    state: str
    reason: str | None
    template: str
    member_id: int
    member: str
    attempts: int
    created_at: datetime
    not_before: datetime
    sent_at: datetime | None


@dataclass(frozen=True)
class Visits:
    """Opens or clicks of a message: by people, and by machines as well."""

    kind: str
    human: int
    total: int


@dataclass(frozen=True)
class Link:
    """A message of the same chain: before it, after it, or sent again for it."""

    id: int
    channel: str
    state: str
    how: str
    """``fallback`` or ``retry``: why it was queued; empty for the first of the chain."""
    created_at: datetime
    current: bool


@dataclass(frozen=True)
class Origin:
    """The campaign of a run's message, and the variant that was drawn for the member."""

    campaign: str
    title: str
    run_key: str
    arm: str | None
    coupon_code: str | None
    points: int


@dataclass(frozen=True)
class Story:
    """A message with everything that happened to it."""

    row: MessageRow
    message: Message
    member: Member
    template: Template
    events: list[MessageEvent]
    visits: list[Visits]
    reports: list[tuple[int, str, str, datetime]]
    """(id, kind, status, received at) of bounces and complaints."""
    consent: ConsentEvent | None
    """The newest answer for the message's channel and purpose when it was sent (or queued)."""
    chain: list[Link]
    origin: Origin | None


@dataclass(frozen=True)
class Filter:
    """What a list of messages is narrowed to; empty: everything."""

    state: str = ""
    channel: str = ""
    reason: str = ""
    """The beginning of the reason."""
    campaign: str = ""
    """A campaign's name."""


_ROW = (
    Message.id,
    Message.channel,
    Message.state,
    Message.reason,
    Template.name,
    Message.member_id,
    sa.func.coalesce(Member.name, Member.external_id),
    Message.attempts,
    Message.created_at,
    Message.not_before,
    Message.sent_at,
)


def messages(session: Session, number: int, wanted: Filter) -> Page[MessageRow]:
    """Messages, newest first."""
    rows = session.execute(statement(session, number, wanted))
    return page_of([MessageRow(*row) for row in rows], number, by_time=True)


def statement(session: Session, number: int, wanted: Filter) -> sa.Select[Any]:
    """The query of :func:`messages`, so that a test can ask how it is run."""
    query: Any = (
        sa.select(*_ROW)
        .join(Template, Template.id == Message.template_id)
        .join(Member, Member.id == Message.member_id)
        .order_by(Message.id.desc())
        .offset(offset(number))
        .limit(PAGE_ROWS + 1)
    )
    if wanted.state:
        query = query.where(Message.state == wanted.state)
    if wanted.channel:
        query = query.where(Message.channel == wanted.channel)
    if wanted.reason:
        query = query.where(_begins(session, wanted.reason))
    if wanted.campaign:
        runs = (
            sa.select(CampaignRun.id)
            .join(Campaign, Campaign.id == CampaignRun.campaign_id)
            .where(Campaign.name == wanted.campaign)
        )
        query = query.where(Message.source_kind == RUN, Message.source_id.in_(runs))
    found: sa.Select[Any] = query
    return found


def _begins(session: Session, text: str) -> sa.ColumnElement[bool]:
    """Reasons that begin with ``text``, as it was typed or in small letters; by ``ix_messages_reason``."""
    texts = sorted({text, text.lower()})
    if dialect_of(session) == "postgresql":
        return sa.or_(*[Message.reason.startswith(one, autoescape=True) for one in texts])
    # SQLite's LIKE takes no index whose letters differ by case.
    return sa.or_(*[sa.and_(Message.reason >= one, Message.reason < one + LAST_CHARACTER) for one in texts])


def campaigns_with_messages(session: Session, limit: int = 200) -> list[tuple[str, str]]:
    """(name, title) of campaigns that ran, the newest first."""
    rows = session.execute(
        sa.select(Campaign.name, Campaign.title)
        .where(Campaign.id.in_(sa.select(CampaignRun.campaign_id)))
        .order_by(Campaign.id.desc())
        .limit(limit)
    )
    return [(row.name, row.title) for row in rows]


def story(session: Session, message_id: int) -> Story | None:
    """All of a message; a fixed number of queries, each by an index."""
    row = session.execute(
        sa.select(*_ROW)
        .join(Template, Template.id == Message.template_id)
        .join(Member, Member.id == Message.member_id)
        .where(Message.id == message_id)
    ).first()
    if row is None:
        return None
    message = session.get_one(Message, message_id)
    events = session.scalars(
        sa.select(MessageEvent)
        .where(MessageEvent.message_id == message_id)
        .order_by(MessageEvent.at, MessageEvent.id)
        .limit(EVENTS_SHOWN)
    ).all()
    reports = session.execute(
        sa.select(BounceReport.id, BounceReport.kind, BounceReport.status, BounceReport.received_at)
        .where(BounceReport.message_id == message_id)
        .order_by(BounceReport.id)
        .limit(REPORTS_SHOWN)
    ).all()
    return Story(
        MessageRow(*row),
        message,
        session.get_one(Member, message.member_id),
        session.get_one(Template, message.template_id),
        list(events),
        _visits(session, message_id),
        [(one.id, one.kind, one.status, one.received_at) for one in reports],
        _consent(session, message),
        _chain(session, message),
        _origin(session, message),
    )


def _visits(session: Session, message_id: int) -> list[Visits]:
    rows = session.execute(
        sa.select(
            MessageEvent.kind,
            sa.func.count(sa.case((MessageEvent.actor == HUMAN, 1))),
            sa.func.count(),
        )
        .where(MessageEvent.message_id == message_id, MessageEvent.kind.in_((OPENED, CLICKED)))
        .group_by(MessageEvent.kind)
        .order_by(MessageEvent.kind.desc())
    )
    return [Visits(*found) for found in rows]


def _consent(session: Session, message: Message) -> ConsentEvent | None:
    return session.scalars(
        sa.select(ConsentEvent)
        .where(
            ConsentEvent.member_id == message.member_id,
            ConsentEvent.channel == message.channel,
            ConsentEvent.purpose == message.purpose,
            ConsentEvent.at <= (message.sent_at or message.created_at),
        )
        .order_by(ConsentEvent.at.desc(), ConsentEvent.granted)
        .limit(1)
    ).first()


def _chain(session: Session, message: Message) -> list[Link]:
    """The messages that came of one another: a member's of the same source, tied by their keys."""
    rows: Any = session.execute(
        sa.select(Message.id, Message.channel, Message.state, Message.dedupe_key, Message.created_at)
        .where(
            Message.member_id == message.member_id,
            Message.source_kind == message.source_kind,
            Message.source_id == message.source_id,
        )
        .order_by(Message.id)
        .limit(CHAIN_SHOWN)
    ).all()
    parents = {row.id: _parent(row.dedupe_key) for row in rows}
    near = {message.id}
    # Older messages have smaller ids: one pass down finds the ancestors, one pass up what came of them.
    for row in reversed(rows):
        how, parent = parents[row.id]
        if row.id in near and how:
            near.add(parent)
    for row in rows:
        if parents[row.id][1] in near:
            near.add(row.id)
    found = [
        Link(row.id, row.channel, row.state, parents[row.id][0], row.created_at, row.id == message.id)
        for row in rows
        if row.id in near
    ]
    return found if len(found) > 1 else []


def _parent(key: str) -> tuple[str, int]:
    how, _, number = key.partition(":")
    return (how, int(number)) if how in ("fallback", "retry") and number.isdecimal() else ("", 0)


def _origin(session: Session, message: Message) -> Origin | None:
    if message.source_kind != RUN:
        return None
    row = session.execute(
        sa.select(
            Campaign.name,
            Campaign.title,
            CampaignRun.run_key,
            Decision.arm,
            Decision.coupon_code,
            Decision.points,
        )
        .join(Campaign, Campaign.id == CampaignRun.campaign_id)
        .outerjoin(
            Decision,
            sa.and_(Decision.run_id == CampaignRun.id, Decision.member_id == message.member_id),
        )
        .where(CampaignRun.id == message.source_id)
    ).first()
    return Origin(row[0], row[1], row[2], row[3], row[4], row[5] or 0) if row else None


def report(session: Session, message_id: int, report_id: int) -> BounceReport | None:
    """A report of this message, whole: it contains the address."""
    found = session.get(BounceReport, report_id)
    return found if found is not None and found.message_id == message_id else None
