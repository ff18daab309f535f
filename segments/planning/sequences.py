"""Sequences: steps of one member, each strictly later than the one before.

One row a step that happened, ``(member_id, t, step)``. A cheap look at each member's first and last
time a step leaves those for whom the order of things decides; only their rows are sorted. Walking
in time, the latest moment up to which a chain of steps was complete is all that the next step needs
to know: the closest one is best both for “within” and for “none between”. So a step is one window
function, however often its events repeat.

Rows of one instant stand with the later step first, so that each sees only what was strictly
earlier: a step is never before itself, and what happens at the same instant is not after it.
"""

from __future__ import annotations

from datetime import timedelta

from sqlglot import exp

from segments.language.tree import Sequence, Step, Within
from segments.planning.happenings import expression_of, rows_of, table_of, time_of
from segments.planning.moment import Moment, hours, literal
from segments.planning.sources import NOTHING


class _Chain:
    """The steps of a sequence by their roles; steps are numbered from 1."""

    def __init__(self, node: Sequence) -> None:
        self.steps: dict[int, Step] = dict(enumerate(node.steps, 1))
        self.happen = [number for number, step in self.steps.items() if step.happens]
        last = self.happen[-1]
        self.between = {
            later: list(range(earlier + 1, later))
            for earlier, later in zip(self.happen, self.happen[1:], strict=False)
        }
        """A step that happens → the steps that must not happen between it and the one before."""
        self.finally_not = [number for number in self.steps if number > last]


def sequence_ctes(
    name: str, node: Sequence, moment: Moment, member_id: int | None
) -> list[tuple[str, exp.Query]]:
    """CTEs of which the last, ``name``, has a row (column ``member_id``) a member who did it."""
    chain = _Chain(node)
    rows, people = f"{name}_rows", f"{name}_people"
    found = [(rows, _rows(node, chain, moment, member_id)), (people, _people(rows, chain))]
    return [*found, (name, _members(rows, people, chain, moment))]


def _rows(node: Sequence, chain: _Chain, moment: Moment, member_id: int | None) -> exp.Query:
    branches: list[exp.Select] = []
    for number, step in chain.steps.items():
        # What must not happen at last may do so after the window, up to the as-of instant.
        window = (
            Within(node.within.kind, start=node.within.start) if number in chain.finally_not else node.within
        )
        table = table_of(step.what)
        where = rows_of(step.what, window, table, moment).spelt_out(NOTHING)
        if member_id is not None:
            where.append(exp.column("member_id").eq(exp.Literal.number(member_id)))
        branches.append(
            exp.select(
                exp.column("member_id"),
                exp.alias_(exp.column(time_of(step.what)), "t"),
                exp.alias_(exp.Literal.number(number), "step"),
            )
            .from_(expression_of(table))
            .where(*where)
        )
    found: exp.Query = branches[0]
    for branch in branches[1:]:
        found = found.union(branch, distinct=False)
    return found


def _is(step: int) -> exp.Expr:
    return exp.column("step").eq(exp.Literal.number(step))


def _people(rows: str, chain: _Chain) -> exp.Select:
    """Each member's first and last time of a step: ``lo1``, ``hi1`` …"""

    def extreme(function: type[exp.AggFunc], name: str, step: int) -> exp.Expr:
        only = exp.Where(this=_is(step))
        return exp.alias_(exp.Filter(this=function(this=exp.column("t")), expression=only), f"{name}{step}")

    lows = [extreme(exp.Min, "lo", step) for step in chain.happen]
    highs = [extreme(exp.Max, "hi", step) for step in chain.steps if step != chain.happen[0]]
    return exp.select("member_id", *lows, *highs).from_(rows).group_by("member_id")


def _possible(chain: _Chain, moment: Moment) -> list[exp.Expr]:
    """What must hold of a member's first and last times, or no order of things could do."""
    found: list[exp.Expr] = [
        exp.column(f"lo{earlier}") < exp.column(f"hi{later}")
        for earlier, later in zip(chain.happen, chain.happen[1:], strict=False)
    ]
    last = chain.happen[-1]
    found += [exp.column(f"lo{last}") <= _deadline(chain.steps[n], moment) for n in chain.finally_not]
    return found


def _deadline(step: Step, moment: Moment) -> exp.Expr:
    """The last moment whose ``within`` is over by the as-of instant."""
    assert step.within is not None
    return literal(moment.instant - timedelta(hours=step.within.hours))


