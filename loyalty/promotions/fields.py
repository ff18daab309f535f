"""Fields of a JSON object, read one by one; each error names the path of what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from core.errors import InvalidInput
from core.money import MAX_MINOR

MAX_TEXT = 128
MAX_LIST = 1_000
"""Values of one list of a scope or a condition."""
YEARS = (1970, 2999)
Found = TypeVar("Found")


def fail(path: str, problem: str) -> InvalidInput:
    """The error of a value: its path, and what it has to be."""
    return InvalidInput(f"{path or 'the basket'}: {problem}", path or None)


class Fields:
    """An object's fields. Whatever was not asked for when :meth:`close` is called is refused by name."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise fail(path, "an object is needed, such as {…}.")
        self.path = path
        self._left = dict(value)
        self._known: list[str] = []

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str) -> Any:
        """The value as it was sent; None where it is missing or null."""
        self._known.append(name)
        return self._left.pop(name, None)

    def close(self) -> None:
        for name in self._left:
            known = ", ".join(self._known)
            raise fail(self.at(str(name)[:MAX_TEXT]), f"there is no such field here; there are {known}.")

    def need(self, name: str, found: Found | None) -> Found:
        if found is None:
            raise fail(self.at(name), "it is missing.")
        return found

    def integer(self, name: str, low: int, high: int, unit: str = "whole number") -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise fail(self.at(name), f"a {unit} from {low} to {high} is needed, not {shown(value)}.")
        return value

    def money(self, name: str, low: int = 0) -> int | None:
        """Minor units: a whole number, never 12.50 nor -1."""
        return self.integer(name, low, MAX_MINOR, "whole number of minor units (1250 for 12.50)")

    def text(self, name: str) -> str | None:
        value = self.take(name)
        return None if value is None else as_text(value, self.at(name))

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise fail(self.at(name), f"true or false is needed, not {shown(value)}.")
        return bool(value)

    def time(self, name: str) -> datetime | None:
        value = self.take(name)
        if value is None:
            return None
        try:
            at = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            at = None
        if at is None or at.tzinfo is None or not YEARS[0] < at.year < YEARS[1]:
            raise fail(
                self.at(name),
                f"a time with its offset is needed, such as 2026-11-11T12:00:00+08:00, not {shown(value)}.",
            )
        return at.astimezone(UTC)

    def hundredths(self, name: str, above: int, most: int) -> int | None:
        """A number with at most two decimals, in hundredths: 12.5 → 1250. ``above`` < number ≤ ``most``."""
        value = self.take(name)
        if value is None:
            return None
        number = as_decimal(value)
        if number is None or not above < number <= most or number * 100 % 1:
            raise fail(
                self.at(name),
                f"a number above {above} and at most {most}, with at most two decimals, is needed, "
                f"not {shown(value)}.",
            )
        return int(number * 100)

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        value = self.take(name)
        if value is not None and value not in choices:
            raise fail(self.at(name), f"one of {', '.join(choices)} is needed, not {shown(value)}.")
        return None if value is None else str(value)

    def items(self, name: str, most: int, *, least: int = 0) -> list[Any] | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise fail(self.at(name), f"a list is needed, not {shown(value)}.")
        if not least <= len(value) <= most:
            raise fail(self.at(name), f"{least} to {most} items are allowed; there are {len(value)}.")
        return value

    def texts(self, name: str, *, least: int = 1, most: int = MAX_LIST) -> frozenset[str]:
        return self.each(name, as_text, least=least, most=most)

    def each(
        self, name: str, read: Callable[[Any, str], str], *, least: int = 1, most: int = MAX_LIST
    ) -> frozenset[str]:
        found = self.items(name, most, least=least) or []
        return frozenset(read(value, f"{self.at(name)}[{n}]") for n, value in enumerate(found))


def as_text(value: Any, path: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not _storable(value):
        raise fail(path, f"a text of 1 to {MAX_TEXT} characters is needed, not {shown(value)}.")
    return value


def _storable(text: str) -> bool:
    """No database keeps a NUL or half a character."""
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def as_decimal(value: Any) -> Decimal | None:
    """The number as it was written (JSON's 12.5 has come as a float or a text), or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, int) and abs(value) > MAX_MINOR:
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) <= 20 else None


def shown(value: Any) -> str:
    """A value as an error shows it: short, and never a number of a million digits."""
    if isinstance(value, str):
        return f"“{value[:40]}”" if _storable(value) else "an unreadable text"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > 10**30:
        return "that large a number"
    if isinstance(value, int | float | Decimal):
        return str(value)
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "null"
