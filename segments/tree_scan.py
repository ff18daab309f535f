"""The metrics tree by week out of the warehouse, of all members or by group, in one scan of each fact.

Guarantees: weeks run from Monday in the shop's zone, also where its clock changed; the groups divide the
members, so that their sums are those of all; what happened after ``as_of`` is not there. A series and a
division are kept until the files change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from core.errors import InvalidInput
from core.times import instant, micros
from core.warehouse.engine import DuckEngine, Stored
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, named, snapshot_path, sql
from segments.tree import Week

WEEKS = 60
"""Weeks of a series: the newest whole one, the same of last year, and some before. A mask has 62 bits."""
MAX_WEEKS = 60
SERIES_KEPT = 8
GROUPS_KEPT = 32
"""Divisions: four a pair of weeks, of the pairs that were looked at last."""
RFM, STAGE, CITY, CHANNEL = "rfm_segment", "stage", "city", "first_channel"
GROUPS = (CITY, STAGE, RFM, CHANNEL)
"""How members are divided: where they live, what they were before the later week, whence they came first."""
FACTS = ("orders", "order_lines", "events", "members")
_BEGINNING = -(2**62)
_WEEK = timedelta(days=7)
_WEEK_US = _WEEK // timedelta(microseconds=1)


def monday(day: date) -> date:
    """The Monday of a day's week."""
    return day - timedelta(days=day.weekday())


def last_whole(now: datetime, zone: ZoneInfo) -> date:
    """The Monday of the newest week that is over."""
    return monday(now.astimezone(zone).date()) - _WEEK


def _edges(starts: list[date], zone: ZoneInfo) -> list[int]:
    return [micros(instant(start, zone)) for start in (*starts, starts[-1] + _WEEK)]


def _number(edges: Sequence[int]) -> str:
    """SQL: the week of the instant ``t``, 1 for the first, 0 for all before it, by arithmetic.

    Between two changes of the clock all weeks have 168 hours; the week of a change has one more or less.
    """
    starts, cases, first = edges[:-1], [f"WHEN t < {edges[0]} THEN 0"], 0
    for index in range(1, len(starts) + 1):
        if index < len(starts) and starts[index] - starts[first] == (index - first) * _WEEK_US:
            continue
        number = f"least({index}, {first + 1} + (t - {starts[first]}) // {_WEEK_US})"
        cases.append(f"ELSE {number}" if index == len(starts) else f"WHEN t < {starts[index]} THEN {number}")
        first = index
    return f"CASE {' '.join(cases)} END"


_lock = threading.Lock()
_kept: OrderedDict[Hashable, tuple[Week, ...]] = OrderedDict()
_groups: OrderedDict[Hashable, Groups] = OrderedDict()


def series(
    engine: DuckEngine, last: date, zone: ZoneInfo, as_of: datetime, weeks: int = WEEKS
) -> tuple[Week, ...]:
    """The ``weeks`` weeks up to the one that begins on Monday ``last``, the oldest first.

    Weeks without anything are there with zeros. InvalidInput: ``last`` is no Monday, or too many weeks.
    """
    if last.weekday():
        raise InvalidInput(f"{last} is no Monday; a week is named by its Monday.", "week")
    if not 1 <= weeks <= MAX_WEEKS:
        raise InvalidInput(f"From 1 to {MAX_WEEKS} weeks.", "weeks")
    # A week that is over is the same at any later moment.
    moment = min(as_of, instant(last + _WEEK, zone))
    state = engine.state(FACTS)
    key = (state, last, zone.key, moment, weeks)
    with _lock:
        if state is not None and key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    starts = [last - _WEEK * back for back in range(weeks - 1, -1, -1)]
    found = _run(engine, starts, zone, moment, "''", "")
    result = _weeks(starts, found.get("", {}))
    if state is not None:
        with _lock:
            _kept[key] = result
            while len(_kept) > SERIES_KEPT:
                _kept.popitem(last=False)
    return result


@dataclass(frozen=True)
class Groups:
    """Two weeks by group. ``snapshot``: the day of the scores that divide the members; None where none do."""

    by: str
    before: Mapping[str, Week]
    after: Mapping[str, Week]
    snapshot: date | None = None


def snapshot_days(engine: DuckEngine) -> list[date]:
    """Days that have a snapshot of scores, the oldest first."""
    names = (
        path.rsplit("/", 1)[-1].removesuffix(".parquet")
        for path in engine.replica.files("snapshots", SNAPSHOT)
    )
    return [date.fromisoformat(name) for name in names]


