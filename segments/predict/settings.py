"""What is predicted and how money to come is valued: defaults, and the marketer's own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from core import audit
from core.errors import InvalidInput
from core.models import Preference

KEY = "segments.predictions"
UNIT_DAYS = {"day": 1, "week": 7}
MAX_HORIZON_DAYS = 3650
MAX_DISCOUNT = 10.0


@dataclass(frozen=True)
class Predicting:
    """Settings of predictions. Money to come is discounted by ``discount`` a year (0.1 is 10 %)."""

    unit: str = "week"
    """The models' unit of time, ``day`` or ``week``: how parameters read, not what they predict."""
    horizon_days: int = 90
    """Days that expected purchases look ahead."""
    clv_days: int = 365
    """Days over which a customer's value is summed."""
    margin: float = 1.0
    """The share of what customers pay that the shop keeps; 1 values revenue."""
    discount: float = 0.1

    def validated(self) -> Predicting:
        """Itself, or InvalidInput naming the field that makes no sense."""
        if self.unit not in UNIT_DAYS:
            raise InvalidInput(f"unit is one of {', '.join(UNIT_DAYS)}, not “{self.unit}”.", "unit")
        for name in ("horizon_days", "clv_days"):
            if not 1 <= getattr(self, name) <= MAX_HORIZON_DAYS:
                raise InvalidInput(f"{name} must be from 1 to {MAX_HORIZON_DAYS} days.", name)
        if not 0 < self.margin <= 1:
            raise InvalidInput("margin is a share above 0 and up to 1 (0.35 for 35 %).", "margin")
        if not 0 <= self.discount <= MAX_DISCOUNT:
            raise InvalidInput(
                f"discount is a share a year from 0 to {MAX_DISCOUNT:g} (0.1 for 10 %).", "discount"
            )
        return self

    @property
    def unit_days(self) -> int:
        return UNIT_DAYS[self.unit]


def load(session: Session) -> Predicting:
    """The marketer's settings, or the defaults."""
    stored = session.get(Preference, KEY)
    if stored is None:
        return Predicting()
    known = {part.name for part in fields(Predicting)}
    return replace(Predicting(), **{name: value for name, value in stored.value.items() if name in known})


def save(session: Session, predicting: Predicting, by: str, now: datetime) -> None:
    """Keep new settings; the next refresh uses them."""
    value: dict[str, Any] = asdict(predicting.validated())
    session.merge(Preference(key=KEY, value=value, updated_at=now))
    audit.record(session, by, "change", "settings", KEY, now, value)
