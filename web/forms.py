"""Reading a form: every value checked, every error kept beside its field, nothing typed lost."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from flask_babel import gettext
from werkzeug.datastructures import MultiDict

from core.errors import InvalidInput
from core.money import to_minor
from web.refusals import said

YEARS = (1970, 2999)
"""Years of a time: outside of them something was mistyped, and some zones cannot be reckoned with."""


class Form:
    """What was sent, or what the object holds; and what is wrong with it, by field.

    Readers answer a usable value even where they note an error, so that one pass finds all
    errors; check :attr:`ok` before writing anything.
    """

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        self.data: MultiDict[str, Any] = MultiDict(data or {})
        self.errors: dict[str, str] = {}

    @property
    def ok(self) -> bool:
        return not self.errors

    def error(self, name: str, text: str) -> None:
        self.errors.setdefault(name, text)

    def refuse(
        self, error: InvalidInput | Exception, names: Mapping[str, str] | None = None, default: str = ""
    ) -> None:
        """Put a package's refusal beside the field it names; ``names`` maps its names to the form's."""
        field = getattr(error, "field", None) or default
        self.error((names or {}).get(field, field), said(error))

    def value(self, name: str) -> Any:
        """What the field shows again."""
        return self.data.get(name, "")

    def values(self, name: str) -> list[str]:
        return [str(item) for item in self.data.getlist(name)]

    def text(self, name: str, *, required: bool = False, limit: int = 200) -> str:
        text = str(self.data.get(name) or "").replace("\r\n", "\n").strip()
        if required and not text:
            self.error(name, gettext("This is needed."))
        if len(text) > limit:
            self.error(
                name,
                gettext("At most %(limit)s characters; this has %(count)s.", limit=limit, count=len(text)),
            )
        return text

    def choice(self, name: str, options: Collection[str], default: str = "") -> str:
        text = str(self.data.get(name) or default)
        if text not in options:
            self.error(name, gettext("Choose one of the list."))
        return text

    def flag(self, name: str) -> bool:
        return str(self.data.get(name) or "") not in ("", "0", "false")

    def integer(self, name: str, *, low: int = 0, high: int = 10**9, required: bool = False) -> int | None:
        text = str(self.data.get(name) or "").strip().replace(",", "")
        if not text:
            if required:
                self.error(name, gettext("This is needed."))
            return None
        try:
            value = int(text)
        except ValueError:
            self.error(name, gettext("Write a whole number."))
            return None
        if not low <= value <= high:
            self.error(
                name, gettext("Write a number from %(low)s to %(high)s.", low=f"{low:,}", high=f"{high:,}")
            )
        return value

    def percent(
        self, name: str, *, low: float = 0, high: float = 100, default: float | None = None
    ) -> float | None:
        """A share (0 to 1), typed as per cent."""
        text = str(self.data.get(name) or "").strip().rstrip("%").strip()
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            self.error(name, gettext("Write a number."))
            return default
        if not low <= value <= high:
            self.error(
                name, gettext("Write a number from %(low)s to %(high)s.", low=f"{low:g}", high=f"{high:g}")
            )
        return value / 100

    def money(
        self, name: str, currency: str, *, required: bool = False, above_zero: bool = False
    ) -> int | None:
        """Minor units of an amount typed in major ones; never negative."""
        text = str(self.data.get(name) or "").strip()
        if not text:
            if required:
                self.error(name, gettext("This is needed."))
            return None
        try:
            minor = to_minor(text.lstrip("¥￥$€"), currency, name)
        except InvalidInput:
            self.error(name, gettext("Write an amount like 12.50."))
            return None
        if minor < 0:
            self.error(name, gettext("An amount cannot be negative."))
        elif above_zero and not minor:
            self.error(name, gettext("Write an amount above 0, or leave it empty."))
        return minor

    def time(self, name: str, zone: ZoneInfo) -> datetime | None:
        """An aware time from a ``datetime-local`` field, which is in the shop's zone."""
        text = str(self.data.get(name) or "").strip()
        if not text:
            return None
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            value = datetime.min.replace(tzinfo=zone)
        if not YEARS[0] <= value.year <= YEARS[1]:
            self.error(name, gettext("Write a date and time like 2026-03-01 09:30."))
            return None
        return value if value.tzinfo else value.replace(tzinfo=zone)

    def clock(self, name: str) -> str | None:
        """``HH:MM``, or None where it is empty."""
        text = str(self.data.get(name) or "").strip()
        if not text:
            return None
        try:
            return datetime.strptime(text[:5], "%H:%M").strftime("%H:%M")  # noqa: DTZ007 - a time of day
        except ValueError:
            self.error(name, gettext("Write a time like 21:00."))
            return None

    def json(self, name: str, default: Any = None) -> Any:
        text = str(self.data.get(name) or "").strip()
        if not text:
            return default
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            self.error(name, gettext("This is not JSON: %(why)s", why=str(error)))
            return default

    def rows(self, prefix: str) -> list[tuple[int, dict[str, str]]]:
        """Repeated rows: fields named ``prefix-3-name`` → (3, {name: text}), in the page's order."""
        found: dict[int, dict[str, str]] = {}
        for key in self.data:
            start, _, rest = key.partition("-")
            index, _, name = rest.partition("-")
            if start == prefix and index.isdecimal() and name:
                found.setdefault(int(index), {})[name] = str(self.data[key]).strip()
        return sorted(found.items())
