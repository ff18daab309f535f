"""Group offers: checked, stored, found, archived."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput, NotFound
from loyalty.groups.models import GroupOffer
from loyalty.models import CouponBatch
from loyalty.sets import insert_new

MIN_SEATS, MAX_SEATS = 2, 100
MAX_HOURS = 30 * 24
MAX_OPEN = 100


@dataclass(frozen=True)
class NewOffer:
    """What a marketer gives: a full group of ``seats`` within ``hours`` gets a code each of the batch."""

    name: str
    title: str
    seats: int
    hours: int
    batch_id: int
    max_open: int = 1
    starts_at: datetime | None = None
    ends_at: datetime | None = None


def create(session: Session, new: NewOffer, by: str, now: datetime) -> GroupOffer:
    """Store an offer. InvalidInput names the field that is wrong; a name in use is a Conflict."""
    checks = (
        (0 < len(new.name.strip()) <= 80, "name", "The name has 1 to 80 characters."),
        (0 < len(new.title.strip()) <= 200, "title", "The title has 1 to 200 characters."),
        (
            MIN_SEATS <= new.seats <= MAX_SEATS,
            "seats",
            f"A group has {MIN_SEATS} to {MAX_SEATS} seats.",
        ),
        (1 <= new.hours <= MAX_HOURS, "hours", f"A group has 1 to {MAX_HOURS} hours to fill."),
        (
            1 <= new.max_open <= MAX_OPEN,
            "max_open",
            f"A member may be in 1 to {MAX_OPEN} open groups of an offer.",
        ),
        (
            new.ends_at is None or new.ends_at > now,
            "ends_at",
            "The end lies in the past; choose a later one.",
        ),
        (
            new.starts_at is None or new.ends_at is None or new.starts_at < new.ends_at,
            "ends_at",
            "The end lies before the start.",
        ),
    )
    for right, field, message in checks:
        if not right:
            raise InvalidInput(message, field)
    _check_batch(session, new, now)
    values = {
        **asdict(new),
        "name": new.name.strip(),
        "title": new.title.strip(),
        "created_by": by,
        "created_at": now,
    }
    key = insert_new(session, GroupOffer.__table__, values, ["name"])
    if key is None:
        raise Conflict(f"There is a group offer “{new.name}” already; take another name.")
    audit.record(session, by, "create", "group_offer", key[0], now, {"name": new.name})
    return session.get_one(GroupOffer, key[0])


def _check_batch(session: Session, new: NewOffer, now: datetime) -> None:
    """The last group of the offer must still find its batch open."""
    batch = session.get(CouponBatch, new.batch_id)
    if batch is None or batch.archived_at is not None:
        raise InvalidInput("Choose a coupon batch that is in use.", "batch_id")
    if batch.ends_at is None:
        return
    if (
        batch.ends_at <= now
        or new.ends_at is None
        or new.ends_at + timedelta(hours=new.hours) > batch.ends_at
    ):
        raise InvalidInput(
            "The coupon batch ends before the last group of this offer would; let the offer end earlier.",
            "ends_at",
        )


def archive(session: Session, offer_id: int, by: str, now: datetime) -> None:
    """Let nobody open a group any more; open ones may still fill. Doing it again changes nothing."""
    row = session.get(GroupOffer, offer_id)
    if row is None:
        raise NotFound(f"There is no group offer number {offer_id}.")
    if row.archived_at is None:
        row.archived_at = now
        audit.record(session, by, "archive", "group_offer", offer_id, now, {"name": row.name})


def find(session: Session, name: str) -> GroupOffer:
    """The offer of that name, or NotFound."""
    found = session.scalars(sa.select(GroupOffer).where(GroupOffer.name == name)).one_or_none()
    if found is None:
        raise NotFound(f"There is no group offer “{name}”; look its name up under Loyalty.")
    return found
