"""Quiet hours: when a member's own clock says that nobody should be disturbed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from core.errors import InvalidInput

DEFER, DROP = "defer", "drop"


@lru_cache(maxsize=1000)
def zone(name: str | None, fallback: ZoneInfo) -> ZoneInfo:
    """The member's zone; the shop's where the member has none or one nobody knows."""
    try:
        return ZoneInfo(name) if name else fallback
    except (ValueError, OSError, KeyError):
        return fallback


def check(quiet: Mapping[str, Any]) -> None:
    """Raises InvalidInput unless ``quiet`` is {start: "21:00", end: "08:00", mode: defer|drop}."""
    for name in ("start", "end"):
        try:
            _time(quiet[name])
        except (KeyError, TypeError, ValueError):
            raise InvalidInput(
                f"quiet_hours.{name} must be a time such as 21:00.", f"quiet_hours.{name}"
            ) from None
    if quiet.get("mode", DEFER) not in (DEFER, DROP):
        raise InvalidInput("quiet_hours.mode must be defer or drop.", "quiet_hours.mode")


@lru_cache(maxsize=256)
def _time(text: str) -> time:
    return time.fromisoformat(text)


def quiet_until(quiet: Mapping[str, Any], local: ZoneInfo, now: datetime) -> datetime | None:
    """When the quiet hours around ``now`` end (UTC), or None outside them.

    The start is quiet, the end is not; ``start`` after ``end`` spans midnight; equal ones mean no
    quiet hours. The end is a wall-clock time: across a change of clocks it stays 08:00.
    """
    start, end = _time(quiet["start"]), _time(quiet["end"])
    here = now.astimezone(local)
    clock = here.time()
    if start <= end:
        inside, days = start <= clock < end, 0
    else:
        inside, days = clock >= start or clock < end, 1 if clock >= start else 0
    if not inside:
        return None
    ending = datetime.combine(here.date() + timedelta(days=days), end, tzinfo=local).astimezone(UTC)
    if ending <= now:
        # The hour that comes twice in autumn: in its second round the first one's end lies behind us.
        ending = datetime.combine(here.date() + timedelta(days=days), end.replace(fold=1), tzinfo=local)
    return ending.astimezone(UTC)
