"""The rules against abuse, as data that marketers may change: how often, by how many, how wrong.

Reading them never fails: what is stored was checked when it was saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from core import audit
from core.errors import InvalidInput
from core.models import Preference
from loyalty.abuse.subjects import ADDRESS, DEVICE, IP, KINDS, MEMBER, PHONE, SHARED_KINDS

PREFERENCE = "loyalty.abuse"
CLAIM, REDEEM, REFERRAL, SIGN_UP, GROUP = "claim", "redeem", "referral", "sign_up", "group"
ACTIONS = (CLAIM, REDEEM, REFERRAL, SIGN_UP, GROUP)
ALLOW, HOLD, BLOCK = "allow", "hold", "block"
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
MAX_WINDOW_S = 90 * DAY_S
"""Signals are kept this long."""
MAX_RULES = 100
MAX_LIMIT = 1_000_000


@dataclass(frozen=True)
class Velocity:
    """More than ``limit`` times ``action`` by one subject of ``kind`` within ``window_s`` is a hit."""

    name: str
    action: str
    kind: str
    limit: int
    window_s: int
    verdict: str = HOLD


@dataclass(frozen=True)
class Shared:
    """More than ``limit`` members with one subject of ``kind`` within ``window_s`` is a hit."""

    name: str
    kind: str
    limit: int
    window_s: int
    verdict: str = HOLD


@dataclass(frozen=True)
class Guessing:
    """``limit`` wrong codes within ``window_s`` lock a subject out, for the first of ``lockouts_s`` at
    first, then for the next; the last one is repeated."""

    limit: int = 5
    window_s: int = 10 * MINUTE_S
    first_s: int = 15 * MINUTE_S
    longest_s: int = DAY_S

    @property
    def lockouts_s(self) -> tuple[int, ...]:
        """The first lock-out, doubled until it is the longest."""
        found = [self.first_s]
        while found[-1] < self.longest_s:
            found.append(min(found[-1] * 2, self.longest_s))
        return tuple(found)


@dataclass(frozen=True)
class Rules:
    velocity: tuple[Velocity, ...]
    shared: tuple[Shared, ...]
    guessing: Guessing = Guessing()


def _defaults() -> Rules:
    """Tight on devices and phones, which one person has; loose on IP addresses, which offices share."""
    limits = ((MEMBER, 20, DAY_S), (DEVICE, 10, DAY_S), (ADDRESS, 10, DAY_S), (PHONE, 10, DAY_S),
              (IP, 60, HOUR_S))  # fmt: skip
    signing_up = ((DEVICE, 3, DAY_S), (ADDRESS, 5, DAY_S), (PHONE, 3, DAY_S), (IP, 20, HOUR_S))
    velocity = [
        Velocity(f"{action}_per_{kind}", action, kind, limit, window)
        for action in (CLAIM, REDEEM, REFERRAL, GROUP)
        for kind, limit, window in limits
    ]
    velocity += [
        Velocity(f"{SIGN_UP}_per_{kind}", SIGN_UP, kind, limit, window) for kind, limit, window in signing_up
    ]
    velocity += [
        Velocity(f"{action}_storm_per_{kind}", action, kind, 50, HOUR_S, BLOCK)
        for action in ACTIONS
        for kind in (DEVICE, PHONE)
    ]
    shared = [
        Shared("members_per_address", ADDRESS, 5, 30 * DAY_S),
        Shared("members_per_device", DEVICE, 3, 30 * DAY_S),
        Shared("members_per_phone", PHONE, 2, 30 * DAY_S),
    ]
    return Rules(tuple(velocity), tuple(shared))


DEFAULTS = _defaults()


def load_rules(session: Session) -> Rules:
    """The stored rules, or the defaults."""
    stored = session.get(Preference, PREFERENCE)
    return DEFAULTS if stored is None else parse(stored.value)


def save_rules(session: Session, rules: Rules, by: str, now: datetime) -> None:
    """Store rules for what happens from now on; leaves an audit row. InvalidInput names what is wrong."""
    checked = parse(asdict(rules))
    session.merge(Preference(key=PREFERENCE, value=asdict(checked), updated_at=now))
    audit.record(session, by, "change", "preference", PREFERENCE, now, asdict(checked))


def parse(value: Mapping[str, Any]) -> Rules:
    """Rules from JSON: {"velocity": […], "shared": […], "guessing": {…}}, with their fields."""
    if not isinstance(value, Mapping) or set(value) - {"velocity", "shared", "guessing"}:
        raise InvalidInput("The rules are an object with velocity, shared and guessing.", "rules")
    velocity = tuple(_rule(Velocity, "velocity", row) for row in _rows(value, "velocity"))
    shared = tuple(_rule(Shared, "shared", row) for row in _rows(value, "shared"))
    names = [rule.name for rule in (*velocity, *shared)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(f"Two rules are called “{twice[0]}”; give each its own name.", "name")
    return Rules(velocity, shared, _guessing(value.get("guessing") or {}))


def _rows(value: Mapping[str, Any], name: str) -> Sequence[Any]:
    rows = value.get(name) or ()
    if not isinstance(rows, Sequence) or isinstance(rows, str) or len(rows) > MAX_RULES:
        raise InvalidInput(f"The rules of {name} are a list of at most {MAX_RULES}.", name)
    return rows


def _rule(kind: type[Any], place: str, row: Any) -> Any:
    try:
        rule = kind(**row)
    except TypeError:
        raise InvalidInput(
            f"A rule of {place} has the fields {', '.join(kind.__dataclass_fields__)}.", place
        ) from None
    kinds = KINDS if kind is Velocity else SHARED_KINDS
    name = rule.name
    if not isinstance(name, str) or not 0 < len(name) <= 60:
        raise InvalidInput("A rule's name has 1 to 60 characters.", "name")
    if kind is Velocity and rule.action not in ACTIONS:
        raise InvalidInput(f"The rule “{name}” is about one of {', '.join(ACTIONS)}.", "action")
    if rule.kind not in kinds:
        raise InvalidInput(f"The rule “{name}” counts by one of {', '.join(kinds)}.", "kind")
    if rule.verdict not in (HOLD, BLOCK):
        raise InvalidInput(f"The rule “{name}” says hold or block.", "verdict")
    _whole(rule.limit, 1, MAX_LIMIT, "limit")
    _whole(rule.window_s, MINUTE_S, MAX_WINDOW_S, "window_s")
    return rule


def _guessing(value: Any) -> Guessing:
    try:
        found = Guessing(**value)
    except TypeError:
        raise InvalidInput(
            f"The rule of wrong codes has the fields {', '.join(Guessing.__dataclass_fields__)}.", "guessing"
        ) from None
    _whole(found.limit, 1, 1000, "limit")
    for name in ("window_s", "first_s", "longest_s"):
        _whole(getattr(found, name), MINUTE_S, 30 * DAY_S, name)
    if found.first_s > found.longest_s:
        raise InvalidInput("The first lock-out is no longer than the longest.", "first_s")
    return found


def _whole(value: Any, low: int, high: int, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"{name} is a whole number from {low} to {high}.", name)