def _members(rows: str, people: str, chain: _Chain, moment: Moment) -> exp.Query:
    possible = exp.select("member_id").from_(people).where(*_possible(chain, moment))
    first = chain.happen[0]
    if len(chain.happen) == 1:
        # Who never did the one thing after the first of the other needs no sorting.
        never = exp.and_(
            *(
                exp.or_(
                    exp.column(f"hi{n}").is_(exp.null()), exp.column(f"hi{n}") <= exp.column(f"lo{first}")
                )
                for n in chain.finally_not
            )
        )
        decided = possible.where(never)
        return decided.union(_walk(rows, possible.where(exp.not_(never)), chain, moment), distinct=False)
    bare = len(chain.happen) == 2 and chain.steps[chain.happen[1]].within is None and len(chain.steps) == 2
    return possible if bare else _walk(rows, possible, chain, moment)


def _over(aggregate: type[exp.AggFunc], when: exp.Expr, *, ahead: bool = False) -> exp.Expr:
    """The latest time so far of rows that are so, this one included; ``ahead``: the next time."""
    order = exp.Order(
        expressions=[
            exp.Ordered(this=exp.column("t")),
            exp.Ordered(this=exp.column("step"), desc=True),
        ]
    )
    frame = exp.WindowSpec(
        kind="ROWS",
        start="1" if ahead else "UNBOUNDED",
        start_side="FOLLOWING" if ahead else "PRECEDING",
        end="UNBOUNDED" if ahead else "CURRENT ROW",
        end_side="FOLLOWING" if ahead else None,
    )
    time = exp.Case(ifs=[exp.If(this=when, true=exp.column("t"))])
    return exp.Window(
        this=aggregate(this=time), partition_by=[exp.column("member_id")], order=order, spec=frame
    )


def _walk(rows: str, members: exp.Select, chain: _Chain, moment: Moment) -> exp.Query:
    """The members whose rows, in the order of time, hold the chain."""
    kept: list[exp.Expr] = [exp.column("member_id"), exp.column("t"), exp.column("step")]
    looks = [
        exp.alias_(_over(exp.Max, exp.or_(*map(_is, numbers))), f"g{later}")
        for later, numbers in chain.between.items()
        if numbers
    ]
    looks += [exp.alias_(_over(exp.Min, _is(n), ahead=True), f"x{n}") for n in chain.finally_not]
    if len(chain.happen) > 1:
        looks.append(exp.alias_(_over(exp.Max, _is(chain.happen[0])), f"r{chain.happen[0]}"))
    level: exp.Select = (
        exp.select(*kept, *looks)
        .from_(rows)
        .where(exp.In(this=exp.column("member_id"), query=exp.Subquery(this=members)))
    )
    names = [look.alias for look in looks]
    for earlier, later in zip(chain.happen, chain.happen[1:-1], strict=False):
        reached = exp.alias_(
            _over(exp.Max, exp.and_(_is(later), *_reached(earlier, later, chain))), f"r{later}"
        )
        carried = [exp.column(name) for name in names]
        level = exp.select(*kept, *carried, reached).from_(level.subquery(f"w{later}"))
        names.append(f"r{later}")
    last = chain.happen[-1]
    ends: list[exp.Expr] = [_is(last)]
    if len(chain.happen) > 1:
        ends += _reached(chain.happen[-2], last, chain)
    for number in chain.finally_not:
        step = chain.steps[number]
        assert step.within is not None
        ahead, over = exp.column(f"x{number}"), exp.column("t") + hours(step.within.hours)
        ends += [
            exp.column("t") <= _deadline(step, moment),
            exp.or_(ahead.is_(exp.null()), ahead.copy() > over),
        ]
    return exp.select("member_id").from_(level.subquery("walked")).where(*ends).group_by("member_id")


def _reached(earlier: int, later: int, chain: _Chain) -> list[exp.Expr]:
    """That at a row of step ``later`` the chain up to ``earlier`` is complete, near and unbroken."""
    before = exp.column(f"r{earlier}")
    found: list[exp.Expr] = [exp.not_(before.is_(exp.null()))]
    within = chain.steps[later].within
    if within is not None:
        found.append(exp.column("t") <= before.copy() + hours(within.hours))
    if chain.between[later]:
        broken = exp.column(f"g{later}")
        found.append(exp.or_(broken.is_(exp.null()), broken.copy() <= before.copy()))
    return found
