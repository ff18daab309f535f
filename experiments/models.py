"""Tables of experiments, assignments, exposures, metrics and frozen read-outs."""

from __future__ import annotations

from datetime import date, datetime
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
    kind: Mapped[str] = mapped_column(sa.String(20), server_default="campaign")
    """``campaign``, ``control`` (a quarter of the global control group), ``shop`` (the shop's own pages)."""
    unit: Mapped[str] = mapped_column(sa.String(10), server_default="member")
    """``member``, or ``visitor``: any id of the shop's own, such as a cookie's."""
    hash_version: Mapped[int] = mapped_column(server_default="2")
    coverage: Mapped[float] = mapped_column(server_default="1")
    layer: Mapped[str | None] = mapped_column(sa.String(80))
    layer_low: Mapped[float | None]
    layer_high: Mapped[float | None]
    status: Mapped[str] = mapped_column(sa.String(20), server_default="running")
    """Of the shop's own: draft → running → stopped."""
    starts_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    version: Mapped[int] = mapped_column(server_default="1")
    about: Mapped[str | None] = mapped_column(sa.String(500))
    """What is tried and why, in a sentence."""
    allocation: Mapped[str] = mapped_column(sa.String(10), server_default="fixed")
    """``fixed``, or ``bandit``: the weights follow what the arms bring, week by week."""
    goal: Mapped[str | None] = mapped_column(sa.String(20))
    """What a bandit maximises, a member: ``revenue`` or ``converted``."""
    floor: Mapped[float | None]
    """The least weight of a bandit's arm."""
    window_days: Mapped[int | None]
    """Days of each member that a bandit counts."""


class BanditWeek(Base):
    """A bandit's weights from a moment on, and what they were reckoned from. One a week, never changed."""

    __tablename__ = "bandit_weeks"
    __table_args__ = (sa.UniqueConstraint("experiment_id", "week"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    experiment_id: Mapped[int] = mapped_column(sa.ForeignKey("experiments.id"))
    week: Mapped[date] = mapped_column(sa.Date)
    """The Monday of the week, in the shop's zone."""
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    """The moment from which the weights hold."""
    before: Mapped[dict[str, Any]] = mapped_column(Json)
    weights: Mapped[dict[str, Any]] = mapped_column(Json)
    """Arm → weight, before and from then on."""
    found: Mapped[dict[str, Any]] = mapped_column(Json)
    """Arm → {n, mean, se}, pooled over the periods of equal weights; empty where nothing could be said."""


class Assignment(Base):
    """A unit's arm and the moment from which it counts (when it was, or would have been, sent to)."""

    __tablename__ = "assignments"
    __table_args__ = (sa.Index("ix_assignments_member_id", "member_id"),)

    experiment_id: Mapped[int] = mapped_column(sa.ForeignKey("experiments.id"), primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True)
    arm: Mapped[str] = mapped_column(sa.String(40))
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class Exposure(Base):
    """A visitor's arm and the first time it was asked for. The visitor's id is kept as a keyed hash only."""

    __tablename__ = "exposures"

    experiment_id: Mapped[int] = mapped_column(sa.ForeignKey("experiments.id"), primary_key=True)
    unit_hash: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    arm: Mapped[str] = mapped_column(sa.String(40))
    first_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Metric(Base):
    """A metric as data; ``experiments.metrics.MetricSpec`` says what its columns mean."""

    __tablename__ = "metrics"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(60), unique=True)
    spec: Mapped[dict[str, Any]] = mapped_column(Json)
    """kind, fact, value, filter, window, winsorising, covariate, guardrail margin."""
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class ExperimentPlan(Base):
    """What an experiment was going to be read by, written down before it ran. Rows are never changed: what
    is decided anew is a version of its own."""

    __tablename__ = "experiment_plans"
    __table_args__ = (sa.UniqueConstraint("subject", "version"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    subject: Mapped[str] = mapped_column(sa.String(90))
    """``campaign:<name>``, or ``experiment:<name>`` of the shop's pages."""
    version: Mapped[int]
    plan: Mapped[dict[str, Any]] = mapped_column(Json)
    """``experiments.planning.Plan`` as JSON."""
    after_start: Mapped[bool]
    """Whether the experiment had begun: such a version is shown, and counts for nothing."""
    made_by: Mapped[str] = mapped_column(sa.String(200))
    made_at: Mapped[datetime] = mapped_column(UTCDateTime)


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


class ReadoutLink(Base):
    """A read-out shown to whoever holds the signed link, until it ends or is withdrawn."""

    __tablename__ = "readout_links"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    readout_id: Mapped[int] = mapped_column(sa.ForeignKey("readouts.id"), index=True)
    nonce: Mapped[str] = mapped_column(sa.String(32))
    """Part of what is signed: a number that is used again opens nothing."""
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
    withdrawn_by: Mapped[str | None] = mapped_column(sa.String(200))
    withdrawn_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
