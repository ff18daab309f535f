"""Referral programmes: checked, stored, archived, and the one in force.

Guarantees: of several programmes that run at a time the newest counts, so that a link needs to name none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput, NotFound
from loyalty.models import CouponBatch
from loyalty.referrals.models import ReferralProgram
from loyalty.sets import insert_new

MAX_POINTS = 1_000_000
MAX_RETURN_DAYS = 365
MAX_WEEKLY = 1000
MAX_MINOR = 10**12


@dataclass(frozen=True)
class NewProgram:
    """What a marketer gives. A reward is points or a coupon batch's id; one side may get nothing."""

    name: str
    title: str
    currency: str
    referrer_points: int | None = None
    referrer_batch_id: int | None = None
    friend_points: int | None = None
    friend_batch_id: int | None = None
    return_days: int = 14
    weekly_limit: int = 10
    min_order_minor: int = 0
    starts_at: datetime | None = None
    ends_at: datetime | None = None


def create(session: Session, new: NewProgram, by: str, now: datetime) -> ReferralProgram:
    """Store a programme. InvalidInput names the field that is wrong; a name in use is a Conflict."""
    _check(session, new)
    values = {**_values(new), "created_by": by, "created_at": now, "updated_at": now}
    key = insert_new(session, ReferralProgram.__table__, values, ["name"])
    if key is None:
        raise Conflict(f"There is a referral programme “{new.name}” already; take another name.")
    audit.record(session, by, "create", "referral_program", key[0], now, {"name": new.name})
    return session.get_one(ReferralProgram, key[0])


def change(session: Session, program_id: int, new: NewProgram, by: str, now: datetime) -> ReferralProgram:
    """Change a programme; what was rewarded stays. Its name stays too: reports go by it."""
    row = find(session, program_id)
    if new.name.strip() != row.name:
        raise InvalidInput("The name of a programme stays; make another one for another name.", "name")
    _check(session, new)
    before = {name: getattr(row, name) for name in _values(new)}
    for name, value in _values(new).items():
        setattr(row, name, value)
    row.updated_at = now
    changed = {name: str(value) for name, value in _values(new).items() if value != before[name]}
    audit.record(session, by, "change", "referral_program", program_id, now, changed)
    return row


def archive(session: Session, program_id: int, by: str, now: datetime) -> None:
    """Let nobody join any more; who joined is still rewarded. Doing it again changes nothing."""
    row = find(session, program_id)
    if row.archived_at is None:
        row.archived_at = now
        audit.record(session, by, "archive", "referral_program", program_id, now, {"name": row.name})


def find(session: Session, program_id: int) -> ReferralProgram:
    """The programme, or NotFound."""
    row = session.get(ReferralProgram, program_id)
    if row is None:
        raise NotFound(f"There is no referral programme number {program_id}.")
    return row


def current(session: Session, now: datetime) -> ReferralProgram | None:
    """The programme that friends join now, or None."""
    return session.scalars(
        sa.select(ReferralProgram)
        .where(
            ReferralProgram.archived_at.is_(None),
            sa.or_(ReferralProgram.starts_at.is_(None), ReferralProgram.starts_at <= now),
            sa.or_(ReferralProgram.ends_at.is_(None), ReferralProgram.ends_at > now),
        )
        .order_by(ReferralProgram.id.desc())
        .limit(1)
    ).first()


def _values(new: NewProgram) -> dict[str, Any]:
    return {**asdict(new), "name": new.name.strip(), "title": new.title.strip()}


def _check(session: Session, new: NewProgram) -> None:
    sides = (
        ("referrer", new.referrer_points, new.referrer_batch_id),
        ("friend", new.friend_points, new.friend_batch_id),
    )
    checks = (
        (0 < len(new.name.strip()) <= 80, "name", "The name has 1 to 80 characters."),
        (0 < len(new.title.strip()) <= 200, "title", "The title has 1 to 200 characters."),
        (
            len(new.currency) == 3 and new.currency.isalpha() and new.currency.isupper(),
            "currency",
            "The currency is a code of three capitals, such as CNY.",
        ),
        (
            0 <= new.return_days <= MAX_RETURN_DAYS,
            "return_days",
            f"The return window has 0 to {MAX_RETURN_DAYS} days.",
        ),
        (
            1 <= new.weekly_limit <= MAX_WEEKLY,
            "weekly_limit",
            f"A member may bring 1 to {MAX_WEEKLY} friends a week.",
        ),
        (
            0 <= new.min_order_minor <= MAX_MINOR,
            "min_order_minor",
            "The minimum order is 0 or more minor units.",
        ),
        (
            new.starts_at is None or new.ends_at is None or new.starts_at < new.ends_at,
            "ends_at",
            "The end lies before the start.",
        ),
        (
            any(points is not None or batch is not None for _, points, batch in sides),
            "referrer_points",
            "At least one side gets something: points or a coupon.",
        ),
    )
    for right, field, message in checks:
        if not right:
            raise InvalidInput(message, field)
    for side, points, batch_id in sides:
        if points is not None and batch_id is not None:
            raise InvalidInput("A side gets points or a coupon, not both.", f"{side}_points")
        if points is not None and not 1 <= points <= MAX_POINTS:
            raise InvalidInput(f"A reward has 1 to {MAX_POINTS} points.", f"{side}_points")
    for side, _points, batch_id in sides:  # two at most
        batch = None if batch_id is None else session.get(CouponBatch, batch_id)
        if batch_id is not None and (batch is None or batch.archived_at is not None):
            raise InvalidInput("Choose a coupon batch that is in use.", f"{side}_batch_id")
