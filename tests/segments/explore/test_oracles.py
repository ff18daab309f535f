"""Cohorts, funnels and paths against plain Python over generated shops: ties, windows and edges included."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from statistics import median

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segments.explore import cohorts, funnels, paths
from tests.segments.conftest import MIDNIGHT, ZONE, Shop

HOUR = timedelta(hours=1)
DAYS = 60
KINDS = ("a", "b", "c", "order")
USUAL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Happened:
    member: int
    kind: str
    hours: int
    """Before the as-of instant; negative after it. Whole hours, so that ties are common."""
    amount: int
    status: str

    @property
    def at(self) -> datetime:
        return MIDNIGHT - self.hours * HOUR

    @property
    def counts(self) -> bool:
        return self.kind != "order" or self.status == "paid"


happened = st.lists(
    st.builds(
        Happened,
        st.integers(1, 4),
        st.sampled_from(KINDS),
        st.one_of(st.integers(-3, 48), st.integers(0, DAYS * 24)),
        st.integers(1, 500),
        st.sampled_from(("paid", "paid", "paid", "cancelled")),
    ),
    max_size=40,
)
spans = st.sampled_from((HOUR, 6 * HOUR, timedelta(days=2), timedelta(days=30)))
edges = st.tuples(st.integers(0, DAYS * 24), st.integers(0, 40 * 24)).map(
    lambda pair: (MIDNIGHT - (pair[0] + pair[1] + 1) * HOUR, MIDNIGHT - pair[0] * HOUR)
)


def laid(folder: str, facts: list[Happened]) -> Shop:
    shop = Shop(Path(folder))
    for one in facts:
        if one.kind == "order":
            paid = one.status == "paid"
            shop.order(one.member, one.hours / 24, one.amount, ordered_at=one.at, status=one.status,
                       net_minor=one.amount if paid else 0)  # fmt: skip
        else:
            shop.event(one.member, one.kind, one.hours / 24)
            shop.rows["events"][-1]["occurred_at"] = one.at
    shop.write()
    return shop


def by_member(facts: list[Happened]) -> dict[int, list[Happened]]:
    found: defaultdict[int, list[Happened]] = defaultdict(list)
    for one in facts:
        if one.counts and one.at < MIDNIGHT:
            found[one.member].append(one)
    return found


def furthest(own: list[Happened], asked: funnels.Question) -> list[datetime]:
    """Times of the attempt that counts: tried one by one, each step the earliest that may follow."""
    best: list[datetime] = []
    for first in sorted(one.at for one in own if one.kind == asked.steps[0]):
        if not asked.start <= first < asked.end:
            continue
        chain = [first]
        for kind in asked.steps[1:]:
            later = [one.at for one in own if one.kind == kind and one.at > chain[-1]]
            if not later or min(later) - first > asked.window:
                break
            chain.append(min(later))
        if len(chain) > len(best):
            best = chain
    return best


@USUAL
@given(happened, st.lists(st.sampled_from(KINDS), min_size=2, max_size=6), edges, spans, st.integers(0, 5))
def test_a_funnel_agrees_with_every_attempt_tried_one_by_one(
    facts: list[Happened], steps: list[str], period: tuple[datetime, datetime], window: timedelta, at: int
) -> None:
    asked = funnels.Question(tuple(steps), *period, window)
    chains = {member: furthest(own, asked) for member, own in by_member(facts).items()}
    entered = {member: chain for member, chain in chains.items() if chain}
    with tempfile.TemporaryDirectory() as folder:
        shop = laid(folder, facts)
        found = funnels.funnel(shop.engine, asked, MIDNIGHT)
        dropped = funnels.members(shop.engine, asked, MIDNIGHT, at % len(steps), dropped=True, rows=100)
    assert [step.members for step in found.steps] == [
        sum(len(chain) > index for chain in entered.values()) for index in range(len(steps))
    ]
    for index, step in enumerate(found.steps[1:], 1):
        gaps = [chain[index] - chain[index - 1] for chain in entered.values() if len(chain) > index]
        assert step.median == (
            timedelta(seconds=median(gap.total_seconds() for gap in gaps)) if gaps else None
        )
    assert dropped == sorted(member for member, chain in entered.items() if len(chain) == at % len(steps) + 1)
    assert found.still_open == sum(
        len(chain) < len(steps)
        and max(one.at for one in facts if _starts(one, member, asked)) + window >= MIDNIGHT
        for member, chain in entered.items()
    )


def _starts(one: Happened, member: int, asked: funnels.Question) -> bool:
    return (
        one.member == member
        and one.counts
        and one.kind == asked.steps[0]
        and asked.start <= one.at < min(asked.end, MIDNIGHT)
    )


def path_of(own: list[Happened], asked: paths.Question) -> list[str]:
    """Kinds of a member's path, the start first; empty where they never start."""
    starts = [one.at for one in own if one.kind == asked.event and asked.start <= one.at < asked.end]
    if not starts:
        return []
    first = min(starts)
    sign = 1 if asked.direction == "after" else -1
    seen = sorted(
        (sign * (one.at - first), one.kind)
        for one in own
        if one.kind in asked.kinds and timedelta(0) < sign * (one.at - first) <= asked.window
    )
    path = [asked.event]
    for _, kind in seen:
        if kind != path[-1]:
            path.append(kind)
    return path[: paths.DEPTH + 1]


