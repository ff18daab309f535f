"""Tables of experiments, assignments and frozen read-outs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Json, UTCDateTime


class Experiment(Base):
    __tablename__ = "experiments"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    salt: Mapped[str] = mapped_column(sa.String(80))
    arms: Mapped[list[Any]] = mapped_column(Json)
    """[{name, weight}], the control arm first; weights sum to 1."""
    control: Mapped[str] = mapped_column(sa.String(40))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Assignment(Base):
    """A unit's arm and the moment from which it counts (when it was, or would have been, sent to)."""

    __tablename__ = "assignments"
    __table_args__ = (sa.Index("ix_assignments_member_id", "member_id"),)

    experiment_id: Mapped[int] = mapped_column(sa.ForeignKey("experiments.id"), primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True)
    arm: Mapped[str] = mapped_column(sa.String(40))
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class Readout(Base):
    """A frozen result: what was known, as of when, from which settings."""

    __tablename__ = "readouts"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    experiment_id: Mapped[int] = mapped_column(sa.ForeignKey("experiments.id"), index=True)
    kind: Mapped[str] = mapped_column(sa.String(20))
    """``real``, or ``simulated`` where an effect was injected to show what one looks like."""
    as_of: Mapped[datetime] = mapped_column(UTCDateTime)
    settings: Mapped[dict[str, Any]] = mapped_column(Json)
    result: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
