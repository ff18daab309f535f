"""Arithmetic of points in lots: what is taken from which lot, what a refund takes back. Pure.

A lot is a grant with its own expiry. Points are consumed by nearest expiry, then id, undated last.
A member owes points (a debt) only while no lot has any left: a take-back empties the member's other
lots before it becomes a debt, and whatever comes in later repays the debt first.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple
from zoneinfo import ZoneInfo

from core.money import exponent

EARN, GRANT, SPEND, REFUND = "earn", "grant", "spend", "refund"
EXPIRE, REVOKE, DEBT, REPAY = "expire", "revoke", "debt", "repay"
HOLD, RELEASE, TRANSFER, RECEIVE = "hold", "release", "transfer", "receive"
CREATION = (EARN, GRANT, RECEIVE)
"""Kinds of the entry that comes with a new lot: they do not change its ``remaining``."""
FOREVER = datetime.max.replace(tzinfo=UTC)


class Change(NamedTuple):
    """A line of the ledger to be written; ``lot_id`` None is a change of the debt."""

    member_id: int
    lot_id: int | None
    kind: str
    source_id: str
    delta: int
    origin: str | None = None


@dataclass(slots=True)
class Lot:
    """What is left of a grant."""

    id: int
    remaining: int
    available_at: datetime
    expires_at: datetime | None


def consumption_order(lot: Lot) -> tuple[datetime, int]:
    """Sort key: nearest expiry, then id, undated last."""
    return (lot.expires_at or FOREVER, lot.id)


@dataclass(slots=True)
class Holding:
    """What one member holds in lots that are not over, pending ones included, and owes."""

    member_id: int
    lots: list[Lot] = field(default_factory=list)
    debt: int = 0

    def available(self, now: datetime) -> int:
        """Points that can be spent now."""
        return sum(lot.remaining for lot in self.lots if lot.available_at <= now)

    def draw(
        self, points: int, *, available_at: datetime | None = None, first: int | None = None
    ) -> list[tuple[int, int]]:
        """Take at most ``points`` out of the lots: (lot id, points) in the order of consumption.

        ``available_at`` leaves pending lots alone; ``first`` is a lot to be emptied before the others.
        """
        taken = []
        for lot in sorted(self.lots, key=lambda each: (each.id != first, *consumption_order(each))):
            if available_at is not None and lot.available_at > available_at:
                continue
            share = min(points, lot.remaining)
            if share:
                lot.remaining -= share
                points -= share
                taken.append((lot.id, share))
        return taken

    def repay(self, source_id: str) -> list[Change]:
        """Repay the debt from the lots, as far as they go."""
        drawn = self.draw(self.debt)
        repaid = sum(share for _, share in drawn)
        if not repaid:
            return []
        self.debt -= repaid
        changes = [Change(self.member_id, lot, REPAY, source_id, -share) for lot, share in drawn]
        return [*changes, Change(self.member_id, None, REPAY, source_id, repaid)]

    def take_back(self, points: int, lot_id: int, source_id: str, origin: str) -> list[Change]:
        """Take points back: from their own lot, then from the others; what was spent becomes a debt."""
        drawn = self.draw(points, first=lot_id)
        changes = [Change(self.member_id, lot, REVOKE, source_id, -share, origin) for lot, share in drawn]
        rest = points - sum(share for _, share in drawn)
        if rest:
            self.debt += rest
            changes.append(Change(self.member_id, None, DEBT, source_id, -rest, origin))
        return changes


def earned(base_minor: int | Fraction, currency: str, points_per_unit: Decimal | Fraction) -> int:
    """Whole points for an amount: points per major unit, rounded down."""
    return int(Fraction(base_minor) * Fraction(points_per_unit) // 10 ** exponent(currency))


def refund_due(
    *, issued: int, base_minor: int | Fraction, net_minor: int | Fraction, expired: int, taken: int
) -> int:
    """Points to take back now of a lot that earned ``issued`` on ``base_minor``.

    ``net_minor`` is what of the base is still paid for (both weighted alike, where categories earn
    differently). Cumulative: ``taken`` is what earlier refunds took. Points that expired unspent are
    not asked for again. Never negative, never above ``issued``; the refund that brings the net to 0
    takes all the rest.
    """
    base = Fraction(base_minor)
    refunded = min(max(base - Fraction(net_minor), Fraction(0)), base)
    due = int(issued * refunded // base)
    return max(0, min(due, issued - expired) - taken)


def add_months(at: datetime, months: int, zone: ZoneInfo) -> datetime:
    """The same local day and time ``months`` later; the month's last day where it has no such day."""
    local = at.astimezone(zone)
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    day = min(local.day, calendar.monthrange(year, month + 1)[1])
    return local.replace(year=year, month=month + 1, day=day).astimezone(UTC)
