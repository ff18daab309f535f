"""Tables of campaigns, their runs, and the decision about every candidate."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Json, Minor, UTCDateTime


class Campaign(Base):
    """States: draft → pending → approved → running → finished; paused; archived."""

    __tablename__ = "campaigns"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    title: Mapped[str] = mapped_column(sa.String(200))
    state: Mapped[str] = mapped_column(sa.String(20), index=True)
    spec: Mapped[dict[str, Any]] = mapped_column(Json)
    """``campaigns.campaigns.CampaignSpec`` as JSON: audience, variants, channels, offer, limits."""
    version: Mapped[int] = mapped_column(default=1)
    budget_minor: Mapped[int | None] = mapped_column(Minor)
    scheduled_at: Mapped[datetime | None] = mapped_column(UTCDateTime, index=True)
    experiment_id: Mapped[int | None] = mapped_column(sa.ForeignKey("experiments.id"))
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    approved_by: Mapped[str | None] = mapped_column(sa.String(200))
    approved_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    again_by: Mapped[str | None] = mapped_column(sa.String(200))
    """Who asked for the campaign to run once more; None: nobody, or it was refused or undone."""
    again_key: Mapped[str | None] = mapped_column(sa.String(60))
    """``run_key`` of that run: the day on which it was asked for, and the version."""


class CampaignRun(Base):
    """One pass over the audience. ``cursor`` is the last member decided: where a restart goes on."""

    __tablename__ = "campaign_runs"
    __table_args__ = (sa.UniqueConstraint("campaign_id", "run_key"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(sa.ForeignKey("campaigns.id"))
    run_key: Mapped[str] = mapped_column(sa.String(60))
    state: Mapped[str] = mapped_column(sa.String(20), index=True)
    as_of: Mapped[datetime] = mapped_column(UTCDateTime)
    """``now`` of every decision of this run, also of those made after a restart."""
    spec: Mapped[dict[str, Any]] = mapped_column(Json)
    """The campaign as it was approved: later edits do not change a run under way."""
    cursor: Mapped[int] = mapped_column(sa.BigInteger)
    candidates: Mapped[int]
    counts: Mapped[dict[str, Any]] = mapped_column(Json)
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class Decision(Base):
    """What was decided about a candidate, and why: one row each, sent to or not."""

    __tablename__ = "decisions"
    __table_args__ = (sa.Index("ix_decisions_member_id", "member_id"),)

    run_id: Mapped[int] = mapped_column(sa.ForeignKey("campaign_runs.id"), primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True)
    reason: Mapped[str | None] = mapped_column(sa.String(40))
    """None: sent to. Otherwise why not (``campaigns.decide.REASONS``)."""
    arm: Mapped[str | None] = mapped_column(sa.String(40))
    channel: Mapped[str | None] = mapped_column(sa.String(20))
    coupon_code: Mapped[str | None] = mapped_column(sa.String(40))
    points: Mapped[int] = mapped_column(default=0)
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class WatchDay(Base):
    """What the watch found about a campaign on a day of the shop: once a day, by its key."""

    __tablename__ = "watch_days"

    campaign_id: Mapped[int] = mapped_column(sa.ForeignKey("campaigns.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    readout_id: Mapped[int | None] = mapped_column(sa.ForeignKey("readouts.id"))
    """None: there is nothing to compare (one variant and no holdout, or nobody assigned yet)."""
    tone: Mapped[str] = mapped_column(sa.String(10))
    """``good``, ``watch`` or ``bad``: the worst of its lights."""
    lights: Mapped[list[Any]] = mapped_column(Json)
    """``campaigns.watching.Light`` as JSON."""
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class WatchRule(Base):
    """What pauses a campaign by itself."""

    __tablename__ = "watch_rules"

    campaign_id: Mapped[int] = mapped_column(sa.ForeignKey("campaigns.id"), primary_key=True)
    stop_on: Mapped[list[Any]] = mapped_column(Json)
    """Some of ``srm``, ``guardrail``, ``budget``: a red light of these."""
    changed_by: Mapped[str] = mapped_column(sa.String(200))
    changed_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Alert(Base):
    """A light that is yellow or red, from when it went on until it is resolved. One open row a light."""

    __tablename__ = "alerts"
    __table_args__ = (
        sa.Index(
            "uq_alerts_open",
            "subject",
            "light",
            unique=True,
            sqlite_where=sa.text("resolved_at IS NULL"),
            postgresql_where=sa.text("resolved_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    subject: Mapped[str] = mapped_column(sa.String(120))
    """``campaign:NAME``, or ``tree`` for a week of the metrics tree."""
    light: Mapped[str] = mapped_column(sa.String(160))
    """``srm``, ``guardrail:METRIC:ARM``, ``budget`` … or a node of the tree and its week."""
    tone: Mapped[str] = mapped_column(sa.String(10))
    detail: Mapped[dict[str, Any]] = mapped_column(Json)
    first_at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)
    last_at: Mapped[datetime] = mapped_column(UTCDateTime)
    seen_by: Mapped[str | None] = mapped_column(sa.String(200))
    seen_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    resolved_by: Mapped[str | None] = mapped_column(sa.String(200))
    resolved_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class Rollout(Base):
    """A winner that waits for, or got, the word of a second person. One proposal a variant and experiment."""

    __tablename__ = "rollouts"
    __table_args__ = (sa.UniqueConstraint("experiment_id", "arm"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(sa.ForeignKey("campaigns.id"), index=True)
    experiment_id: Mapped[int] = mapped_column(sa.ForeignKey("experiments.id"))
    arm: Mapped[str] = mapped_column(sa.String(40))
    state: Mapped[str] = mapped_column(sa.String(20))
    """``proposed``, ``approved`` or ``rejected``."""
    evidence: Mapped[dict[str, Any]] = mapped_column(Json)
    before: Mapped[list[Any]] = mapped_column(Json)
    """The variants of the campaign before the roll-out."""
    proposed_at: Mapped[datetime] = mapped_column(UTCDateTime)
    decided_by: Mapped[str | None] = mapped_column(sa.String(200))
    decided_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
