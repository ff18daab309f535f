"""A campaign's plan: its audience's past, its freezing before and after the first run, and what uses a metric."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from campaigns import campaigns, planning
from campaigns.run import run
from core.errors import Conflict, InvalidInput
from experiments import catalogue, metrics, outlook
from experiments import planning as plans
from experiments.metrics import MetricSpec
from experiments.models import Experiment
from experiments.planning import Guardrail, Plan
from segments import segments
from segments.facts import FACTS
from tests.campaigns.conftest import EVERYBODY, NOW, Shop

KNOWN = {fact.name: fact for fact in FACTS}


def a_plan(shop: Shop) -> Plan:
    with shop.database.read() as session:
        spec = campaigns.spec_of(campaigns.by_name(session, "back"))
    arms = planning.arms_of(spec, 0.2)
    return Plan(
        "revenue", 0, 10.0, 0.1, "money", 0.05, 0.8, "holdout", arms, 100, 14, "Go on if it rises.",
        guardrails=(Guardrail("orders", 0, 0.05),),
    )  # fmt: skip


def test_the_audience_is_the_rules_without_who_is_left_out(shop: Shop) -> None:
    shop.members(20)
    shop.campaign()
    shop.engine.replica.sync(shop.database)
    with shop.database.write() as session:
        segments.save(
            session, name="few", title="Few", rule={"field": "member_id", "op": "in", "value": ["m3", "m4"]},
            by="a@x", now=NOW,
        )  # fmt: skip
    with shop.database.read() as session:
        found = planning.audience(session, shop.engine, shop.settings, EVERYBODY, ("few",), NOW)
        everybody = planning.audience(session, shop.engine, shop.settings, EVERYBODY, (), NOW)
        past = planning.history(
            session, shop.engine, shop.settings, EVERYBODY, ("few",), catalogue.BUILT_IN[0], NOW
        )
        with pytest.raises(InvalidInput):
            planning.audience(session, shop.engine, shop.settings, {"segment": "none"}, (), NOW)
    assert sorted(found["member_id"].to_pylist()) == [n for n in range(1, 21) if n not in (3, 4)]
    assert everybody.num_rows == 20
    assert [one.n for one in past] == [18] * 4
    assert [one.mean for one in past] == [0.0] * 4
    assert all(one.short for one in past)
    assert [one.mde for one in outlook.options(catalogue.BUILT_IN[0], past, outlook.Terms())] == [None] * 20


def test_goals_are_the_shops_own_before_the_ready_made(shop: Shop) -> None:
    with shop.database.write() as session:
        assert planning.goal(session, "revenue").version == 0
        own = replace(catalogue.BUILT_IN[0], winsorise=0.99)
        metrics.save(session, own, KNOWN, NOW)
        metrics.save(session, MetricSpec("m", "quantile", "orders", "net_minor", q=0.5), KNOWN, NOW)
        assert planning.goal(session, "revenue") == planning.Goal(own, 1)
        assert {"m", "repurchase"} <= set(planning.goals(session))  # of every kind
        catalogue.archive(session, "revenue", "a@x", NOW)
        with pytest.raises(InvalidInput, match="revenue"):
            planning.goal(session, "revenue")


def test_a_plan_before_the_run_binds_and_one_after_it_does_not(shop: Shop) -> None:
    shop.members(60)
    shop.campaign()
    plan = a_plan(shop)
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back", lock=True)
        assert not planning.started(session, campaign)
        assert not planning.freeze(session, campaign, plan, by="a@x", now=NOW).after_start
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back", lock=True)
        assert planning.started(session, campaign)
        late = planning.freeze(session, campaign, replace(plan, metric="orders"), by="a@x", now=NOW)
        assert (late.version, late.after_start) == (2, True)
        with pytest.raises(Conflict):
            planning.freeze(session, campaign, replace(plan, duration_days=7), by="a@x", now=NOW, apply=True)
    with shop.database.read() as session:
        campaign = campaigns.by_name(session, "back")
        experiment = session.get_one(Experiment, campaign.experiment_id)
        counts: dict[str, int] = dict(
            session.execute(
                sa.text("SELECT arm, count(*) FROM assignments WHERE experiment_id = :id GROUP BY arm"),
                {"id": experiment.id},
            ).all()
        )
        held = planning.held(
            session,
            planning.subject(campaign),
            campaign.experiment_id,
            as_of=NOW,
            assigned=counts,
            metric="revenue",
            alpha=0.05,
            window_days=14,
        )
    assert held is not None
    assert (held.row.version, held.plan) == (1, plan)
    codes = [one.code for one in held.deviations]
    assert codes[0] == plans.READ_EARLY
    assert plans.PLANNED_LATE not in codes
    assert plans.OTHER_METRIC not in codes


def test_a_plan_gives_a_draft_its_holdout_and_its_window(shop: Shop) -> None:
    shop.members(10)
    shop.campaign()
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back")
        campaign.state = campaigns.DRAFT
        version, plan = campaign.version, replace(a_plan(shop), duration_days=21, metric="converted")
        planning.freeze(session, campaign, plan, by="a@x", now=NOW, apply=True)
        spec = campaigns.spec_of(campaign)
        assert (spec.holdout, spec.window_days, spec.metric) == (0.2, 21, "conversion")
        assert (campaign.state, campaign.version) == (campaigns.DRAFT, version + 1)
        planning.freeze(session, campaign, plan, by="a@x", now=NOW, apply=True)
        assert campaign.version == version + 1  # nothing was left to change


def test_a_campaign_without_a_plan_is_held_against_nothing(shop: Shop) -> None:
    shop.members(10)
    shop.campaign()
    with shop.database.read() as session:
        campaign = campaigns.by_name(session, "back")
        subject = planning.subject(campaign)
        found = planning.held(session, subject, None, as_of=NOW, assigned={}, metric="revenue", alpha=0.05)
        assert found is None


def test_what_uses_a_metric_is_found(shop: Shop) -> None:
    shop.members(10)
    shop.campaign()
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back")
        assert planning.uses(session) == {"revenue": [("campaign", "back", campaign.title)]}
        planning.freeze(session, campaign, a_plan(shop), by="a@x", now=NOW)
        found = planning.uses(session)
        assert found["orders"] == [("plan", "back", campaign.title)]
        assert [kind for kind, *_ in found["revenue"]] == ["campaign", "plan"]
        campaign.state = campaigns.ARCHIVED
        session.flush()
        assert planning.uses(session) == {}


def test_arms_without_a_holdout_have_the_first_variant_as_control(shop: Shop) -> None:
    shop.members(10)
    shop.campaign()
    with shop.database.read() as session:
        spec = campaigns.spec_of(campaigns.by_name(session, "back"))
    assert "holdout" not in planning.arms_of(spec, 0.0)
    assert sum(planning.arms_of(spec, 0.3).values()) == pytest.approx(1)
    assert planning.smallest_arm(spec) == min(one.weight for one in spec.variants)
