"""What an audience's past says of an experiment, against plain Python; plans, and what is held against them."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from core import facts
from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.models import AuditEntry
from core.warehouse.replica import mark
from experiments import catalogue, metrics, outlook, planning
from experiments.metrics import Condition, MetricSpec
from experiments.models import ExperimentPlan
from experiments.outlook import History, Terms
from experiments.planning import Guardrail, Plan, Shown
from experiments.stats import power, quantile, sequential
from tests.experiments.test_readout import START, warehouse

DAY = timedelta(days=1)
NOW = START + 150 * DAY
FACTS = {fact.name: fact for fact in facts.FACTS}
SPEND = MetricSpec("spend", "mean", "orders", "net_minor")
PLAN = Plan(
    "revenue", 1, 300.0, 0.1, "money", 0.05, 0.8, "holdout", {"holdout": 0.2, "A": 0.8}, 1000, 28,
    "Keep it if revenue rises.", guardrails=(Guardrail("unsubscribes", 2, 0.2),),
)  # fmt: skip
Row = tuple[int, datetime, str, int, int]


def hard(members: int) -> list[Row]:
    """Members of different habits, orders at the windows' very edges, refunds, a heavy tail."""
    draw = random.Random(3)
    rows: list[Row] = []
    for member in range(1, members + 1):
        habit = draw.choice([0, 1, 3, 8])
        for _ in range(habit):
            back = draw.choice([7, 14, 28, 0, draw.uniform(0, 120)])
            total = int(1000 * draw.paretovariate(1.3))
            status = draw.choice(["paid", "paid", "cancelled"])
            rows.append((member, NOW - timedelta(days=back), status, total, draw.choice([0, 0, total // 3])))
    return rows


def net(row: Row) -> int:
    return 0 if row[2] == "cancelled" else row[3] - row[4]


def within(rows: list[Row], members: list[int], start: float, end: float) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {member: [] for member in members}
    for row in rows:
        if row[0] in found and NOW - timedelta(days=start) <= row[1] < NOW - timedelta(days=end):
            found[row[0]].append(net(row))
    return found


def table(members: list[int]) -> pa.Table:
    return pa.table({"member_id": pa.array(members, pa.int64())})


def test_the_past_of_an_audience_is_what_plain_python_says(db: Database, home: Path) -> None:
    rows = hard(80)
    engine = warehouse(db, home, [*rows, (80, NOW - 130 * DAY, "paid", 1, 0)])
    members = list(range(11, 71))
    found = outlook.history(engine, table([*members, 11]), SPEND, NOW)
    assert [one.days for one in found] == [7, 14, 28, 56]
    for one in found:
        now = np.array([sum(values) for values in within(rows, members, one.days, 0).values()], float)
        then = np.array([sum(v) for v in within(rows, members, 2 * one.days, one.days).values()], float)
        assert one.n == 60
        assert one.mean == pytest.approx(now.mean())
        assert one.variance == pytest.approx(now.var(ddof=1))
        assert one.zeros == (now == 0).sum() / 60
        rho = np.corrcoef(now, then)[0, 1]
        assert one.rho == pytest.approx(abs(rho))
        assert one.adjusted == pytest.approx((1 - rho**2) * one.variance)
        assert one.revenue == pytest.approx(now.mean())
        assert not one.short


def test_a_ratio_has_the_variance_of_the_delta_method(db: Database, home: Path) -> None:
    rows, members = hard(80), list(range(1, 81))
    engine = warehouse(db, home, rows)
    spec = MetricSpec("aov", "ratio", "orders", "net_minor", "rows", where=(Condition("net_minor", ">", 0),))
    (found,) = outlook.history(engine, table(members), spec, NOW, [28])
    kept = {member: [v for v in values if v > 0] for member, values in within(rows, members, 28, 0).items()}
    y = np.array([sum(values) for values in kept.values()], float)
    x = np.array([len(values) for values in kept.values()], float)
    ratio = y.mean() / x.mean()
    assert found.mean == pytest.approx(ratio)
    assert found.variance == pytest.approx(np.var(y - ratio * x, ddof=1) / x.mean() ** 2)
    assert found.zeros == (x == 0).sum() / 80
    assert 0 < found.adjusted <= found.variance


def test_a_quantile_is_planned_by_its_order_statistics(db: Database, home: Path) -> None:
    rows, members = hard(80), list(range(1, 81))
    engine = warehouse(db, home, rows)
    (found,) = outlook.history(engine, table(members), replace(SPEND, kind="quantile", q=0.8), NOW, [28])
    values = np.array([sum(values) for values in within(rows, members, 28, 0).values()], float)
    plain = quantile.of(values, 0.8)
    assert found.mean == pytest.approx(plain.value)
    width = 1.959964 * math.sqrt(80 * 0.8 * 0.2)
    ranks = math.floor(64 - width), math.ceil(64 + width) + 1
    ends = [np.sort(values)[rank - 1] for rank in ranks]
    assert found.variance == pytest.approx(80 * ((ends[1] - ends[0]) / (2 * 1.959964)) ** 2)
    assert (found.adjusted, found.rho) == (found.variance, 0.0)


def test_retention_is_planned_by_its_own_days_whatever_the_duration(db: Database, home: Path) -> None:
    rows, members = hard(80), list(range(1, 81))
    engine = warehouse(db, home, rows)
    spec = MetricSpec(
        "back", "retention", "orders", where=(Condition("net_minor", ">", 0),), from_day=30, until_day=60
    )
    found = outlook.history(engine, table(members), spec, NOW, [7, 56])
    came = [any(v > 0 for v in values) for values in within(rows, members, 30, 0).values()]
    for one in found:
        assert one.mean == pytest.approx(np.mean(came))
        assert one.variance == pytest.approx(np.var(came, ddof=1))
        assert one.rho == 0.0


def test_a_capped_metric_is_planned_with_its_cap(db: Database, home: Path) -> None:
    rows, members = hard(80), list(range(1, 81))
    engine = warehouse(db, home, rows)
    (plain,) = outlook.history(engine, table(members), SPEND, NOW, [28])
    (capped,) = outlook.history(engine, table(members), replace(SPEND, winsorise=0.9), NOW, [28])
    values = np.array([sum(values) for values in within(rows, members, 28, 0).values()], float)
    cut = np.minimum(values, np.quantile(values, 0.9))
    assert capped.mean == pytest.approx(cut.mean())
    assert capped.variance == pytest.approx(cut.var(ddof=1))
    assert capped.variance < plain.variance


def test_a_history_that_is_too_short_is_said_to_be(db: Database, home: Path) -> None:
    engine = warehouse(db, home, [(1, NOW - 20 * DAY, "paid", 500, 0), (2, NOW - DAY, "paid", 500, 0)])
    found = outlook.history(engine, table([1, 2]), SPEND, NOW)
    assert [one.short for one in found] == [False, False, True, True]


def test_nobody_and_what_has_no_variance_by_windows_is_refused(db: Database, home: Path) -> None:
    engine = warehouse(db, home, [(1, START, "paid", 500, 0)])
    with pytest.raises(InvalidInput, match="fewer than two"):
        outlook.history(engine, table([1]), SPEND, NOW)
    (few,) = outlook.history(engine, table([1, 2]), replace(SPEND, kind="quantile", q=0.5), NOW, [7])
    assert few.variance == 0.0, "too few beyond the quantile to say anything"
    with pytest.raises(InvalidInput, match="durations"):
        outlook.history(engine, table([1, 2]), SPEND, NOW, [0])
    (quiet,) = outlook.history(engine, table([1, 2]), SPEND, NOW, [7])
    (option, *_) = outlook.options(SPEND, [quiet], Terms())
    assert (option.mde, option.relative, option.needed) == (None, None, None)
    assert outlook.recommend([option], Terms()) is None


MONTH = History(28, 10_000, 1000.0, 9e6, 4e6, 0.6, math.sqrt(5 / 9), 1000.0)
WEEK = replace(MONTH, days=7, mean=250.0, variance=2e6, adjusted=1.5e6, revenue=250.0)


def test_an_option_says_what_a_holdout_finds_and_costs() -> None:
    terms = Terms(wanted=0.2, margin=0.4, reach=0.9, arm_share=0.5)
    (option,) = outlook.options(SPEND, [MONTH], terms, [0.2])
    assert (option.held, option.treated) == (1800, 3600)
    assert option.fixed == pytest.approx(power.mde(9e6, 1800, 3600))
    assert option.fixed == pytest.approx((1.959964 + 0.841621) * math.sqrt(9e6 / 1800 + 9e6 / 3600), rel=1e-6)
    assert option.relative == pytest.approx(option.fixed / 1000)
    assert option.cost_minor == pytest.approx(0.2 * 1000 * 0.4 * 1800)
    # as many as are needed find just what is wanted
    assert option.needed is not None
    n = option.needed
    assert power.mde(9e6, 0.2 * n, 0.4 * n) == pytest.approx(200)
    (adjusted,) = outlook.options(SPEND, [MONTH], replace(terms, adjusted=True), [0.2])
    assert adjusted.fixed == pytest.approx(option.fixed * math.sqrt(4 / 9))


def test_looking_at_any_time_finds_less() -> None:
    (option,) = outlook.options(SPEND, [MONTH], Terms(method="sequential"), [0.5])
    assert option.mde == option.sequential
    assert option.sequential is not None
    assert option.fixed is not None
    assert option.sequential > option.fixed
    var = 2 * 9e6 / 5000
    assert option.sequential == pytest.approx(
        sequential.half_width(10_000, var, 0.05, 5000) + 0.8416212 * math.sqrt(var)
    )


def test_the_cheapest_option_that_finds_enough_is_recommended() -> None:
    terms = Terms(wanted=0.5)
    found = outlook.options(SPEND, [WEEK, MONTH], terms)
    advice = outlook.recommend(found, terms)
    assert advice is not None
    assert advice.finds
    enough = [one for one in found if one.relative is not None and one.relative <= 0.5]
    assert advice.option.cost_minor == min(one.cost_minor for one in enough)
    assert advice.option in enough
    strict = replace(terms, wanted=0.001)
    nothing = outlook.recommend(outlook.options(SPEND, [WEEK, MONTH], strict), strict)
    assert nothing is not None
    assert not nothing.finds
    assert (nothing.option.holdout, nothing.option.days) == (0.5, 28)
    late = outlook.options(SPEND, [replace(WEEK, short=True), MONTH], terms)
    sure = outlook.recommend(late, terms)
    assert sure is not None
    assert sure.option.days == 28


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (SPEND, 0.1 * 1000 * 0.3),
        (MetricSpec("m", "mean", "order_lines", "margin_minor"), 0.1 * 1000),
        (MetricSpec("n", "count", "orders"), 0.1 * 800 * 0.3),
        (MetricSpec("aov", "ratio", "orders", "net_minor", "rows"), 0.1 * 800 * 0.3),
    ],
)
def test_what_a_holdout_forgoes_is_margin(spec: MetricSpec, expected: float) -> None:
    assert outlook.effect_minor(spec, replace(MONTH, revenue=800.0), 0.1, 0.3) == pytest.approx(expected)


def test_terms_out_of_bounds_are_refused() -> None:
    for change in ({"wanted": 0.0}, {"reach": 1.5}, {"margin": 2.0}, {"power": 1.0}, {"method": "bayes"}):
        with pytest.raises(InvalidInput):
            outlook.options(SPEND, [MONTH], replace(Terms(), **change))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="holdout"):
        outlook.options(SPEND, [MONTH], Terms(), [1.0])


# --- plans -----------------------------------------------------------------------------------------------


def test_a_plan_is_a_version_and_is_never_changed(db: Database) -> None:
    with db.write() as session:
        first = planning.save(session, "campaign:x", PLAN, started=False, by="a@x", now=NOW)
        again = planning.save(session, "campaign:x", PLAN, started=False, by="b@x", now=NOW + DAY)
        assert again.id == first.id
        second = planning.save(
            session, "campaign:x", replace(PLAN, mde=200.0), started=False, by="b@x", now=NOW + DAY
        )
        late = planning.save(
            session, "campaign:x", replace(PLAN, metric="orders"), started=True, by="b@x", now=NOW + 2 * DAY
        )
        planning.save(session, "campaign:y", PLAN, started=True, by="a@x", now=NOW)
    with db.read() as session:
        rows = planning.versions(session, "campaign:x")
        assert [(row.version, row.after_start, row.made_by) for row in rows] == [
            (3, True, "b@x"), (2, False, "b@x"), (1, False, "a@x"),
        ]  # fmt: skip
        assert planning.from_json(rows[2].plan) == PLAN
        bound = planning.binding(session, "campaign:x")
        assert bound is not None
        assert bound.id == second.id != late.id
        assert planning.binding(session, "campaign:y") is None
        assert {row.subject for row in planning.newest(session, 10)} == {"campaign:x", "campaign:y"}
        assert planning.newest(session, 1)[0].version == 3
        trail = session.scalar(
            sa.select(sa.func.count()).where(
                AuditEntry.object_type == "plan", AuditEntry.object_id == "campaign:x"
            )
        )
        assert trail == 3
        assert session.scalar(sa.select(sa.func.count()).select_from(ExperimentPlan)) == 4


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"alpha": 0.0}, "alpha"), ({"power": 0.3}, "power"), ({"metric": ""}, "metric"),
        ({"arms": {"holdout": 1.0}}, "holdout"), ({"control": "B"}, "holdout"),
        ({"arms": {"holdout": 0.3, "A": 0.8}}, "holdout"), ({"duration_days": 0}, "duration_days"),
        ({"mde": 0.0}, "mde"), ({"members": 1}, "members"), ({"method": "bayes"}, "method"),
        ({"tuning": 3.0}, "tuning"), ({"also": (Shown("x", 1),) * 21}, "also"), ({"rule": " "}, "rule"), ({"guardrails": (Guardrail("x", 1, 2.0),)}, "guardrails"),
    ],
)  # fmt: skip
def test_a_plan_that_says_too_little_is_refused_at_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        planning.check(replace(PLAN, **change))
    assert refusal.value.field == field


