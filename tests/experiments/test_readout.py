"""The scan of the warehouse, the read-out, its verdict, and the ROI on top of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from campaigns import roi
from core import facts
from core.bulk import bulk_insert
from core.db import Database
from core.errors import InvalidInput
from core.models import Order, OrderLine, Product
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica, mark
from experiments import assignment, readout
from experiments.models import Readout
from experiments.moments import ASSIGNMENTS_SCHEMA, ArmMoments, Moments, merge_all, scan
from tests.loyalty.data import add_members

START = datetime(2026, 1, 10, tzinfo=UTC)
LATER = START + timedelta(days=90)
HALVES = {"hold": 0.5, "send": 0.5}


def warehouse(
    database: Database, home: Path, orders: list[tuple[int, datetime, str, int, int]]
) -> DuckEngine:
    """An engine over orders of (member, ordered at, status, total, refunded); a line each at 40 % margin."""
    add_members(database, max((row[0] for row in orders), default=1))
    with database.write() as session:
        session.add(
            Product(source="shop", sku="mug", currency="CNY", margin=0.4, fingerprint="x", updated_at=START)
        )
        session.flush()
        bulk_insert(
            session,
            Order.__table__,
            ("id", "source", "external_id", "member_id", "ordered_at", "status", "currency", "total_minor",
             "discount_minor", "refunded_minor", "fingerprint", "updated_at"),
            [(n, "shop", f"o{n}", member, at, status, "CNY", total, 0, refunded, "x", at)
             for n, (member, at, status, total, refunded) in enumerate(orders, 1)],
        )  # fmt: skip
        bulk_insert(
            session,
            OrderLine.__table__,
            ("order_id", "line_no", "sku", "quantity", "amount_minor", "discount_minor", "refunded"),
            [
                (n, 1, "mug", 1, total, 0, refunded == total)
                for n, (*_, total, refunded) in enumerate(orders, 1)
            ],
        )
        for table in ("orders", "order_lines"):
            mark(session, table, [at for _, at, *_ in orders])
        mark(session, "products", [None])
    replica = Replica(str(home / "warehouse"), facts.FACTS)
    replica.sync(database)
    return DuckEngine(replica)


def assigned(rows: list[tuple[int, str, datetime]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [[], [], []]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, ASSIGNMENTS_SCHEMA, strict=True)],
                    schema=ASSIGNMENTS_SCHEMA)  # fmt: skip


def test_the_scan_counts_each_members_own_window(db: Database, home: Path) -> None:
    day = timedelta(days=1)
    engine = warehouse(
        db,
        home,
        [
            (1, START, "paid", 1000, 0),  # at the very moment: counts
            (1, START + 5 * day, "refunded", 3000, 1000),  # net of its refund
            (1, START - day, "paid", 7777, 0),  # before
            (1, START + 30 * day, "paid", 7777, 0),  # the window is over
            (2, START + 10 * day, "cancelled", 5000, 0),
            (2, START + 11 * day, "refunded", 600, 600),
            (3, START + 12 * day, "paid", 500, 0),  # its own window starts later
            (4, START + 20 * day, "paid", 200, 0),
        ],
    )
    rows = [
        (1, "send", START),
        (2, "send", START),
        (3, "hold", START + 12 * day),
        (4, "hold", START),
        (5, "hold", START),
    ]
    found = scan(engine, assigned(rows), window_days=30, as_of=LATER)
    send, hold = found["send"], found["hold"]
    assert (send.n, hold.n) == (2, 3)
    assert send.metrics["revenue"] == Moments(2, 1500.0, 4_500_000.0)
    assert send.metrics["orders"] == Moments(2, 1.0, 2.0)
    assert send.metrics["converted"] == Moments(2, 0.5, 0.5)
    assert send.metrics["margin"].mean == pytest.approx(0.4 * 4000 / 2)
    assert hold.metrics["revenue"].mean == pytest.approx(700 / 3)
    assert hold.metrics["converted"].mean == pytest.approx(2 / 3)
    assert send.pairs["revenue", "orders"].cov == pytest.approx(3000.0)
    early = scan(engine, assigned(rows), window_days=30, as_of=START + 6 * day)
    assert early["send"].metrics["revenue"].mean == 1500.0
    assert early["hold"].metrics["revenue"].mean == 0.0
    assert (early["send"].open_windows, early["hold"].open_windows) == (2, 3)
    assert (send.open_windows, hold.open_windows) == (0, 0)


def test_the_scan_agrees_with_numpy_at_a_large_mean(sqlite_db: Database, home: Path) -> None:
    rng = np.random.default_rng(3)
    values = 100_000_000 + rng.integers(-2, 3, 400)
    engine = warehouse(sqlite_db, home, [(n, START, "paid", int(v), 0) for n, v in enumerate(values, 1)])
    found = scan(engine, assigned([(n, "x", START) for n in range(1, 401)]), window_days=1, as_of=LATER)["x"]
    assert found.metrics["revenue"].mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.metrics["revenue"].var == pytest.approx(values.var(ddof=1), rel=1e-6)
    halves = [
        scan(engine, assigned([(n, "x", START) for n in part]), window_days=1, as_of=LATER)["x"]
        for part in (range(1, 101), range(101, 401))
    ]
    assert merge_all(halves).metrics["revenue"].var == pytest.approx(values.var(ddof=1), rel=1e-6)
    assert merge_all(halves).n == 400


def test_wrong_input_of_the_scan_is_refused(sqlite_db: Database, home: Path) -> None:
    engine = warehouse(sqlite_db, home, [(1, START, "paid", 1, 0)])
    with pytest.raises(InvalidInput, match="more than once"):
        scan(engine, assigned([(1, "a", START), (1, "b", START)]), window_days=1, as_of=LATER)
    with pytest.raises(InvalidInput, match="window"):
        scan(engine, assigned([]), window_days=0, as_of=LATER)
    assert scan(engine, assigned([]), window_days=1, as_of=LATER) == {}


def arm(n: int, revenue: float, share: float, variance: float = 10_000.0, **more: int) -> ArmMoments:
    metrics = {
        "revenue": Moments(n, revenue, variance),
        "converted": Moments(n, share, share * (1 - share) * n / max(n - 1, 1)),
    }
    return ArmMoments(n, metrics, {}, **more)


def test_checks_come_first_and_every_arm_is_compared() -> None:
    found = readout.read_out(
        {"hold": arm(1000, 500.0, 0.1), "a": arm(1010, 520.0, 0.13), "b": arm(990, 499.0, 0.1)},
        {"hold": 1 / 3, "a": 1 / 3, "b": 1 / 3},
        "hold",
        currency="CNY",
    )
    assert [(check.name, check.ok) for check in found.checks] == [
        ("srm", True),
        ("sample_size", True),
        ("windows_closed", True),
    ]
    assert [(r.metric, r.arm) for r in found.results] == [
        ("revenue", "a"),
        ("revenue", "b"),
        ("converted", "a"),
        ("converted", "b"),
    ]
    best = found.result("revenue", "a")
    assert best.absolute is not None
    assert best.relative is not None
    assert best.incremental_total is not None
    assert best.absolute.estimate == 20.0
    assert best.relative.estimate == pytest.approx(0.04)
    assert best.incremental_total.estimate == pytest.approx(20.0 * 1010)
    assert found.ok
    assert readout.from_json(json.loads(json.dumps(readout.to_json(found)))) == found


def test_a_split_gone_wrong_a_small_sample_and_open_windows_are_said() -> None:
    found = readout.read_out(
        {"hold": arm(60, 5.0, 0.1), "send": arm(200, 5.0, 0.1, open_windows=9)}, HALVES, "hold"
    )
    assert {check.name: check.ok for check in found.checks} == {
        "srm": False,
        "sample_size": False,
        "windows_closed": False,
    }
    assert found.checks[2].detail == {"open": 9, "members": 260}
    assert not found.ok
    for locale, text in (("en", "Do not trust"), ("zh_CN", "请勿采信")):
        assert text in readout.verdict(found, locale)


def test_an_empty_arm_is_a_refusal_in_words_not_a_number() -> None:
    found = readout.read_out({"send": arm(500, 5.0, 0.1)}, {"hold": 0.0, "send": 1.0}, "hold")
    assert found.srm is None
    result = found.result("revenue")
    assert (result.absolute, result.incremental_total, result.n_control) == (None, None, 0)
    assert "control arm has 0 members" in (result.refused or "")
    assert readout.from_json(readout.to_json(found)) == found
    assert readout.verdict(found, "en").startswith("No result yet")
    nothing = readout.read_out({}, HALVES, "hold")
    assert nothing.results == []
    assert readout.verdict(nothing, "zh_CN") == "暂无结果：尚无成员分组。"


def test_an_unknown_control_or_arm_is_refused() -> None:
    with pytest.raises(InvalidInput, match="none of the arms"):
        readout.read_out({}, HALVES, "z")
    with pytest.raises(InvalidInput, match="no weight"):
        readout.read_out({"z": arm(5, 1, 0.1)}, HALVES, "hold")
    with pytest.raises(InvalidInput, match="no metric"):
        readout.read_out({}, HALVES, "hold").result("clicks")


def test_the_verdict_says_found_or_not_found_with_interval_and_numbers() -> None:
    arms = {"hold": arm(5000, 50_000.0, 0.1, 1e8), "send": arm(5000, 51_000.0, 0.12, 1e8)}
    found = readout.read_out(arms, HALVES, "hold", currency="CNY")
    assert readout.verdict(found, "en") == (
        "“send” raised revenue a member by ¥10.00 (95 % interval ¥6.08 to ¥13.92, p < 0.001), "
        "¥50,000 over its 5,000 members against 5,000 in “hold”."
    )
    assert readout.verdict(found, "zh_CN").startswith("“send”使人均收入提高 ¥10.00（95% 置信区间 ¥6.08")
    assert "2.00 %" in readout.verdict(found, "en", "converted")
    same = readout.read_out({**arms, "send": arm(5000, 50_100.0, 0.1, 1e8)}, HALVES, "hold", currency="CNY")
    text = readout.verdict(same, "en")
    assert text.startswith("No difference found in revenue a member: ¥1.00 (95 % interval -¥2.92 to ¥4.92")
    assert "5,000 members in “send” and 5,000 in “hold”" in text
    assert "未发现人均收入有差异" in readout.verdict(same, "zh_CN")
    worse = readout.read_out({**arms, "send": arm(5000, 49_000.0, 0.1, 1e8)}, HALVES, "hold")
    assert "lowered revenue a member by 1,000.00 (95 % interval 607.96 to 1,392.04" in readout.verdict(
        worse, "en"
    )
    assert "preliminary" not in text.lower()
    open_arm = replace(arms["send"], open_windows=70)
    early = readout.read_out({**arms, "send": open_arm}, HALVES, "hold")
    assert readout.verdict(early, "en").endswith("Preliminary: the window of 70 members is still open.")


def test_a_frozen_readout_is_what_was_seen(db: Database) -> None:
    found = readout.read_out({"hold": arm(500, 5.0, 0.1), "send": arm(500, 6.0, 0.2)}, HALVES, "hold")
    with db.write() as session:
        experiment = assignment.create(
            session, name="x", arms=list(HALVES.items()), control="hold", now=START
        )
        readout.freeze(session, experiment.id, found, as_of=LATER, settings={"window_days": 30}, now=LATER)
        with pytest.raises(InvalidInput, match="real"):
            readout.freeze(session, experiment.id, found, as_of=LATER, settings={}, now=LATER, kind="made up")
    with db.read() as session:
        row = session.scalars(sa.select(Readout)).one()
        assert readout.from_json(row.result) == found
        assert (row.kind, row.settings, row.as_of) == ("real", {"window_days": 30}, LATER)


def test_profit_and_roi_carry_the_increments_interval() -> None:
    cost = roi.cost_of(
        sent={"email": 1000, "sms": 200},
        price_minor={"email": 0.5, "sms": 5.0, "wechat": 0.0},
        redeemed={"spring": (40_000, 0.75), "free": (9_999, 0.0)},
        points=5000,
        point_value_minor=0.2,
        fixed_minor=7500.0,
    )
    assert cost == roi.Cost(1500.0, 30_000.0, 1000.0, 7500.0)
    found = roi.roi(roi.Interval(200_000, 60_000, 340_000), margin=0.4, cost=cost)
    assert found.profit == roi.Interval(40_000.0, -16_000.0, 96_000.0)
    assert found.roi == roi.Interval(1.0, -0.4, 2.4)
    assert found.iroas is not None
    assert found.iroas.kind == "bounded"
    assert (found.iroas.estimate, found.iroas.low, found.iroas.high) == pytest.approx((5.0, 1.5, 8.5))


def test_without_a_cost_there_is_no_ratio() -> None:
    found = roi.roi(roi.Interval(100, 50, 150), margin=0.5, cost=roi.Cost(0, 0, 0, 0))
    assert (found.roi, found.iroas) == (None, None)
    assert found.profit.estimate == 50


def test_wrong_costs_are_refused() -> None:
    right = {
        "sent": {"sms": 1},
        "price_minor": {"sms": 1.0},
        "redeemed": {},
        "points": 0,
        "point_value_minor": 0.0,
    }
    for changes in (
        {"price_minor": {}},
        {"redeemed": {"b": (1, 1.5)}},
        {"points": -1, "point_value_minor": 1.0},
    ):
        with pytest.raises(InvalidInput):
            roi.cost_of(**{**right, **changes})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="margin"):
        roi.roi(roi.Interval(1, 0, 2), margin=40, cost=roi.Cost(1, 0, 0, 0))


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ((10.0, 1.0, 5.0, 0.25, 0.1, 1.96), "bounded"),
        ((10.0, 1.0, 0.5, 0.25, 0.0, 1.96), "outside"),
        ((0.5, 1.0, 0.5, 0.25, 0.0, 1.96), "everywhere"),
        ((1.0, 1.0, 0.0, 0.0, 0.0, 1.96), "everywhere"),
    ],
)
def test_fieller_holds_exactly_the_ratios_that_are_not_rejected(
    arguments: tuple[float, float, float, float, float, float], kind: str
) -> None:
    y, y_var, x, x_var, cov, critical = arguments
    found = roi.fieller(*arguments)
    assert found.kind == kind
    if x == 0 and x_var == 0:
        assert found.estimate is None
        return
    for ratio in np.linspace(-60, 60, 4801):
        accepted = (y - ratio * x) ** 2 <= critical**2 * (y_var - 2 * ratio * cov + ratio**2 * x_var)
        if kind == "everywhere":
            assert accepted
            continue
        assert found.low is not None
        assert found.high is not None
        inside = found.low <= ratio <= found.high
        border = min(abs(ratio - found.low), abs(ratio - found.high)) < 1e-9
        assert border or accepted == (inside if kind == "bounded" else not inside)
