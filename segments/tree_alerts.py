"""Weeks of the metrics tree that are out of line, and the groups of members that explain them.

Expectation. The logarithms of the week-on-week changes of the ``HISTORY`` weeks before, at least ``LEAST`` of
them: their median m, and their spread s = 1.4826 × the median absolute deviation from it, which single wild
weeks do not move (Hampel). The week is expected at before · exp(m), and is an alert outside of
before · exp(m ± 3.5 s); 3.5 is the cut of Iglewicz and Hoaglin (1993). s is never below what counting alone
makes, √(1/n₀ + 1/n₁) of the orders, buyers or visitors behind the figure, so that a small shop is not
alarmed by chance.

Season. One year of weeks is too few to estimate a season, but enough to recognise a swing that comes back.
Let d be how far the week's change lies from m, and y how far the change of the week 52 weeks before lay from
m, or that of the week before or after it (holidays move), in d's direction. The week is no alert where, of
one of the three, y ≥ d/2 and d − y ≤ 3.5 s: last year swung the same way, at least half as much, and what is
left over is not unusual by itself. Where one of the three changes is not known, nothing is explained by them.

In simulated weeks without a change about 3 in
1,000 figures are an alert, so that two weeks in a hundred have one. A week that is not over is never judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from statistics import median
from zoneinfo import ZoneInfo

from core.times import instant
from core.warehouse.engine import DuckEngine
from segments import tree
from segments.tree import GroupPart, Week
from segments.tree_scan import GROUPS, Groups, groups

HISTORY, LEAST = 26, 8
CUT = 3.5
YEAR = 52
SAME = 0.5
"""Share of a swing from which last year's counts as the same one."""
NORMAL = 1.4826
"""Median absolute deviations of a normal distribution in a standard deviation."""
WATCHED = (
    tree.GMV, tree.VISITORS, tree.CONVERSION, tree.REPURCHASE, tree.BASKET, tree.UNITS_AN_ORDER, tree.PRICE,
    tree.NEW, tree.RETURNING,
)  # fmt: skip
_COUNTED = {
    tree.VISITORS: tree.VISITORS, tree.CONVERSION: tree.BUYERS, tree.NEW: tree.NEW,
    tree.RETURNING: tree.RETURNING,
}  # fmt: skip
_VISITS = (tree.VISITORS, tree.CONVERSION)
NAMED = 5
"""Groups that are named for an alert."""


@dataclass(frozen=True)
class Anomaly:
    """A node whose week is out of line. ``weeks``: how many changes say what is usual."""

    node: str
    week: date
    before: float
    after: float
    expected: float
    low: float
    high: float
    weeks: int
    basis: str
    year_before: float | None = None
    """53 weeks ago; like ``year``, the same week last year, None where the year before is not known."""
    year: float | None = None

    @property
    def change(self) -> float:
        return self.after - self.before

    @property
    def score(self) -> float:
        """Robust standard deviations from what was expected; above 3.5, or it were none."""
        half = math.log(self.high / self.expected) / CUT
        return math.log(self.after / self.expected) / half if self.after > 0 else -math.inf


def judge(
    node: str, weeks: Sequence[Week], basis: str, year: Mapping[date, Week] | None = None
) -> Anomaly | None:
    """Whether the last of the weeks (oldest first) is out of line for a node; None: no, or nobody knows.

    ``year``: weeks by their Monday, in which those of last year are looked for; None: in ``weeks``.
    """
    values = [week.node(node, basis) for week in weeks[-(HISTORY + 2) :]]
    changes = [
        math.log(now / was)
        for was, now in pairwise(values[:-1])
        if was is not None and now is not None and was > 0 < now
    ]
    before, after = (values[-2], values[-1]) if len(values) > 1 else (None, None)
    if len(changes) < LEAST or before is None or after is None or before <= 0:
        return None
    middle = median(changes)
    counted = _COUNTED.get(node, tree.ORDERS)
    counts = [week.total(counted, basis) for week in weeks[-2:]]
    chance = math.sqrt(sum(1 / max(count, 1.0) for count in counts))
    spread = max(NORMAL * median(abs(change - middle) for change in changes), chance)
    expected = before * math.exp(middle)
    low, high = (expected * math.exp(sign * CUT * spread) for sign in (-1, 1))
    if low <= after <= high:
        return None
    found = {week.start: week for week in weeks} if year is None else year
    then = last_year(node, weeks[-1].start, found, basis)
    if then is not None and after > 0 and explained(math.log(after / before), then, middle, spread):
        return None
    about = (None, None) if then is None else then[1:3]
    return Anomaly(node, weeks[-1].start, before, after, expected, low, high, len(changes), basis, *about)


