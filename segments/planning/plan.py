"""A plan: the aggregates and joins that one rule or many ask for, and the query over them.

Conditions are expressions over one row a member; what they need of facts is a column of a CTE that
every condition shares which needs the same. So a query scans each fact table once, however many
rules it answers and however deep they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from core.errors import InvalidInput
from segments.language.tree import (
    All,
    Any_,
    EventIs,
    FieldIs,
    InList,
    InSegment,
    Leaf,
    Node,
    Not,
    Sequence,
    Since,
    Within,
)
from segments.language.vocabulary import ATTRIBUTE_PREFIX, DATE, FIELDS, NUMBER, field_type
from segments.planning.compare import compare, json_text, local_date, major, sure
from segments.planning.happenings import (
    COUNTED,
    aggregate_of,
    expression_of,
    result_of,
    rows_of,
    table_of,
    time_of,
)
from segments.planning.moment import Moment, hours, literal
from segments.planning.presence import holds_for_nothing, met_only_by_the_present
from segments.planning.sequences import sequence_ctes
from segments.planning.sources import Slice, Source
from segments.rules import validate

Lookup = Callable[[str], Mapping[str, Any] | None]
MAX_SEGMENT_DEPTH = 8
MAX_CONDITIONS = 1000
"""Conditions of a rule together with those of the segments it refers to: each is copied where it is named."""
_SNAPSHOTS = {"s": "snapshot", "r": "predictions"}
CHANNELS = ("email", "sms", "wechat")
"""Whose consent is a field of a rule. ``webhook`` and ``wecom`` are none: the shop's own app and
its employees know whom they reach."""


def nothing(_name: str) -> None:
    """The look-up of a place without segments."""


@dataclass
class Plan:
    """What has been asked for so far; :meth:`query` puts it together."""

    moment: Moment
    lookup: Lookup = nothing
    lists: Collection[str] | None = None
    """Names of the lists there are; None: any name will do."""
    member_id: int | None = None
    """The one member that is asked about; None: everybody."""
    sources: dict[str, Source] = field(default_factory=dict)
    anchors: dict[str, Source] = field(default_factory=dict)
    sequences: dict[Sequence, str] = field(default_factory=dict)
    snapshots: set[str] = field(default_factory=set)
    open_segments: tuple[str, ...] = ()
    conditions: int = 0

    def condition(self, node: Node, *, negated: bool = False) -> exp.Expr:
        """A rule as an expression over the member's row; below a ``not`` it is never unknown."""
        if isinstance(node, All):
            return exp.and_(*(self.condition(child, negated=negated) for child in node.nodes), copy=False)
        if isinstance(node, Any_):
            return exp.or_(*(self.condition(child, negated=negated) for child in node.nodes), copy=False)
        if isinstance(node, Not):
            return exp.not_(exp.paren(self.condition(node.node, negated=True), copy=False), copy=False)
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            raise InvalidInput(
                f"segment: with the segments it refers to, the rule has more than {MAX_CONDITIONS} "
                "conditions.",
                "segment",
            )
        if isinstance(node, InSegment):
            return exp.paren(self._segment(node, negated=negated), copy=False)
        found, _ = self.leaf(node, bare=not negated)
        return sure(found) if negated else found

    def rule(self, rule: Any) -> tuple[exp.Expr, bool]:
        """The condition of a whole rule, with a count of conditions of its own.

        And whether only those meet it who were there as of the date; otherwise see :meth:`there`.
        """
        self.conditions = 0
        node = validate(rule)
        return self.condition(node), met_only_by_the_present(node)

    def leaf(self, node: Leaf, *, bare: bool = False) -> tuple[exp.Expr, exp.Expr]:
        """A condition and the member's value that it looks at; ``bare``: unknown will do for false."""
        if isinstance(node, FieldIs):
            return self._field(node)
        if isinstance(node, EventIs):
            return self._event(node, bare=bare)
        if isinstance(node, Sequence):
            return self._sequence(node)
        if isinstance(node, InList):
            return self._list(node)
        raise TypeError(f"{node} is no condition of its own")

    def segment_rule(self, name: str) -> Node:
        """The rule of a segment that the rule at hand names. Raises InvalidInput: unknown, or a circle."""
        if name in self.open_segments:
            circle = " → ".join((*self.open_segments, name))
            raise InvalidInput(
                f"segment: these segments refer to each other in a circle: {circle}.", "segment"
            )
        if len(self.open_segments) >= MAX_SEGMENT_DEPTH:
            raise InvalidInput(
                f"segment: segments refer to each other over more than {MAX_SEGMENT_DEPTH} steps.", "segment"
            )
        rule = self.lookup(name)
        if rule is None:
            raise InvalidInput(f"segment: there is no segment “{name}”.", "segment")
        return validate(rule)

    def _segment(self, node: InSegment, *, negated: bool) -> exp.Expr:
        rule = self.segment_rule(node.name)
        outer = self.open_segments
        self.open_segments = (*outer, node.name)
        # The other segment's own rule, in the same query: its conditions share the scans.
        found = self.condition(rule, negated=negated)
        self.open_segments = outer
        return found

    def _list(self, node: InList) -> tuple[exp.Expr, exp.Expr]:
        if self.lists is not None and node.name not in self.lists:
            raise InvalidInput(f"list: there is no list “{node.name}”.", "list")
        source = self.sources.setdefault("e_lists", Source("e_lists", exp.to_table("lists")))
        own: dict[Hashable, exp.Expr] = {node: exp.column("list").eq(exp.Literal.string(node.name))}
        entries = source.add(node, exp.Count(this=exp.Star()), Slice(own))
        inside = exp.GT(this=entries, expression=exp.Literal.number(0))
        return inside, exp.Coalesce(this=exp.paren(inside.copy()), expressions=[exp.false()])

    def _field(self, node: FieldIs) -> tuple[exp.Expr, exp.Expr]:
        this, kind = self.field(node.field)
        return compare(this, node.op, node.value, kind, self.moment), this.copy()

    def field(self, name: str) -> tuple[exp.Expr, str | None]:
        """A field's value as rules speak of it, and its type (None: an attribute)."""
        kind = field_type(name)
        if kind is None:
            return json_text(exp.column("attributes", "m"), name.removeprefix(ATTRIBUTE_PREFIX)), None
        table, column = FIELDS[name].column.split(".")
        if table == "p":
            balance = self._source("points").add(
                "balance",
                exp.Sum(this=exp.column("delta")),
                Slice({}, time="at", end=self.moment.instant),
            )
            return exp.Coalesce(this=balance, expressions=[exp.Literal.number(0)]), kind
        if table == "t":
            # A row a member at most: the greatest is the only one.
            return self._source("tiers").add(column, exp.Max(this=exp.column(column)), Slice({})), kind
        if table == "c":
            return self._consent(column), kind
        if table in _SNAPSHOTS:
            self.snapshots.add(table)
        this: exp.Expr = exp.column(column, table)
        if kind == NUMBER:
            this = major(this, column, self.moment)
        elif kind == DATE and column == "registered_at":
            this = local_date(this, self.moment)
        return this, kind

    def _consent(self, channel: str) -> exp.Expr:
        # A slice of its own, so that an answer about one channel does not make the others' known.
        own: dict[Hashable, exp.Expr] = {
            "marketing": exp.column("purpose").eq(exp.Literal.string("marketing")),
            channel: exp.column("channel").eq(exp.Literal.string(channel)),
        }
        return self._source("consents").add(channel, exp.LogicalOr(this=exp.column("granted")), Slice(own))

    def _source(self, table: str) -> Source:
        alias = f"e_{table}"
        if alias not in self.sources:
            self.sources[alias] = Source(alias, expression_of(table))
        return self.sources[alias]

    def _event(self, node: EventIs, *, bare: bool) -> tuple[exp.Expr, exp.Expr]:
        table = table_of(node.what, node.of)
        key = (node.what, node.aggregate, node.of, node.within)
        rows = rows_of(node.what, node.within, table, self.moment)
        if node.within.since is None:
            source = self._source(table)
        else:
            source, after = self._anchored(node.within.since, table, time_of(node.what))
            rows = Slice({**rows.conditions, **after}, rows.kind, rows.time, rows.start, rows.end)
        column = source.add(key, aggregate_of(node, table), rows)
        counted = node.aggregate in COUNTED
        full = exp.Coalesce(this=column, expressions=[exp.Literal.number(0)]) if counted else column
        # Where none would not do, whoever has no row is out anyway: the join need not keep them.
        lean = column if counted and bare and not holds_for_nothing(node) else full
        this, kind = result_of(lean, node, self.moment)
        value, _ = result_of(full.copy(), node, self.moment)
        return compare(this, node.op, node.value, kind, self.moment), value

    def _anchored(self, since: Since, table: str, time: str) -> tuple[Source, dict[Hashable, exp.Expr]]:
        """The source whose rows know each member's anchor, and the conditions “after the anchor”."""
        anchor_table = table_of(since.anchor)
        name = f"n_{anchor_table}"
        anchors = self.anchors.setdefault(name, Source(name, expression_of(anchor_table)))
        extreme = exp.Max if since.which == "last" else exp.Min
        at = anchors.add(
            (since.anchor, since.which),
            extreme(this=exp.column(time_of(since.anchor))),
            rows_of(since.anchor, Within(), anchor_table, self.moment),
        )
        alias = f"f_{table}"
        source = self.sources.setdefault(alias, Source(alias, expression_of(table)))
        source.joins[name] = exp.to_table(name)
        after: dict[Hashable, exp.Expr] = {since: exp.column(time) > at}
        if since.limit is not None:
            after[since, "for"] = exp.column(time) <= at.copy() + hours(since.limit.hours)
        return source, after

    def _sequence(self, node: Sequence) -> tuple[exp.Expr, exp.Expr]:
        name = self.sequences.setdefault(node, f"q{len(self.sequences)}")
        done = exp.not_(exp.column("member_id", name).is_(exp.null()))
        return done, done.copy()

    def query(self, *selected: exp.Expr, where: exp.Expr | None = None) -> exp.Select:
        """The members (of whom ``where`` is true), joined with all that the conditions so far ask for."""
        found = exp.select(*selected, copy=False).from_("members AS m", copy=False)
        for alias in sorted(self.snapshots):
            found = found.join(
                f"{_SNAPSHOTS[alias]} AS {alias}",
                on=f"{alias}.member_id = m.member_id",
                join_type="left",
                copy=False,
            )
        for name, anchors in self.anchors.items():
            found = found.with_(name, as_=anchors.query(self.member_id, owner="owner"), copy=False)
        for source in self.sources.values():
            for part in source.parts():
                found = found.with_(part.alias, as_=part.query(self.member_id), copy=False)
                found = self._join(found, part.alias)
        for node, name in self.sequences.items():
            *inner, (_, members) = sequence_ctes(name, node, self.moment, self.member_id)
            for step, query in inner:
                # Both are read twice; without the word the database may run them twice.
                found = found.with_(step, as_=query, materialized=True, copy=False)
            found = self._join(found.with_(name, as_=members, copy=False), name)
        if self.member_id is not None:
            found = found.where(
                exp.column("member_id", "m").eq(exp.Literal.number(self.member_id)), copy=False
            )
        return self._placed(found if where is None else found.where(where, copy=False))

    @staticmethod
    def _join(query: exp.Select, alias: str) -> exp.Select:
        on = exp.column("member_id", alias).eq(exp.column("member_id", "m"))
        return query.join(exp.to_table(alias), on=on, join_type="left", copy=False)

    def _placed(self, query: exp.Select) -> exp.Select:
        """Conditions know a source as one; where it is read in parts, its columns are found there."""
        moved = {
            (source.alias, column.name): part.alias
            for source in self.sources.values()
            for part in source.parts()
            if part.alias != source.alias
            for column in part.columns.values()
        }
        if moved:
            for column in query.find_all(exp.Column):
                place = moved.get((column.table, column.name))
                if place is not None:
                    column.set("table", exp.to_identifier(place))
        return query

    def there(self) -> exp.Expr:
        """That a member was there as of the date: who was not is in no segment."""
        self.snapshots.add("s")
        registered = exp.column("registered_at", "m")
        scored = exp.not_(exp.column("member_id", "s").is_(exp.null()))
        before = registered.copy() < literal(self.moment.instant)
        return exp.or_(registered.is_(exp.null()), before, scored)
