"""Tables of the ladder of tiers, each member's tier, and every move on it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Json, UTCDateTime


class TierRow(Base):
    """A step of the ladder. Archived steps stay: moves name them."""

    __tablename__ = "tiers"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    title: Mapped[str] = mapped_column(sa.String(200))
    title_en: Mapped[str | None] = mapped_column(sa.String(200))
    rank: Mapped[int]
    """0 is the lowest; the order of the thresholds."""
    threshold: Mapped[int] = mapped_column(sa.BigInteger)
    """Points, minor units or orders, as the programme's basis says."""
    benefits: Mapped[dict[str, Any]] = mapped_column(Json)
    """{multiplier, birthday_batch, free_shipping, early_access_hours}, each optional."""
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class MemberTier(Base):
    """Where a member stands. Who never reached a tier has no row."""

    __tablename__ = "member_tiers"
    __table_args__ = (sa.Index("ix_member_tiers_until", "until"), sa.Index("ix_member_tiers_tier", "tier"))

    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True, autoincrement=False)
    tier: Mapped[str] = mapped_column(sa.String(40))
    since: Mapped[datetime] = mapped_column(UTCDateTime)
    until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """The review: no downgrade before it. None: the lowest tier, which nobody leaves downwards."""
    value: Mapped[int] = mapped_column(sa.BigInteger)
    """What the last decision counted."""


class TierMove(Base):
    """A member went up, down, or was kept at a review; insert only."""

    __tablename__ = "tier_moves"
    __table_args__ = (sa.UniqueConstraint("member_id", "at"), sa.Index("ix_tier_moves_at", "at"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    from_tier: Mapped[str | None] = mapped_column(sa.String(40))
    to_tier: Mapped[str | None] = mapped_column(sa.String(40))
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    why: Mapped[str] = mapped_column(sa.String(20))
    """``reached``, ``review``, ``kept`` or ``removed`` (its tier is no more)."""
    value: Mapped[int] = mapped_column(sa.BigInteger)