UNTIL = datetime(2026, 3, 1, tzinfo=UTC)
AFTER = UNTIL + 28 * DAY
ARMS = {"holdout": 200, "A": 800}


def codes(
    plan: Plan = PLAN, as_of: datetime = AFTER, arms: dict[str, int] = ARMS, **changes: Any
) -> list[str]:
    values = {
        "metric": "revenue", "alpha": 0.05, "method": "fixed", "window_days": 28, "metric_version": 1,
        "assigned_until": UNTIL, **changes,
    }  # fmt: skip
    first = [values.pop(name) for name in ("metric", "alpha", "method")]
    return [one.code for one in planning.held_against(plan, as_of, arms, *first, **values)]


def test_a_read_out_that_keeps_to_its_plan_deviates_in_nothing() -> None:
    assert codes() == []
    assert codes(arms={"holdout": 195, "A": 760}) == []  # within 5 % of the planned members
    assert codes(window_days=None, metric_version=None, assigned_until=None) == []


def test_every_deviation_is_named() -> None:
    assert codes(as_of=AFTER - timedelta(seconds=1)) == ["read_early"]
    sequential_plan = replace(PLAN, method="sequential")
    assert codes(sequential_plan, AFTER - DAY, method="sequential") == []
    assert codes(replace(PLAN, ends_at=AFTER + DAY)) == ["read_early"]
    assert codes(metric="orders") == ["other_metric"]
    assert codes(metric_version=2) == ["metric_changed"]
    assert codes(metric="orders", metric_version=2) == ["other_metric"]
    assert codes(window_days=14) == ["shorter_window"]
    assert codes(window_days=56) == ["longer_window"]
    assert codes(arms={"holdout": 180, "A": 720}) == ["fewer_members"]
    assert codes(arms={"holdout": 500, "A": 500}) == ["other_split"]
    assert codes(arms={"holdout": 200, "A": 400, "B": 400}) == ["other_arms"]
    assert codes(alpha=0.1) == ["other_alpha"]
    assert codes(method="sequential") == ["other_method"]
    assert codes(after_start=True) == ["planned_late"]


