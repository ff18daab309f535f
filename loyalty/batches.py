"""Coupon batches: checked, stored, found, archived, and how long their codes live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput, NotFound
from loyalty import benefits, codes
from loyalty.models import CouponBatch
from loyalty.sets import insert_new

MAX_VALID_DAYS = 3650
ISSUED, REDEEMED, EXPIRED, REVOKED = "issued", "redeemed", "expired", "revoked"
"""States of a code."""


@dataclass(frozen=True)
class NewBatch:
    """What a marketer gives to make a batch. Amounts in minor units of ``currency``."""

    name: str
    title: str
    benefit: Mapping[str, Any]
    currency: str
    min_spend_minor: int = 0
    prefix: str = ""
    random_chars: int = codes.MIN_RANDOM_CHARS
    total_limit: int | None = None
    per_member_limit: int | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    valid_days: int | None = None
    settlement_share: float = 1.0


def create_batch(session: Session, new: NewBatch, by: str, now: datetime) -> CouponBatch:
    """Store a batch. InvalidInput names the field that is wrong; a name in use is a Conflict."""
    prefix = _validated(new, now)
    values = {
        "name": new.name.strip(),
        "title": new.title.strip(),
        "benefit": benefits.validate(new.benefit),
        "currency": new.currency,
        "min_spend_minor": new.min_spend_minor,
        "prefix": prefix,
        "random_chars": new.random_chars,
        "total_limit": new.total_limit,
        "issued": 0,
        "per_member_limit": new.per_member_limit,
        "starts_at": new.starts_at,
        "ends_at": new.ends_at,
        "valid_days": new.valid_days,
        "settlement_share": new.settlement_share,
        "created_by": by,
        "created_at": now,
    }
    key = insert_new(session, CouponBatch.__table__, values, ["name"])
    if key is None:
        raise Conflict(f"There is a coupon batch “{new.name}” already; take another name.")
    audit.record(session, by, "create", "coupon_batch", key[0], now, {"name": new.name})
    return session.get_one(CouponBatch, key[0])


def _validated(new: NewBatch, now: datetime) -> str:
    checks = (
        (0 < len(new.name.strip()) <= 80, "name", "The name has 1 to 80 characters."),
        (0 < len(new.title.strip()) <= 200, "title", "The title has 1 to 200 characters."),
        (
            len(new.currency) == 3 and new.currency.isalpha() and new.currency.isupper(),
            "currency",
            "The currency is a code of three capitals, such as CNY.",
        ),
        (
            0 <= new.min_spend_minor <= benefits.MAX_AMOUNT_MINOR,
            "min_spend_minor",
            "The minimum spend is 0 or more minor units.",
        ),
        (
            new.total_limit is None or new.total_limit > 0,
            "total_limit",
            "The limit is above 0; leave it empty for none.",
        ),
        (
            new.per_member_limit is None or new.per_member_limit > 0,
            "per_member_limit",
            "The limit a member is above 0; leave it empty for none.",
        ),
        (
            new.valid_days is None or 0 < new.valid_days <= MAX_VALID_DAYS,
            "valid_days",
            f"Codes are valid for 1 to {MAX_VALID_DAYS} days; leave it empty for no limit.",
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
        (0 <= new.settlement_share <= 1, "settlement_share", "The shop's share lies between 0 and 1."),
    )
    for right, name, message in checks:
        if not right:
            raise InvalidInput(message, name)
    return codes.validate_pattern(new.prefix, new.random_chars, new.total_limit)


def archive_batch(session: Session, batch: CouponBatch, by: str, now: datetime) -> None:
    """Stop issuing and redeeming the batch's codes. Doing it again changes nothing."""
    if batch.archived_at is None:
        batch.archived_at = now
        audit.record(session, by, "archive", "coupon_batch", batch.id, now, {"name": batch.name})


def find_batch(session: Session, name: str) -> CouponBatch:
    """The batch of that name, or NotFound."""
    found = session.scalars(sa.select(CouponBatch).where(CouponBatch.name == name)).one_or_none()
    if found is None:
        raise NotFound(f"There is no coupon batch “{name}”; look its name up under Loyalty.")
    return found


def validity_end(
    ends_at: datetime | None, valid_days: int | None, starts_at: datetime | None, now: datetime
) -> datetime | None:
    """When a code issued now ends: ``valid_days`` after its first valid moment, or with its batch."""
    if valid_days is None:
        return ends_at
    own = max(now, starts_at or now) + timedelta(days=valid_days)
    return own if ends_at is None else min(own, ends_at)


def current_state(state: str, valid_until: datetime | None, now: datetime) -> str:
    """The state as of ``now``: an issued code is expired from its end on, swept or not."""
    return EXPIRED if state == ISSUED and valid_until is not None and valid_until <= now else state
