"""What a member asked for on the preference page: channels, how often, a pause, or to be left alone.

Guarantees: a choice is one transaction of the caller, changes nothing that was not chosen, and may be
repeated. It counts for marketing at every decision and again at every claim; transactional messages
are not affected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from channels.consent import MARKETING, set_many
from channels.models import Consent, MemberPreference
from channels.sql import is_postgres, table_of
from core.contacts import CHANNELS
from core.db import among
from core.errors import InvalidInput
from core.imports import ConsentChange

SOURCE = "preferences"
MAX_WEEKLY = 50


class Wish(NamedTuple):
    """A member's own limits."""

    weekly_max: int | None
    paused_until: datetime | None

    def paused(self, now: datetime) -> bool:
        return self.paused_until is not None and self.paused_until > now


NO_WISH = Wish(None, None)


@dataclass(frozen=True)
class Choices:
    """All that the page shows and saves."""

    channels: frozenset[str]
    """Those whose marketing the member agrees to."""
    wish: Wish


def wishes(session: Session, member_ids: Iterable[int]) -> dict[int, Wish]:
    """The wishes of those of the members that have any."""
    table = MemberPreference
    query = sa.select(table.member_id, table.weekly_max, table.paused_until).where(
        among(session, table.member_id, member_ids)
    )
    return {row.member_id: Wish(row.weekly_max, row.paused_until) for row in session.execute(query)}


def load(session: Session, member_id: int) -> Choices:
    """What the member has chosen so far."""
    granted = session.scalars(
        sa.select(Consent.channel).where(
            Consent.member_id == member_id, Consent.purpose == MARKETING, Consent.granted
        )
    )
    return Choices(frozenset(granted), wishes(session, [member_id]).get(member_id, NO_WISH))


def save(session: Session, member_id: int, wanted: Choices, now: datetime) -> None:
    """Record what changed. Raises InvalidInput for an unknown channel or a number of messages below 1."""
    if not wanted.channels <= set(CHANNELS):
        raise InvalidInput(f"Channels are some of {', '.join(CHANNELS)}.", "channels")
    weekly = wanted.wish.weekly_max
    if weekly is not None and not 1 <= weekly <= MAX_WEEKLY:
        raise InvalidInput(f"Choose 1 to {MAX_WEEKLY} messages a week, or all of them.", "weekly_max")
    before = load(session, member_id)
    set_many(
        session,
        [
            ConsentChange(member_id, name, MARKETING, name in wanted.channels, SOURCE, now)
            for name in CHANNELS
            if (name in wanted.channels) != (name in before.channels)
        ],
    )
    if wanted.wish != before.wish:
        _upsert(session, member_id, wanted.wish, now)


def _upsert(session: Session, member_id: int, wish: Wish, now: datetime) -> None:
    table = table_of(MemberPreference)
    insert: Any = (postgresql if is_postgres(session) else sqlite).insert(table)
    values = {**wish._asdict(), "updated_at": now}
    session.execute(
        insert.values(member_id=member_id, **values).on_conflict_do_update(
            index_elements=["member_id"], set_=values
        )
    )


class Counts(NamedTuple):
    """How many members have a cap of their own, and how many are in a pause."""

    capped: int
    paused: int


def counts(session: Session, now: datetime) -> Counts:
    table = MemberPreference
    return Counts(
        *session.execute(
            sa.select(sa.func.count(table.weekly_max), sa.func.count(sa.case((table.paused_until > now, 1))))
        ).one()
    )


def forget(session: Session, member_id: int) -> None:
    """Delete what an erased member had asked for."""
    session.execute(sa.delete(MemberPreference).where(MemberPreference.member_id == member_id))
