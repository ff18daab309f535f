"""Tables of coupon batches, codes, redemptions, and the points ledger in lots."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Json, Minor, UTCDateTime


class CouponBatch(Base):
    __tablename__ = "coupon_batches"
    __table_args__ = (sa.Index("uq_coupon_batches_generic_code", "generic_code", unique=True),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    title: Mapped[str] = mapped_column(sa.String(200))
    benefit: Mapped[dict[str, Any]] = mapped_column(Json)
    """{type: "fixed", amount} (minor units) or {type: "percent", percent, max_amount}."""
    currency: Mapped[str] = mapped_column(sa.String(3))
    min_spend_minor: Mapped[int] = mapped_column(Minor, default=0)
    prefix: Mapped[str] = mapped_column(sa.String(12), default="")
    random_chars: Mapped[int] = mapped_column(default=12)
    total_limit: Mapped[int | None]
    """Codes that may be issued; None: no limit (and then no counter row is touched)."""
    issued: Mapped[int] = mapped_column(default=0)
    """Counted only where there is a limit."""
    per_member_limit: Mapped[int | None]
    starts_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    valid_days: Mapped[int | None]
    """A code lives this long from its first valid moment (or until ``ends_at`` if that is sooner)."""
    valid_months: Mapped[int | None]
    """Or this many calendar months of the shop's zone; a day that the month lacks is its last one."""
    activation: Mapped[str] = mapped_column(sa.String(20), default="now", server_default="now")
    """When a code given becomes valid: ``now``, after ``days``, or with the ``next_month``."""
    activation_days: Mapped[int | None]
    timezone: Mapped[str | None] = mapped_column(sa.String(60))
    """The zone of the batch's days and months; None: UTC."""
    generic_code: Mapped[str | None] = mapped_column(sa.String(40))
    """One code that many use; every use makes a code (a row) of its own."""
    daily_limit: Mapped[int | None]
    """Codes that may be given on one day of the zone."""
    daily_per_member_limit: Mapped[int | None]
    """Uses a member and day of the zone."""
    budget_minor: Mapped[int | None] = mapped_column(Minor)
    """Money that holds and redemptions may take in all; None: no limit."""
    budget_used_minor: Mapped[int] = mapped_column(Minor, default=0, server_default="0")
    """Counted only where there is a budget."""
    transferable: Mapped[bool] = mapped_column(default=False, server_default="0")
    reminder_days: Mapped[int | None]
    """Days before a code's end from which its member may be reminded."""
    settlement_share: Mapped[float] = mapped_column(default=1.0)
    """Share of the face value that the shop bears, 0 to 1."""
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class Coupon(Base):
    """One code. States: issued ⇄ held → redeemed → (rolled back) issued; issued → expired | revoked."""

    __tablename__ = "coupons"
    __table_args__ = (
        sa.Index("ix_coupons_batch_id_issued_at", "batch_id", "issued_at"),
        sa.Index("ix_coupons_member_id_state", "member_id", "state"),
        sa.Index("ix_coupons_batch_id_state", "batch_id", "state"),
        sa.Index("ix_coupons_state_valid_until", "state", "valid_until"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(40), unique=True)
    batch_id: Mapped[int] = mapped_column(sa.ForeignKey("coupon_batches.id"))
    member_id: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    issue_key: Mapped[str] = mapped_column(sa.String(120), unique=True)
    """Natural key of the issue: ``run:<run id>:<member id>``, ``api:<key>`` …"""
    state: Mapped[str] = mapped_column(sa.String(20))
    issued_at: Mapped[datetime] = mapped_column(UTCDateTime)
    valid_from: Mapped[datetime | None] = mapped_column(UTCDateTime)
    valid_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    foreign: Mapped[bool] = mapped_column(default=False, server_default="0")
    """Another system's code: without our check character."""
    freed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When its place was given back: from then on it counts towards no limit."""


class CouponHold(Base):
    """A code kept for an order until it is paid. It resolves once: redeemed, released or expired."""

    __tablename__ = "coupon_holds"
    __table_args__ = (
        sa.Index(
            "uq_coupon_holds_live",
            "coupon_id",
            unique=True,
            sqlite_where=sa.text("state = 'held'"),
            postgresql_where=sa.text("state = 'held'"),
        ),
        sa.UniqueConstraint("idempotency_key"),
        sa.Index("ix_coupon_holds_state_expires_at", "state", "expires_at"),
        sa.Index("ix_coupon_holds_order_ref", "order_ref"),
        sa.Index("ix_coupon_holds_member_id", "member_id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    coupon_id: Mapped[int] = mapped_column(sa.ForeignKey("coupons.id"))
    member_id: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    order_ref: Mapped[str] = mapped_column(sa.String(128))
    basket_minor: Mapped[int] = mapped_column(Minor)
    discount_minor: Mapped[int] = mapped_column(Minor)
    """Kept free in the batch's budget; at most this is taken."""
    currency: Mapped[str] = mapped_column(sa.String(3))
    state: Mapped[str] = mapped_column(sa.String(20))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
    resolved_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    idempotency_key: Mapped[str] = mapped_column(sa.String(128))
    request_hash: Mapped[str] = mapped_column(sa.String(64))


class Redemption(Base):
    """A use of a code on an order. Rolled back rows stay; a code has at most one live row."""

    __tablename__ = "redemptions"
    __table_args__ = (
        sa.Index(
            "uq_redemptions_live",
            "coupon_id",
            unique=True,
            sqlite_where=sa.text("rolled_back_at IS NULL"),
            postgresql_where=sa.text("rolled_back_at IS NULL"),
        ),
        sa.UniqueConstraint("idempotency_key"),
        sa.Index("ix_redemptions_member_id", "member_id"),
        sa.Index("ix_redemptions_order_ref", "order_ref"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    coupon_id: Mapped[int] = mapped_column(sa.ForeignKey("coupons.id"))
    member_id: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    order_ref: Mapped[str] = mapped_column(sa.String(128))
    """The shop's order id; the order itself may arrive later."""
    basket_minor: Mapped[int] = mapped_column(Minor)
    discount_minor: Mapped[int] = mapped_column(Minor)
    currency: Mapped[str] = mapped_column(sa.String(3))
    redeemed_at: Mapped[datetime] = mapped_column(UTCDateTime)
    rolled_back_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    idempotency_key: Mapped[str] = mapped_column(sa.String(128))
    request_hash: Mapped[str] = mapped_column(sa.String(64))
    rollback_key: Mapped[str | None] = mapped_column(sa.String(128), unique=True)
    """Idempotency key of the request that rolled this back."""
    returned_basket_minor: Mapped[int] = mapped_column(Minor, default=0, server_default="0")
    returned_discount_minor: Mapped[int] = mapped_column(Minor, default=0, server_default="0")
    """What of the basket came back so far, and what of the discount with it."""


class CouponReturn(Base):
    """A part of a redemption's basket that came back, under the key of its request."""

    __tablename__ = "coupon_returns"

    key: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    redemption_id: Mapped[int] = mapped_column(sa.ForeignKey("redemptions.id"), index=True)
    basket_minor: Mapped[int] = mapped_column(Minor)
    request_hash: Mapped[str] = mapped_column(sa.String(64))
    returned_basket_minor: Mapped[int] = mapped_column(Minor)
    returned_discount_minor: Mapped[int] = mapped_column(Minor)
    """Of the redemption, as this left it."""
    whole: Mapped[bool]
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class ClaimLink(Base):
    """A link (or QR code) by which members claim one code each of a batch."""

    __tablename__ = "claim_links"
    __table_args__ = (sa.CheckConstraint('"limit" IS NULL OR claimed <= "limit"', name="claimed"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    token: Mapped[str] = mapped_column(sa.String(40), unique=True)
    batch_id: Mapped[int] = mapped_column(sa.ForeignKey("coupon_batches.id"), index=True)
    title: Mapped[str] = mapped_column(sa.String(200))
    limit: Mapped[int | None]
    claimed: Mapped[int] = mapped_column(default=0)
    """Counted only where there is a limit."""
    starts_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class PointsLot(Base):
    """A grant of points with its own expiry. 0 ≤ remaining ≤ issued."""

    __tablename__ = "points_lots"
    __table_args__ = (
        sa.UniqueConstraint("source_kind", "source_id"),
        sa.Index("ix_points_lots_member_id_expires_at", "member_id", "expires_at"),
        sa.Index(
            "ix_points_lots_due",
            "expires_at",
            sqlite_where=sa.text("remaining > 0"),
            postgresql_where=sa.text("remaining > 0"),
        ),
        sa.CheckConstraint("remaining >= 0 AND remaining <= issued", name="remaining"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    issued: Mapped[int] = mapped_column(sa.BigInteger)
    remaining: Mapped[int] = mapped_column(sa.BigInteger)
    available_at: Mapped[datetime] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    source_kind: Mapped[str] = mapped_column(sa.String(20))
    """``order``, ``run``, ``grant``, ``adjust`` …"""
    source_id: Mapped[str] = mapped_column(sa.String(128))
    snapshot: Mapped[dict[str, Any]] = mapped_column(Json)
    """What the accrual was computed from (rate, base): refunds use it, never today's rule."""
    rolling: Mapped[bool] = mapped_column(default=False, server_default="0")
    """Whether earning or spending moves its end (expiry by inactivity)."""
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class PointsEntry(Base):
    """The ledger: every change of a lot or a debt, insert only."""

    __tablename__ = "points_entries"
    __table_args__ = (
        sa.UniqueConstraint("kind", "source_id", "lot_id"),
        sa.Index("ix_points_entries_member_id_at", "member_id", "at"),
        sa.Index("ix_points_entries_lot_id", "lot_id"),
        sa.Index("ix_points_entries_origin", "origin"),
        sa.Index(
            "ix_points_entries_debts",
            "member_id",
            sqlite_where=sa.text("lot_id IS NULL"),
            postgresql_where=sa.text("lot_id IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    lot_id: Mapped[int | None] = mapped_column(sa.BigInteger)
    """None for a change of the debt."""
    kind: Mapped[str] = mapped_column(sa.String(20))
    """``earn``, ``grant``, ``hold``, ``release``, ``spend``, ``refund``, ``expire``, ``revoke``, ``debt``,
    ``repay``, ``transfer``, ``receive``."""
    source_id: Mapped[str] = mapped_column(sa.String(128))
    origin: Mapped[str | None] = mapped_column(sa.String(128))
    """What this undoes: ``order:<id>`` of an accrual, ``spend:<source>`` of a spend."""
    delta: Mapped[int] = mapped_column(sa.BigInteger)
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    note: Mapped[str | None] = mapped_column(sa.String(300))


class LoyaltyRequest(Base):
    """The first answer to an idempotency key, given again to every repetition."""

    __tablename__ = "loyalty_requests"

    key: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    request_hash: Mapped[str] = mapped_column(sa.String(64))
    answer: Mapped[dict[str, Any]] = mapped_column(Json)
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class PointsHold(Base):
    """Points set aside for a checkout: resolved once (captured, released) or expired by its time limit."""

    __tablename__ = "points_holds"
    __table_args__ = (
        sa.Index("ix_points_holds_member_id", "member_id"),
        sa.Index(
            "ix_points_holds_open",
            "expires_at",
            sqlite_where=sa.text("state = 'held'"),
            postgresql_where=sa.text("state = 'held'"),
        ),
        sa.CheckConstraint("captured >= 0 AND captured <= points", name="captured"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    points: Mapped[int] = mapped_column(sa.BigInteger)
    source_id: Mapped[str] = mapped_column(sa.String(128))
    """What the points are for: the order that a capture spends them on."""
    state: Mapped[str] = mapped_column(sa.String(20))
    """``held``, ``captured``, ``released`` or ``expired``."""
    captured: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    held_at: Mapped[datetime] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
    resolved_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class PointsHoldLot(Base):
    """What a hold took out of which lot."""

    __tablename__ = "points_hold_lots"

    hold_id: Mapped[int] = mapped_column(sa.ForeignKey("points_holds.id"), primary_key=True)
    lot_id: Mapped[int] = mapped_column(sa.ForeignKey("points_lots.id"), primary_key=True, index=True)
    points: Mapped[int] = mapped_column(sa.BigInteger)


class PointsMultiplier(Base):
    """A campaign that multiplies what orders earn, such as double points for three days."""

    __tablename__ = "points_multipliers"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    times: Mapped[str] = mapped_column(sa.String(12))
    """A decimal as text."""
    starts_at: Mapped[datetime] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime] = mapped_column(UTCDateTime)
    categories: Mapped[list[str]] = mapped_column(Json)
    """Empty: every category."""
    tiers: Mapped[list[str]] = mapped_column(Json)
    """Empty: every member."""
    segments: Mapped[list[str] | None] = mapped_column(Json)
    """Names; empty or None: every member."""
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class PointsSegmentMember(Base):
    """A member of a segment that multiplies points, as of the newest refresh."""

    __tablename__ = "points_segment_members"
    __table_args__ = (sa.Index("ix_points_segment_members_member_id", "member_id"),)

    segment: Mapped[str] = mapped_column(sa.String(80), primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True, autoincrement=False)


class PointsEventRule(Base):
    """Points for an event: a review, a check-in, a survey, a birthday …"""

    __tablename__ = "points_event_rules"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    kind: Mapped[str] = mapped_column(sa.String(60))
    """Kind of the imported event, or ``birthday``."""
    points: Mapped[int] = mapped_column(sa.BigInteger)
    per_day: Mapped[int | None]
    """Rewards a member gets in a day of the shop's zone; None: no limit."""
    per_member: Mapped[int | None]
    """Rewards a member gets in all; None: no limit."""
    pending_days: Mapped[int] = mapped_column(default=0)
    starts_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_by: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class PointsAward(Base):
    """A reward that an event brought by a rule: what the limits are counted from."""

    __tablename__ = "points_awards"
    __table_args__ = (sa.Index("ix_points_awards_member_id_rule_id", "member_id", "rule_id"),)

    rule_id: Mapped[int] = mapped_column(sa.ForeignKey("points_event_rules.id"), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(80), primary_key=True)
    """``event:<id>`` or ``birthday:<year>:<member>``."""
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    day: Mapped[str] = mapped_column(sa.String(10))
    """Of the shop's zone."""


class PointsAdjustment(Base):
    """A correction by hand. Above the limit a second person decides."""

    __tablename__ = "points_adjustments"
    __table_args__ = (
        sa.Index("ix_points_adjustments_state", "state"),
        sa.Index("ix_points_adjustments_member_id", "member_id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(128), unique=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    points: Mapped[int] = mapped_column(sa.BigInteger)
    """Below 0: taken."""
    reason: Mapped[str] = mapped_column(sa.String(300))
    allow_debt: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(sa.String(20))
    """``pending``, ``done`` or ``refused``."""
    asked_by: Mapped[str] = mapped_column(sa.String(200))
    asked_at: Mapped[datetime] = mapped_column(UTCDateTime)
    decided_by: Mapped[str | None] = mapped_column(sa.String(200))
    decided_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class PointsTransfer(Base):
    """Points that one member gave to another."""

    __tablename__ = "points_transfers"
    __table_args__ = (sa.Index("ix_points_transfers_giver_id_at", "giver_id", "at"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    giver_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    taker_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    points: Mapped[int] = mapped_column(sa.BigInteger)
    at: Mapped[datetime] = mapped_column(UTCDateTime)