def test_a_deviation_says_what_was_planned_and_what_was_found() -> None:
    (early,) = planning.held_against(PLAN, UNTIL + DAY, ARMS, "revenue", 0.05, "fixed", assigned_until=UNTIL)
    assert early.to_json() == {
        "code": "read_early", "planned": AFTER.isoformat(), "found": (UNTIL + DAY).isoformat(),
    }  # fmt: skip
    (split,) = planning.held_against(PLAN, AFTER, {"holdout": 500, "A": 500}, "revenue", 0.05, "fixed")
    assert (split.planned, split.found) == ({"holdout": 0.2, "A": 0.8}, {"holdout": 0.5, "A": 0.5})


# --- the catalogue ---------------------------------------------------------------------------------------


def test_what_is_ready_made_can_be_computed_and_is_added_once(db: Database, home: Path) -> None:
    from channels.facts import FACTS as CHANNELS

    every = FACTS | {fact.name: fact for fact in CHANNELS}
    with db.write() as session:
        own = replace(catalogue.BUILT_IN[0], until_day=7)
        catalogue.create(session, own, every, "a@x", NOW)
        added = catalogue.add_built_in(session, every, "a@x", NOW)
        assert added == [spec.name for spec in catalogue.BUILT_IN[1:]]
        assert catalogue.add_built_in(session, every, "a@x", NOW) == []
        assert catalogue.spec_of(catalogue.by_name(session, "revenue")) == own
    assert len(added) == 8


