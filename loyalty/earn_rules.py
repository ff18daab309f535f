"""How points are earned: the rule of orders, with its category multipliers, exclusions and expiry.

Owns the preference; what the rule does to orders is in :mod:`loyalty.earning`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import InvalidInput
from core.models import Preference
from core.times import instant
from loyalty.lots import add_months

PREFERENCE = "loyalty.earn"
_PREFERENCES = Preference.__table__.c
_STORED = sa.select(_PREFERENCES.value).where(_PREFERENCES.key == PREFERENCE)
MAX_RATE = 10_000
MAX_TIMES = 100
MAX_DECIMALS = 4
MAX_MONTHS = 120
MAX_YEARS = 10
MAX_PENDING_DAYS = 365
MAX_NAMES = 500
MONTHS, YEAR_END, INACTIVITY, NEVER = "months", "year_end", "inactivity", "never"
POLICIES = (MONTHS, YEAR_END, INACTIVITY, NEVER)


@dataclass(frozen=True)
class EarnRule:
    """How orders earn: ``points_per_unit`` (a decimal as text) for each major unit of what was paid.

    The base are the lines after all discounts, without shipping, ``excluded_categories`` and
    ``excluded_skus``; ``category_times`` multiplies a category's lines, ``segment_times`` all that members
    of a segment buy (of several segments the highest counts). Points become usable
    ``pending_days`` after the order. They expire as ``expires`` says, in ``timezone``: ``months``
    (``expiry_months`` later at the same local time; None: never), ``year_end`` (with the calendar year,
    ``expiry_years`` later), ``inactivity`` (after ``expiry_months`` without earning or spending), ``never``.
    """

    points_per_unit: str = "1"
    pending_days: int = 7
    expiry_months: int | None = 12
    timezone: str = "Asia/Shanghai"
    expires: str = MONTHS
    expiry_years: int = 0
    category_times: Mapping[str, str] = field(default_factory=dict)
    excluded_categories: tuple[str, ...] = ()
    excluded_skus: tuple[str, ...] = ()
    segment_times: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= MAX_RATE:
            raise InvalidInput(f"Points per unit lie between 0 and {MAX_RATE}.", "points_per_unit")
        if not 0 <= self.pending_days <= MAX_PENDING_DAYS:
            raise InvalidInput(f"Pending days lie between 0 and {MAX_PENDING_DAYS}.", "pending_days")
        if self.expires not in POLICIES:
            raise InvalidInput(f"Points expire by one of {', '.join(POLICIES)}.", "expires")
        if self.expiry_months is not None and not 1 <= self.expiry_months <= MAX_MONTHS:
            raise InvalidInput(
                f"Points expire after 1 to {MAX_MONTHS} months; leave it empty for never.", "expiry_months"
            )
        if self.expires == INACTIVITY and self.expiry_months is None:
            raise InvalidInput(
                "Say after how many months without earning or spending points expire.", "expiry_months"
            )
        if not 0 <= self.expiry_years <= MAX_YEARS:
            raise InvalidInput(
                f"Points expire with the end of this year (0) or of one up to {MAX_YEARS} years later.",
                "expiry_years",
            )
        for category, times in self.category_times.items():
            decimal(times, f"category_times.{category}")
        for segment, times in self.segment_times.items():
            decimal(times, f"segment_times.{segment}")
        for name in ("category_times", "segment_times", "excluded_categories", "excluded_skus"):
            if len(getattr(self, name)) > MAX_NAMES:
                raise InvalidInput(f"At most {MAX_NAMES} names are kept here.", name)

    @property
    def rate(self) -> Decimal:
        try:
            rate = Decimal(self.points_per_unit)
        except InvalidOperation:
            rate = Decimal("NaN")
        if not rate.is_finite():
            raise InvalidInput(f"“{self.points_per_unit}” is not a number of points.", "points_per_unit")
        return rate

    def times_of_segments(self, segments: Collection[str]) -> tuple[str, str | None]:
        """What a member of these segments is multiplied by, and the segment that says so, or None."""
        found = [name for name in sorted(segments) if name in self.segment_times]
        if not found:
            return "1", None
        best = max(found, key=lambda name: decimal(self.segment_times[name], "segment_times"))
        return self.segment_times[best], best

    @property
    def rolling(self) -> bool:
        """Whether earning and spending move the end of points."""
        return self.expires == INACTIVITY

    def expiry(self, at: datetime) -> datetime | None:
        """When points given at ``at`` expire."""
        if self.expires == NEVER:
            return None
        zone = ZoneInfo(self.timezone)
        if self.expires == YEAR_END:
            local = at.astimezone(zone)
            return instant(
                local.date().replace(year=local.year + self.expiry_years + 1, month=1, day=1), zone
            )
        return None if self.expiry_months is None else add_months(at, self.expiry_months, zone)


def decimal(text: str, name: str) -> Decimal:
    """A multiplier: 0 to 100 with at most four decimals."""
    try:
        times = Decimal(text)
    except InvalidOperation:
        times = Decimal("NaN")
    exponent = times.as_tuple().exponent
    if not times.is_finite() or not 0 <= times <= MAX_TIMES:
        raise InvalidInput(f"“{text}” is not a multiplier; write a number from 0 to {MAX_TIMES}.", name)
    if isinstance(exponent, int) and -exponent > MAX_DECIMALS:
        raise InvalidInput(f"A multiplier has at most {MAX_DECIMALS} decimals; {text} has more.", name)
    return times


def rule_of(value: Mapping[str, Any]) -> EarnRule:
    """The rule as it was stored; what it did not know yet has the default."""
    listed = {name: tuple(value[name]) for name in ("excluded_categories", "excluded_skus") if name in value}
    return EarnRule(**{**value, **listed})


def load_rule(session: Session) -> EarnRule:
    """The stored rule, or the defaults."""
    stored = session.execute(_STORED).scalar_one_or_none()
    return rule_of(stored) if stored is not None else EarnRule()


def save_rule(session: Session, rule: EarnRule, by: str, now: datetime) -> None:
    """Store the rule for orders that are accrued from now on; leaves an audit row."""
    session.merge(Preference(key=PREFERENCE, value=asdict(rule), updated_at=now))
    audit.record(session, by, "change", "preference", PREFERENCE, now, asdict(rule))
