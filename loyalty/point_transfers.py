"""Points that one member gives to another. Off until the shop allows it.

Guarantees: a transfer sums to 0 and creates no points: what leaves a lot enters a new one with the same
end; both members are locked before anything is read that decides; a day of the shop's zone has a limit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import among
from core.errors import Conflict, InvalidInput
from core.models import Preference
from core.times import instant
from loyalty import ledger, point_holds, requests
from loyalty.earn_rules import load_rule
from loyalty.ledger import NotEnough
from loyalty.lots import RECEIVE, TRANSFER, Change
from loyalty.models import PointsLot, PointsTransfer
from loyalty.points import MAX_POINTS, check_points

PREFERENCE = "loyalty.transfers"


class TransferRefused(Conflict):
    """The shop does not allow this transfer."""

    reason = "transfer_refused"


@dataclass(frozen=True)
class TransferRule:
    """Whether members may give each other points, and how many a member a day."""

    enabled: bool = False
    per_day: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.per_day <= MAX_POINTS:
            raise InvalidInput(f"A member may give 1 to {MAX_POINTS} points a day.", "per_day")


@dataclass(frozen=True)
class Transferred:
    """Points given, and what the giver could still spend right after."""

    points: int
    available: int


def load(session: Session) -> TransferRule:
    """The stored rule, or the default: off."""
    stored = session.get(Preference, PREFERENCE)
    return TransferRule(**stored.value) if stored is not None else TransferRule()


def save(session: Session, rule: TransferRule, by: str, now: datetime) -> None:
    """Store the rule; leaves an audit row."""
    session.merge(Preference(key=PREFERENCE, value=asdict(rule), updated_at=now))
    audit.record(session, by, "change", "preference", PREFERENCE, now, asdict(rule))


def transfer(
    session: Session, giver_id: int, taker_id: int, points: int, *, idempotency_key: str, now: datetime
) -> Transferred:
    """Give points by nearest expiry; they keep their end. A debt of the taker is repaid first.

    :class:`NotEnough`: the giver has fewer. :class:`TransferRefused`: switched off, or over the day's
    limit. The same key with the same body answers the same again.
    """
    check_points(points)
    if giver_id == taker_id:
        raise InvalidInput("Points go to another member.", "to_member_id")
    body = {"do": TRANSFER, "giver": giver_id, "taker": taker_id, "points": points}
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Transferred(**before)
    rule = load(session)
    if not rule.enabled:
        raise TransferRefused(
            "Giving points to other members is switched off; an administrator can allow it."
        )
    ledger.lock_members(session, [giver_id, taker_id])
    today = _given_today(session, giver_id, now)
    if today + points > rule.per_day:
        raise TransferRefused(
            f"A member may give {rule.per_day} points a day; {today} were given today, "
            f"{points} were asked for."
        )
    point_holds.expire_holds_of(session, [giver_id], now)
    holding = ledger.holdings(session, [giver_id], now)[giver_id]
    available = holding.available(now)
    if available < points:
        raise NotEnough(f"The member has {available} points to spend; {points} were asked for.")
    row = PointsTransfer(giver_id=giver_id, taker_id=taker_id, points=points, at=now)
    session.add(row)
    session.flush()
    _move(session, row, holding.draw(points, available_at=now), now)
    answer = Transferred(points, available - points)
    requests.remember(session, idempotency_key, asdict(answer))
    return answer


def _given_today(session: Session, giver_id: int, now: datetime) -> int:
    zone = ZoneInfo(load_rule(session).timezone)
    midnight = instant(now.astimezone(zone).date(), zone)
    total = sa.func.coalesce(sa.func.sum(PointsTransfer.points), 0)
    return int(
        session.execute(
            sa.select(total).where(PointsTransfer.giver_id == giver_id, PointsTransfer.at >= midnight)
        ).scalar_one()
    )


def _move(session: Session, row: PointsTransfer, drawn: list[tuple[int, int]], now: datetime) -> None:
    lots = {
        lot_id: (expires_at, rolling)
        for lot_id, expires_at, rolling in session.execute(
            sa.select(PointsLot.id, PointsLot.expires_at, PointsLot.rolling).where(
                among(session, PointsLot.id, (lot_id for lot_id, _ in drawn))
            )
        )
    }
    source = f"{TRANSFER}:{row.id}"
    ledger.write(session, [Change(row.giver_id, lot, TRANSFER, source, -share) for lot, share in drawn], now)
    new = [
        ledger.NewLot(
            row.taker_id, share, now, lots[lot][0], TRANSFER, f"{row.id}:{lot}", {"lot": lot}, lots[lot][1]
        )
        for lot, share in drawn
    ]
    ledger.issue(session, new, RECEIVE, now, entry_source=source)
    ledger.repay_debts(session, {row.taker_id: source}, now)