def test_a_metric_has_versions_and_is_archived_not_deleted(db: Database) -> None:
    with db.write() as session:
        catalogue.create(session, SPEND, FACTS, "a@x", NOW)
        with pytest.raises(Conflict, match="already"):
            catalogue.create(session, SPEND, FACTS, "a@x", NOW)
        changed = replace(SPEND, until_day=14, where=(Condition("status", "=", "paid"),))
        assert catalogue.change(session, changed, FACTS, "b@x", NOW + DAY).version == 2
        assert catalogue.change(session, changed, FACTS, "c@x", NOW + DAY).version == 2
        with pytest.raises(NotFound):
            catalogue.change(session, replace(SPEND, name="none"), FACTS, "b@x", NOW)
        session.flush()
        newest, oldest = catalogue.versions(session, "spend")
        assert (newest.number, newest.by, oldest.number, oldest.changed) == (2, "b@x", 1, {})
        assert newest.changed["until_day"] == (30, 14)
        assert set(newest.changed) == {"until_day", "where"}
        catalogue.archive(session, "spend", "a@x", NOW)
        assert catalogue.listing(session) == []
        assert metrics.load(session) == []
        assert metrics.load(session, ["spend"]) == [changed]
        with pytest.raises(Conflict, match="archived"):
            catalogue.change(session, SPEND, FACTS, "a@x", NOW)
        catalogue.restore(session, "spend", "a@x", NOW)
        assert [row.name for row in catalogue.listing(session)] == ["spend"]


