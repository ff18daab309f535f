"""Tables of group offers, groups, and the seats that members hold in them."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, UTCDateTime


class GroupOffer(Base):
    """What a full group gets: a code of a coupon batch for every seat."""

    __tablename__ = "group_offers"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    title: Mapped[str] = mapped_column(sa.String(200))
    seats: Mapped[int]
    hours: Mapped[int]
    """How long a group may take to fill."""
    batch_id: Mapped[int] = mapped_column(sa.ForeignKey("coupon_batches.id"))
    max_open: Mapped[int]
    """Groups of this offer in which a member may hold a seat at a time."""
    starts_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class Group(Base):
    """States: open → unlocked (full in time) or failed (deadline passed)."""

    __tablename__ = "groups"
    __table_args__ = (
        sa.Index("ix_groups_state_deadline", "state", "deadline"),
        sa.Index("ix_groups_offer_id_state", "offer_id", "state"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    offer_id: Mapped[int] = mapped_column(sa.ForeignKey("group_offers.id"))
    leader_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    token: Mapped[str] = mapped_column(sa.String(32), unique=True)
    seats: Mapped[int]
    """As the offer said when the group was opened."""
    state: Mapped[str] = mapped_column(sa.String(10))
    opened_at: Mapped[datetime] = mapped_column(UTCDateTime)
    deadline: Mapped[datetime] = mapped_column(UTCDateTime)
    closed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class GroupSeat(Base):
    """A member's seat. States: held → unlocked or released, with the group."""

    __tablename__ = "group_seats"
    __table_args__ = (sa.Index("ix_group_seats_member_id_state", "member_id", "state"),)

    group_id: Mapped[int] = mapped_column(sa.ForeignKey("groups.id"), primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True)
    state: Mapped[str] = mapped_column(sa.String(10))
    joined_at: Mapped[datetime] = mapped_column(UTCDateTime)
