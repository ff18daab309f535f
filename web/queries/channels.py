"""Channels: templates, the outbox, accounts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels.events import CLICKED, OPENED
from channels.models import Account, Message, MessageEvent, Suppression, Template, TemplateContent
from channels.tracking import HUMAN
from core.contacts import CHANNELS
from core.models import Member
from web.paging import PAGE_ROWS, Page, offset, page_of

EVENTS_SHOWN = 200


@dataclass(frozen=True)
class TemplateRow:
    id: int
    name: str
    channel: str
    purpose: str
    version: int
    updated_at: datetime
    languages: tuple[str, ...]
    title: str
    """The first language's subject, or the start of its text."""


@dataclass(frozen=True)
class Queue:
    """A channel's outbox: messages by state, and the oldest that waits."""

    channel: str
    states: dict[str, int]
    oldest: datetime | None
    paused_at: datetime | None
    paused_reason: str | None
    on_unknown: str
    suppressed: int


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
class MessageDetail:
    row: MessageRow
    source_kind: str
    source_id: int
    provider: str | None
    provider_id: str | None
    context: dict[str, Any]
    events: list[MessageEvent]
    visits: list[Visits]


@dataclass(frozen=True)
class Visits:
    """Opens or clicks of a message: by people, and by machines as well."""

    kind: str
    human: int
    total: int


def templates(session: Session, *, archived: bool = False) -> list[TemplateRow]:
    """Templates by name with the languages of their current version; two queries."""
    query = sa.select(Template).order_by(Template.name)
    query = query.where(Template.archived_at.is_not(None) if archived else Template.archived_at.is_(None))
    found = session.scalars(query).all()
    contents = session.execute(
        sa.select(TemplateContent.template_id, TemplateContent.language, TemplateContent.fields)
        .join(
            Template,
            sa.and_(Template.id == TemplateContent.template_id, Template.version == TemplateContent.version),
        )
        .order_by(TemplateContent.language)
    ).all()
    by_template: dict[int, dict[str, Any]] = {}
    for template_id, language, fields in contents:
        by_template.setdefault(template_id, {})[language] = fields
    return [
        TemplateRow(
            one.id,
            one.name,
            one.channel,
            one.purpose,
            one.version,
            one.updated_at,
            tuple(by_template.get(one.id, {})),
            _title(by_template.get(one.id, {})),
        )
        for one in found
    ]


def _title(contents: dict[str, Any]) -> str:
    for fields in contents.values():
        text = fields.get("subject") or fields.get("text") or " · ".join((fields.get("data") or {}).values())
        if text:
            return str(text)[:120]
    return ""


def template_versions(session: Session, template_id: int) -> list[tuple[int, str, datetime, tuple[str, ...]]]:
    """(version, changed by, changed at, languages), newest first."""
    rows = session.execute(
        sa.select(
            TemplateContent.version,
            TemplateContent.changed_by,
            TemplateContent.changed_at,
            TemplateContent.language,
        )
        .where(TemplateContent.template_id == template_id)
        .order_by(TemplateContent.version.desc(), TemplateContent.language)
    ).all()
    found: dict[int, tuple[str, datetime, list[str]]] = {}
    for version, by, at, language in rows:
        found.setdefault(version, (by, at, []))[2].append(language)
    return [(version, by, at, tuple(languages)) for version, (by, at, languages) in found.items()]


def queues(session: Session) -> list[Queue]:
    """Every channel's state; three queries."""
    counts = session.execute(
        sa.select(Message.channel, Message.state, sa.func.count()).group_by(Message.channel, Message.state)
    ).all()
    oldest = dict(
        session.execute(
            sa.select(Message.channel, sa.func.min(Message.created_at))
            .where(Message.state == "queued")
            .group_by(Message.channel)
        ).all()
    )
    accounts = {row.channel: row for row in session.scalars(sa.select(Account))}
    suppressed = dict(
        session.execute(sa.select(Suppression.channel, sa.func.count()).group_by(Suppression.channel)).all()
    )
    found = []
    for channel in CHANNELS:
        account = accounts.get(channel)
        found.append(
            Queue(
                channel,
                {state: count for name, state, count in counts if name == channel},
                oldest.get(channel),
                account.paused_at if account else None,
                account.paused_reason if account else None,
                account.on_unknown if account else "keep",
                suppressed.get(channel, 0),
            )
        )
    return found


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


def messages(session: Session, number: int, *, state: str | None, channel: str | None) -> Page[MessageRow]:
    """Messages, newest first."""
    query = (
        sa.select(*_ROW)
        .join(Template, Template.id == Message.template_id)
        .join(Member, Member.id == Message.member_id)
        .order_by(Message.id.desc())
        .offset(offset(number))
        .limit(PAGE_ROWS + 1)
    )
    if state:
        query = query.where(Message.state == state)
    if channel:
        query = query.where(Message.channel == channel)
    return page_of([MessageRow(*row) for row in session.execute(query)], number, by_time=True)


def message(session: Session, message_id: int) -> MessageDetail | None:
    """A message with everything that happened to it."""
    row = session.execute(
        sa.select(*_ROW)
        .join(Template, Template.id == Message.template_id)
        .join(Member, Member.id == Message.member_id)
        .where(Message.id == message_id)
    ).first()
    if row is None:
        return None
    whole = session.get_one(Message, message_id)
    events = session.scalars(
        sa.select(MessageEvent)
        .where(MessageEvent.message_id == message_id)
        .order_by(MessageEvent.at, MessageEvent.id)
        .limit(EVENTS_SHOWN)
    ).all()
    visits = session.execute(
        sa.select(
            MessageEvent.kind,
            sa.func.count(sa.case((MessageEvent.actor == HUMAN, 1))),
            sa.func.count(),
        )
        .where(MessageEvent.message_id == message_id, MessageEvent.kind.in_((OPENED, CLICKED)))
        .group_by(MessageEvent.kind)
        .order_by(MessageEvent.kind.desc())
    )
    return MessageDetail(
        MessageRow(*row),
        whole.source_kind,
        whole.source_id,
        whole.provider,
        whole.provider_id,
        whole.context,
        list(events),
        [Visits(*found) for found in visits],
    )