@USUAL
@given(
    happened,
    st.sampled_from(KINDS),
    st.sets(st.sampled_from(KINDS), min_size=1),
    edges,
    spans,
    st.sampled_from(("after", "before")),
)
def test_paths_agree_with_walking_each_member_by_hand(
    facts: list[Happened],
    event: str,
    kinds: set[str],
    period: tuple[datetime, datetime],
    window: timedelta,
    direction: paths.Direction,
) -> None:
    asked = paths.Question(event, tuple(kinds), *period, window, direction)
    walked = [path for own in by_member(facts).values() if (path := path_of(own, asked))]
    links: Counter[tuple[int, str, str | None]] = Counter()
    for path in walked:
        for level, (source, target) in enumerate(zip(path, [*path[1:], None], strict=True)):
            if level < paths.DEPTH:
                links[level, source, target] += 1
    with tempfile.TemporaryDirectory() as folder:
        found = paths.paths(laid(folder, facts).engine, asked, MIDNIGHT)
    assert found.members == len(walked)
    assert {(link.level, link.source, link.target): link.members for link in found.links} == links


def month_of(at: datetime) -> date:
    return at.astimezone(ZONE).date().replace(day=1)


def months_between(first: date, later: date) -> int:
    return (later.year - first.year) * 12 + later.month - first.month


@USUAL
@given(happened, st.integers(1, 5), st.integers(-20, 20))
def test_cohorts_agree_with_counting_members_one_by_one(
    facts: list[Happened], count: int, shift: int
) -> None:
    as_of = date(2026, 3, 1) + timedelta(days=shift)
    until = MIDNIGHT + timedelta(days=shift)
    orders = [one for one in facts if one.kind == "order" and one.counts and one.at < until]
    firsts: dict[int, date] = {}
    for one in sorted(orders, key=lambda one: one.at):
        firsts.setdefault(one.member, month_of(one.at))
    sizes = Counter(firsts.values())
    expected: defaultdict[tuple[date, int], list[Happened]] = defaultdict(list)
    for one in orders:
        first = firsts[one.member]
        expected[first, months_between(first, month_of(one.at))].append(one)
    newest = (as_of - timedelta(days=1)).replace(day=1)
    with tempfile.TemporaryDirectory() as folder:
        found = cohorts.cohorts(laid(folder, facts).engine, as_of, ZONE, count=count)
    shown = {first for first in sizes if months_between(first, newest) < count}
    assert {one.start: one.size for one in found.cohorts if one.size} == {
        first: sizes[first] for first in shown
    }
    for cohort in found.cohorts:
        assert len(cohort.cells) == months_between(cohort.start, newest) + 1
        for cell in cohort.cells:
            own = expected[cohort.start, cell.offset]
            assert (cell.members, cell.orders, cell.revenue_minor) == (
                len({one.member for one in own}),
                len(own),
                sum(one.amount for one in own),
            )
            over = months_between(cohort.start, newest) > cell.offset or as_of.day == 1
            assert cell.partial is not over
    for average in found.averages:
        whole = [one for one in found.cohorts if one.size and average.offset < len(one.cells)]
        whole = [one for one in whole if not one.cells[average.offset].partial]
        assert (average.size, average.members) == (
            sum(one.size for one in whole),
            sum(one.cells[average.offset].members for one in whole),
        )
