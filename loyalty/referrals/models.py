"""Tables of referral programmes, openings of personal links, and referrals."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Minor, UTCDateTime


class ReferralProgram(Base):
    """What both sides get, and on which conditions. A reward is points, a coupon, or nothing."""

    __tablename__ = "referral_programs"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    title: Mapped[str] = mapped_column(sa.String(200))
    referrer_points: Mapped[int | None]
    referrer_batch_id: Mapped[int | None] = mapped_column(sa.ForeignKey("coupon_batches.id"))
    friend_points: Mapped[int | None]
    friend_batch_id: Mapped[int | None] = mapped_column(sa.ForeignKey("coupon_batches.id"))
    return_days: Mapped[int]
    weekly_limit: Mapped[int]
    """Friends of one member within 7 days; more are held for review."""
    min_order_minor: Mapped[int] = mapped_column(Minor)
    currency: Mapped[str] = mapped_column(sa.String(3))
    starts_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class ReferralOpen(Base):
    """How often the page behind a member's link was opened; no row before the first time."""

    __tablename__ = "referral_opens"

    program_id: Mapped[int] = mapped_column(sa.ForeignKey("referral_programs.id"), primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True)
    opens: Mapped[int]
    last_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Referral(Base):
    """A friend who came by a member's link.

    States: joined → ordered → rewarded; joined | ordered → held → joined | ordered | rejected;
    joined | ordered → rejected. A friend has one referrer ever, rejected ones aside.
    """

    __tablename__ = "referrals"
    __table_args__ = (
        sa.UniqueConstraint("friend_id", "referrer_id"),
        sa.Index(
            "uq_referrals_friend",
            "friend_id",
            unique=True,
            sqlite_where=sa.text("state <> 'rejected'"),
            postgresql_where=sa.text("state <> 'rejected'"),
        ),
        sa.Index("ix_referrals_state_due_at", "state", "due_at"),
        sa.Index("ix_referrals_referrer_id_joined_at", "referrer_id", "joined_at"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    program_id: Mapped[int] = mapped_column(sa.ForeignKey("referral_programs.id"))
    referrer_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    friend_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    state: Mapped[str] = mapped_column(sa.String(10))
    reason: Mapped[str | None] = mapped_column(sa.String(40))
    """Why it is held or rejected: a key of :data:`loyalty.referrals.reasons.WORDS`."""
    joined_at: Mapped[datetime] = mapped_column(UTCDateTime)
    order_id: Mapped[int | None] = mapped_column(sa.BigInteger)
    """The friend's first paid order. No foreign key: an import may replace an order."""
    ordered_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    due_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When the return window is over."""
    rewarded_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    decided_by: Mapped[str | None] = mapped_column(sa.String(200))
    decided_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