def test_the_weeks_of_a_metric_are_what_plain_python_says(db: Database, home: Path) -> None:
    rows = hard(60)
    engine = warehouse(db, home, [*rows, (60, NOW - 140 * DAY, "paid", 1, 0)])
    with db.write() as session:
        mark(session, "members", [None])
    engine.replica.sync(db)
    members = list(range(1, 61))
    specs = {
        "mean": SPEND,
        "count": MetricSpec("n", "count", "orders", where=(Condition("net_minor", ">", 0),)),
        "proportion": MetricSpec("b", "proportion", "orders", where=(Condition("net_minor", ">", 0),)),
        "ratio": MetricSpec("r", "ratio", "orders", "net_minor", "rows"),
        "quantile": MetricSpec("q", "quantile", "orders", "net_minor", q=0.9),
    }
    looks = {kind: catalogue.weekly(engine, spec, NOW, 4) for kind, spec in specs.items()}
    for back in range(4):
        start = NOW - timedelta(days=7 * (back + 1))
        inside = [row for row in rows if start < row[1] <= start + 7 * DAY and row[1] < NOW]
        sums = {member: [net(row) for row in inside if row[0] == member] for member in members}
        values = np.array([sum(found) for found in sums.values()], float)
        kept = sum(value > 0 for found in sums.values() for value in found)
        rowcount = sum(map(len, sums.values()))
        expected = {
            "mean": values.mean(),
            "count": kept / 60,
            "proportion": sum(any(v > 0 for v in found) for found in sums.values()) / 60,
            "ratio": values.sum() / rowcount if rowcount else None,
            "quantile": np.quantile(values, 0.9),
        }
        for kind, look in looks.items():
            week = look.weeks[3 - back]
            assert look.members == 60
            assert week.start == start
            assert week.value == pytest.approx(expected[kind]), (kind, back)