def last_year(node: str, week: date, found: Mapping[date, Week], basis: str) -> tuple[float, ...] | None:
    """A node 54, 53, 52 and 51 weeks before: the same week last year with its neighbours and what their
    changes began at. None where one of them is not known, or 0."""
    values = []
    for back in (YEAR + 2, YEAR + 1, YEAR, YEAR - 1):
        then = found.get(week - timedelta(weeks=back))
        value = None if then is None else then.node(node, basis)
        if value is None or value <= 0:
            return None
        values.append(value)
    return tuple(values)


def explained(change: float, then: Sequence[float], middle: float, spread: float) -> bool:
    """Whether a logarithmic change is last year's again: see the rule above. ``then``: of :func:`last_year`;
    ``middle`` and ``spread``: m and s of the weeks before."""
    sign = 1 if change > middle else -1
    size = sign * (change - middle)
    swings = (sign * (math.log(now / was) - middle) for was, now in pairwise(then))
    return any(swing >= SAME * size and size - swing <= CUT * spread for swing in swings)


def anomalies(weeks: Sequence[Week], as_of: datetime, zone: ZoneInfo) -> list[Anomaly]:
    """Every watched node that is out of line in the last of the weeks (oldest first), the largest first.

    Nothing where that week is not over at ``as_of``. Visitors are counted by events where every week that is
    looked at has some.
    """
    if len(weeks) < 2 or as_of < instant(date.fromordinal(weeks[-1].start.toordinal() + 7), zone):
        return []
    basis = tree.basis_of(weeks[-(LEAST + 2) :])
    known = [week for week in weeks if week.events] if basis == tree.VISITS else list(weeks)
    # Who came is known only of weeks with events; what was bought, of all of them.
    seen, bought = ({week.start: week for week in each} for each in (known, weeks))
    found = (judge(node, known, basis, seen if node in _VISITS else bought) for node in WATCHED)
    return sorted((one for one in found if one is not None), key=lambda one: -abs(one.score))


@dataclass(frozen=True)
class Cause:
    """A group that explains an alert. ``share`` of the change; ``size``: its share of the figure before;
    ``excess`` = share − size: how much more than its size would explain."""

    by: str
    part: GroupPart
    share: float
    size: float

    @property
    def excess(self) -> float:
        return self.share - self.size


def causes(anomaly: Anomaly, divided: Sequence[Groups]) -> list[Cause]:
    """The groups that explain an alert most, beyond what their size says, at most five."""
    found = []
    for one in divided:
        parts = tree.explain(anomaly.node, one.before, one.after, anomaly.basis)
        change = math.fsum(part.part for part in parts)
        weight = tree.RATIOS[anomaly.node][1] if anomaly.node in tree.RATIOS else anomaly.node
        sizes = {group: week.total(weight, anomaly.basis) for group, week in one.before.items()}
        whole = math.fsum(sizes.values())
        if not change or not whole or len(parts) < 2:
            continue
        found += [
            Cause(one.by, part, part.part / change, sizes.get(part.group, 0.0) / whole)
            for part in parts
            if part.part / change > 0
        ]
    found.sort(key=lambda cause: (-cause.excess, cause.by, cause.part.group))
    return [cause for cause in found if cause.excess > 0][:NAMED]


def divide(
    engine: DuckEngine, before: date, after: date, zone: ZoneInfo, as_of: datetime
) -> tuple[Groups, ...]:
    """Two weeks divided in every way that there is, for :func:`causes`."""
    return tuple(groups(engine, by, before, after, zone, as_of) for by in GROUPS)