def groups(engine: DuckEngine, by: str, before: date, after: date, zone: ZoneInfo, as_of: datetime) -> Groups:
    """Two weeks (Mondays) by group of members; "" are those without a value.

    Stages and RFM segments are those that members had when the later week began (the nearest snapshot before;
    the oldest there is, where all are later): what a member became by what is explained explains nothing.
    InvalidInput: no such group, or the weeks are not two different Mondays in order.
    """
    if by not in GROUPS:
        raise InvalidInput(f"Members are divided by {', '.join(GROUPS)}; “{by}” is none.", "by")
    if before.weekday() or after.weekday() or before >= after:
        raise InvalidInput("Give the Mondays of two weeks, the earlier one first.", "week")
    # The weeks between are there too, as periods that nobody reads: whoever bought first then is not new.
    count = (after - before).days // 7 + 1
    if count > MAX_WEEKS:
        raise InvalidInput(f"The weeks are at most {MAX_WEEKS - 1} weeks apart.", "week")
    starts = [before + _WEEK * number for number in range(count)]
    day, files = None, {}
    if by in (RFM, STAGE):
        days = snapshot_days(engine)
        day = max((one for one in days if one <= after), default=min(days, default=None))
        files = {"snapshot": Stored(snapshot_path(engine, SNAPSHOT, day), SNAPSHOT_SCHEMA)}
    moment = min(as_of, instant(after + _WEEK, zone))
    state = engine.state(FACTS, [one.path for one in files.values()])
    key = (state, by, before, after, zone.key, moment)
    with _lock:
        if state is not None and key in _groups:
            _groups.move_to_end(key)
            return _groups[key]
    found = _divided(engine, by, starts, zone, moment, files)
    result = Groups(by, *found, day)
    if state is not None:
        with _lock:
            _groups[key] = result
            while len(_groups) > GROUPS_KEPT:
                _groups.popitem(last=False)
    return result


def _divided(
    engine: DuckEngine,
    by: str,
    starts: list[date],
    zone: ZoneInfo,
    as_of: datetime,
    files: Mapping[str, Stored],
) -> tuple[dict[str, Week], dict[str, Week]]:
    """The first and the last of the weeks by group."""
    source = {
        CITY: "SELECT member_id, city AS value FROM members",
        STAGE: "SELECT member_id, stage AS value FROM snapshot",
        RFM: "SELECT member_id, rfm_segment AS value FROM snapshot",
        CHANNEL: f"SELECT member_id, channel AS value FROM ({sql('tree_first_channel')})",
    }[by]
    join = f"LEFT JOIN ({source}) AS g ON g.member_id = x.member_id"
    found = _run(engine, starts, zone, as_of, "coalesce(g.value, '')", join, files)
    weeks = {value: _weeks(starts, rows) for value, rows in found.items()}
    first, last = (
        {value: row[place] for value, row in weeks.items() if _any(row[place])} for place in (0, -1)
    )
    return first, last


def _any(week: Week) -> bool:
    return bool(week.members or week.visitors or week.orders)


_Rows = dict[int, dict[str, Any]]


def _run(
    engine: DuckEngine,
    starts: list[date],
    zone: ZoneInfo,
    as_of: datetime,
    value: str,
    join: str,
    files: Mapping[str, Stored] | None = None,
) -> dict[str, _Rows]:
    """value → n → its sums."""
    edges = _edges(starts, zone)
    text = sql("tree")
    for name, part in (("value", value), ("of_member", join), ("n", _number(edges))):
        text = text.replace(f"{{{name}}}", part)
    params = {"beginning": _BEGINNING, "since": edges[0], "until": min(micros(as_of), edges[-1])}
    tables = {"periods": pa.table({"n": range(1, len(starts) + 1)})}
    rows = engine.query(text, named(text, params), tables, files).to_pylist()
    found: dict[str, _Rows] = {}
    for row in rows:
        found.setdefault(row["value"], {})[row["n"]] = row
    return found


def _weeks(starts: list[date], rows: _Rows) -> tuple[Week, ...]:
    members = rows.get(0, {}).get("joined", 0)
    found = []
    for number, start in enumerate(starts, 1):
        row = rows.get(number, {})
        members += row.get("joined", 0)
        sums = {
            name: row.get(name, 0)
            for name in ("visitors", "events", "buyers", "new_buyers", "orders", "gmv", "refunds", "units")
        }
        found.append(Week(start, members=members, **sums))
    return tuple(found)
