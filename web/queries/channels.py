"""Channels: templates, the outbox, accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_in
from datetime import datetime, timedelta
from difflib import SequenceMatcher
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import circuit as circuits
from channels import snippets
from channels.models import (
    Account,
    DomainLimit,
    MailServer,
    Message,
    Suppression,
    Template,
    TemplateContent,
)
from channels.outbox import FAILED, UNKNOWN
from channels.render import MemberView
from channels.transports.servers import Server
from channels.trials import SOURCE
from core.contacts import CHANNELS
from core.models import Member
from web.rule_diff import ADDED, GONE, KEPT

RATE_WITHIN = timedelta(minutes=5)
ANSWERS_WITHIN = timedelta(hours=1)
LIMITS_SHOWN = 50


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
    sent_lately: int
    """Messages that left within ``RATE_WITHIN``."""
    circuit: circuits.Shown | None = None
    """The account's circuit breaker where it is not closed."""


def templates(session: Session, *, archived: bool = False) -> list[TemplateRow]:
    """Templates by name with the languages of their current version; two queries."""
    # What was never saved stands for tests of what was typed.
    query = sa.select(Template).where(Template.version > 0).order_by(Template.name)
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


def queues(session: Session, now: datetime | None = None) -> list[Queue]:
    """Every channel's state; five queries. Without ``now`` neither the rate nor the breaker is told."""
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
    lately: dict[str, int] = {}
    if now is not None:
        lately = dict(
            session.execute(
                sa.select(Message.channel, sa.func.count())
                .where(Message.sent_at > now - RATE_WITHIN, Message.sent_at <= now)
                .group_by(Message.channel)
            ).all()
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
                lately.get(channel, 0),
                circuits.shown(account, now) if account and now is not None else None,
            )
        )
    return found


# --- templates -------------------------------------------------------------------


_VIEW = tuple(getattr(Member, one.name) for one in fields_in(MemberView))


def sample_members(session: Session, limit: int) -> list[MemberView]:
    """The newest members as templates see them, to find out what they lack."""
    query = sa.select(*_VIEW).where(Member.erased_at.is_(None), Member.source != SOURCE)
    return [MemberView(*row) for row in session.execute(query.order_by(Member.id.desc()).limit(limit))]


def snippet_names(session: Session) -> list[str]:
    """Of the snippets in use."""
    return list(snippets.load(session))


def older_snippets(session: Session, template_id: int) -> list[str]:
    """Snippets that changed since the template was saved."""
    now = snippets.load(session)
    used = {
        name: use.version
        for name, found in snippets.uses(session).items()
        for use in found
        if use.template_id == template_id
    }
    return sorted(name for name, version in used.items() if name in now and now[name].version > version)


@dataclass(frozen=True)
class DiffLine:
    """A line of a field, and whether it stayed, went or is new."""

    text: str
    change: str


@dataclass(frozen=True)
class FieldChange:
    """A field of a language that differs between two versions."""

    language: str
    field: str
    lines: list[DiffLine]


def field_changes(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[FieldChange]:
    """What differs, by language and field; unchanged fields are left out."""
    found = []
    for language in sorted({*before, *after}):
        old, new = before.get(language, {}), after.get(language, {})
        for name in dict.fromkeys([*new, *old]):
            was, now = _as_lines(old.get(name)), _as_lines(new.get(name))
            if was != now:
                found.append(FieldChange(language, name, _diff(was, now)))
    return found


def _as_lines(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [f"{name}: {text}" for name, text in value.items()]
    if isinstance(value, list):
        return [str(one.get("name", "")) if isinstance(one, Mapping) else str(one) for one in value]
    return str(value).splitlines()


def _diff(before: list[str], after: list[str]) -> list[DiffLine]:
    found: list[DiffLine] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            found += [DiffLine(text, KEPT) for text in before[i1:i2]]
        else:
            found += [DiffLine(text, GONE) for text in before[i1:i2]]
            found += [DiffLine(text, ADDED) for text in after[j1:j2]]
    return found


# --- accounts --------------------------------------------------------------------


@dataclass(frozen=True)
class Provider:
    """What a provider answered within ``ANSWERS_WITHIN``."""

    channel: str
    name: str
    sent: int
    failed: int
    unknown: int
    last_sent: datetime | None


@dataclass(frozen=True)
class ServerState:
    """An SMTP server of the settings, and what the workers know of it."""

    name: str
    paused_at: datetime | None
    paused_reason: str | None
    warm_sent: int
    warm_limit: int | None
    """Messages that its warm-up allows today; null: no warm-up."""


def providers(session: Session, now: datetime) -> list[Provider]:
    """Providers that settled messages lately, by channel; by the indexes on times, one query."""
    since = now - ANSWERS_WITHIN
    rows = session.execute(
        sa.select(
            Message.channel,
            Message.provider,
            sa.func.count(sa.case((Message.state.not_in((FAILED, UNKNOWN)), 1))),
            sa.func.count(sa.case((Message.state == FAILED, 1))),
            sa.func.count(sa.case((Message.state == UNKNOWN, 1))),
            sa.func.max(Message.sent_at),
        )
        .where(
            Message.provider.is_not(None),
            sa.or_(
                Message.sent_at > since,
                sa.and_(Message.state.in_((FAILED, UNKNOWN)), Message.settled_at > since),
            ),
        )
        .group_by(Message.channel, Message.provider)
        .order_by(Message.channel, Message.provider)
    ).all()
    return [Provider(row[0], row[1] or "", *row[2:]) for row in rows]


def mail_servers(session: Session, servers: Sequence[Server], now: datetime) -> list[ServerState]:
    """The servers of the settings with their pauses and today's warm-up; one query."""
    known = {row.name: row for row in session.scalars(sa.select(MailServer))}
    found = []
    for server in servers:
        row = known.get(server.name)
        counted = row is not None and row.warm_day == now.date()
        found.append(
            ServerState(
                server.name,
                row.paused_at if row else None,
                row.paused_reason if row else None,
                row.warm_sent if row and counted else 0,
                server.warm_up.allowed(now.date()) if server.warm_up else None,
            )
        )
    return found


def domain_limits(session: Session, now: datetime) -> list[DomainLimit]:
    """Receivers that ask for less at this moment."""
    return list(
        session.scalars(
            sa.select(DomainLimit)
            .where(sa.or_(DomainLimit.stopped_until > now, DomainLimit.slow_until > now))
            .order_by(DomainLimit.group)
            .limit(LIMITS_SHOWN)
        )
    )
