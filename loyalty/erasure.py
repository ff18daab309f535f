"""What loyalty does when a member is erased: the books stay, the warehouse forgets."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.models import Member
from core.warehouse.replica import mark
from loyalty import segment_members
from loyalty.abuse import signals
from loyalty.ledger import POINTS
from loyalty.models import PointsEntry, Redemption
from loyalty.redemptions import REDEMPTIONS
from loyalty.tiers.store import TIERS


def forget(session: Session, member: Member, _now: datetime) -> None:
    """Mark every month of the warehouse that holds a redemption or points of the member.

    Coupons, redemptions and points stay in the database under the bare id: money was given for them.
    What tells a member's devices and addresses from others' goes, and the segments that earn more.
    """
    months = (
        (REDEMPTIONS, sa.select(Redemption.redeemed_at).where(Redemption.member_id == member.id)),
        (POINTS, sa.select(PointsEntry.at).where(PointsEntry.member_id == member.id)),
    )
    for fact, times in months:
        mark(session, fact, session.scalars(times))
    mark(session, TIERS, [None])
    signals.forget_member(session, member.id)
    segment_members.forget(session, member.id)
