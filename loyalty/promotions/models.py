"""Tables of promotions: what they are now, their versions, public notices, and what baskets took of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Json, UTCDateTime


class PromotionRow(Base):
    """A stored promotion. ``conditions`` and ``benefit`` are as an evaluation's input has them."""

    __tablename__ = "promotions"
    __table_args__ = (sa.CheckConstraint("stock IS NULL OR used >= 0", name="used"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    """The id of the promotion in evaluations."""
    title: Mapped[str] = mapped_column(sa.String(200))
    priority: Mapped[int] = mapped_column(default=0)
    exclusive: Mapped[bool] = mapped_column(default=False)
    group: Mapped[str | None] = mapped_column(sa.String(128))
    code: Mapped[str | None] = mapped_column(sa.String(128))
    starts_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    conditions: Mapped[list[Any]] = mapped_column(Json)
    benefit: Mapped[dict[str, Any]] = mapped_column(Json)
    currency: Mapped[str | None] = mapped_column(sa.String(3))
    stock: Mapped[int | None] = mapped_column(sa.BigInteger)
    """How many may be taken; None: no limit (and then this row is never written by a sale)."""
    used: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    """Counted only where there is a stock."""
    per_member_limit: Mapped[int | None]
    """How many a member may take in all."""
    daily_limit: Mapped[int | None]
    """How many a member may take on one day of the shop's zone."""
    large_sale: Mapped[bool] = mapped_column(default=False, server_default="0")
    """Its rules have to be public some days before it starts."""
    version: Mapped[int] = mapped_column(default=1)
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class PromotionVersion(Base):
    """What a promotion was, from when on, and by whom."""

    __tablename__ = "promotion_versions"

    promotion_id: Mapped[int] = mapped_column(sa.ForeignKey("promotions.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    definition: Mapped[dict[str, Any]] = mapped_column(Json)
    changed_by: Mapped[str] = mapped_column(sa.String(200))
    changed_at: Mapped[datetime] = mapped_column(UTCDateTime)


class PromotionNotice(Base):
    """A promotion's rules as they were published; never changed afterwards."""

    __tablename__ = "promotion_notices"

    promotion_id: Mapped[int] = mapped_column(sa.ForeignKey("promotions.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    texts: Mapped[dict[str, Any]] = mapped_column(Json)
    """{"zh" | "en": {"title", "parts": [[heading, text], …]}}."""
    published_at: Mapped[datetime] = mapped_column(UTCDateTime)
    published_by: Mapped[str] = mapped_column(sa.String(200))


class PromotionTake(Base):
    """What an order takes of a promotion. It resolves once: confirmed, released, or expired."""

    __tablename__ = "promotion_takes"
    __table_args__ = (
        sa.Index("ix_promotion_takes_member_id_promotion_id", "member_id", "promotion_id"),
        sa.Index("ix_promotion_takes_take_key", "take_key"),
        sa.Index(
            "ix_promotion_takes_open",
            "expires_at",
            sqlite_where=sa.text("state = 'held'"),
            postgresql_where=sa.text("state = 'held'"),
        ),
    )

    key: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    """Digest of ``take_key`` and the promotion."""
    promotion_id: Mapped[int] = mapped_column(sa.ForeignKey("promotions.id"), index=True)
    n: Mapped[int]
    taken_at: Mapped[datetime] = mapped_column(UTCDateTime)
    released_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When it was given back, by a release or by its time limit."""
    take_key: Mapped[str | None] = mapped_column(sa.String(128))
    """The request's key: it names all that an order took at once."""
    member_id: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    state: Mapped[str] = mapped_column(sa.String(20), default="held", server_default="held")
    """``held``, ``confirmed``, ``released`` or ``expired``."""
    day: Mapped[str | None] = mapped_column(sa.String(10))
    """When it was taken, in the shop's zone."""
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    confirmed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
