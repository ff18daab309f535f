"""The fact tables that loyalty gives to the warehouse. Nobody who was erased."""

from __future__ import annotations

import sqlalchemy as sa

from core.models import Member
from core.warehouse.replica import Fact
from loyalty.ledger import POINTS
from loyalty.models import Coupon, PointsEntry, Redemption
from loyalty.redemptions import REDEMPTIONS
from loyalty.tiers.models import MemberTier
from loyalty.tiers.store import TIERS

FACTS = (
    Fact(
        REDEMPTIONS,
        sa.select(
            Redemption.id.label("redemption_id"),
            Redemption.member_id,
            Coupon.batch_id,
            Coupon.code,
            Coupon.issue_key,
            Redemption.order_ref,
            Redemption.basket_minor,
            # A use that was wholly undone keeps what it was: until then it counted as that.
            sa.case(
                (Redemption.rolled_back_at.is_not(None), Redemption.discount_minor),
                else_=Redemption.discount_minor - Redemption.returned_discount_minor,
            ).label("discount_minor"),
            Redemption.currency,
            Redemption.redeemed_at,
            Redemption.rolled_back_at,
        )
        .join(Coupon, Coupon.id == Redemption.coupon_id)
        .outerjoin(Member, Member.id == Redemption.member_id)
        .where(Member.erased_at.is_(None)),
        "redeemed_at",
    ),
    Fact(
        POINTS,
        sa.select(
            PointsEntry.id.label("entry_id"),
            PointsEntry.member_id,
            PointsEntry.lot_id,
            PointsEntry.kind,
            PointsEntry.delta,
            PointsEntry.at,
            PointsEntry.source_id,
        )
        .join(Member, Member.id == PointsEntry.member_id)
        .where(Member.erased_at.is_(None)),
        "at",
    ),
    Fact(
        TIERS,
        sa.select(MemberTier.member_id, MemberTier.tier, MemberTier.since)
        .join(Member, Member.id == MemberTier.member_id)
        .where(Member.erased_at.is_(None)),
        None,
    ),
)
