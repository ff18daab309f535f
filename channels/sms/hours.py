"""When marketing SMS may arrive by law: mainland China 08:00–20:00, North America 08:00–21:00. Pure.

China has one time. Elsewhere it is the recipient's: the member's own zone, else that of the number; where
a number may be in several zones, all of them must be awake. A provider can have hours of its own. Unless
the settings name hours, only real providers keep them: a stand-in disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import phonenumbers

from channels.sms.segments import MAINLAND, is_mainland
from core.errors import InvalidInput
from core.settings import Settings

DEFAULT = "+86=08:00-20:00 +1=08:00-21:00"
OFF = "off"
CHINA = ZoneInfo("Asia/Shanghai")
COAST_TO_COAST = (ZoneInfo("America/New_York"), ZoneInfo("America/Los_Angeles"))
"""For a number of North America that belongs to no place."""
MOST_ZONES = 6
"""A number with more zones than these is a country's, not a place's."""
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Window:
    """From ``opening`` to just before ``closing``, on the wall clock."""

    opening: time
    closing: time

    def opens(self, zone: ZoneInfo, at: datetime) -> datetime:
        """``at`` itself inside the window, else the next opening (UTC)."""
        here = at.astimezone(zone)
        if self.opening <= here.time() < self.closing:
            return at
        day = here.date() + timedelta(days=0 if here.time() < self.opening else 1)
        return datetime.combine(day, self.opening, tzinfo=zone).astimezone(UTC)


@dataclass(frozen=True)
class Hours:
    """The windows by (provider or "", country code), and who sends where."""

    windows: Mapping[tuple[str, str], Window]
    mainland: str
    abroad: str
    kept_by: frozenset[str]

    def opens(self, phone: str, timezone: str | None, now: datetime) -> datetime | None:
        """When a marketing SMS to ``phone`` (E.164) may be sent next; None: now."""
        window = self.window(phone)
        if window is None:
            return None
        zones = (CHINA,) if is_mainland(phone) else _zones(phone, timezone)
        at = now
        for _ in range(_ROUNDS):
            later = max(window.opens(zone, at) for zone in zones)
            if later == at:
                return None if at == now else at
            at = later
        # No hour suits all the zones that the number may be in: the first one's.
        first = window.opens(zones[0], now)
        return None if first == now else first

    def window(self, phone: str) -> Window | None:
        """The hours for a number: its provider's own before everybody's, the longest code first."""
        provider = self.mainland if is_mainland(phone) else self.abroad
        if provider not in self.kept_by:
            return None
        for whose in (provider, ""):
            codes = [code for name, code in self.windows if name == whose and phone.startswith(code)]
            if codes:
                return self.windows[whose, max(codes, key=len)]
        return None


def hours_of(settings: Settings) -> Hours | None:
    """The hours of the settings; None where nobody keeps any. Raises InvalidInput."""
    if settings.sms_hours == OFF:
        return None
    providers = frozenset(settings.sms_providers)
    kept_by = providers
    if not settings.sms_hours:
        kept_by = frozenset(name for name in providers if getattr(settings, f"{name}_endpoint"))
    if not kept_by:
        return None
    return Hours(
        parse(settings.sms_hours or DEFAULT),
        settings.sms_provider,
        settings.sms_provider_abroad or settings.sms_provider,
        kept_by,
    )


@lru_cache(maxsize=16)
def parse(text: str) -> Mapping[tuple[str, str], Window]:
    """``[provider/]+code=HH:MM-HH:MM``, separated by spaces. Raises InvalidInput."""
    return dict(_one(part) for part in text.split())


def _one(part: str) -> tuple[tuple[str, str], Window]:
    whom, _, hours = part.partition("=")
    provider, _, code = whom.rpartition("/")
    begin, _, end = hours.partition("-")
    try:
        window = Window(time.fromisoformat(begin), time.fromisoformat(end))
    except ValueError:
        window = None
    if (
        window is None
        or not window.opening < window.closing
        or not (code[:1] == "+" and code[1:].isdecimal())
    ):
        raise InvalidInput(
            f"HUILIU_SMS_HOURS: “{part}” must look like {MAINLAND}=08:00-20:00 "
            f"or tencent/{MAINLAND}=08:00-22:00.",
            "sms_hours",
        )
    return (provider, code), window


def _zones(phone: str, timezone: str | None) -> Sequence[ZoneInfo]:
    own = _zone(timezone) if timezone else None
    return (own,) if own is not None else _zones_of_number(phone)


@lru_cache(maxsize=500)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return None


@lru_cache(maxsize=50_000)
def _zones_of_number(phone: str) -> Sequence[ZoneInfo]:
    # Its tables take a while to load, and most shops never need them.
    from phonenumbers import timezone

    names: Sequence[str] = ()
    with suppress(phonenumbers.NumberParseException):
        names = timezone.time_zones_for_number(phonenumbers.parse(phone))
    found = [zone for zone in map(_zone, names) if zone is not None and zone.key != "Etc/Unknown"]
    if found and len(found) <= MOST_ZONES:
        return tuple(found)
    if phone.startswith("+1"):
        return COAST_TO_COAST
    return tuple(found[:1]) or (ZoneInfo("UTC"),)
