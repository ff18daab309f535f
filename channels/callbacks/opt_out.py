"""Replies that ask to be left alone or to hear from us again, and what they do to consent.

Guarantees: a reply counts once, however often its provider repeats it; who never said yes does not
begin to hear from us by a stray "yes"; a withdrawal wins over a grant of the same instant.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels.consent import MARKETING, SuppressionRow, set_many, suppress_many
from channels.models import Consent, ConsentEvent, Suppression
from core.contacts import ADDRESS_COLUMN, SMS, blind_index
from core.db import among
from core.imports import ConsentChange
from core.models import Member

OPT_OUT = frozenset(
    {
        *("r", "t", "td", "退订", "退", "拒收", "取消", "取消订阅", "不再接收"),
        *("stop", "stopall", "unsubscribe", "cancel", "end", "quit", "revoke", "optout"),
    }
)
"""Mainland China's and North America's words. HELP and INFO, like anything else, say nothing."""
OPT_IN = frozenset({"start", "yes", "unstop"})
_MARKS = "。.!！,，、;；?？'\"“”‘’「」()()[]【】"
SOURCE_LENGTH = 60


@dataclass(frozen=True)
class OptOut:
    """Somebody answered that they want no more marketing by a channel, or (``granted``) some again."""

    channel: str
    address: str
    at: datetime
    source: str
    granted: bool = False
    key: str = ""
    """The reply's own id where its time does not tell a repetition from another reply."""
    blocked: bool = False
    """The provider itself will deliver nothing more to this address, or (``granted``) will again."""

    @property
    def stored_source(self) -> str:
        return f"{self.source}:{self.key}"[:SOURCE_LENGTH] if self.key else self.source


def wish(text: str) -> bool | None:
    """False: no more; True: again; None: something else. Case and width folded (Ｒ, td, “退订。”)."""
    folded = "".join(unicodedata.normalize("NFKC", text).split()).strip(_MARKS).casefold()
    if folded in OPT_OUT:
        return False
    return True if folded in OPT_IN else None


def is_opt_out(text: str) -> bool:
    """Whether a reply asks to be left alone."""
    return wish(text) is False


def reply(
    text: str, phone: str, at: datetime, source: str, key: str = "", *, blocks: bool = False
) -> list[OptOut]:
    """What an SMS from ``phone`` (E.164) asks for; empty when it asks for nothing of this. ``blocks``: the
    provider stops by itself who asks for it, so that an opt-in lifts the suppression as well.
    """
    wanted = wish(text)
    return [] if wanted is None else [OptOut(SMS, phone, at, source, wanted, key, blocks and wanted)]


def opt_out(session: Session, replies: Iterable[OptOut]) -> int:
    """Set the marketing consent of everybody with these addresses; how many answers that were."""
    listed = list(replies)
    if not listed:
        return 0
    rows: list[ConsentChange] = []
    for channel in sorted({found.channel for found in listed}):
        rows += _changes(session, channel, [found for found in listed if found.channel == channel])
    set_many(session, rows)
    new = {row.source for row in rows}
    _block(session, [found for found in listed if found.blocked and found.stored_source in new])
    return len(rows)


def _changes(session: Session, channel: str, replies: Sequence[OptOut]) -> list[ConsentChange]:
    column = ADDRESS_COLUMN[channel]
    index = getattr(Member, f"{column}_index")
    by_index: dict[str, list[OptOut]] = {}
    for found in replies:
        by_index.setdefault(blind_index(column, found.address) or "", []).append(found)
    answered = sa.and_(
        Consent.member_id == Member.id, Consent.channel == channel, Consent.purpose == MARKETING
    )
    members = session.execute(
        sa.select(Member.id, index, Consent.member_id.is_not(None))
        .outerjoin(Consent, answered)
        .where(among(session, index, sorted(by_index)))
    ).all()
    rows = [
        ConsentChange(member_id, channel, MARKETING, found.granted, found.stored_source, found.at)
        for member_id, address, has_answered in members
        for found in by_index[address]
        if has_answered or not found.granted
    ]
    return _without_known(session, rows, {found.stored_source for found in replies if found.key})


def _without_known(session: Session, rows: list[ConsentChange], keyed: set[str]) -> list[ConsentChange]:
    """``rows`` without the replies that are recorded already."""
    if not keyed:
        return rows
    known = {
        (member_id, source)
        for member_id, source in session.execute(
            sa.select(ConsentEvent.member_id, ConsentEvent.source).where(
                among(session, ConsentEvent.member_id, sorted({row.member_id for row in rows})),
                ConsentEvent.source.in_(sorted(keyed)),
            )
        )
    }
    return [row for row in rows if (row.member_id, row.source) not in known]


def _block(session: Session, replies: Sequence[OptOut]) -> None:
    """Suppress what a provider delivers no more to; lift only what the same provider had reported."""
    indexes = {found: blind_index(ADDRESS_COLUMN[found.channel], found.address) or "" for found in replies}
    suppress_many(
        session,
        [
            SuppressionRow(
                found.channel, index, "blocked", _provider(found), found.at, {"reply": found.stored_source}
            )
            for found, index in indexes.items()
            if not found.granted
        ],
    )
    lifted: dict[tuple[str, str], list[str]] = {}
    for found, index in indexes.items():
        if found.granted:
            lifted.setdefault((found.channel, _provider(found)), []).append(index)
    for (channel, provider), listed in lifted.items():
        session.execute(
            sa.delete(Suppression).where(
                Suppression.channel == channel,
                Suppression.reason == "blocked",
                Suppression.source == provider,
                among(session, Suppression.address_index, sorted(listed)),
            )
        )


def _provider(found: OptOut) -> str:
    return found.source.partition(":")[0]
