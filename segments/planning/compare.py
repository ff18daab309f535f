"""Comparisons of a value with what a rule says, as SQLGlot expressions with escaped literals.

``sure``: a comparison with a missing value is unknown to SQL, and false to rules. Only below a
``not`` does that make a difference, so only there it is spelt out: a database sees through a bare
comparison (to skip files, to join fewer rows) and not through one that is wrapped.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from sqlglot import exp

from core.money import exponent
from segments.language.vocabulary import DATE, FLAG, MINOR_COLUMNS, NUMBER, TAGS, TEXT
from segments.planning.moment import Moment

YEAR = 366
_COMPARISONS: dict[str, type[exp.Binary]] = {
    "=": exp.EQ, "!=": exp.NEQ, ">": exp.GT, ">=": exp.GTE, "<": exp.LT, "<=": exp.LTE,
}  # fmt: skip


def sure(condition: exp.Expr) -> exp.Expr:
    """A missing value makes a condition false, not unknown."""
    return exp.Coalesce(this=exp.paren(condition), expressions=[exp.false()])


def json_text(column: exp.Expr, name: str) -> exp.Expr:
    """The text of a JSON object's member; a name with dots is one name."""
    path = exp.JSONPath(expressions=[exp.JSONPathRoot(), exp.JSONPathKey(this=name)])
    return exp.JSONExtractScalar(this=column, expression=path)


def major(this: exp.Expr, column: str, moment: Moment) -> exp.Expr:
    """Amounts as rules speak of them; what is no money as it is."""
    if column not in MINOR_COLUMNS:
        return this
    scale = exp.Literal.number(10 ** exponent(moment.currency))
    return exp.Div(this=exp.cast(this, "double"), expression=scale)


def number_of(this: exp.Expr) -> exp.Expr:
    """A text that looks like a finite number as one; “nan”, which is above every number, is none."""
    cast = exp.TryCast(this=this, to=exp.DataType.build("double"))
    finite = exp.Between(this=cast, low=exp.Literal.number("-1e300"), high=exp.Literal.number("1e300"))
    return exp.Case(ifs=[exp.If(this=finite, true=cast.copy())])


def local_date(this: exp.Expr, moment: Moment) -> exp.Expr:
    """The day of an instant in the shop's zone."""
    zoned = exp.AtTimeZone(
        this=exp.cast(this, "timestamptz", dialect="duckdb"), zone=exp.Literal.string(moment.zone.key)
    )
    return exp.cast(zoned, "date")


def literal(value: Any) -> exp.Expr:
    """A value of a rule as a literal; SQLGlot escapes texts in each dialect's own way."""
    if isinstance(value, bool):
        return exp.true() if value else exp.false()
    if isinstance(value, float):
        return exp.Literal.number(int(value) if value.is_integer() else repr(value))
    if isinstance(value, date):
        return exp.cast(exp.Literal.string(value.isoformat()), "date")
    return exp.Literal.string(value)


def compare(this: exp.Expr, op: str, value: Any, kind: str | None, moment: Moment) -> exp.Expr:
    """``this`` compared; unknown where it is missing, except by ``is_set`` and ``is_not_set``.

    ``kind`` None: a text that may look like a number. A date is compared by day.
    """
    if op in ("is_set", "is_not_set"):
        missing: exp.Expr = exp.Is(this=this, expression=exp.null())
        if kind == TAGS:
            missing = exp.or_(missing, exp.EQ(this=this.copy(), expression=exp.Literal.string("[]")))
        return exp.paren(missing) if op == "is_not_set" else exp.not_(exp.paren(missing))
    if kind == TAGS:
        return exp.paren(exp.or_(*(_has_tag(this, tag) for tag in value)))
    if kind == DATE:
        return _date(this, op, value, moment)
    if kind is None and isinstance(value[0] if isinstance(value, tuple) else value, float):
        this = number_of(this)
    return plain(this, op, value)


def plain(this: exp.Expr, op: str, value: Any) -> exp.Expr:
    if op in _COMPARISONS:
        return _COMPARISONS[op](this=this, expression=literal(value))
    if op == "between":
        return exp.Between(this=this, low=literal(value[0]), high=literal(value[1]))
    if op == "in":
        return exp.In(this=this, expressions=[literal(item) for item in value])
    if op == "not_in":
        return exp.not_(exp.In(this=this, expressions=[literal(item) for item in value]))
    if op == "starts_with":
        return exp.StartsWith(this=this, expression=literal(value))
    return exp.GT(this=exp.StrPosition(this=this, substr=literal(value)), expression=exp.Literal.number(0))


def _has_tag(this: exp.Expr, tag: str) -> exp.Expr:
    # Tags lie as the text of a JSON list; read as one, as its quotes and escapes differ by database.
    listed = exp.cast(exp.cast(this.copy(), "json", dialect="duckdb"), "text[]", dialect="duckdb")
    return exp.ArrayContains(this=listed, expression=exp.Literal.string(tag))


def _date(this: exp.Expr, op: str, value: Any, moment: Moment) -> exp.Expr:
    today = moment.as_of
    if op == "in_last":
        low, high = today - timedelta(days=value), today - timedelta(days=1)
        return exp.Between(this=this, low=literal(low), high=literal(high))
    if op == "in_next":
        return exp.Between(this=this, low=literal(today), high=literal(today + timedelta(days=value - 1)))
    if op == "anniversary_in":
        text = exp.func("substr", exp.cast(this, "text"), exp.Literal.number(6), exp.Literal.number(5))
        return exp.In(
            this=text, expressions=[exp.Literal.string(day) for day in _anniversaries(today, value)]
        )
    return plain(this, op, value)


def _anniversaries(today: date, ahead: int) -> list[str]:
    """The ``MM-DD`` of so many days from today on."""
    days = [today + timedelta(days=n) for n in range(min(ahead, YEAR))]
    wanted = {f"{day:%m-%d}" for day in days}
    if any((day.month, day.day) == (2, 28) and not _leap(day.year) for day in days):
        wanted.add("02-29")  # born on a leap day: celebrated on the 28th
    return sorted(wanted)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


__all__ = [
    "DATE",
    "FLAG",
    "NUMBER",
    "TAGS",
    "TEXT",
    "compare",
    "json_text",
    "literal",
    "local_date",
    "major",
    "number_of",
    "plain",
    "sure",
]
