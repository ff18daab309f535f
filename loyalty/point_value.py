"""What a point is worth, and points as payment: the discount that they are on the lines of a basket.

Owns the preference; the arithmetic is pure, in whole minor units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from sqlalchemy.orm import Session

from core import audit
from core.errors import InvalidInput
from core.models import Preference
from core.money import exponent
from loyalty.points import check_points
from loyalty.promotions.allocate import allocate

PREFERENCE = "loyalty.point_value"
DEFAULT_VALUE = "1"
"""Minor units of the shop's currency that a point is worth: 0.01 in CNY."""
MAX_VALUE = 1_000_000
MAX_CHARS = 20


@dataclass(frozen=True)
class Payment:
    """``points`` needed for ``discount`` (minor units), shared over the lines in their order."""

    points: int
    discount: int
    shares: tuple[int, ...]


def check_value(text: str) -> Fraction:
    """Minor units a point is worth, from a decimal text; above 0."""
    try:
        value = Fraction(text.strip()) if "/" not in text and "e" not in text.lower() else Fraction(0)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= MAX_VALUE or len(text) > MAX_CHARS:
        raise InvalidInput(
            f"“{text}” is no value of a point; write minor units above 0, such as 1 or 0.5.", "point_value"
        )
    return value


def to_major(text: str, currency: str) -> str:
    """The stored value in major units: ``1`` is ``0.01`` in CNY."""
    return f"{Decimal(text).scaleb(-exponent(currency)):f}"


def to_minor(text: str, currency: str) -> str:
    """What is stored for a value in major units; any number of decimals, above 0."""
    try:
        value = Decimal(text.strip()) if "e" not in text.lower() else Decimal(0)
    except InvalidOperation:
        value = Decimal(0)
    minor = value.scaleb(exponent(currency)) if value.is_finite() else Decimal(0)
    written = f"{minor:f}"
    plain = written.rstrip("0").rstrip(".") if "." in written else written
    if not 0 < minor <= MAX_VALUE or len(plain) > MAX_CHARS:
        example = Decimal(1).scaleb(-exponent(currency))
        raise InvalidInput(
            f"“{text}” is no value of a point; write an amount of {currency} above 0, such as {example}.",
            "point_value",
        )
    return plain


def load(session: Session) -> Fraction:
    """Minor units that a point is worth."""
    return check_value(load_text(session))


def load_text(session: Session) -> str:
    """The stored value as it was written."""
    stored = session.get(Preference, PREFERENCE)
    return str(stored.value) if stored is not None else DEFAULT_VALUE


def save(session: Session, text: str, by: str, now: datetime) -> None:
    """Store the value (a decimal as text, in minor units); leaves an audit row."""
    check_value(text)
    session.merge(Preference(key=PREFERENCE, value=text.strip(), updated_at=now))
    audit.record(session, by, "change", "preference", PREFERENCE, now, {"minor_per_point": text.strip()})


def worth(points: int, value: Fraction) -> int:
    """Minor units of a number of points, half up."""
    return int((points * value + Fraction(1, 2)) // 1)


def allocate_to_lines(points: int, lines: Sequence[int], value: Fraction) -> Payment:
    """What ``points`` take off lines that cost ``lines`` minor units, shared as promotions share.

    Points buy whole minor units, rounded down. Where the lines cost less than the points are worth, only
    as many as are needed are asked for.
    """
    check_points(points)
    if any(amount < 0 for amount in lines):
        raise InvalidInput("A line costs 0 or more.", "lines")
    discount = min(int(points * value // 1), sum(lines))
    needed = min(points, -int(-discount // value))
    return Payment(needed, discount, tuple(allocate(discount, lines, lines)))
