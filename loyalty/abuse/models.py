"""Tables of signals, hits, the allow-list, and wrong codes. Of what a client sent, only keyed hashes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Json, UTCDateTime


class AbuseSignal(Base):
    """Somebody did something: one row for each thing by which they may be known again."""

    __tablename__ = "abuse_signals"
    __table_args__ = (
        sa.UniqueConstraint("action", "kind", "request_key"),
        sa.Index("ix_abuse_signals_kind_hash_at", "kind", "hash", "at"),
        sa.Index("ix_abuse_signals_member_id", "member_id", "kind"),
        sa.Index("ix_abuse_signals_at", "at"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    action: Mapped[str] = mapped_column(sa.String(20))
    member_id: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    kind: Mapped[str] = mapped_column(sa.String(10))
    """``member``, ``device``, ``address``, ``phone`` or ``ip``."""
    hash: Mapped[str] = mapped_column(sa.String(32))
    request_key: Mapped[str | None] = mapped_column(sa.String(64))
    """Hash of the request's idempotency key: a repetition is no second action."""
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class AbuseHit(Base):
    """A rule that was broken by a subject within a window; a storm counts up one row."""

    __tablename__ = "abuse_hits"
    __table_args__ = (
        sa.UniqueConstraint("rule", "kind", "hash", "bucket"),
        sa.Index("ix_abuse_hits_state_last_at", "state", "last_at"),
        sa.Index("ix_abuse_hits_kind_hash", "kind", "hash"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    rule: Mapped[str] = mapped_column(sa.String(60))
    action: Mapped[str] = mapped_column(sa.String(20))
    kind: Mapped[str] = mapped_column(sa.String(10))
    hash: Mapped[str] = mapped_column(sa.String(32))
    bucket: Mapped[int] = mapped_column(sa.BigInteger)
    """Start of the window, in seconds since 1970."""
    member_id: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    """Who acted last."""
    times: Mapped[int] = mapped_column(default=1)
    verdict: Mapped[str] = mapped_column(sa.String(10))
    """``hold`` or ``block``."""
    evidence: Mapped[dict[str, Any]] = mapped_column(Json)
    """{count, limit, window_s, members: ids of the others}."""
    state: Mapped[str] = mapped_column(sa.String(10))
    """``open``, ``confirmed`` or ``dismissed``."""
    first_at: Mapped[datetime] = mapped_column(UTCDateTime)
    last_at: Mapped[datetime] = mapped_column(UTCDateTime)
    decided_by: Mapped[str | None] = mapped_column(sa.String(200))
    decided_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    reason: Mapped[str | None] = mapped_column(sa.String(300))


class AbuseAllowance(Base):
    """A subject that no rule applies to: an office's address, the shop's own counter."""

    __tablename__ = "abuse_allowances"

    kind: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    hash: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    why: Mapped[str] = mapped_column(sa.String(300))
    by: Mapped[str] = mapped_column(sa.String(200))
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """None: until somebody takes it off the list."""


class AbuseGuess(Base):
    """Wrong codes of a subject. Times are seconds since 1970, so that one write can compute with them."""

    __tablename__ = "abuse_guesses"

    kind: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    hash: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    failures: Mapped[int]
    """Since ``since_s`` and since the last lock-out."""
    since_s: Mapped[int] = mapped_column(sa.BigInteger)
    lockouts: Mapped[int]
    locked_until_s: Mapped[int] = mapped_column(sa.BigInteger)
    """0: never locked."""
    last_s: Mapped[int] = mapped_column(sa.BigInteger)
