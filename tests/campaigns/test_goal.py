"""A plan's goal of the catalogue is what the campaign's read-out is about; others stand beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from campaigns import campaigns, planning, results
from core import crypto
from core import settings as core_settings
from core.db import Database
from experiments import catalogue, readout_form
from experiments import planning as plans
from experiments.metrics import MEAN, PROPORTION, QUANTILE, RATIO, RETENTION, ROWS, Condition, MetricSpec
from experiments.models import Readout
from experiments.planning import Plan, Shown
from experiments.readout_advice import advise
from experiments.readout_form import ReadOut
from experiments.stats import multiplicity
from tests.campaigns.conftest import NOW, Shop
from tests.campaigns.test_results_readout import DAY, ran

LATER = NOW + DAY * 40
PLAN = Plan(
    "revenue", 0, 100.0, 0.1, "money", 0.05, 0.8, "holdout", {"holdout": 0.2, "A": 0.4, "B": 0.4}, 700, 21,
    "ship what wins",
)  # fmt: skip
KEPT = (Condition("net_minor", ">", 0),)
GOALS = {
    "spend": MetricSpec("spend", MEAN, "orders", "net_minor", covariate_days=60),
    "app_orders": MetricSpec("app_orders", "count", "orders", where=(Condition("channel", "=", "app"),)),
    "bought_much": MetricSpec(
        "bought_much", PROPORTION, "orders", where=(Condition("net_minor", ">", 5000),), covariate_days=60
    ),
    "basket": MetricSpec("basket", RATIO, "orders", "net_minor", ROWS, where=KEPT, covariate_days=60),
    "upper": MetricSpec("upper", QUANTILE, "orders", "net_minor", q=0.9),
    "back_soon": MetricSpec("back_soon", RETENTION, "orders", where=KEPT, from_day=2, until_day=10),
}


@pytest.fixture
def db(sqlite_db: Database) -> Database:
    """One of the two is enough here: what is measured comes of the warehouse."""
    return sqlite_db


def store(shop: Shop, *specs: MetricSpec) -> None:
    with shop.database.write() as session:
        for spec in specs:
            catalogue.create(session, spec, shop.engine.replica.facts, "ann", NOW)


def plan(shop: Shop, found: Plan, started: bool = False) -> None:
    with shop.database.write() as session:
        plans.save(session, "campaign:back", found, started=started, by="ann", now=NOW)


def read(shop: Shop) -> results.CampaignResult:
    with shop.database.read() as session:
        return results.result(session, shop.engine, campaigns.by_name(session, "back"), LATER, "CNY")


@pytest.mark.parametrize("name", GOALS)
def test_a_goal_of_every_kind_is_measured_in_the_plans_window(shop: Shop, name: str) -> None:
    ran(shop)
    spec = GOALS[name]
    store(shop, spec)
    plan(shop, replace(PLAN, metric=name, metric_version=1))
    whole = read(shop)
    found = whole.readout
    assert found.goal == name
    measure = found.measures[name]
    retained = spec.kind == RETENTION
    assert (measure.kind, measure.from_day, measure.until_day) == (
        spec.kind, spec.from_day, spec.until_day if retained else 21,
    )  # fmt: skip
    assert [one.metric for one in found.results[:2]] == [name, name]
    effect = found.headline(found.result(name, "B"))
    assert effect is not None, found.result(name, "B").refused
    adds_up = spec.kind not in (RATIO, QUANTILE)
    assert (found.total(found.result(name, "B")) is not None) == adds_up
    assert (found.result(name, "B").adjusted is not None) == (spec.covariate_days is not None)
    better = name not in ("app_orders", "back_soon")  # B makes orders larger, not more
    assert (effect.low > 0) == better
    advice = advise(found, "en")
    assert (advice.arms == ("B",)) == better
    assert f"“{name}”" in advice.sentence
    assert (found.timeline is None) == (spec.kind in (QUANTILE, RETENTION))
    assert [one.metric for one in found.dimensions] == [name]
    assert set(whole.money) == {"A", "B"}, "the money part stays as it is"
    assert found.result("revenue", "B").absolute is not None


def of_own(found: ReadOut, metric: str) -> list[Any]:
    return [replace(one, metric="", p_adjusted=None) for one in found.results if one.metric == metric]


def test_the_catalogues_spend_says_what_the_read_outs_own_revenue_says(shop: Shop) -> None:
    ran(shop)
    store(shop, replace(GOALS["spend"], covariate_days=180))
    plan(shop, replace(PLAN, metric="spend", metric_version=1, duration_days=14))
    found = read(shop).readout
    spend, revenue = (of_own(found, metric) for metric in ("spend", "revenue"))
    for mine, own in zip(spend, revenue, strict=True):
        assert mine.mean == pytest.approx(own.mean)
        assert mine.absolute.low == pytest.approx(own.absolute.low)
        assert mine.adjusted.theta == pytest.approx(own.adjusted.theta)
        assert mine.adjusted.removed == pytest.approx(own.adjusted.removed)
        assert mine.adjusted.comparison.absolute.p == pytest.approx(own.adjusted.comparison.absolute.p)
        assert mine.chance_best == pytest.approx(own.chance_best)
        assert mine.need_planned.members == own.need_planned.members
    # Its groups and its days are those of revenue as well.
    plan(shop, replace(PLAN, duration_days=14))
    own_found = read(shop).readout
    assert own_found.goal == "revenue"
    assert own_found.timeline is not None
    assert found.timeline is not None
    assert own_found.timeline.adjusted
    assert found.timeline.adjusted
    for mine_curve, own_curve in zip(found.timeline.curves, own_found.timeline.curves, strict=True):
        for a, b in zip(mine_curve.points, own_curve.points, strict=True):
            assert (a.day, a.n, a.n_control) == (b.day, b.n, b.n_control)
            assert a.fixed.low == pytest.approx(b.fixed.low)
            assert a.always_valid.high == pytest.approx(b.always_valid.high)
    for mine_part, own_part in zip(
        found.dimensions[0].breakdowns, own_found.dimensions[0].breakdowns, strict=True
    ):
        for x, y in zip(mine_part.cells, own_part.cells, strict=True):
            assert (x.value, x.n, x.n_control) == (y.value, y.n, y.n_control)
            assert (x.absolute is None) == (y.absolute is None) == (x.value == "shop"), "they never bought"
            if x.absolute is not None and y.absolute is not None:
                assert x.absolute.low == pytest.approx(y.absolute.low)


def test_what_is_also_shown_is_corrected_for_with_all_the_others(shop: Shop) -> None:
    ran(shop)
    store(shop, GOALS["basket"], GOALS["upper"])
    also = (Shown("basket", 1), Shown("upper", 1), Shown("orders", 0), Shown("return_rate", 0))
    plan(shop, replace(PLAN, also=also))
    found = read(shop).readout
    assert found.goal == "revenue"
    assert set(found.measures) == {"basket", "upper", "return_rate"}, "orders are the read-out's own"
    assert found.results[0].metric == "revenue"
    effects = [(one, found.headline(one)) for one in found.results]
    tested = [(one.p_adjusted, effect.p) for one, effect in effects if effect is not None]
    assert [p for p, _ in tested] == pytest.approx(multiplicity.holm([p for _, p in tested]))
    # No lines, so no margin; nothing was ever returned: two rows each cannot be compared.
    assert len(tested) == 2 * len({one.metric for one, _ in effects}) - 4 == 10
    refused = found.result("return_rate", "B").refused
    assert refused is not None
    assert "No member differs" in refused
    with shop.database.write() as session:
        whole = read(shop)
        campaign = campaigns.by_name(session, "back")
        row = results.freeze(session, campaign, whole, as_of=LATER, now=LATER)
        session.flush()
        session.expire_all()
        assert readout_form.from_json(session.get_one(Readout, row.id).result) == whole.readout


def test_a_plan_made_late_shows_its_metrics_but_sets_no_goal(shop: Shop) -> None:
    ran(shop)
    store(shop, GOALS["basket"], GOALS["spend"])
    late = replace(PLAN, metric="spend", metric_version=1, also=(Shown("basket", 1),))
    plan(shop, late, started=True)
    found = read(shop).readout
    assert found.goal == "revenue"
    assert set(found.measures) == {"basket"}


def test_a_definition_that_nobody_knows_any_more_is_refused_and_not_replaced(shop: Shop) -> None:
    ran(shop)
    plan(shop, replace(PLAN, metric="gone", metric_version=3))
    found = read(shop).readout
    assert found.goal == "gone"
    assert "not known any more" in (found.result("gone").refused or "")
    assert advise(found, "en").sentence.startswith("No recommendation yet: The metric of the planned version")


def test_a_changed_metric_is_measured_as_it_was_planned_beside_the_read_outs_own(shop: Shop) -> None:
    ran(shop)
    with shop.database.write() as session:
        capped = replace(catalogue.BUILT_IN[0], winsorise=0.9)
        catalogue.create(session, capped, shop.engine.replica.facts, "ann", NOW)
        catalogue.change(session, catalogue.BUILT_IN[0], shop.engine.replica.facts, "ann", NOW)
    plan(shop, replace(PLAN, metric="revenue", metric_version=1))
    found = read(shop).readout
    assert found.goal == "revenue@1"
    assert found.result("revenue@1", "B").mean < found.result("revenue", "B").mean
    assert "revenue a member (version 1)" in advise(found, "en").sentence
    assert "人均收入（第 1 版）" in advise(found, "zh_CN").sentence
    plan(shop, replace(PLAN, metric="revenue", metric_version=2))
    assert read(shop).readout.goal == "revenue", "as ready-made: what the read-out has anyway"


def test_less_of_a_goal_can_be_what_is_wanted(shop: Shop) -> None:
    ran(shop)
    store(shop, replace(GOALS["spend"], name="cost_to_serve", higher_is_better=False))
    plan(shop, replace(PLAN, metric="cost_to_serve", metric_version=1))
    found = read(shop).readout
    result = found.result("cost_to_serve", "B")
    assert result.chance_to_win is not None
    assert result.chance_to_win < 0.01
    assert (result.chance_best or 0) < 0.01
    advice = advise(found, "en")
    assert "B" not in advice.arms or advice.kind == "stop"
    assert "“B” did worse than nothing" in advice.sentence


def test_the_plan_sets_the_number_of_members_its_sequence_is_narrowest_at(shop: Shop) -> None:
    ran(shop)
    plan(shop, replace(PLAN, tuning=800))
    found = read(shop).readout
    assert found.tuning == 800
    assert found.timeline is not None
    assert found.timeline.tuning == 800
    with shop.database.read() as session:
        campaign = campaigns.by_name(session, "back")
        held = planning.held(
            session, planning.subject(campaign), campaign.experiment_id, as_of=LATER, assigned=found.arms, metric="revenue",
            alpha=0.05, window_days=21,
        )  # fmt: skip
    assert held is not None
    assert held.plan.tuning == 800


def test_the_command_writes_the_goal_first_and_money_as_the_shop_does(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from web.cli import main

    ran(shop)
    store(shop, GOALS["basket"], GOALS["bought_much"])
    plan(shop, replace(PLAN, metric="basket", metric_version=1, also=(Shown("bought_much", 1),)))
    monkeypatch.setattr(core_settings, "load", lambda: shop.settings.model_copy(update={"clock_shift_s": 0}))
    monkeypatch.setattr(crypto, "open_keyring", lambda _settings: crypto.keyring())
    monkeypatch.setattr("web.commands.experiments_readout.now", lambda _settings: LATER)
    shown = CliRunner().invoke(main, ["experiments", "readout", "back", "--by", "channel"])
    assert shown.exit_code == 0, shown.output
    rows = [line for line in shown.stdout.splitlines() if ", adjusted 0." in line or ", adjusted 1." in line]
    assert rows[0].startswith("* basket")
    assert "+¥" in rows[1]
    assert any("bought_much" in line and " %" in line for line in rows)
    answer = CliRunner().invoke(main, ["experiments", "readout", "back", "--json"])
    found = json.loads(answer.stdout)
    assert found["readout"]["goal"] == "basket"
    assert found["readout"]["measures"]["bought_much"]["unit"] == "share"
