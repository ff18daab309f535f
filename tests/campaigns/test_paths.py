"""Paths to orders and funnels of channels, from the warehouse, against the same in plain Python."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path as File
from typing import Any

import pyarrow as pa
import pytest

from campaigns import attribution, paths
from campaigns.paths import Asked, Funnel
from core.errors import InvalidInput
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica
from segments.facts import FACTS

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
RUNS = {1: "spring", 2: "summer"}


def engine(home: File, touches: list[dict[str, Any]], orders: list[dict[str, Any]]) -> DuckEngine:
    replica = Replica(str(home / "warehouse"), FACTS)
    tables = {
        name: pa.Table.from_pylist(
            [{column: row.get(column) for column in replica.facts[name].schema.names} for row in rows],
            replica.facts[name].schema,
        )
        for name, rows in (("touches", touches), ("orders", orders))
    }
    return DuckEngine(replica, extra=tables)


def touch(number: int, member: int, day: float, channel: str = "email", **more: Any) -> dict[str, Any]:
    at = START + day * DAY
    return {
        "message_id": number, "member_id": member, "channel": channel, "purpose": "marketing",
        "source_kind": "run", "source_id": 1, "created_at": at, "sent_at": at, **more,
    }  # fmt: skip


def order(number: int, member: int, day: float, value: int = 1000) -> dict[str, Any]:
    return {"order_id": number, "member_id": member, "ordered_at": START + day * DAY, "net_minor": value}


def test_touches_belong_to_the_next_order_within_the_look_back(tmp_path: File) -> None:
    touches = [
        touch(1, 1, -5, "sms"),  # before the period, within the look-back of the order of day 2
        touch(2, 1, 1, "email"),
        touch(3, 1, 3, "wechat"),  # after the order, and before none
        touch(4, 2, 0, "email"),  # 20 days before the order: too long ago
        touch(5, 3, 1, "email", purpose="transactional"),
        touch(6, 4, -20, "sms"),  # before the period and no order: no path of it
    ]
    orders = [
        order(1, 1, 2, 900), order(2, 2, 20, 500), order(3, 3, 2, 100), order(4, 1, 40, 1),
        order(5, 1, 2.5, 0),  # returned
    ]  # fmt: skip
    found = paths.paths(engine(tmp_path, touches, orders), Asked(START, START + 30 * DAY, 10), RUNS)
    assert {(path.touches, path.converted, path.value_minor, path.times) for path in found} == {
        (("sms", "email"), True, 900, 1),
        (("wechat",), False, 0, 1),
        (("email",), False, 0, 1),
        ((), True, 300, 2),
    }
    credit = attribution.attribute(found, attribution.LAST)
    assert credit["email"] == attribution.Credit(1.0, 900.0)


def test_random_shops_against_plain_python(tmp_path: File) -> None:
    draw = random.Random(5)
    for _ in range(5):
        touches = [
            touch(n, draw.randint(1, 30), draw.randint(-20, 70) / 2, draw.choice("abc"), source_id=draw.randint(1, 3))
            for n in range(400)
        ]  # fmt: skip
        orders = [
            order(n, draw.randint(1, 30), draw.randint(-20, 70) / 2, draw.randint(0, 9)) for n in range(90)
        ]
        for by in (paths.CHANNEL, paths.CAMPAIGN):
            asked = Asked(START, START + 25 * DAY, 7, by=by)
            found = paths.paths(engine(tmp_path, touches, orders), asked, RUNS)
            counts = {
                (path.touches, path.converted): (path.times, round(path.value_minor * path.times))
                for path in found
            }
            assert counts == plainly(touches, orders, asked)


def plainly(
    touches: list[dict[str, Any]], orders: list[dict[str, Any]], asked: Asked
) -> dict[tuple[tuple[str, ...], bool], tuple[float, float]]:
    back = timedelta(days=asked.lookback_days)
    ends = [one for one in orders if one["net_minor"] > 0 and asked.start <= one["ordered_at"] < asked.end]
    gone: dict[tuple[int, int | None, bool], list[tuple[datetime, int, str]]] = defaultdict(list)
    for one in touches:
        if not asked.start - back <= one["sent_at"] < asked.end:
            continue
        later = [
            (end["ordered_at"], end["order_id"])
            for end in ends
            if end["member_id"] == one["member_id"] and end["ordered_at"] >= one["sent_at"]
        ]
        at, following = min(later) if later else (None, None)
        converted = at is not None and at - one["sent_at"] <= back
        if converted or one["sent_at"] >= asked.start:
            label = one["channel"] if asked.by == paths.CHANNEL else RUNS.get(one["source_id"], paths.OTHER)
            gone[one["member_id"], following, converted].append((one["sent_at"], one["message_id"], label))
    for end in ends:
        gone.setdefault((end["member_id"], end["order_id"], True), [])
    values = {end["order_id"]: end["net_minor"] for end in ends}
    times: Counter[Any] = Counter()
    worth: Counter[Any] = Counter()
    for (_member, following, converted), steps in gone.items():
        key = tuple(label for _, _, label in sorted(steps)[-paths.LAST_TOUCHES :]), converted
        times[key] += 1
        worth[key] += values[following] if converted and following is not None else 0
    return {key: (times[key], worth[key]) for key in times}


def test_the_funnel_counts_messages_and_the_members_who_ordered(tmp_path: File) -> None:
    at = START + DAY
    touches = [
        touch(1, 1, 1, delivered_at=at, opened_at=at, clicked_at=at),
        touch(2, 1, 2, delivered_at=at),
        touch(3, 2, 1, delivered_at=at, opened_at=at),
        touch(4, 2, 1, "sms"),
        touch(5, 3, -1, "sms"),
        touch(6, 3, 1, "email", source_kind="reminder", source_id=None),
    ]
    orders = [order(1, 1, 3), order(2, 2, 25), order(3, 3, 1)]
    shop, asked = engine(tmp_path, touches, orders), Asked(START, START + 30 * DAY, 10)
    assert paths.funnels(shop, asked, RUNS) == [
        Funnel("email", 4, 3, 2, 1, 3, 2),
        Funnel("sms", 1, 0, 0, 0, 1, 0),
    ]
    by_campaign = paths.funnels(shop, Asked(START, START + 30 * DAY, 10, by=paths.CAMPAIGN), RUNS)
    assert [(one.label, one.sent) for one in by_campaign] == [("spring", 4), (paths.OTHER, 1)]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Asked(START, START), "to"),
        (Asked(START, START + 800 * DAY), "to"),
        (Asked(START, START + DAY, 0), "lookback"),
        (Asked(START, START + DAY, basis="seen"), "basis"),
        (Asked(START, START + DAY, by="colour"), "basis"),
    ],
    ids=["empty", "long", "look-back", "basis", "by"],
)
def test_choices_that_are_none_are_refused(tmp_path: File, asked: Asked, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        paths.paths(engine(tmp_path, [], []), asked, RUNS)
    assert refused.value.field == field
