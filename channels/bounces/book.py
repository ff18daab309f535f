"""The book of bounces that are no reason to suppress an address yet.

Counts bounces in a row: a message to the same member that was sent in between and did not come back is
a delivery, and starts the count anew. What reaches its limit is suppressed, with its evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from channels.bounces.classify import SOFT_KINDS, Kind
from channels.consent import SuppressionRow, suppress_many
from channels.models import BounceCount, Message
from channels.outbox import DELIVERED, SENT
from channels.sql import is_postgres, table_of
from core.db import among

SOFT_LIMIT = 5
SOFT_SPAN = timedelta(days=7)
INACTIVE_LIMIT = 2
COUNTED = SOFT_KINDS | {Kind.INACTIVE}


@dataclass(frozen=True, slots=True)
class Bounced:
    """A bounce to count."""

    address_index: str
    member_id: int
    kind: str
    code: str
    at: datetime
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tally:
    """The bounces of an address since its last delivery."""

    soft: int = 0
    inactive: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None

    def after(self, bounce: Bounced, delivered_at: datetime | None) -> Tally:
        """With one more bounce; ``delivered_at``: the newest delivery before it."""
        known = self
        if self.last_at is not None and delivered_at is not None and self.last_at < delivered_at < bounce.at:
            known = Tally()
        more = replace(known, first_at=known.first_at or bounce.at, last_at=bounce.at)
        if bounce.kind == Kind.INACTIVE:
            return replace(more, inactive=more.inactive + 1)
        return replace(more, soft=more.soft + 1)

    @property
    def reason(self) -> str | None:
        """The reason to suppress the address, or None."""
        if self.inactive >= INACTIVE_LIMIT:
            return "inactive"
        if self.first_at is None or self.last_at is None:
            return None
        long_enough = self.last_at - self.first_at >= SOFT_SPAN
        return "soft_bounce" if self.soft >= SOFT_LIMIT and long_enough else None


def count(session: Session, channel: str, bounces: Sequence[Bounced], source: str, now: datetime) -> None:
    """Count soft and inactive bounces (others are left out), and suppress what reached its limit."""
    wanted = sorted((one for one in bounces if one.kind in COUNTED), key=lambda one: one.at)
    if not wanted:
        return
    indexes = sorted({one.address_index for one in wanted})
    rows = session.scalars(
        sa.select(BounceCount)
        .where(BounceCount.channel == channel, among(session, BounceCount.address_index, indexes))
        .order_by(BounceCount.address_index)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    tallies = {row.address_index: Tally(row.soft, row.inactive, row.first_at, row.last_at) for row in rows}
    delivered = _deliveries(session, channel, {one.member_id for one in wanted})
    suppressed = []
    codes = {}
    for one in wanted:
        tally = tallies.get(one.address_index, Tally()).after(one, delivered.get(one.member_id))
        tallies[one.address_index], codes[one.address_index] = tally, one.code
        if tally.reason is not None:
            evidence = {**one.evidence, "code": one.code, "soft": tally.soft, "inactive": tally.inactive}
            suppressed.append(SuppressionRow(channel, one.address_index, tally.reason, source, now, evidence))
    _write(session, channel, {index: tallies[index] for index in indexes}, codes)
    suppress_many(session, suppressed)


def _deliveries(session: Session, channel: str, members: set[int]) -> dict[int, datetime]:
    """When each member was last sent a message that did not come back."""
    rows = session.execute(
        sa.select(Message.member_id, sa.func.max(Message.sent_at))
        .where(
            among(session, Message.member_id, sorted(members)),
            Message.channel == channel,
            Message.state.in_((SENT, DELIVERED)),
        )
        .group_by(Message.member_id)
    )
    return {member_id: at for member_id, at in rows if at is not None}


def _write(session: Session, channel: str, tallies: Mapping[str, Tally], codes: Mapping[str, str]) -> None:
    table = table_of(BounceCount)
    insert: Any = postgresql.insert(table) if is_postgres(session) else sqlite.insert(table)
    names = ("soft", "inactive", "first_at", "last_at", "code")
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["channel", "address_index"], set_={name: insert.excluded[name] for name in names}
        ),
        [
            {
                "channel": channel,
                "address_index": index,
                "soft": tally.soft,
                "inactive": tally.inactive,
                "first_at": tally.first_at,
                "last_at": tally.last_at,
                "code": codes[index][:40],
            }
            for index, tally in sorted(tallies.items())
        ],
    )
