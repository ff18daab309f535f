"""The moment that rules are evaluated at, and times as literals of the query."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlglot import exp

from core.times import instant
from segments.language.tree import Span, Within


@dataclass(frozen=True)
class Moment:
    """What a rule is evaluated against: the date, the shop's zone and currency."""

    as_of: date
    zone: ZoneInfo
    currency: str = "CNY"

    @property
    def instant(self) -> datetime:
        """The first moment of the date in the shop's zone: what happens from then on is not seen."""
        return instant(self.as_of, self.zone)

    def at(self, bound: date | Span) -> datetime:
        """A window's bound: a day's first moment, or a span before the as-of date."""
        if isinstance(bound, date):
            return instant(bound, self.zone)
        if bound.unit == "h":
            return self.instant - timedelta(hours=bound.amount)
        return instant(self.as_of - timedelta(days=bound.amount), self.zone)

    def bounds(self, within: Within) -> tuple[datetime | None, datetime]:
        """First moment of a window (None: ever) and the first one after it, never after the as-of instant."""
        start = None if within.start is None else self.at(within.start)
        return start, self.instant if within.end is None else min(self.at(within.end), self.instant)


def literal(at: datetime) -> exp.Expr:
    """A moment as a literal with its offset, so that no session's zone changes it."""
    return exp.cast(exp.Literal.string(at.isoformat()), "timestamptz", dialect="duckdb")


def hours(number: int) -> exp.Expr:
    """An interval in hours: a day would be a calendar day of the session's zone."""
    return exp.Interval(this=exp.Literal.string(str(number)), unit=exp.var("HOUR"))
