"""Aggregates over fact tables: every condition of every rule that asks for one shares the scans.

An aggregate sees a slice of its table: a kind of event, a stretch of time, and conditions. What all
the aggregates of a scan have in common goes into its WHERE, where the database skips months and
row groups by it; the rest becomes each aggregate's FILTER. A FILTER costs for every row of the scan,
so many aggregates over a short time get a scan of their own beside those over a long one; and what
costs most, the text of a JSON property, is taken once a row, and only from rows that are asked for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlglot import exp

from segments.planning.moment import literal

SCAN_COST = 60
"""What reading, grouping and joining a row costs, in filters of a row (measured with DuckDB)."""
EVER = timedelta(days=2 * 365)
"""How long a slice without a beginning is taken to be."""


@dataclass(frozen=True)
class Slice:
    """The rows that an aggregate sees."""

    conditions: Mapping[Hashable, exp.Expr]
    """By a key that is equal for equal conditions."""
    kind: str | None = None
    """Of a table that holds several kinds of events."""
    time: str | None = None
    start: datetime | None = None
    end: datetime | None = None

    def spelt_out(self, known: Slice) -> list[exp.Expr]:
        """The conditions that ``known`` does not hold already."""
        rest = [one.copy() for key, one in self.conditions.items() if key not in known.conditions]
        return [*self.place(known), *rest]

    def place(self, known: Slice) -> list[exp.Expr]:
        """Of them, the kind and the time."""
        found: list[exp.Expr] = []
        if self.kind is not None and known.kind is None:
            found.append(exp.column("kind").eq(exp.Literal.string(self.kind)))
        if self.time is not None:
            if self.start is not None and (known.time is None or known.start != self.start):
                found.append(exp.column(self.time) >= literal(self.start))
            if self.end is not None and (known.time is None or known.end != self.end):
                found.append(exp.column(self.time) < literal(self.end))
        return found

    @property
    def length(self) -> timedelta:
        if self.end is None or self.start is None:
            return EVER
        return max(self.end - self.start, timedelta(hours=1))


NOTHING = Slice({})


@dataclass(frozen=True)
class _Column:
    name: str
    aggregate: exp.Expr
    rows: Slice


def _common(slices: list[Slice]) -> Slice:
    """The narrowest slice that holds them all."""
    first = slices[0]
    conditions = {
        key: one for key, one in first.conditions.items() if all(key in other.conditions for other in slices)
    }
    one_kind = len({one.kind for one in slices}) == 1
    one_time = len({one.time for one in slices}) == 1
    starts = [one.start for one in slices]
    ends = [one.end for one in slices]
    return Slice(
        conditions,
        first.kind if one_kind else None,
        first.time if one_time else None,
        min((at for at in starts if at is not None), default=None) if None not in starts else None,
        max((at for at in ends if at is not None), default=None) if None not in ends else None,
    )


@dataclass
class Source:
    """A table whose rows are aggregated by member: one scan, or a few of different length."""

    alias: str
    table: exp.Expr
    joins: dict[str, exp.Expr] = field(default_factory=dict)
    """Further tables by alias (column ``owner``), that the aggregates' conditions name."""
    columns: dict[Hashable, _Column] = field(default_factory=dict)

    def add(self, key: Hashable, aggregate: exp.Expr, rows: Slice) -> exp.Column:
        """The column of an aggregate; the same ``key`` again gives the same column."""
        if key not in self.columns:
            self.columns[key] = _Column(f"a{len(self.columns)}", aggregate, rows)
        return exp.column(self.columns[key].name, self.alias)

    def parts(self) -> list[Source]:
        """Itself, or several that share its columns out, so that short windows do not pay for long ones."""
        ordered = sorted(self.columns.items(), key=lambda item: item[1].rows.length)
        found: list[Source] = []
        while ordered:
            longest = ordered[-1][1].rows.length
            cut = 0
            for number in range(1, len(ordered)):
                own = ordered[number - 1][1].rows.length
                if own < ordered[number][1].rows.length and number * (longest - own) > SCAN_COST * own:
                    cut = number
            alias = f"{self.alias}_{len(found)}" if cut or found else self.alias
            found.append(Source(alias, self.table, self.joins, dict(ordered[cut:])))
            ordered = ordered[:cut]
        return found

    def query(self, member_id: int | None, owner: str = "member_id") -> exp.Select:
        """A row a member (``owner``) with the aggregates; of one member only where that is given."""
        columns = list(self.columns.values())
        slices = [one.rows for one in columns]
        common = _common(slices)
        where = common.spelt_out(NOTHING)
        kinds = sorted({rows.kind for rows in slices if rows.kind is not None})
        if common.kind is None and kinds and all(rows.kind is not None for rows in slices):
            where.append(
                exp.In(this=exp.column("kind"), expressions=[exp.Literal.string(kind) for kind in kinds])
            )
        if member_id is not None:
            where.append(exp.column("member_id").eq(exp.Literal.number(member_id)))
        told = _Told(common)
        selected = [exp.alias_(exp.column("member_id"), owner, copy=False)]
        for one in columns:
            rest = one.rows.spelt_out(common)
            aggregate = one.aggregate.copy()
            if len(columns) > 1 and not self.joins:
                aggregate = told.once(aggregate, one.rows)
                rest = [told.once(condition, one.rows) for condition in rest]
            if rest:
                aggregate = exp.Filter(this=aggregate, expression=exp.Where(this=exp.and_(*rest, copy=False)))
            selected.append(exp.alias_(aggregate, one.name, copy=False))
        table = self.table.copy()
        if told.places:
            inner = exp.select("*", *told.columns()).from_(table, copy=False)
            table = (inner.where(*where) if where else inner).subquery("told")
            where = []
        found = exp.select(*selected, copy=False).from_(table, copy=False)
        for alias in self.joins:
            found = found.join(alias, on=f"{alias}.owner = member_id", join_type="left")
        if where:
            found = found.where(*where, copy=False)
        return found.group_by(exp.column("member_id"), copy=False)


class _Told:
    """JSON properties that aggregates look at: each a column (``p0`` …) of the rows that are asked for it."""

    def __init__(self, common: Slice) -> None:
        self._common = common
        self._texts: dict[str, exp.Expr] = {}
        self.places: dict[str, list[Slice]] = {}

    def once(self, expression: exp.Expr, rows: Slice) -> exp.Expr:
        """The expression over such columns instead of the JSON itself."""

        def swapped(node: exp.Expr) -> exp.Expr:
            if not isinstance(node, exp.JSONExtractScalar):
                return node
            text = node.sql("duckdb")
            self._texts.setdefault(text, node)
            self.places.setdefault(text, []).append(rows)
            return exp.column(f"p{list(self._texts).index(text)}")

        found: exp.Expr = expression.transform(swapped)
        return found

    def columns(self) -> list[exp.Expr]:
        return [
            exp.alias_(self._guarded(node, self.places[text]), f"p{number}")
            for number, (text, node) in enumerate(self._texts.items())
        ]

    def _guarded(self, node: exp.Expr, users: list[Slice]) -> exp.Expr:
        """Nothing of rows that no user sees: a kind of event, from its earliest user's beginning on."""
        by_kind: dict[str | None, list[Slice]] = {}
        for rows in users:
            by_kind.setdefault(rows.kind, []).append(rows)
        guards = [
            exp.and_(*place) for some in by_kind.values() if (place := _common(some).place(self._common))
        ]
        if len(guards) < len(by_kind):
            return node.copy()
        return exp.Case(ifs=[exp.If(this=exp.or_(*guards), true=node.copy())])
