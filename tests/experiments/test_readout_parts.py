"""The parts of a read-out: one scan with covariates and dimensions, the timeline, checks, needs, links."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import InvalidInput, NotFound
from core.models import AuditEntry
from experiments import (
    assignment,
    readout,
    readout_dimensions,
    readout_links,
    readout_measure,
    readout_needs,
    readout_scan,
    readout_timeline,
)
from experiments.models import Readout, ReadoutLink
from experiments.moments import ArmMoments, Moments, PairMoments, scan
from experiments.readout import Known
from experiments.readout_form import OTHER, SEQUENTIAL, UNKNOWN
from experiments.stats import multiplicity, power, sequential
from tests.experiments.test_readout import HALVES, LATER, START, assigned, warehouse

DAY = timedelta(days=1)
Orders = list[tuple[int, datetime, str, int, int]]


def shop(seed: int = 5, members: int = 300, lift: int = 0) -> tuple[Orders, pa.Table]:
    """Orders before and after assignment, spending correlated within a member; arms drawn by lot."""
    draw = np.random.default_rng(seed)
    orders: Orders = []
    rows = []
    for member in range(1, members + 1):
        arm = "send" if draw.random() < 0.5 else "hold"
        at = START + DAY * int(draw.integers(0, 5))
        rows.append((member, arm, at))
        spend = int(draw.integers(500, 5000))
        for back in range(int(draw.integers(0, 4))):
            orders.append((member, at - DAY * (back + 1), "paid", spend + int(draw.integers(0, 300)), 0))
        for ahead in sorted(draw.integers(0, 20, int(draw.integers(0, 3)))):
            extra = lift if arm == "send" else 0
            orders.append(
                (member, at + DAY * int(ahead), "paid", spend + extra + int(draw.integers(0, 300)), 0)
            )
    table = assigned(rows)
    places = ["a" if member % 3 else ("b" if member % 2 else None) for member in range(1, members + 1)]
    return orders, table.append_column("place", pa.array(places, pa.string()))


def test_the_one_scan_agrees_with_the_plain_one_and_knows_what_was_before(db: Database, home: Path) -> None:
    orders, table = shop()
    engine = warehouse(db, home, orders)
    arms, cells = readout_scan.scan(engine, table, window_days=14, as_of=LATER, covariate_days=2)
    plain = scan(engine, table.select(["member_id", "arm", "at"]), window_days=14, as_of=LATER)
    for arm, found in plain.items():
        assert (arms[arm].n, arms[arm].open_windows) == (found.n, found.open_windows)
        for metric, moments in found.metrics.items():
            assert arms[arm].metrics[metric].mean == pytest.approx(moments.mean)
            assert arms[arm].metrics[metric].var == pytest.approx(moments.var)
    at = {row["member_id"]: (row["arm"], row["at"]) for row in table.to_pylist()}
    before = dict.fromkeys(at, 0)
    for member, when, _, total, _ in orders:
        if at[member][1] - 2 * DAY <= when < at[member][1]:
            before[member] += total
    values = [spent for member, spent in before.items() if at[member][0] == "send"]
    covariate = arms["send"].pairs["revenue", "revenue:before"].y
    assert covariate.mean == pytest.approx(np.mean(values))
    assert covariate.var == pytest.approx(np.var(values, ddof=1))
    whole = [moments for (_, arm), moments in cells["place"].items() if arm == "send"]
    assert sum(moments.n for moments in whole) == arms["send"].n
    assert {value for value, _ in cells["place"]} == {"a", "b", ""}


def test_each_day_of_the_timeline_is_what_a_window_of_that_length_says(db: Database, home: Path) -> None:
    orders, table = shop()
    engine = warehouse(db, home, orders)
    table = table.select(["member_id", "arm", "at"])
    as_of = START + 12 * DAY
    found = readout_timeline.scan(engine, table, window_days=14, as_of=as_of)
    assert sorted(found["send"]) == [*range(1, 13)]  # nobody was assigned 13 days ago
    for day in (1, 5, 10, 12):
        old = table.filter(pa.compute.less_equal(table["at"], pa.scalar(as_of - day * DAY, table["at"].type)))
        plain = scan(engine, old, window_days=day, as_of=as_of)
        for arm, moments in plain.items():
            for metric in readout_timeline.METRICS:
                mine = found[arm][day].metrics[metric]
                assert mine.n == moments.n
                assert mine.mean == pytest.approx(moments.metrics[metric].mean)
                assert mine.var == pytest.approx(moments.metrics[metric].var)


def test_days_and_groups_are_adjusted_as_the_headline_is(sqlite_db: Database, home: Path) -> None:
    """Against CUPED of plain numbers: θ of all arms, x̄ of everybody who counts."""
    orders, table = shop(members=400, lift=500)
    engine = warehouse(sqlite_db, home, orders)
    wanted = readout_measure.Wanted(HALVES, "hold", 14, LATER, currency="CNY", covariate_days=30)
    found = readout_measure.measure(engine, table, wanted, Known(looks=0)).readout
    at = {row["member_id"]: (row["arm"], row["at"], row["place"]) for row in table.to_pylist()}
    members = list(at)
    arm = np.array([at[member][0] == "send" for member in members])

    def sums(start: int, end: int) -> np.ndarray:
        totals = dict.fromkeys(members, 0.0)
        for member, when, _, total, _ in orders:
            if at[member][1] + start * DAY <= when < at[member][1] + end * DAY:
                totals[member] += total
        return np.array([totals[member] for member in members])

    before = sums(-30, 0)

    def adjusted(y: np.ndarray, theta: float | None, who: np.ndarray) -> tuple[float, float, float]:
        sides = [(y[who & side], before[who & side]) for side in (arm, ~arm)]
        cov = [np.cov(a, b) * (len(a) - 1) for a, b in sides]
        slope = sum(c[0, 1] for c in cov) / sum(c[1, 1] for c in cov) if theta is None else theta
        left = [a - slope * b for a, b in sides]
        variance = sum(np.var(one, ddof=1) / len(one) for one in left)
        return float(left[0].mean() - left[1].mean()), float(np.sqrt(variance)), float(slope)

    everybody = np.ones(len(members), bool)
    headline = found.result("revenue", "send").adjusted
    assert headline is not None
    estimate, se, theta = adjusted(sums(0, 14), None, everybody)
    assert headline.comparison.absolute.estimate == pytest.approx(estimate)
    assert headline.theta == pytest.approx(theta)
    assert found.timeline is not None
    assert found.timeline.adjusted
    for point in found.timeline.curves[0].points:
        estimate, se, _ = adjusted(sums(0, point.day), None, everybody)
        assert (point.fixed.estimate, point.fixed.se) == pytest.approx((estimate, se))
        width = sequential.half_width(400, se**2, 0.05, 5000)
        assert point.always_valid.high - point.always_valid.estimate == pytest.approx(width)
    last = found.timeline.curves[0].points[-1]
    assert last.fixed.low == pytest.approx(headline.comparison.absolute.low)
    (dimension,) = found.dimensions
    assert dimension.adjusted
    for cell in dimension.breakdowns[0].cells:
        here = np.array([(at[member][2] or "") == cell.value for member in members])
        estimate, se, _ = adjusted(sums(0, 14), theta, here)
        assert cell.absolute is not None
        assert (cell.absolute.estimate, cell.absolute.se) == pytest.approx((estimate, se))


def test_without_a_past_the_days_and_groups_stay_raw(sqlite_db: Database, home: Path) -> None:
    orders, table = shop()
    at = {row["member_id"]: row["at"] for row in table.to_pylist()}
    engine = warehouse(sqlite_db, home, [one for one in orders if one[1] >= at[one[0]]])
    wanted = readout_measure.Wanted(HALVES, "hold", 14, LATER, currency="CNY")
    found = readout_measure.measure(engine, table, wanted, Known(looks=0)).readout
    assert found.timeline is not None
    assert not found.timeline.adjusted
    assert [one.adjusted for one in found.dimensions] == [False]
    raw = found.result("revenue").absolute
    assert raw is not None
    assert found.timeline.curves[0].points[-1].fixed.low == pytest.approx(raw.low)


def test_the_timeline_has_at_most_thirty_points_and_a_wider_band_for_any_look(
    sqlite_db: Database, home: Path
) -> None:
    assert readout_timeline.days_of(7) == [1, 2, 3, 4, 5, 6, 7]
    assert len(readout_timeline.days_of(90)) == 30
    assert readout_timeline.days_of(365)[-1] == 365
    orders, table = shop()
    engine = warehouse(sqlite_db, home, orders)
    days = readout_timeline.scan(engine, table, window_days=14, as_of=LATER)
    found = readout_timeline.timeline(days, "revenue", ["send"], "hold", 0.05, 5000)
    assert found is not None
    assert (found.tuning, [curve.arm for curve in found.curves]) == (5000, ["send"])
    for point in found.curves[0].points:
        assert point.always_valid.low < point.fixed.low < point.fixed.estimate < point.fixed.high
        assert point.fixed.high < point.always_valid.high
    assert readout_timeline.timeline(days, "margin", ["send"], "hold", 0.05, 5000) is None


def test_an_injected_effect_is_measured_with_everything_about_it(sqlite_db: Database, home: Path) -> None:
    orders, table = shop(members=800, lift=2500)
    engine = warehouse(sqlite_db, home, orders)
    wanted = readout_measure.Wanted(HALVES, "hold", 21, LATER, currency="CNY", default_margin=0.4)
    found = readout_measure.measure(engine, table, wanted, Known(looks=0, shared=0)).readout
    result = found.result("revenue")
    assert result.absolute is not None
    assert result.adjusted is not None
    assert 0 < result.adjusted.removed < 1
    narrowed = result.adjusted.comparison.absolute.se / result.absolute.se
    assert narrowed == pytest.approx((1 - result.adjusted.removed) ** 0.5, rel=0.02)
    assert found.headline(result) == result.adjusted.comparison.absolute
    assert result.adjusted.comparison.absolute.low > 0
    assert result.chance_to_win == pytest.approx(result.chance_best)
    assert (result.chance_to_win or 0) > 0.99
    raw = [found.headline(one).p for one in found.results]  # type: ignore[union-attr]
    assert [one.p_adjusted for one in found.results] == multiplicity.holm(raw)
    assert [check.name for check in found.checks] == [
        "srm", "sample_size", "windows_closed", "multiple_exposure", "covariate_balance", "peeking",
    ]  # fmt: skip
    assert found.ok
    assert [one.name for one in found.dimensions] == ["place"]
    cells = found.dimensions[0].breakdowns[0].cells
    assert [cell.value for cell in cells] == ["a", "b", UNKNOWN]
    assert sum(cell.n for cell in cells) == result.n
    assert found.dimensions[0].breakdowns[0].interaction is not None
    assert found.timeline is not None
    assert readout.from_json(json.loads(json.dumps(readout.to_json(found)))) == found


def moments(n: int, mean: float, before: float = 50.0, open_windows: int = 0) -> ArmMoments:
    revenue, earlier = Moments(n, mean, 10_000.0), Moments(n, before, 900.0)
    pair = PairMoments(revenue, earlier, 1500.0)
    return ArmMoments(n, {"revenue": revenue}, {("revenue", "revenue:before"): pair}, open_windows)


def test_theta_and_what_it_removes_follow_from_the_moments() -> None:
    found = readout.read_out({"hold": moments(500, 100.0), "send": moments(500, 120.0, 52.0)}, HALVES, "hold")
    adjusted = found.result("revenue").adjusted
    assert adjusted is not None
    assert adjusted.theta == pytest.approx(1500 / 900)
    assert adjusted.removed == pytest.approx(1500**2 / (10_000 * 900))
    assert adjusted.comparison.absolute.estimate == pytest.approx(20 - 1500 / 900 * 2)
    flat = {arm: moments(500, 100.0) for arm in HALVES}
    flat = {
        arm: replace(
            one,
            pairs={key: PairMoments(pair.x, Moments(500, 0.0, 0.0), 0.0) for key, pair in one.pairs.items()},
        )
        for arm, one in flat.items()
    }
    assert readout.read_out(flat, HALVES, "hold").result("revenue").adjusted is None


def test_arms_that_differed_before_are_found_out() -> None:
    unlike = {"hold": moments(5000, 100.0), "send": moments(5000, 100.0, 55.0)}
    check = readout.read_out(unlike, HALVES, "hold").check("covariate_balance")
    assert check is not None
    assert not check.ok
    assert (check.detail["metric"], check.detail["arm"]) == ("revenue", "send")
    assert check.detail["p"] < 1e-10


def test_who_looked_before_gets_intervals_that_hold_at_every_look() -> None:
    arms = {"hold": moments(2000, 100.0), "send": moments(2000, 110.0)}
    once, again = (readout.read_out(arms, HALVES, "hold", known=Known(looks=n)) for n in (0, 3))
    first, second = once.headline(once.results[0]), again.headline(again.results[0])
    assert first is not None
    assert second is not None
    assert second.high - second.low > 1.3 * (first.high - first.low)
    assert again.method == SEQUENTIAL
    check = again.check("peeking")
    assert check is not None
    assert not check.ok
    assert check.detail["true_error"] == pytest.approx(0.126, abs=0.001)
    assert "Looked at before (3 times)" in readout.verdict(again, "en")
    assert "Looked" not in readout.verdict(once, "en")


def test_a_split_that_crept_away_is_found_by_the_test_for_any_look() -> None:
    arms = {"hold": moments(2000, 100.0), "send": moments(2000, 110.0)}
    found = readout.read_out(arms, HALVES, "hold", known=Known(previous_p=1e-6))
    assert found.srm is not None
    assert found.srm.ok
    assert not found.trusted
    assert "Do not trust" in readout.verdict(found, "en")


def test_members_of_two_arms_blur_the_comparison_from_one_per_cent_on() -> None:
    arms = {"hold": moments(500, 100.0), "send": moments(500, 110.0)}
    for shared, ok in ((10, True), (11, False)):
        check = readout.read_out(arms, HALVES, "hold", known=Known(shared=shared)).check("multiple_exposure")
        assert check is not None
        assert check.ok is ok


def test_rare_values_are_one_cell_and_the_unknown_come_last() -> None:
    part = {(f"v{i:02d}", arm): moments(100 - i, 50.0) for i in range(30) for arm in HALVES}
    part |= {("", arm): moments(7, 50.0) for arm in HALVES}
    merged = readout_dimensions.merged(part)
    assert len(merged) == readout_dimensions.MAX_VALUES + 1
    assert [*merged][-2:] == [OTHER, UNKNOWN]
    assert [*merged][:2] == ["v00", "v01"]
    assert merged[OTHER]["send"].n == sum(100 - i for i in range(11, 30))
    one = {"place": {("only", arm): moments(50, 9.0) for arm in HALVES}}
    assert readout_dimensions.dimensions(one, "revenue", ["send"], "hold", 0.05) == []
    lone = {("a", "send"): moments(50, 9.0), ("b", "hold"): moments(50, 9.0), ("b", "send"): moments(50, 8.0)}
    (found,) = readout_dimensions.dimensions({"place": lone}, "revenue", ["send"], "hold", 0.05)
    shown = {cell.value: cell.absolute for cell in found.breakdowns[0].cells}
    assert shown["a"] is None
    assert shown["b"] is not None
    assert found.breakdowns[0].interaction is None


def test_cells_are_adjusted_together_and_a_true_interaction_is_found() -> None:
    part = {
        (value, arm): moments(1000, 100.0 + (effect if arm == "send" else 0))
        for value, effect in (("new", 0.0), ("old", 40.0))
        for arm in HALVES
    }
    (found,) = readout_dimensions.dimensions({"stage": part}, "revenue", ["send"], "hold", 0.05)
    cells = found.breakdowns[0].cells
    raw = [cell.absolute.p for cell in cells if cell.absolute is not None]
    assert [cell.p_adjusted for cell in cells] == multiplicity.holm(raw)
    interaction = found.breakdowns[0].interaction
    assert interaction is not None
    assert interaction.p < 1e-6


def test_the_need_is_the_formulas() -> None:
    se, n = 2.0, 1000
    found = readout_needs.need(4.0, se, n, alpha=0.05, pace=50)
    assert found is not None
    variance = se**2 / (2 / 500)
    each = power.for_means(4.0 / variance**0.5).n
    assert found.members == pytest.approx(2 * each, rel=0.005)
    assert found.more == found.members - n
    assert found.days == -(-found.more // 50)
    assert found.formula in readout_needs.FORMULAS
    mde = readout_needs.smallest(se, 500, 500, 0.05)
    assert mde is not None
    exact = readout_needs.need(mde, se, n, alpha=0.05)
    assert exact is not None
    assert exact.members == pytest.approx(n, abs=1)
    assert readout_needs.need(0.0, se, n, alpha=0.05) is None
    assert readout_needs.need(1e-9, se, n, alpha=0.05) is None


def test_the_need_of_a_sequence_is_where_its_edge_meets_the_estimate() -> None:
    from experiments.stats import sequential

    found = readout_needs.need(4.0, 2.0, 1000, alpha=0.05, tuning=5000)
    assert found is not None
    width = sequential.half_width(found.members, 4.0 * 1000 / found.members, 0.05, 5000)
    assert width == pytest.approx(4.0, rel=0.001)
    assert found.days is None
    assert found.formula == readout_needs.SEQUENCE


def test_members_who_came_at_once_have_no_pace() -> None:
    once = assigned([(n, "a", START) for n in range(1, 50)])
    assert readout_measure.pace(once, LATER) is None
    daily = assigned([(n, "a", START + n * DAY) for n in range(21)])
    assert readout_measure.pace(daily, START + 21 * DAY) == pytest.approx(1.0)
    assert readout_measure.pace(daily, START + 60 * DAY) is None  # nobody has come for a long time


def test_a_link_opens_until_it_ends_or_is_withdrawn(db: Database) -> None:
    found = readout.read_out({arm: moments(500, 5.0) for arm in HALVES}, HALVES, "hold")
    with db.write() as session:
        experiment = assignment.create(
            session, name="x", arms=list(HALVES.items()), control="hold", now=START
        )
        kept = readout.freeze(session, experiment.id, found, as_of=START, settings={}, now=START)
        readout_id = kept.id
        first, second = (
            readout_links.make(session, readout_id, days=30, by="a@example.com", now=START) for _ in "ab"
        )
        tokens = [readout_links.token(one) for one in (first, second)]
        with pytest.raises(InvalidInput, match="7, 30, 90"):
            readout_links.make(session, readout_id, days=365, by="a@example.com", now=START)
        with pytest.raises(NotFound):
            readout_links.make(session, 999, days=30, by="a@example.com", now=START)
        with pytest.raises(NotFound):
            readout_links.withdraw(session, 999, first.id, by="a@example.com", now=START)
    with db.write() as session:
        shown = readout_links.opened(session, tokens[0], START + 29 * DAY)
        assert isinstance(shown, Readout)
        assert shown.id == readout_id
        assert readout_links.opened(session, tokens[0], START + 30 * DAY) is None
        assert readout_links.opened(session, tokens[0] + "x", START) is None
        row = session.scalars(sa.select(ReadoutLink).order_by(ReadoutLink.id)).first()
        assert row is not None
        readout_links.withdraw(session, readout_id, row.id, by="b@example.com", now=START + DAY)
        assert readout_links.opened(session, tokens[0], START + DAY) is None
        assert readout_links.opened(session, tokens[1], START + DAY) is not None
        assert len(readout_links.open_links(session, readout_id, START + DAY)) == 1
    with db.read() as session:
        actions = session.scalars(sa.select(AuditEntry.action).order_by(AuditEntry.id)).all()
        assert actions == ["share", "share", "unshare"]


def test_earlier_readouts_count_as_looks_and_hand_their_p_on(db: Database) -> None:
    found = readout.read_out({arm: moments(500, 5.0) for arm in HALVES}, HALVES, "hold")
    check = found.check("srm")
    assert check is not None
    with db.write() as session:
        experiment = assignment.create(
            session, name="x", arms=list(HALVES.items()), control="hold", now=START
        )
        for kind, day in (("real", 0), ("simulated", 1), ("real", 2)):
            readout.freeze(
                session, experiment.id, found, as_of=START + day * DAY, settings={}, now=START, kind=kind
            )
        assert readout.looks_before(session, experiment.id, START) == (0, 1.0)
        looks, p = readout.looks_before(session, experiment.id, START + 3 * DAY)
        assert (looks, p) == (2, check.detail["always_valid_p"])
