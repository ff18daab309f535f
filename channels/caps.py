"""What the shop allows of marketing as a whole: frequency caps and quiet hours, kept and counted.

Caps hold for every marketing message of whatever campaign, journey or API call; transactional and test
messages neither count nor are held back. They are asked twice: when a campaign decides (with the
members' rows locked, so that two campaigns at once do not both see room) and when a worker claims (what
several runs had queued before is skipped then, never sent later by surprise).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import quiet
from channels.consent import MARKETING
from channels.models import Message
from channels.outbox import CREATED, FAILED, LEASED, QUEUED, SKIPPED
from channels.sql import is_postgres
from core import audit
from core.contacts import CHANNELS
from core.db import among
from core.errors import InvalidInput
from core.models import Preference

KEY = "channels.rules"
ALL = "all"
SCOPES = (*CHANNELS, ALL)
CAPPED, PAUSED, PREFERENCE_CAP = "capped", "paused", "preference_cap"
"""Why a marketing message is held back: by the shop's cap, the member's pause, the member's own cap."""
TEST = "test"
"""Source of messages that an operator sends to try a template."""
WEEK = 7
MAX_MESSAGES, MAX_DAYS = 1000, 90
LONGEST_WAIT = timedelta(days=31)
"""No campaign's message waits longer between its making and its sending."""
_NOW = (LEASED, CREATED)
_LOCK = 0x48_4C_43_41
"""Names the advisory lock of claims that count."""


@dataclass(frozen=True)
class Cap:
    """At most ``messages`` in any ``days`` days."""

    messages: int
    days: int = WEEK


@dataclass(frozen=True)
class Rules:
    """The shop's rules for all marketing. ``caps``: e-mail, SMS, WeChat or ``all`` → cap."""

    caps: Mapping[str, Cap] = field(default_factory=dict)
    quiet_hours: Mapping[str, str] | None = None
    """{start, end, mode} in the member's zone, beside a campaign's own; None: none."""

    def validated(self) -> Rules:
        """The same rules. Raises InvalidInput whose field is ``caps.<scope>`` or ``quiet_hours.<name>``."""
        for scope, cap in self.caps.items():
            if scope not in SCOPES:
                raise InvalidInput(f"“{scope}” has no cap; use some of {', '.join(SCOPES)}.", "caps")
            if not 1 <= cap.messages <= MAX_MESSAGES or not 1 <= cap.days <= MAX_DAYS:
                raise InvalidInput(
                    f"A cap is 1 to {MAX_MESSAGES} messages in 1 to {MAX_DAYS} days; empty means no cap.",
                    f"caps.{scope}",
                )
        if self.quiet_hours is not None:
            quiet.check(self.quiet_hours)
        return self

    def to_json(self) -> dict[str, Any]:
        return {
            "caps": {scope: asdict(cap) for scope, cap in self.caps.items()},
            "quiet_hours": self.quiet_hours,
        }


def load(session: Session) -> Rules:
    """The rules in force; none by default."""
    kept = session.get(Preference, KEY)
    if kept is None:
        return Rules()
    caps = {scope: Cap(**cap) for scope, cap in kept.value["caps"].items()}
    return Rules(caps, kept.value["quiet_hours"])


def save(session: Session, rules: Rules, by: str, now: datetime) -> None:
    """Put rules in force from the next decision and the next claim on. Raises InvalidInput."""
    wanted = rules.validated().to_json()
    session.merge(Preference(key=KEY, value=wanted, updated_at=now))
    audit.record(session, by, "save", "settings", KEY, now, wanted)


class Usage:
    """Marketing messages of members in the windows that matter, and whether there is room for one more."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.windows = sorted({WEEK, *(cap.days for cap in rules.caps.values())})
        self._counts: Counter[tuple[int, str, int]] = Counter()

    def add(self, member_id: int, channel: str, numbers: Iterable[int] | None = None) -> None:
        """Count one more message, or ``numbers`` of them, one for each window."""
        for days, number in zip(self.windows, numbers or [1] * len(self.windows), strict=True):
            self._counts[member_id, channel, days] += number
            self._counts[member_id, ALL, days] += number

    def refusal(self, member_id: int, channel: str, weekly_max: int | None) -> str | None:
        """Why this member gets no further message by this channel now, or None."""
        if weekly_max is not None and self._counts[member_id, ALL, WEEK] >= weekly_max:
            return PREFERENCE_CAP
        for scope in (channel, ALL):
            cap = self._rules.caps.get(scope)
            if cap is not None and self._counts[member_id, scope, cap.days] >= cap.messages:
                return CAPPED
        return None


def count(
    session: Session,
    rules: Rules,
    member_ids: Iterable[int],
    now: datetime,
    *,
    queued: bool,
    apart_from: Iterable[int] = (),
) -> Usage:
    """Count the members' marketing messages; one statement.

    A message counts from when it was sent (or handed to a provider that never answered, or is being
    sent). With ``queued`` those that wait count as well: a decision has to leave room for them, a claim
    must not. ``apart_from``: messages left out, because they are just being judged.
    """
    usage = Usage(rules)
    at = sa.func.coalesce(Message.sent_at, Message.handed_over_at, Message.created_at)
    out = [SKIPPED, FAILED] if queued else [SKIPPED, FAILED, QUEUED]
    recent = [
        # Being sent right now, or as soon as somebody confirms it: inside every window.
        sa.func.sum(sa.case((sa.or_(at > now - timedelta(days=days), Message.state.in_(_NOW)), 1), else_=0))
        for days in usage.windows
    ]
    query = (
        sa.select(Message.member_id, Message.channel, *recent)
        .where(
            among(session, Message.member_id, sorted(set(member_ids))),
            Message.created_at > now - timedelta(days=usage.windows[-1]) - LONGEST_WAIT,
            Message.purpose == MARKETING,
            Message.source_kind != TEST,
            Message.state.not_in(out),
            sa.not_(among(session, Message.id, sorted(apart_from))),
        )
        .group_by(Message.member_id, Message.channel)
    )
    for member_id, channel, *numbers in session.execute(query):
        usage.add(member_id, channel, numbers)
    return usage


def lock_claims(session: Session) -> None:
    """Let one claim at a time count, until the transaction ends.

    Two workers that claim two messages of one member would each see the other's as still waiting.
    Members' rows are not locked for this: an erasure holds one while it waits for the message that a
    claim holds. SQLite's writer is alone anyway.
    """
    if is_postgres(session):
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
