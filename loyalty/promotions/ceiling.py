"""How much promotions may take off together before the calendar warns: a preference of the shop."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from core import audit
from core.errors import InvalidInput
from core.models import Preference
from loyalty.promotions.model import FULL

PREFERENCE = "loyalty.promotion_ceiling"
DEFAULT_POINTS = FULL // 2


def load(session: Session) -> int:
    """Basis points off from which on a combination is named."""
    stored = session.get(Preference, PREFERENCE)
    return int(stored.value) if stored is not None else DEFAULT_POINTS


def save(session: Session, points: int, by: str, now: datetime) -> None:
    """Store the limit (1 to 10,000 basis points); leaves an audit row."""
    if isinstance(points, bool) or not 1 <= points <= FULL:
        raise InvalidInput("Write a percentage above 0 and at most 100.", "ceiling")
    session.merge(Preference(key=PREFERENCE, value=points, updated_at=now))
    audit.record(session, by, "change", "preference", PREFERENCE, now, {"basis_points": points})
