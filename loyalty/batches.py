"""Coupon batches: checked, stored, found, archived, and how long their codes live."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput, NotFound
from loyalty import benefits, codes
from loyalty.models import Coupon, CouponBatch
from loyalty.sets import insert_new

MAX_VALID_DAYS = 3650
MAX_VALID_MONTHS = 120
MAX_LIMIT = 2**31 - 1
"""What the counters hold."""
MIN_GENERIC, MAX_GENERIC = 3, 40
ISSUED, REDEEMED, EXPIRED, REVOKED = "issued", "redeemed", "expired", "revoked"
HELD = "held"
"""States of a code."""
AT_ONCE, AFTER_DAYS, NEXT_MONTH = "now", "days", "next_month"
ACTIVATIONS = (AT_ONCE, AFTER_DAYS, NEXT_MONTH)
"""When a code that was given becomes valid."""


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
    valid_months: int | None = None
    activation: str = AT_ONCE
    activation_days: int | None = None
    timezone: str = "UTC"
    generic_code: str | None = None
    daily_limit: int | None = None
    daily_per_member_limit: int | None = None
    budget_minor: int | None = None
    transferable: bool = False
    reminder_days: int | None = None


def create_batch(session: Session, new: NewBatch, by: str, now: datetime) -> CouponBatch:
    """Store a batch. InvalidInput names the field that is wrong; a name in use is a Conflict."""
    prefix = _validated(new, now)
    generic = _generic_code(session, new.generic_code)
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
        "valid_months": new.valid_months,
        "activation": new.activation,
        "activation_days": new.activation_days if new.activation == AFTER_DAYS else None,
        "timezone": new.timezone,
        "generic_code": generic,
        "daily_limit": new.daily_limit,
        "daily_per_member_limit": new.daily_per_member_limit,
        "budget_minor": new.budget_minor,
        "budget_used_minor": 0,
        "transferable": new.transferable,
        "reminder_days": new.reminder_days,
        "created_by": by,
        "created_at": now,
    }
    key = insert_new(session, CouponBatch.__table__, values, ["name"])
    if key is None:
        raise Conflict(f"There is a coupon batch “{new.name}” already; take another name.")
    audit.record(session, by, "create", "coupon_batch", key[0], now, {"name": new.name})
    return session.get_one(CouponBatch, key[0])


def _validated(new: NewBatch, now: datetime) -> str:
    for right, name, message in (*_checks(new, now), *_checks_of_time(new), *_checks_of_limits(new)):
        if not right:
            raise InvalidInput(message, name)
    return codes.validate_pattern(new.prefix, new.random_chars, new.total_limit)


Check = tuple[bool, str, str]
"""Whether it is right, the field, and what to do where it is not."""


def _checks(new: NewBatch, now: datetime) -> tuple[Check, ...]:
    return (
        (0 < len(new.name.strip()) <= 80, "name", "The name has 1 to 80 characters."),
        (0 < len(new.title.strip()) <= 200, "title", "The title has 1 to 200 characters."),
        (
            len(new.currency) == 3 and new.currency.isalpha() and new.currency.isupper(),
            "currency",
            "The currency is a code of three capitals, such as CNY.",
        ),
        (
            _whole(new.min_spend_minor, 0, benefits.MAX_AMOUNT_MINOR),
            "min_spend_minor",
            "The minimum spend is 0 or more minor units.",
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


def _checks_of_time(new: NewBatch) -> tuple[Check, ...]:
    return (
        (
            new.valid_days is None or _whole(new.valid_days, 1, MAX_VALID_DAYS),
            "valid_days",
            f"Codes are valid for 1 to {MAX_VALID_DAYS} days; leave it empty for no limit.",
        ),
        (
            new.valid_months is None or _whole(new.valid_months, 1, MAX_VALID_MONTHS),
            "valid_months",
            f"Codes are valid for 1 to {MAX_VALID_MONTHS} months; leave it empty for no limit.",
        ),
        (
            new.valid_days is None or new.valid_months is None,
            "valid_months",
            "Give the life of a code in days or in months, not in both.",
        ),
        (
            new.activation in ACTIVATIONS,
            "activation",
            f"A code becomes valid by one of {', '.join(ACTIVATIONS)}.",
        ),
        (
            new.activation == AT_ONCE or not (new.generic_code or "").strip(),
            "activation",
            "A code for many is used in the moment it is given: it becomes valid at once.",
        ),
        (
            new.activation != AFTER_DAYS
            or (new.activation_days is not None and _whole(new.activation_days, 1, MAX_VALID_DAYS)),
            "activation_days",
            f"Say after how many days a code becomes valid: 1 to {MAX_VALID_DAYS}.",
        ),
        (
            new.reminder_days is None or _whole(new.reminder_days, 1, MAX_VALID_DAYS),
            "reminder_days",
            f"Members are reminded 1 to {MAX_VALID_DAYS} days before the end; leave it empty for never.",
        ),
        (_is_zone(new.timezone), "timezone", f"“{new.timezone[:60]}” is not a time zone."),
    )


def _checks_of_limits(new: NewBatch) -> tuple[Check, ...]:
    return (
        (
            new.total_limit is None or _whole(new.total_limit, 1, MAX_LIMIT),
            "total_limit",
            "The limit is above 0; leave it empty for none.",
        ),
        (
            new.per_member_limit is None or _whole(new.per_member_limit, 1, MAX_LIMIT),
            "per_member_limit",
            "The limit a member is above 0; leave it empty for none.",
        ),
        (
            new.daily_limit is None or _whole(new.daily_limit, 1, MAX_LIMIT),
            "daily_limit",
            "The limit a day is above 0; leave it empty for none.",
        ),
        (
            new.daily_per_member_limit is None or _whole(new.daily_per_member_limit, 1, MAX_LIMIT),
            "daily_per_member_limit",
            "The limit a member and day is above 0; leave it empty for none.",
        ),
        (
            new.budget_minor is None or _whole(new.budget_minor, 1, benefits.MAX_AMOUNT_MINOR),
            "budget_minor",
            f"The budget is 1 to {benefits.MAX_AMOUNT_MINOR} minor units; leave it empty for none.",
        ),
    )


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return len(name) <= 60


def _generic_code(session: Session, text: str | None) -> str | None:
    """The code that many use, as codes are compared; InvalidInput where it cannot be one."""
    if text is None or not text.strip():
        return None
    code = codes.normalise(text)
    if not (MIN_GENERIC <= len(code) <= MAX_GENERIC and code.isalnum()):
        raise InvalidInput(
            f"A code for many has {MIN_GENERIC} to {MAX_GENERIC} letters and digits.", "generic_code"
        )
    taken = sa.or_(
        sa.exists().where(CouponBatch.generic_code == code), sa.exists().where(Coupon.code == code)
    )
    if session.scalar(sa.select(taken)):
        raise InvalidInput(f"The code {code} is in use already; take another.", "generic_code")
    return code


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


def zone_of(name: str | None) -> ZoneInfo:
    """The zone of a batch's days and months."""
    return ZoneInfo(name or "UTC")


