"""The ladder as values, and what becomes of a member on it. Pure: no session, no clock.

Upgrades are immediate. A tier lasts until its review: for a rolling window as many months as the window
has, for calendar years to the end of the year after the one it was reached in. A member who then no
longer has what the tier asks for goes down one step, after the days of grace. What counts is the rolling
window, or the better of this calendar year and the last (so that a review in January sees the year before).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from core.errors import InvalidInput
from core.times import instant
from loyalty.earn_rules import decimal
from loyalty.lots import add_months

POINTS, SPEND, ORDERS = "points", "spend", "orders"
BASES = (POINTS, SPEND, ORDERS)
ROLLING, CALENDAR = "rolling", "calendar"
WINDOWS = (ROLLING, CALENDAR)
MAX_TIERS, MAX_NAME, MAX_TITLE, MAX_MONTHS, MAX_GRACE, MAX_HOURS = 20, 40, 200, 120, 366, 720
MAX_THRESHOLD = 10**12
BENEFITS = ("multiplier", "birthday_batch", "free_shipping", "early_access_hours")
REACHED, REVIEW, KEPT, REMOVED = "reached", "review", "kept", "removed"
"""Why a member moved."""


@dataclass(frozen=True)
class Tier:
    """A step: reached with ``threshold`` points, minor units or orders in the programme's window."""

    name: str
    title: str
    threshold: int
    title_en: str | None = None
    benefits: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= MAX_NAME:
            raise InvalidInput(f"The name of a tier has 1 to {MAX_NAME} characters.", "name")
        if not 1 <= len(self.title) <= MAX_TITLE or len(self.title_en or "") > MAX_TITLE:
            raise InvalidInput(f"The title of a tier has 1 to {MAX_TITLE} characters.", "title")
        if not 0 <= self.threshold <= MAX_THRESHOLD:
            raise InvalidInput(f"A threshold lies between 0 and {MAX_THRESHOLD}.", "threshold")
        unknown = sorted(set(self.benefits) - set(BENEFITS))
        if unknown:
            raise InvalidInput(f"{unknown[0]} is no benefit; they are {', '.join(BENEFITS)}.", "benefits")
        if self.benefits.get("multiplier"):
            decimal(str(self.benefits["multiplier"]), "multiplier")
        hours = self.benefits.get("early_access_hours") or 0
        if not isinstance(hours, int) or not 0 <= hours <= MAX_HOURS:
            raise InvalidInput(f"Early access is 0 to {MAX_HOURS} hours.", "early_access_hours")


@dataclass(frozen=True)
class Program:
    """The ladder, lowest tier first, and its rules; days are of ``timezone``."""

    tiers: tuple[Tier, ...] = ()
    basis: str = SPEND
    window: str = ROLLING
    months: int = 12
    """Of a rolling window."""
    grace_days: int = 0
    timezone: str = "Asia/Shanghai"
    currency: str = "CNY"
    """Of the orders that count as spend."""
    retired: Mapping[str, int] = field(default_factory=dict)
    """Thresholds of tiers that are no more, of which members may still hold some."""

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise InvalidInput(f"Tiers are reached by one of {', '.join(BASES)}.", "basis")
        if self.window not in WINDOWS:
            raise InvalidInput(f"The window is one of {', '.join(WINDOWS)}.", "window")
        if not 1 <= self.months <= MAX_MONTHS:
            raise InvalidInput(f"A rolling window has 1 to {MAX_MONTHS} months.", "months")
        if not 0 <= self.grace_days <= MAX_GRACE:
            raise InvalidInput(f"Days of grace lie between 0 and {MAX_GRACE}.", "grace_days")
        if len(self.tiers) > MAX_TIERS:
            raise InvalidInput(f"A ladder has at most {MAX_TIERS} tiers.", "tiers")
        if len({tier.name for tier in self.tiers}) < len(self.tiers):
            raise InvalidInput("Two tiers have the same name.", "tiers")
        thresholds = [tier.threshold for tier in self.tiers]
        if any(low >= high for low, high in pairwise(thresholds)):
            raise InvalidInput("Each tier asks for more than the one below it.", "tiers")

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def rank(self, name: str | None) -> int:
        """Place of a tier from 0; -1: none, or one that is no more."""
        return next((place for place, tier in enumerate(self.tiers) if tier.name == name), -1)

    def reached(self, value: int) -> int:
        """The highest place that a value is enough for; -1: none."""
        return max((place for place, tier in enumerate(self.tiers) if value >= tier.threshold), default=-1)

    def windows(self, now: datetime) -> tuple[datetime, datetime]:
        """(since when the value is counted, where it is counted anew): two calendar years, of which the
        better counts; or one rolling window, whose two moments are the same."""
        if self.window == CALENDAR:
            day = now.astimezone(self.zone).date()
            this = instant(day.replace(month=1, day=1), self.zone)
            return instant(day.replace(year=day.year - 1, month=1, day=1), self.zone), this
        start = add_months(now, -self.months, self.zone)
        return start, start

    def until(self, now: datetime, *, reviewed: bool = False) -> datetime:
        """The review of a tier entered at ``now``: the first moment that it may be lost. What a review
        gives for the calendar year before is for this one alone."""
        if self.window == CALENDAR:
            year = now.astimezone(self.zone).year + (1 if reviewed else 2)
            return instant(date(year, 1, 1), self.zone)
        return add_months(now, self.months, self.zone)


@dataclass(frozen=True)
class Standing:
    """A member's tier; ``until`` is its review (None for the lowest step that everybody has)."""

    tier: str
    until: datetime | None


@dataclass(frozen=True)
class Decision:
    """Where a member stands from now on, and why that is news (None: nothing changed)."""

    tier: str | None
    until: datetime | None
    why: str | None = None


def decide(value: int, current: Standing | None, program: Program, now: datetime) -> Decision:
    """What becomes of a member who has ``value`` in the window and stands at ``current``.

    Up at once, as far as the value reaches. Down one step, and only once the review and the days of
    grace are over; a member who still has what its tier asks for keeps it to the next review.
    """
    reached = program.reached(value)
    if current is None:
        return _enter(reached, REACHED, program, now)
    have = program.rank(current.tier)
    if have < 0:
        # Its tier is no more: the best one that asked for no more, until the review that it had.
        have = program.reached(program.retired.get(current.tier, -1))
        if have > reached:
            return Decision(program.tiers[have].name, current.until, REMOVED)
        return _enter(reached, REMOVED, program, now)
    if reached > have:
        return _enter(reached, REACHED, program, now)
    if current.until is None or now < current.until + timedelta(days=program.grace_days):
        return Decision(current.tier, current.until)
    return _enter(have, KEPT, program, now) if reached == have else _enter(have - 1, REVIEW, program, now)


def _enter(place: int, why: str, program: Program, now: datetime) -> Decision:
    if place < 0:
        return Decision(None, None, None if why == REACHED else why)
    tier = program.tiers[place]
    # What asks for nothing is never lost.
    reviewed = why in (KEPT, REVIEW)
    return Decision(tier.name, program.until(now, reviewed=reviewed) if tier.threshold else None, why)


def rules_of(program: Program) -> dict[str, Any]:
    """What of a programme is stored beside the ladder."""
    rules = asdict(program)
    return {name: value for name, value in rules.items() if name not in ("tiers", "retired")}