def test_margin_is_reckoned_by_each_products_share(db: Database, home: Path) -> None:
    spec = MetricSpec("margin", "mean", "order_lines", "margin_minor")
    engine = warehouse(
        db, home,
        [(1, NOW - DAY, "paid", 1000, 0), (1, NOW - DAY, "cancelled", 700, 0), (2, NOW - DAY, "paid", 500, 500)],
    )  # fmt: skip
    (found,) = outlook.history(engine, table([1, 2]), spec, NOW, [7])
    assert found.mean == pytest.approx(0.4 * 1000 / 2)


def test_whether_there_is_a_value_can_be_a_condition(db: Database, home: Path) -> None:
    engine = warehouse(db, home, [(1, NOW - DAY, "paid", 1000, 0), (2, NOW - DAY, "paid", 500, 0)])
    for wanted, share in ((True, 0.0), (False, 1.0)):
        spec = MetricSpec("c", "proportion", "orders", where=(Condition("coupon_code", "is_set", wanted),))
        (found,) = outlook.history(engine, table([1, 2]), spec, NOW, [7])
        assert found.mean == share
    with pytest.raises(InvalidInput, match="true or false"):
        metrics.check(
            MetricSpec("c", "count", "orders", where=(Condition("coupon_code", "is_set", "x"),)), FACTS
        )


def test_the_sql_is_shown_laid_out() -> None:
    spec = MetricSpec("c", "count", "events", where=(Condition("properties.level", ">=", 3),))
    text, params = catalogue.shown_sql(spec, FACTS, NOW)
    assert text.startswith("WITH")
    assert text.count("\n") > 20
    assert params["p0_0"] == 3
    assert "level" in params.values()


@pytest.mark.parametrize(
    ("name", "unit"),
    [("revenue", "money"), ("margin", "money"), ("orders", "number"), ("converted", "share"),
     ("order_value", "money"), ("units", "number"), ("return_rate", "share"), ("repurchase", "share")],
)  # fmt: skip
def test_every_metric_has_a_unit(name: str, unit: str) -> None:
    assert catalogue.unit_of(next(one for one in catalogue.BUILT_IN if one.name == name)) == unit
