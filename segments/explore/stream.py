"""What funnels and paths walk over: every kind of event as one stream, and spans of time.

Guarantees: kinds and times are bound values, never text of a query; the product's own kinds come
from their own fact tables (a cancelled order and a rolled back redemption never happened).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from core.errors import InvalidInput
from core.times import micros
from segments.scores import sql

BUILT_IN = ("order", "message_sent", "message_opened", "message_clicked", "coupon_redeemed")
"""Kinds that the product knows itself; all others are behaviour events that the shop sends."""
MAX_KINDS = 60
MAX_KIND = 80
MAX_WINDOW = timedelta(days=365)
MAX_PERIOD = timedelta(days=3 * 366)
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hd])")


def span(text: str, field: str = "window") -> timedelta:
    """``36h`` or ``7d`` as a time span. Raises InvalidInput."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{field}: “{text}” is not a span of time; write it like 7d or 36h.", field)
    length = int(found.group(1))
    result = timedelta(hours=length) if found.group(2) == "h" else timedelta(days=length)
    if result > MAX_WINDOW:
        raise InvalidInput(f"{field}: at most {MAX_WINDOW.days}d.", field)
    return result


def check_kind(kind: str, field: str) -> None:
    """Refuse a name that no event can have."""
    if not kind or len(kind) > MAX_KIND or not kind.isprintable():
        raise InvalidInput(f"{field}: the name of an event has 1 to {MAX_KIND} characters.", field)


def check_period(start: datetime, end: datetime) -> None:
    """Refuse a period that ends before it starts, or is too long to look at."""
    if start >= end:
        raise InvalidInput("The period ends before it starts; choose a later end.", "end")
    if end - start > MAX_PERIOD:
        raise InvalidInput(f"A period has at most {MAX_PERIOD.days} days.", "start")


def stream(text: str) -> str:
    """A query of ``segments/sql`` with the stream of events in its place."""
    return text.replace("{stream}", sql("explore_stream"))


def bounds(kinds: Sequence[str], since: datetime, until: datetime, as_of: datetime) -> dict[str, Any]:
    """The stream's parameters: kinds, and instants in microseconds since 1970."""
    return {
        "kinds": sorted(set(kinds)),
        "since": micros(since),
        "until": micros(min(until, as_of)),
        "as_of": micros(as_of),
    }
