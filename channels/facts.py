"""The fact table that channels give to the warehouse: touches, one row a message that was sent.

Whoever was erased is left out. ``opened_at`` and ``clicked_at`` are the first by a human; opens
are a hint only (see :mod:`channels.visits`).
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from channels.events import CLICKED, OPENED, UNSUBSCRIBED
from channels.models import Consent, Message, MessageEvent
from channels.outbox import DELIVERED
from channels.sql import CONSENTS, TOUCHES
from channels.tracking import HUMAN
from core.db import UTCDateTime
from core.models import IS_CUSTOMER, Member
from core.warehouse.replica import Fact


def _first(kind: str, *, human: bool = False) -> sa.Label[datetime]:
    # Correlated, so that a month costs look-ups by (message_id, at) and not a scan of all events.
    at = sa.select(sa.func.min(MessageEvent.at)).where(
        MessageEvent.message_id == Message.id, MessageEvent.kind == kind
    )
    if human:
        at = at.where(MessageEvent.actor == HUMAN)
    return sa.type_coerce(at.correlate(Message).scalar_subquery(), UTCDateTime).label(f"{kind}_at")


FACTS = (
    Fact(
        TOUCHES,
        sa.select(
            Message.id.label("message_id"),
            Message.member_id,
            Message.channel,
            Message.source_kind,
            Message.source_id,
            Message.purpose,
            Message.template_id,
            Message.state,
            Message.created_at,
            Message.sent_at,
            _first(DELIVERED),
            _first(OPENED, human=True),
            _first(CLICKED, human=True),
            _first(UNSUBSCRIBED),
        )
        .join(Member, Member.id == Message.member_id)
        .where(Message.sent_at.is_not(None), IS_CUSTOMER),
        "created_at",
    ),
    Fact(
        CONSENTS,
        sa.select(Consent.member_id, Consent.channel, Consent.purpose, Consent.granted, Consent.at)
        .join(Member, Member.id == Consent.member_id)
        .where(IS_CUSTOMER),
        None,
    ),
)
