"""Metrics as data: named, stored, and compiled to one query that yields centred moments.

Guarantees: columns and operators come from the warehouse's own schema, values are parameters, so that a
stored metric can be neither code nor a typo; every fact is scanned once whatever the number of metrics;
windows run from each member's own moment; winsorising is at a percentile of all arms pooled, so that it
cannot favour one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.errors import Conflict, InvalidInput, NotFound
from core.warehouse.replica import Fact
from experiments import metric_where
from experiments.metric_where import IS_SET, MAX_CONDITIONS, Condition, Rows
from experiments.models import Metric
from experiments.moments import MAX_WINDOW_DAYS

MEAN, PROPORTION, RATIO, COUNT, QUANTILE, RETENTION = (
    "mean",
    "proportion",
    "ratio",
    "count",
    "quantile",
    "retention",
)
KINDS = (MEAN, PROPORTION, RATIO, COUNT, QUANTILE, RETENTION)
ROWS = "rows"
"""As a denominator: the number of rows."""
PROPERTY = "properties."
"""Before the name of an event's property."""
OPERATORS = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
IN = "in"
MAX_VALUES, MAX_AT_ONCE = 1_000, 50
NAME_CHARS = 60
MARGIN_COLUMN = "margin_minor"
"""Of ``order_lines``, reckoned in the query: what a kept line leaves, by the product's margin."""
DERIVED = {"order_lines": {MARGIN_COLUMN: pa.float64()}}
"""Columns that a fact has not, but its query gives."""


@dataclass(frozen=True)
class MetricSpec:
    """A number a member, of the rows of ``fact`` that ``where`` lets through.

    ``mean``: the sum of ``value``; ``count``: the rows; ``proportion``: whether there is one; ``retention``:
    the same, between ``from_day`` and ``until_day``, of members who were exposed that long ago; ``ratio``:
    ``value`` summed over all members by ``denominator`` (a column, or ``rows``); ``quantile``: the
    ``q``-quantile of the sums of ``value``. The window is [from_day, until_day) since exposure.
    ``winsorise`` caps sums at that percentile (0 to 1) of all members; ``covariate_days`` brings the same
    metric of that many days before; ``margin`` makes it a guardrail that may lose that relative share.
    """

    name: str
    kind: str
    fact: str
    value: str | None = None
    denominator: str | None = None
    where: Rows = ()
    from_day: int = 0
    until_day: int = 30
    q: float | None = None
    winsorise: float | None = None
    covariate_days: int | None = None
    margin: float | None = None
    higher_is_better: bool = True

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "name"} | {
            "where": metric_where.to_json(self.where)
        }


def from_json(name: str, data: Mapping[str, Any]) -> MetricSpec:
    """What :meth:`MetricSpec.to_json` gave. InvalidInput: fields that are none."""
    try:
        where = metric_where.parse(data.get("where"))
        return MetricSpec(**{**data, "name": name, "where": where})
    except TypeError as error:
        raise InvalidInput(
            "A metric has the fields kind, fact, value, denominator, where, from_day, until_day, q, "
            "winsorise, covariate_days, margin, higher_is_better, and a condition column, op, value.",
            "spec",
        ) from error


def check(spec: MetricSpec, facts: Mapping[str, Fact]) -> None:
    """InvalidInput unless the metric can be computed of the warehouse's ``facts``."""
    if not isinstance(spec.name, str) or not 0 < len(spec.name) <= NAME_CHARS:
        raise InvalidInput(f"The name has 1 to {NAME_CHARS} characters.", "name")
    if spec.kind not in KINDS:
        raise InvalidInput(f"A metric is one of {', '.join(KINDS)}; “{spec.kind}” is none.", "kind")
    known = sorted(name for name, fact in facts.items() if usable(fact))
    if spec.fact not in known:
        raise InvalidInput(f"“{spec.fact}” is no fact with a time; take one of {', '.join(known)}.", "fact")
    fact = facts[spec.fact]
    _check_value(spec, fact)
    _check_numbers(spec)
    if sum(1 for _ in metric_where.leaves(spec.where)) > MAX_CONDITIONS:
        raise InvalidInput(f"A metric has at most {MAX_CONDITIONS} conditions.", "where")
    if metric_where.is_flat(spec.where):
        for place, condition in metric_where.placed(spec.where):
            _check_condition(condition, fact, place)
        return
    for place, condition in metric_where.placed(spec.where):
        try:
            _check_condition(condition, fact, place)
        except InvalidInput as error:
            # A rule is written as text, where nothing but its path says which condition is meant.
            path = (error.field or place).replace(".column", ".field")
            raise InvalidInput(f"{path}: {error}", path) from error


def columns_of(fact: Fact) -> dict[str, pa.DataType]:
    """A fact's columns, those that the query reckons among them."""
    return dict(zip(fact.schema.names, fact.schema.types, strict=True)) | DERIVED.get(fact.name, {})


def usable(fact: Fact) -> bool:
    """Whether a metric can be made of it: members' rows with a time."""
    return fact.month_column is not None and "member_id" in fact.schema.names


def _kind(column: str, fact: Fact, field: str) -> pa.DataType | None:
    """The column's type; None for an event's property, which is whatever it is compared with."""
    if isinstance(column, str):
        if column.startswith(PROPERTY) and "properties" in fact.schema.names and len(column) > len(PROPERTY):
            return None
        if column in (known := columns_of(fact)):
            return known[column]
    raise InvalidInput(f"“{fact.name}” has no column “{column}”.", field)


def _number(column: str, fact: Fact, field: str) -> None:
    kind = _kind(column, fact, field)
    if kind is not None and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InvalidInput(f"“{column}” is no number, so it has no sum.", field)


