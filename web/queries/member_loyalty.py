"""What loyalty knows of one member: the tier, who invited them, whom they invited, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from core.models import Member
from loyalty.abuse.models import AbuseHit
from loyalty.referrals import joining
from loyalty.referrals.models import Referral
from loyalty.tiers.models import MemberTier, TierRow

HITS_SHOWN = 5


@dataclass(frozen=True)
class TierOf:
    title: str
    title_en: str | None
    since: datetime
    until: datetime | None
    """The next review; None: nobody leaves this tier downwards."""


@dataclass(frozen=True)
class HitOf:
    id: int
    action: str
    state: str
    last_at: datetime


@dataclass(frozen=True)
class MemberLoyalty:
    """``referrer``: id, name. ``friends`` counts who joined, ``rewarded`` those who brought a reward."""

    tier: TierOf | None
    referrer: tuple[int, str] | None
    friends: int
    rewarded: int
    hits: list[HitOf]


def load(session: Session, member_id: int) -> MemberLoyalty:
    """In four queries, whatever the member holds."""
    tier = session.execute(
        sa.select(
            sa.func.coalesce(TierRow.title, MemberTier.tier),
            TierRow.title_en,
            MemberTier.since,
            MemberTier.until,
        )
        .select_from(MemberTier)
        .outerjoin(TierRow, TierRow.name == MemberTier.tier)
        .where(MemberTier.member_id == member_id)
    ).one_or_none()
    inviting = aliased(Member)
    referrer = session.execute(
        sa.select(inviting.id, sa.func.coalesce(inviting.name, inviting.external_id))
        .join(Referral, Referral.referrer_id == inviting.id)
        .where(Referral.friend_id == member_id)
        .order_by(Referral.id)
        .limit(1)
    ).first()
    friends, rewarded = session.execute(
        sa.select(
            sa.func.count(), sa.func.count(sa.case((Referral.state == joining.REWARDED, Referral.id)))
        ).where(Referral.referrer_id == member_id)
    ).one()
    hits = session.execute(
        sa.select(AbuseHit.id, AbuseHit.action, AbuseHit.state, AbuseHit.last_at)
        .where(AbuseHit.member_id == member_id)
        .order_by(AbuseHit.last_at.desc(), AbuseHit.id.desc())
        .limit(HITS_SHOWN)
    )
    return MemberLoyalty(
        None if tier is None else TierOf(*tier),
        None if referrer is None else (referrer[0], referrer[1]),
        friends,
        rewarded,
        [HitOf(*row) for row in hits],
    )
