"""What a message may say of a member's points: what can be spent, when the next go, and how many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from loyalty import ledger, points
from loyalty.earn_rules import load_rule
from loyalty.models import PointsHold, PointsHoldLot, PointsLot


@dataclass(frozen=True)
class PointFacts:
    """``expiring`` usable points go on the day (of the shop's zone) of ``expires_at``; None: none goes."""

    balance: int = 0
    expires_at: datetime | None = None
    expiring: int = 0

    def context(self) -> dict[str, Any]:
        """As templates see it: ``points.balance``, ``points.expires_at``, ``points.expiring``."""
        end = None if self.expires_at is None else self.expires_at.isoformat()
        return {"balance": self.balance, "expires_at": end, "expiring": self.expiring}


def of(session: Session, member_ids: Iterable[int], now: datetime) -> dict[int, PointFacts]:
    """The facts of each of the members as of ``now``; five queries, whatever their number."""
    ids = list(member_ids)
    held = points.balances(session, ids, now)
    zone = ZoneInfo(load_rule(session).timezone)
    ends: defaultdict[int, list[tuple[datetime, int]]] = defaultdict(list)
    for member_id, end, number in session.execute(_ends(session, ids, now)):
        ends[member_id].append((end, int(number)))
    found = {}
    for member_id in ids:
        balance = held[member_id]
        first = balance.next_expiry
        day = None if first is None else first.astimezone(zone).date()
        expiring = sum(number for end, number in ends[member_id] if end.astimezone(zone).date() == day)
        found[member_id] = PointFacts(balance.available, first, min(expiring, balance.available))
    return found


def _ends(session: Session, member_ids: list[int], now: datetime) -> sa.Select[Any]:
    """(member, end, points) of lots that can be spent and end, and of holds whose time is over."""
    usable = sa.and_(PointsLot.available_at <= now, PointsLot.expires_at > now)
    lots = sa.select(
        PointsLot.member_id.label("member_id"),
        PointsLot.expires_at.label("end"),
        PointsLot.remaining.label("points"),
    ).where(among(session, PointsLot.member_id, member_ids), PointsLot.remaining > 0, usable)
    back = (
        sa.select(PointsHold.member_id, PointsLot.expires_at, PointsHoldLot.points)
        .join(PointsHoldLot, PointsHoldLot.hold_id == PointsHold.id)
        .join(PointsLot, PointsLot.id == PointsHoldLot.lot_id)
        .where(
            among(session, PointsHold.member_id, member_ids),
            PointsHold.state == "held",
            PointsHold.expires_at <= now,
            ledger.not_over(now),
            PointsLot.expires_at.is_not(None),
        )
    )
    both = sa.union_all(lots, back).subquery()
    return sa.select(both.c.member_id, both.c.end, sa.func.sum(both.c.points)).group_by(
        both.c.member_id, both.c.end
    )
