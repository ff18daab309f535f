"""Corrections of points by hand, up or down, each with its reason; above a limit two people agree.

Guarantees: a key adjusts once; whoever asked never decides; what is taken comes out of the member's lots,
and nothing is taken where they are short, unless the asker said that the rest becomes a debt.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput, NotFound
from core.models import Preference
from loyalty import ledger, point_holds
from loyalty.ledger import NotEnough
from loyalty.models import PointsAdjustment
from loyalty.points import MAX_POINTS, grant_many
from loyalty.requests import check_key, other_body
from loyalty.sets import insert_new

LIMIT_PREFERENCE = "loyalty.adjustment_limit"
DEFAULT_LIMIT = 1000
"""Points, up or down, that one person may adjust."""
MAX_REASON = 300
MAX_LISTED = 200
ADJUST = "adjust"
PENDING, DONE, REFUSED = "pending", "done", "refused"
"""States."""


def limit(session: Session) -> int:
    """Points above which a second person decides."""
    stored = session.get(Preference, LIMIT_PREFERENCE)
    return int(stored.value) if stored is not None else DEFAULT_LIMIT


def save_limit(session: Session, points: int, by: str, now: datetime) -> None:
    """Store the limit (0: always two people); leaves an audit row."""
    if not 0 <= points <= MAX_POINTS:
        raise InvalidInput(f"The limit lies between 0 and {MAX_POINTS} points.", "limit")
    session.merge(Preference(key=LIMIT_PREFERENCE, value=points, updated_at=now))
    audit.record(session, by, "change", "preference", LIMIT_PREFERENCE, now, {"points": points})


def ask(
    session: Session,
    member_id: int,
    points: int,
    reason: str,
    *,
    key: str,
    by: str,
    now: datetime,
    allow_debt: bool = False,
) -> PointsAdjustment:
    """Adjust a member's points by ``points`` (below 0: take), or leave it to a second person.

    Answers the adjustment, ``done`` or ``pending``. The same key with the same body answers the same
    again. :class:`~loyalty.ledger.NotEnough` where the member has fewer and no debt is allowed.
    """
    reason = reason.strip()
    if not 0 < abs(points) <= MAX_POINTS:
        raise InvalidInput(f"Adjust by 1 to {MAX_POINTS} points, up or down.", "points")
    if not 1 <= len(reason) <= MAX_REASON:
        raise InvalidInput(f"Give a reason of at most {MAX_REASON} characters.", "reason")
    values: dict[str, Any] = {
        "member_id": member_id,
        "points": points,
        "reason": reason,
        "allow_debt": allow_debt,
    }
    row = {**values, "key": check_key(key), "state": PENDING, "asked_by": by, "asked_at": now}
    new = insert_new(session, PointsAdjustment.__table__, row, ["key"])
    found = session.scalars(sa.select(PointsAdjustment).where(PointsAdjustment.key == key)).one()
    if new is None:
        if any(getattr(found, name) != value for name, value in values.items()):
            raise other_body(key)
        return found
    audit.record(session, by, "ask", "points_adjustment", found.id, now, {"points": points, "reason": reason})
    if abs(points) <= limit(session):
        _apply(session, found, now)
        found.state = DONE
    session.flush()
    return found


def decide(session: Session, adjustment_id: int, *, approve: bool, by: str, now: datetime) -> None:
    """A second person's word. Conflict: the asker's own, or one that was decided before."""
    found = session.scalars(
        sa.select(PointsAdjustment).where(PointsAdjustment.id == adjustment_id).with_for_update()
    ).one_or_none()
    if found is None:
        raise NotFound(f"There is no adjustment {adjustment_id}.")
    if found.state != PENDING:
        raise Conflict("This adjustment was decided before.")
    if found.asked_by == by:
        raise Conflict("Whoever asked for an adjustment cannot decide on it; ask a second person.")
    if approve:
        _apply(session, found, now)
    found.state, found.decided_by, found.decided_at = (DONE if approve else REFUSED), by, now
    audit.record(session, by, "approve" if approve else "refuse", "points_adjustment", found.id, now)
    session.flush()


def _apply(session: Session, row: PointsAdjustment, now: datetime) -> None:
    if row.points > 0:
        grant_many(session, [(row.member_id, row.points, str(row.id))], now, source_kind=ADJUST)
        return
    ledger.lock_members(session, [row.member_id])
    point_holds.expire_holds_of(session, [row.member_id], now)
    holding = ledger.holdings(session, [row.member_id], now)[row.member_id]
    have = sum(lot.remaining for lot in holding.lots)
    if have < -row.points and not row.allow_debt:
        raise NotEnough(
            f"The member has {have} points; {-row.points} were to be taken. Allow a debt, or less."
        )
    source = f"{ADJUST}:{row.id}"
    ledger.write(session, holding.take_back(-row.points, 0, source, source), now)


def listed(session: Session, *, state: str | None = None, number: int = MAX_LISTED) -> Sequence[Any]:
    """Adjustments, the newest first; ``state`` filters."""
    query = sa.select(PointsAdjustment).order_by(PointsAdjustment.id.desc()).limit(min(number, MAX_LISTED))
    return session.scalars(query.where(PointsAdjustment.state == state) if state else query).all()
