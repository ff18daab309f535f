"""Replies that ask to be left alone, and what they do to consent."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels.consent import MARKETING, set_many
from core.contacts import ADDRESS_COLUMN, blind_index
from core.imports import ConsentChange
from core.models import Member

OPT_OUT = frozenset({"r", "t", "td", "退订", "stop", "unsubscribe", "cancel", "quit"})


@dataclass(frozen=True)
class OptOut:
    """Somebody answered that they want no more marketing by a channel."""

    channel: str
    address: str
    at: datetime
    source: str


def is_opt_out(text: str) -> bool:
    """Whether a reply asks to be left alone: trimmed, case and width folded (Ｒ, td, “退订。”)."""
    folded = unicodedata.normalize("NFKC", text).strip().strip("。.!！").casefold()
    return folded in OPT_OUT


def opt_out(session: Session, replies: Iterable[OptOut]) -> int:
    """Withdraw the marketing consent of everybody with these addresses; how many members that were."""
    listed = list(replies)
    rows = []
    for channel in sorted({reply.channel for reply in listed}):
        column = ADDRESS_COLUMN[channel]
        found = {blind_index(column, reply.address): reply for reply in listed if reply.channel == channel}
        index = getattr(Member, f"{column}_index")
        members = session.execute(sa.select(Member.id, index).where(index.in_(list(found)))).all()
        rows += [
            ConsentChange(member_id, channel, MARKETING, False, found[address].source, found[address].at)
            for member_id, address in members
        ]
    set_many(session, rows)
    return len(rows)
