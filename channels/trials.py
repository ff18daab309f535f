"""Test messages: a template sent to an address that somebody typed in, through the outbox like any other.

The recipient is a made-up member of the source :data:`SOURCE`, one for each address and language, so that
a click on “unsubscribe” or a bounce concerns that address and no customer. Tests are transactional: no
consent is asked, no cap and no legal hours hold them back; a pause and a dead address do.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import outbox
from channels.caps import TEST
from channels.checks import member_names
from channels.consent import TRANSACTIONAL
from channels.models import Message, Template
from channels.templates import contents_of, sample_context, sample_member
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

SOURCE = TEST_SOURCE
"""The source of made-up members; lists and the warehouse leave them out."""
MAX_A_MINUTE = 10
MINUTE = timedelta(minutes=1)
LIFE = timedelta(hours=1)
"""A test that could not leave by then is not sent any more."""
ACTION = "test"
_MAX_ADDRESS = 128


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
    _check_rate(session, by, now)
    member = _member(session, template.channel, target, language, contents[language], now)
    key = f"test:{template_id}:{secrets.token_hex(12)}"
    row = outbox.OutboxRow(
        key,
        member.id,
        template.channel,
        TRANSACTIONAL,
        template_id,
        template.version,
        sample_context(now),
        TEST,
        template_id,
        [],
        None,
        now,
        now + LIFE,
        now,
    )
    outbox.enqueue(session, [row])
    message_id = session.scalars(sa.select(Message.id).where(Message.dedupe_key == key)).one()
    shown = mask(ADDRESS_COLUMN[template.channel], target)
    detail = {"message_id": message_id, "to": shown, "language": language, "version": template.version}
    audit.record(session, by, ACTION, "template", template.name, now, detail)
    return message_id


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
