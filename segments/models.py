"""Tables of segments, their history, and the runs that evaluated them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Json, UTCDateTime


class Segment(Base):
    __tablename__ = "segments"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    """Slug by which rules, campaigns and the command line refer to it."""
    title: Mapped[str] = mapped_column(sa.String(200))
    description: Mapped[str] = mapped_column(sa.Text, default="")
    rule: Mapped[dict[str, Any]] = mapped_column(Json)
    version: Mapped[int] = mapped_column(default=1)
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class SegmentVersion(Base):
    __tablename__ = "segment_versions"

    segment_id: Mapped[int] = mapped_column(sa.ForeignKey("segments.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    rule: Mapped[dict[str, Any]] = mapped_column(Json)
    changed_by: Mapped[str] = mapped_column(sa.String(200))
    changed_at: Mapped[datetime] = mapped_column(UTCDateTime)


class SegmentChange(Base):
    """A member entered or left a segment between two refreshes: what triggers journeys."""

    __tablename__ = "segment_changes"
    __table_args__ = (sa.UniqueConstraint("segment_id", "member_id", "as_of"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    segment_id: Mapped[int] = mapped_column(sa.ForeignKey("segments.id"))
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), index=True)
    as_of: Mapped[date]
    entered: Mapped[bool]
    """True: entered; False: left."""


class StageChange(Base):
    __tablename__ = "stage_changes"
    __table_args__ = (sa.UniqueConstraint("member_id", "as_of"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    as_of: Mapped[date] = mapped_column(index=True)
    from_stage: Mapped[str] = mapped_column(sa.String(20))
    to_stage: Mapped[str] = mapped_column(sa.String(20))


class Refresh(Base):
    """One evaluation of everybody as of a date; the snapshots lie beside it in the warehouse."""

    __tablename__ = "refreshes"

    as_of: Mapped[date] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    finished_at: Mapped[datetime] = mapped_column(UTCDateTime)
    members: Mapped[int]
    scored: Mapped[int]
    stages: Mapped[dict[str, int]] = mapped_column(Json)
    segments: Mapped[dict[str, Any]] = mapped_column(Json)
    """name → {count, entered, exited}."""
    rfm: Mapped[dict[str, Any]] = mapped_column(Json)
    """Cut points, means, window, and the notes that a read-out must say (coinciding cut points)."""
    predictions: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What ``segments.predict`` found: parameters, checks, plots, and whether its snapshot may be used."""
    seconds: Mapped[dict[str, float]] = mapped_column(Json)


class MemberList(Base):
    """A static list of members: uploaded, or a segment's members as they were on a day."""

    __tablename__ = "member_lists"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    """Slug by which rules refer to it."""
    title: Mapped[str] = mapped_column(sa.String(200))
    origin: Mapped[str] = mapped_column(sa.String(200), default="", server_default="")
    """Where it comes from: empty for an upload, ``segment:<name>@<date>`` for a frozen segment."""
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class MemberListEntry(Base):
    __tablename__ = "member_list_entries"
    __table_args__ = (sa.Index("ix_member_list_entries_member_id", "member_id"),)

    list_id: Mapped[int] = mapped_column(sa.ForeignKey("member_lists.id"), primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True)
