"""Test messages: a template sent to an address that somebody typed in, through the outbox like any other.

A template's saved version, or what stands in its editor: that travels in the message's own context and is
saved nowhere else. The recipient is a made-up member of the source :data:`SOURCE`, one for each address and
language, so that a click on “unsubscribe” or a bounce concerns that address and no customer. Tests are
transactional: no consent is asked, no cap and no legal hours hold them back; a pause and a dead address do.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import outbox
from channels.caps import TEST
from channels.checks import member_names
from channels.consent import TRANSACTIONAL
from channels.models import Message, Template
from channels.render import Content, compile_content
from channels.sql import is_postgres
from channels.templates import check, contents_of, inlined, sample_context, sample_member
from core import audit
from core.contacts import (
    ADDRESS_COLUMN,
    EMAIL,
    SMS,
    WEBHOOK,
    blind_index,
    mask,
    normalise_email,
    normalise_phone,
)
from core.errors import Conflict, InvalidInput, NotFound
from core.models import TEST_SOURCE, AuditEntry, Member
from core.settings import Settings

SOURCE = TEST_SOURCE
"""The source of made-up members; lists and the warehouse leave them out."""
MAX_A_MINUTE = 10
MINUTE = timedelta(minutes=1)
LIFE = timedelta(hours=1)
"""A test that could not leave by then is not sent any more."""
ACTION = "test"
UNSAVED = "huiliu-unsaved"
"""Begins the name of what stands for a template that was never saved: archived, version 0, no contents."""
DRAFT = "draft"
"""Where a test's context keeps what was typed; only a test's is read."""
_MAX_ADDRESS = 128
_LOCK = 0x7E57


@dataclass(frozen=True)
class Draft:
    """What stands in an editor in one language; ``template_id``: of the template that is edited."""

    channel: str
    purpose: str
    language: str
    fields: Mapping[str, Any]
    template_id: int | None = None


def normalised(channel: str, address: str) -> str:
    """The address as the channel needs it. Raises InvalidInput with the field ``address``."""
    try:
        if channel == EMAIL:
            return normalise_email(address)
        if channel == SMS:
            return normalise_phone(address)
    except InvalidInput as error:
        raise InvalidInput(str(error), "address") from None
    text = address.strip()
    if not text or len(text) > _MAX_ADDRESS:
        raise InvalidInput(f"Write an address of 1 to {_MAX_ADDRESS} characters.", "address")
    return text


def send(session: Session, template_id: int, language: str, address: str, by: str, now: datetime) -> int:
    """Queue a test of a template's current version; the message's id.

    Raises NotFound, InvalidInput (``address``, ``language``), and Conflict for more than
    ``MAX_A_MINUTE`` tests of a user in a minute.
    """
    template = session.get(Template, template_id)
    if template is None:
        raise NotFound(f"There is no template {template_id}.")
    contents = contents_of(session, template_id)
    if language not in contents:
        raise InvalidInput("Choose one of the template's languages.", "language")
    target = normalised(template.channel, address)
    return _queue(session, template, language, contents[language], target, by, now)


def send_draft(
    session: Session, settings: Settings, draft: Draft, address: str, by: str, now: datetime
) -> int:
    """Queue a test of what was typed, checked as a save checks it; the message's id. No template changes.

    Raises as :func:`send`, and InvalidInput whose ``field`` is a path such as ``zh_CN.html``.
    """
    language = draft.language
    whole = inlined(session, settings, {language: draft.fields})[language].fields
    check(
        settings,
        name=UNSAVED,
        channel=draft.channel,
        purpose=draft.purpose,
        contents={language: whole},
        now=now,
    )
    target = normalised(draft.channel, address)
    template = None if draft.template_id is None else session.get(Template, draft.template_id)
    if draft.template_id is not None and (template is None or template.channel != draft.channel):
        raise NotFound(f"There is no template {draft.template_id} for {draft.channel}.")
    typed = {"purpose": draft.purpose, "language": language, "fields": dict(whole)}
    return _queue(session, template or draft.channel, language, dict(whole), target, by, now, typed)


def draft_content(channel: str, source_kind: str, context: Mapping[str, Any]) -> Content | None:
    """The compiled text of a test of what was typed; None for every other message. Raises InvalidInput."""
    typed = context.get(DRAFT) if source_kind == TEST else None
    if not isinstance(typed, Mapping):
        return None
    return compile_content(channel, typed["purpose"], typed["language"], typed["fields"])


def _queue(
    session: Session,
    template: Template | str,
    language: str,
    fields: dict[str, Any],
    target: str,
    by: str,
    now: datetime,
    typed: Mapping[str, Any] | None = None,
) -> int:
    """``template``: the channel where there is none yet."""
    _lock(session)
    _check_rate(session, by, now)
    if isinstance(template, str):
        template = _stand_in(session, template, now)
    member = _member(session, template.channel, target, language, fields, now)
    key = f"test:{template.id}:{secrets.token_hex(12)}"
    row = outbox.OutboxRow(
        key,
        member.id,
        template.channel,
        TRANSACTIONAL,
        template.id,
        template.version,
        sample_context(now, {DRAFT: typed} if typed else None),
        TEST,
        template.id,
        [],
        None,
        now,
        now + LIFE,
        now,
    )
    outbox.enqueue(session, [row])
    message_id = session.scalars(sa.select(Message.id).where(Message.dedupe_key == key)).one()
    shown = mask(ADDRESS_COLUMN[template.channel], target)
    detail = {"message_id": message_id, "to": shown, "language": language}
    detail |= {DRAFT: True} if typed else {"version": template.version}
    audit.record(session, by, ACTION, "template", template.name, now, detail)
    session.flush()
    return message_id


def _lock(session: Session) -> None:
    """One test after the other: whoever counts sees all that were sent, and an address has one member.

    SQLite's writer is alone anyway.
    """
    if is_postgres(session):
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def _stand_in(session: Session, channel: str, now: datetime) -> Template:
    name = f"{UNSAVED}-{channel}"
    known = session.scalar(sa.select(Template).where(Template.name == name))
    if known is None:
        known = Template(
            name=name, channel=channel, purpose=TRANSACTIONAL, version=0, updated_at=now, archived_at=now
        )
        session.add(known)
        session.flush()
    return known


def _check_rate(session: Session, by: str, now: datetime) -> None:
    lately = session.scalar(
        sa.select(sa.func.count())
        .select_from(AuditEntry)
        .where(AuditEntry.actor == by, AuditEntry.action == ACTION, AuditEntry.at > now - MINUTE)
    )
    if (lately or 0) >= MAX_A_MINUTE:
        raise Conflict(f"You sent {MAX_A_MINUTE} tests within a minute; wait a minute, then go on.")


def _member(
    session: Session, channel: str, address: str, language: str, fields: dict[str, Any], now: datetime
) -> Member:
    """The made-up member of an address; no import's row, and never marked for the warehouse."""
    column = ADDRESS_COLUMN[channel]
    name = address if channel == WEBHOOK else f"{channel}:{blind_index(column, address)}:{language}"
    known = session.scalar(sa.select(Member).where(Member.source == SOURCE, Member.external_id == name))
    sample = sample_member(language)
    if known is None:
        known = Member(source=SOURCE, external_id=name, fingerprint="", tags=[], created_at=now)
        session.add(known)
    if channel != WEBHOOK:
        setattr(known, column, address)
        setattr(known, f"{column}_index", blind_index(column, address))
    known.name, known.city, known.country, known.locale = sample.name, sample.city, sample.country, language
    known.attributes = {
        path.partition(".")[2]: f"[{path.partition('.')[2]}]"
        for path in member_names(fields)
        if path.startswith("attributes.")
    }
    known.updated_at = now
    session.flush()
    return known
