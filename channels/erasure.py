"""What channels do when a member is erased: consents go, the addresses are never written to again."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import preferences
from channels.consent import ERASED, SuppressionRow, suppress_many
from channels.models import Consent, Message, OptIn, WechatFollow, WechatGrant, WechatWindow
from channels.outbox import QUEUED, SKIPPED
from channels.sql import CONSENTS, mark_touches
from core.contacts import ADDRESS_COLUMN, WEBHOOK, WECHAT
from core.models import Member
from core.warehouse.replica import mark


def forget(session: Session, member: Member, now: datetime) -> None:
    """Suppress the member's addresses, delete their consents, drop what waits to be sent.

    Must run while the member's row still has its address indexes. The history of consents stays under
    the bare id: it proves that earlier messages were allowed. Sent messages stay in the books too and
    leave the warehouse with its next sync.
    """
    indexes = {channel: getattr(member, f"{column}_index") for channel, column in ADDRESS_COLUMN.items()}
    suppress_many(
        session,
        [
            SuppressionRow(channel, index, ERASED, "erasure", now, {})
            for channel, index in indexes.items()
            # The webhook's "address" is the member's number, which nobody else ever gets.
            if index is not None and channel != WEBHOOK
        ],
    )
    for table in (WechatWindow, WechatGrant, WechatFollow):
        session.execute(sa.delete(table).where(table.openid_index == indexes[WECHAT]))
    session.execute(sa.delete(Consent).where(Consent.member_id == member.id))
    session.execute(sa.delete(OptIn).where(OptIn.member_id == member.id))
    preferences.forget(session, member.id)
    mark(session, CONSENTS, [None])
    session.execute(
        sa.update(Message)
        .where(Message.member_id == member.id, Message.state == QUEUED)
        .values(state=SKIPPED, reason=ERASED, settled_at=now)
    )
    mark_touches(
        session, session.scalars(sa.select(Message.created_at).where(Message.member_id == member.id))
    )