def day_start(now: datetime, zone: ZoneInfo) -> datetime:
    """The first moment of ``now``'s day in ``zone``."""
    return datetime.combine(now.astimezone(zone).date(), time(), zone).astimezone(UTC)


def day_bounds(now: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The first moment of ``now``'s day in ``zone``, and of the next one."""
    day = now.astimezone(zone).date()
    return day_start(now, zone), datetime.combine(day + timedelta(days=1), time(), zone).astimezone(UTC)


def plus_months(at: datetime, months: int, zone: ZoneInfo) -> datetime:
    """The same day and hour ``months`` later in ``zone``; a day that the month lacks is its last one."""
    local = at.astimezone(zone)
    month = local.month - 1 + months
    year, month = local.year + month // 12, month % 12 + 1
    day = min(local.day, calendar.monthrange(year, month)[1])
    return local.replace(year=year, month=month, day=day).astimezone(UTC)


def activation_of(activation: str, days: int | None, zone: ZoneInfo, now: datetime) -> datetime:
    """When a code given ``now`` becomes valid."""
    if activation == AFTER_DAYS:
        return now + timedelta(days=days or 0)
    if activation == NEXT_MONTH:
        local = now.astimezone(zone).date()
        first = date(local.year + local.month // 12, local.month % 12 + 1, 1)
        return datetime.combine(first, time(), zone).astimezone(UTC)
    return now


def validity(batch: CouponBatch, now: datetime) -> tuple[datetime | None, datetime | None]:
    """From when until when a code given ``now`` is valid; None: no bound.

    Conflict where it would become valid only after its batch ended.
    """
    zone = zone_of(batch.timezone)
    start = activation_of(batch.activation, batch.activation_days, zone, now)
    begins = batch.starts_at if batch.activation == AT_ONCE else max(start, batch.starts_at or start)
    until = validity_end(batch.ends_at, batch.valid_days, begins, now)
    if batch.valid_months is not None:
        own = plus_months(max(now, begins or now), batch.valid_months, zone)
        until = own if batch.ends_at is None else min(own, batch.ends_at)
    if until is not None and begins is not None and until <= begins:
        raise Conflict(
            f"A code of the batch “{batch.name}” given now would become valid only after the batch ends."
        )
    return begins, until


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
