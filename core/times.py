"""The clock, and days of the shop's zone as instants."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from core.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now(settings: Settings) -> datetime:
    """This moment in UTC; in a replay, moved as the settings say."""
    return datetime.now(UTC) + timedelta(seconds=settings.clock_shift_s)


def instant(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of ``day`` in ``zone``, in UTC: everything before it happened before that day."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)