def _check_value(spec: MetricSpec, fact: Fact) -> None:
    sums = spec.kind in (MEAN, RATIO, QUANTILE)
    if sums != (spec.value is not None):
        words = "needs the column that is summed" if sums else "takes no column: it counts rows"
        raise InvalidInput(f"A {spec.kind} {words}.", "value")
    if spec.value is not None:
        _number(spec.value, fact, "value")
    if (spec.kind == RATIO) != (spec.denominator is not None):
        raise InvalidInput(
            f"A ratio, and nothing else, has a denominator: a column or “{ROWS}”.", "denominator"
        )
    if spec.denominator is not None and spec.denominator != ROWS:
        _number(spec.denominator, fact, "denominator")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def _check_numbers(spec: MetricSpec) -> None:
    days = (spec.from_day, spec.until_day)
    if not all(map(_whole, days)) or not 0 <= spec.from_day < spec.until_day <= MAX_WINDOW_DAYS:
        raise InvalidInput(f"The window is from_day < until_day, from 0 to {MAX_WINDOW_DAYS}.", "until_day")
    if (spec.kind == QUANTILE) != (spec.q is not None) or (spec.q is not None and not _share(spec.q)):
        raise InvalidInput("A quantile, and nothing else, has a q between 0 and 1.", "q")
    plain = spec.kind in (MEAN, COUNT, RATIO)
    if spec.winsorise is not None and not (plain and _share(spec.winsorise)):
        raise InvalidInput("A mean, count or ratio is winsorised at a share between 0 and 1.", "winsorise")
    before = spec.covariate_days
    if before is not None and (
        not (plain or spec.kind == PROPORTION) or not _whole(before) or not 1 <= before <= MAX_WINDOW_DAYS
    ):
        raise InvalidInput(
            f"A covariate looks back 1 to {MAX_WINDOW_DAYS} days; quantiles and retention have none.",
            "covariate_days",
        )
    if spec.margin is not None and not _share(spec.margin):
        raise InvalidInput("A guardrail's margin is a relative share between 0 and 1.", "margin")


def _check_condition(condition: Condition, fact: Fact, place: str) -> None:
    kind = _kind(condition.column, fact, f"{place}.column")
    values = condition.value if condition.op == IN else [condition.value]
    if condition.op not in (*OPERATORS, IN, IS_SET):
        raise InvalidInput(
            f"There is no “{condition.op}”; take {', '.join([*OPERATORS, IN, IS_SET])}.", f"{place}.op"
        )
    if condition.op == IS_SET:
        if not isinstance(condition.value, bool):
            raise InvalidInput("“is_set” takes true or false.", f"{place}.value")
        return
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= MAX_VALUES:
        raise InvalidInput(f"“in” takes a list of 1 to {MAX_VALUES} values.", f"{place}.value")
    # The column's type must meet the value's, or the engine would guess.
    wanted: tuple[type, ...]
    if kind is None:
        wanted = (str, int, float)
    elif pa.types.is_boolean(kind):
        wanted = (bool,)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        wanted = (int, float)
    elif pa.types.is_string(kind):
        wanted = (str,)
    else:
        raise InvalidInput(f"“{condition.column}” cannot be compared; use the window.", f"{place}.column")
    same = len({isinstance(value, str) for value in values}) == 1
    if not same or not all(
        isinstance(value, wanted) and isinstance(value, bool) == (wanted == (bool,)) for value in values
    ):
        names = " or ".join(sorted(kind.__name__ for kind in wanted))
        raise InvalidInput(f"“{condition.column}” is compared with {names}.", f"{place}.value")


def save(session: Session, spec: MetricSpec, facts: Mapping[str, Fact], now: datetime) -> Metric:
    """Store a metric, or a new version of it; the same again changes nothing."""
    check(spec, facts)
    row = session.scalar(sa.select(Metric).where(Metric.name == spec.name).with_for_update())
    if row is None:
        row = Metric(name=spec.name, spec=spec.to_json(), version=1, created_at=now, updated_at=now)
        try:
            with session.begin_nested():
                session.add(row)
        except sa.exc.IntegrityError as error:
            raise Conflict(f"Somebody else is making “{spec.name}” just now; try again.") from error
    elif row.archived_at is not None:
        raise Conflict(f"The metric “{spec.name}” is archived. Restore it first, or choose another name.")
    elif from_json(row.name, row.spec) != from_json(spec.name, spec.to_json()):
        row.spec, row.version, row.updated_at = spec.to_json(), row.version + 1, now
    session.flush()
    return row


def load(session: Session, names: list[str] | None = None) -> list[MetricSpec]:
    """Stored metrics by name, in that order; all that are not archived where none is named.

    NotFound: one that is none.
    """
    query = sa.select(Metric).order_by(Metric.name)
    if names is None:
        query = query.where(Metric.archived_at.is_(None))
    found = {row.name: from_json(row.name, row.spec) for row in session.scalars(query)}
    for name in names or ():
        if name not in found:
            raise NotFound(f"There is no metric “{name}”; make it first.")
    return list(found.values()) if names is None else [found[name] for name in names]


__all__ = [
    "COUNT",
    "DERIVED",
    "IN",
    "IS_SET",
    "KINDS",
    "MARGIN_COLUMN",
    "MAX_AT_ONCE",
    "MAX_CONDITIONS",
    "MAX_VALUES",
    "MEAN",
    "NAME_CHARS",
    "OPERATORS",
    "PROPERTY",
    "PROPORTION",
    "QUANTILE",
    "RATIO",
    "RETENTION",
    "ROWS",
    "Condition",
    "MetricSpec",
    "check",
    "columns_of",
    "from_json",
    "load",
    "save",
    "usable",
]
