"""The switch over all channels: while it is on, claims hand out nothing marketing, or nothing at all.

Workers ask before every claim and again before a claimed batch goes to the provider, so that what is
sent after the button is at most what was on the wire. Resuming sends what is still in time: whatever
expired meanwhile is skipped as ``expired``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput
from core.models import Preference

KEY = "channels.stop"
MARKETING_ONLY, EVERYTHING = "marketing", "everything"
SCOPES = (MARKETING_ONLY, EVERYTHING)
MAX_REASON = 300


@dataclass(frozen=True)
class Stop:
    """Who stopped what, when, and why."""

    scope: str
    reason: str
    by: str
    at: datetime


def current(session: Session) -> Stop | None:
    """The stop in force, or None."""
    kept = session.get(Preference, KEY)
    if kept is None:
        return None
    value = kept.value
    return Stop(value["scope"], value["reason"], value["by"], datetime.fromisoformat(value["at"]))


def stop(session: Session, scope: str, reason: str, by: str, now: datetime) -> None:
    """Stop ``marketing`` or ``everything``; a stop in force is replaced, so that it can be widened.

    Raises InvalidInput for an unknown scope or a missing reason.
    """
    if scope not in SCOPES:
        raise InvalidInput(f"Stop one of {', '.join(SCOPES)}.", "scope")
    reason = reason.strip()
    if not reason or len(reason) > MAX_REASON:
        raise InvalidInput(f"Say why, in at most {MAX_REASON} characters.", "reason")
    value = {"scope": scope, "reason": reason, "by": by, "at": now.isoformat()}
    session.merge(Preference(key=KEY, value=value, updated_at=now))
    audit.record(session, by, "delivery.stop", "channel", "all", now, {"scope": scope, "reason": reason})


def resume(session: Session, by: str, now: datetime) -> None:
    """Send again. Raises Conflict where nothing is stopped."""
    kept = session.get(Preference, KEY, with_for_update=True)
    if kept is None:
        raise Conflict("Nothing is stopped.")
    detail = {"scope": kept.value["scope"], "stopped_at": kept.value["at"]}
    session.delete(kept)
    audit.record(session, by, "delivery.resume", "channel", "all", now, detail)
