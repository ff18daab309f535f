"""Campaigns that multiply what orders earn (双倍积分): when, for which categories, tiers and segments.

Of several that apply to a line, the highest counts; it multiplies with the category's and the tier's own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput, NotFound
from loyalty.earn_rules import MAX_NAMES, decimal
from loyalty.models import PointsMultiplier

MAX_NAME = 80


@dataclass(frozen=True)
class Multiplier:
    """``times`` (a decimal as text) in [starts_at, ends_at); no categories, tiers or segments: for all."""

    name: str
    times: str
    starts_at: datetime
    ends_at: datetime
    categories: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= MAX_NAME:
            raise InvalidInput(f"A name has 1 to {MAX_NAME} characters.", "name")
        decimal(self.times, "times")
        if self.starts_at >= self.ends_at:
            raise InvalidInput("It ends after it has started.", "ends_at")
        for field in ("categories", "tiers", "segments"):
            if len(getattr(self, field)) > MAX_NAMES:
                raise InvalidInput(f"At most {MAX_NAMES} names are kept here.", field)


def times_of(
    multipliers: Iterable[Multiplier],
    *,
    at: datetime,
    tier: str | None,
    category: str | None,
    segments: Collection[str] = (),
) -> str:
    """The highest of the multipliers that apply; ``1`` where none does."""
    applying = [
        one.times
        for one in multipliers
        if one.starts_at <= at < one.ends_at
        and (not one.categories or category in one.categories)
        and (not one.tiers or tier in one.tiers)
        and (not one.segments or any(name in segments for name in one.segments))
    ]
    return max(applying, key=lambda times: decimal(times, "times"), default="1")


def between(session: Session, first: datetime, last: datetime) -> list[Multiplier]:
    """The multipliers that apply at any time from ``first`` to ``last``."""
    rows = session.scalars(
        sa.select(PointsMultiplier)
        .where(
            PointsMultiplier.archived_at.is_(None),
            PointsMultiplier.starts_at <= last,
            PointsMultiplier.ends_at > first,
        )
        .order_by(PointsMultiplier.id)
    )
    return [_read(row) for row in rows]


def _read(row: PointsMultiplier) -> Multiplier:
    return Multiplier(
        row.name,
        row.times,
        row.starts_at,
        row.ends_at,
        tuple(row.categories),
        tuple(row.tiers),
        tuple(row.segments or ()),
    )


def listed(session: Session) -> Sequence[PointsMultiplier]:
    """Those that are not archived, the latest first."""
    return session.scalars(
        sa.select(PointsMultiplier)
        .where(PointsMultiplier.archived_at.is_(None))
        .order_by(PointsMultiplier.starts_at.desc(), PointsMultiplier.id.desc())
    ).all()


def create(session: Session, new: Multiplier, by: str, now: datetime) -> None:
    """Store a multiplier for orders that are accrued from now on; leaves an audit row."""
    if session.scalar(sa.select(PointsMultiplier.id).where(PointsMultiplier.name == new.name)) is not None:
        raise Conflict(f"There is a multiplier “{new.name}” already; choose another name.")
    session.add(
        PointsMultiplier(
            name=new.name,
            times=new.times,
            starts_at=new.starts_at,
            ends_at=new.ends_at,
            categories=list(new.categories),
            tiers=list(new.tiers),
            segments=list(new.segments),
            created_by=by,
            created_at=now,
        )
    )
    detail = {**asdict(new), "starts_at": str(new.starts_at), "ends_at": str(new.ends_at)}
    audit.record(session, by, "create", "points_multiplier", new.name, now, detail)


def archive(session: Session, name: str, by: str, now: datetime) -> None:
    """Orders accrued from now on earn without it."""
    row = session.scalars(sa.select(PointsMultiplier).where(PointsMultiplier.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"There is no multiplier “{name}”.")
    if row.archived_at is None:
        row.archived_at = now
        audit.record(session, by, "archive", "points_multiplier", name, now)
