"""Results → Plans: what an audience could show, the plan that is frozen, and what is held against it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import render_template

from campaigns import campaigns, planning
from core.models import Member
from experiments import assignment, experiments, outlook
from experiments import planning as plans
from experiments.models import ExperimentPlan
from experiments.planning import Plan
from segments.evaluate import EVERYBODY
from segments.facts import open_engine
from tests.web import seed
from tests.web.conftest import Shop

HTMX = {"HX-Request": "true"}
WISH = {
    "metric": "revenue", "holdout": "20", "days": "28", "wanted": "10", "reach": "95", "margin": "30",
    "method": "fixed", "alpha": "5", "power": "80", "adjusted": "0", "decision": "Go on if it rises.",
    "guard": "orders", "guard-orders": "5",
}  # fmt: skip


def plan_rows(shop: Shop) -> list[ExperimentPlan]:
    with shop.database.read() as session:
        return list(session.scalars(sa.select(ExperimentPlan).order_by(ExperimentPlan.id)))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("query", ["", "?segment=dormant-buyers&metric=converted", "?campaign=draft-idea"])
def test_what_can_be_found_is_shown_for_any_audience(any_shop: Shop, language: str, query: str) -> None:
    client = any_shop.client(language=language)
    page = client.get(f"/results/plans/ask{query}")
    assert page.status_code == 200
    address = re.search(r'hx-get="([^"]+)"', page.text.split('id="result"')[1])
    assert address is not None
    part = client.get(address.group(1).replace("&amp;", "&"), headers=HTMX)
    assert part.status_code == 200
    assert "<html" not in part.text
    assert part.text.count("shade-") >= 20
    assert language == "zh" or "held out for" in part.text
    whole = client.get(address.group(1).replace("&amp;", "&"))
    assert whole.text.count("<html") == 1
    assert 'id="mde"' in whole.text


def test_the_figures_are_those_of_the_audience(shop: Shop) -> None:
    part = shop.client().get("/results/plans/answer?segment=dormant-buyers&reach=100", headers=HTMX).text
    with shop.database.read() as session:
        past = planning.history(
            session, open_engine(shop.settings), shop.settings, {"segment": "dormant-buyers"}, (),
            planning.goal(session, "revenue").spec, seed.NOW,
        )  # fmt: skip
    assert f"n = {past[0].n} members in the audience, 100% eligible" in part
    options = outlook.options(outlook_spec(shop), past, outlook.Terms(adjusted=True, reach=1.0))
    table = part.split("Every option, with its cost")[-1]
    for one in options:
        assert f'<td class="num">{one.held}</td>' in table


def outlook_spec(shop: Shop) -> Any:
    with shop.database.read() as session:
        return planning.goal(session, "revenue").spec


def test_a_campaigns_cells_lead_to_its_plan_and_an_analyst_sees_no_link(shop: Shop) -> None:
    marketer = shop.client("marketer@example.com")
    assert "/results/plans/ask?campaign=draft-idea" in marketer.get("/campaigns/draft-idea").text
    part = marketer.get("/results/plans/answer?campaign=draft-idea", headers=HTMX).text
    link = re.search(r'href="(/results/plans/campaigns/draft-idea/freeze\?[^"]*holdout=30[^"]*)"', part)
    assert link is not None
    form = marketer.get(link.group(1).replace("&amp;", "&")).text
    assert re.search(r'name="holdout"[^>]* value="30"', form)
    seen = shop.client("analyst@example.com").get("/results/plans/answer?campaign=draft-idea", headers=HTMX)
    assert seen.status_code == 200
    assert "freeze" not in seen.text


def test_wrong_questions_come_back_with_what_was_typed(shop: Shop) -> None:
    client = shop.client()
    page = client.get("/results/plans/ask?wanted=lots&margin=200&rule={bad").text
    assert 'value="lots"' in page
    assert 'id="wanted-error"' in page
    assert 'id="margin-error"' in page
    assert "This is not JSON" in page
    assert 'id="result"' not in page
    unknown = client.get('/results/plans/answer?rule={"segment": "gone"}', headers=HTMX).text
    assert "gone" in unknown
    assert "notice is-bad" in unknown
    assert client.get("/results/plans/ask?campaign=gone").status_code == 404
    assert client.get("/results/plans/ask?metric=nothing").status_code == 200


def test_a_plan_is_frozen_with_its_numbers_and_the_campaign_follows(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    answer = client.post("/results/plans/campaigns/draft-idea/freeze", {**WISH, "days": "56", "apply": "1"})
    assert answer.status_code == 303, re.findall(r'class="error".*?</span>', answer.text)
    (row,) = plan_rows(shop)
    plan = plans.from_json(row.plan)
    assert (row.subject, row.version, row.after_start) == ("campaign:draft-idea", 1, False)
    assert (row.made_by, row.made_at) == ("marketer@example.com", seed.NOW)
    assert plan.arms == pytest.approx({"holdout": 0.2, "A": 0.4, "B": 0.4})
    assert (plan.metric, plan.metric_version, plan.duration_days) == ("revenue", 0, 56)
    assert [(one.metric, one.margin) for one in plan.guardrails] == [("orders", 0.05)]
    with shop.database.read() as session:
        campaign = campaigns.by_name(session, "draft-idea")
        spec = campaigns.spec_of(campaign)
        assert (spec.holdout, spec.window_days, campaign.state) == (0.2, 56, "draft")
        (past,) = planning.history(
            session, open_engine(shop.settings), shop.settings, spec.audience, spec.exclude,
            planning.goal(session, "revenue").spec, seed.NOW, [56],
        )  # fmt: skip
    terms = outlook.Terms(reach=0.95, arm_share=0.5)
    (option,) = outlook.options(outlook_spec(shop), [past], terms, [0.2])
    assert plan.mde == pytest.approx(option.fixed)
    assert plan.members == round(past.n * 0.95)
    page = client.get(answer.headers["Location"])
    assert page.status_code == 200
    assert "Go on if it rises." in page.text
    assert "before the start" in page.text
    assert "An idea" in page.text
    assert "draft-idea" in client.get("/results/plans").text
    client.post("/results/metrics/ready-made")
    assert "Plan: <a" in client.get("/results/metrics").text


def test_a_plan_names_what_is_also_shown_and_its_n_star(shop: Shop) -> None:
    client = shop.client()
    form = client.get("/results/plans/campaigns/draft-idea/freeze").text
    assert re.search(r'name="tuning"[^>]* value="5000"', form), "as read-outs use it"
    wish = {**WISH, "tuning": "20000", "also": ["order_value", "revenue", "units"]}
    answer = client.post("/results/plans/campaigns/draft-idea/freeze", wish)
    assert answer.status_code == 303
    plan = plans.from_json(plan_rows(shop)[0].plan)
    assert plan.tuning == 20_000
    assert [one.metric for one in plan.also] == ["order_value", "units"], "the goal is shown anyway"
    page = client.get(answer.headers["Location"]).text
    assert "Average order value, Units" in page
    assert "<dt>N*</dt><dd>20,000</dd>" in page
    for change, field in (({"tuning": "3"}, "tuning"), ({"tuning": "many"}, "tuning")):
        refused = client.post("/results/plans/campaigns/draft-idea/freeze", {**WISH, **change})
        assert refused.status_code == 422
        assert f'id="{field}-error"' in refused.text
    unknown = client.post("/results/plans/campaigns/draft-idea/freeze", {**WISH, "also": ["nothing"]})
    assert unknown.status_code == 422
    assert len(plan_rows(shop)) == 1


def test_retention_is_planned_for_days_that_reach_its_own(shop: Shop) -> None:
    client = shop.client()
    wish = {**WISH, "metric": "repurchase"}
    refused = client.post("/results/plans/campaigns/draft-idea/freeze", wish)
    assert refused.status_code == 422
    assert "This goal is known 60 days after the decision" in refused.text
    answer = client.post("/results/plans/campaigns/draft-idea/freeze", {**wish, "days": "60"})
    assert answer.status_code == 303
    plan = plans.from_json(plan_rows(shop)[0].plan)
    assert (plan.metric, plan.unit, plan.duration_days) == ("repurchase", "share", 60)
    assert 0 < plan.baseline["mean"] < 1


def test_a_mistake_in_a_plan_stands_beside_its_field(shop: Shop) -> None:
    client = shop.client()
    for change, field in (
        ({"holdout": ""}, "holdout"), ({"holdout": "95"}, "holdout"), ({"days": "0"}, "days"),
        ({"decision": ""}, "decision"), ({"reach": "x"}, "reach"), ({"ends_at": "soon"}, "ends_at"),
    ):  # fmt: skip
        answer = client.post("/results/plans/campaigns/draft-idea/freeze", {**WISH, **change})
        assert answer.status_code == 422, change
        assert f'id="{field}-error"' in answer.text, change
    answer = client.post("/results/plans/campaigns/draft-idea/freeze", {**WISH, "guard-orders": ""})
    assert answer.status_code == 422
    assert plan_rows(shop) == []


def test_after_the_first_run_a_plan_is_marked_and_binds_nobody(shop: Shop) -> None:
    client = shop.client()
    form = client.get("/results/plans/campaigns/spring-win-back/freeze").text
    assert "The campaign has begun" in form
    assert 'name="apply"' not in form
    answer = client.post("/results/plans/campaigns/spring-win-back/freeze", WISH)
    assert answer.status_code == 303
    assert [row.after_start for row in plan_rows(shop)] == [True]
    page = client.get(answer.headers["Location"]).text
    assert "after the start" in page
    assert "The plan was made after the experiment had begun" in page
    refused = client.post(
        "/results/plans/campaigns/spring-win-back/freeze", {**WISH, "apply": "1", "days": "7"}
    )
    assert refused.status_code == 422
    assert len(plan_rows(shop)) == 1


def test_a_read_out_is_held_against_the_plan_from_before_the_start(shop: Shop) -> None:
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "spring-win-back")
        arms = planning.arms_of(campaigns.spec_of(campaign), 0.2)
        plan = Plan(
            "converted", 0, 0.01, 0.1, "share", 0.05, 0.8, "holdout", arms, 100, 28, "Go on if it rises."
        )
        early = plans.save(session, "campaign:spring-win-back", plan, started=False, by="a@x", now=seed.NOW)
        late = plans.save(
            session, "campaign:spring-win-back", replace(plan, metric="revenue"), started=True, by="a@x",
            now=seed.NOW + timedelta(days=1),
        )  # fmt: skip
        ids = early.id, late.id
    client = shop.client()
    page = client.get(f"/results/plans/{ids[1]}").text
    assert "Another version binds the read-out" in page
    page = client.get(f"/results/plans/{ids[0]}").text
    assert "This read-out does not keep to its plan." in page
    assert "Another goal: Revenue instead of Conversion." in page
    assert "A shorter window: 14 days instead of 28." in page
    assert client.get("/results/plans/9999").status_code == 404


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_deviation_has_its_sentence(shop: Shop, language: str) -> None:
    values: dict[str, tuple[Any, Any]] = {
        plans.READ_EARLY: ("2026-03-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"),
        plans.OTHER_METRIC: ("revenue", "orders"),
        plans.OTHER_METHOD: ("fixed", "sequential"),
        plans.OTHER_ARMS: (["holdout", "A"], ["holdout", "B"]),
        plans.OTHER_SPLIT: ({"holdout": 0.2, "A": 0.8}, {"holdout": 0.5, "A": 0.5}),
    }
    found = [
        {"code": code, "planned": a, "found": b}
        for code in plans.CODES
        for a, b in [values.get(code, (28, 14))]
    ]
    with shop.app.test_request_context(f"/?lang={language}"):
        text = render_template("results/plan_check.html", deviations=found, plan_id=3)
        good = render_template("results/plan_check.html", deviations=[], plan_id=None)
    assert text.count("<li>") == len(plans.CODES)
    for code in plans.CODES:
        assert code not in text
    assert "/results/plans/3" in text
    assert "notice is-good" in good


def test_an_empty_shop_is_told_what_plans_are(empty_shop: Shop) -> None:
    client = empty_shop.client()
    assert "No plans yet" in client.get("/results/plans").text
    part = client.get("/results/plans/answer", headers=HTMX)
    assert part.status_code == 200
    assert "fewer than two members" in part.text


SHOP_WISH = {**WISH, "segment": "", "holdout": "40", "days": "14", "reach": "50", "apply": "1"}


def an_experiment(shop: Shop, **more: Any) -> int:
    arms = (("control", 0.5), ("one", 0.25), ("two", 0.25))
    with shop.database.write() as session:
        new = experiments.NewExperiment("free-shipping", arms, "control", **more)
        return experiments.create(session, new, seed.NOW, by="a@x").id


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_experiment_of_the_shops_is_planned_by_the_same_grid(shop: Shop, language: str) -> None:
    number = an_experiment(shop, coverage=0.2)
    client = shop.client(language=language)
    assert "/results/plans/ask?experiment=free-shipping" in client.get(f"/results/experiments/{number}").text
    page = client.get("/results/plans/ask?experiment=free-shipping&segment=dormant-buyers").text
    assert re.search(r'name="reach" value="19"', page), "20 % are covered, less 5 % of the global control"
    part = client.get("/results/plans/answer?experiment=free-shipping&segment=dormant-buyers", headers=HTMX)
    link = re.search(
        r'href="(/results/plans/experiments/free-shipping/freeze\?[^"]*holdout=30[^"]*)"', part.text
    )
    assert link is not None
    form = client.get(link.group(1).replace("&amp;", "&")).text
    assert re.search(r'name="holdout"[^>]* value="30"', form)
    assert '<option value="dormant-buyers" selected>' in form


def test_an_experiments_plan_is_frozen_before_it_starts_and_gives_the_draft_its_weights(shop: Shop) -> None:
    number, client = an_experiment(shop), shop.client()
    address = "/results/plans/experiments/free-shipping/freeze"
    answer = client.post(address, SHOP_WISH)
    assert answer.status_code == 303
    (row,) = plan_rows(shop)
    plan = plans.from_json(row.plan)
    assert (row.subject, row.version, row.after_start) == ("experiment:free-shipping", 1, False)
    assert plan.control == "control"
    assert plan.arms == pytest.approx({"control": 0.4, "one": 0.3, "two": 0.3})
    assert plan.members == round(plan.baseline["n"] * 0.5)
    with shop.database.read() as session:
        past = planning.history(
            session, open_engine(shop.settings), shop.settings, EVERYBODY, (),
            outlook_spec(shop), seed.NOW, [14],
        )  # fmt: skip
    (option,) = outlook.options(outlook_spec(shop), past, outlook.Terms(reach=0.5, arm_share=0.5), [0.4])
    # Sums of a file's parts come in any order, so that the last digits of two scans differ.
    assert plan.mde == pytest.approx(option.mde, rel=1e-9)
    page = client.get(f"/results/experiments/{number}").text
    assert '<td class="num">40%</td>' in page
    assert f"/results/plans/{row.id}" in page
    with shop.database.write() as session:
        experiments.change(session, "free-shipping", status="running", by="a@x", now=seed.NOW)
    refused = client.post(address, SHOP_WISH)
    assert refused.status_code == 422
    assert "The experiment has started" in refused.text
    assert client.post(address, {**SHOP_WISH, "apply": "", "days": "7"}).status_code == 303
    assert [one.after_start for one in plan_rows(shop)] == [False, True]
    assert "binds" in client.get(f"/results/plans/{row.id}").text


def test_a_read_out_of_the_shops_experiment_is_held_against_its_plan(shop: Shop) -> None:
    number, client = an_experiment(shop), shop.client()
    client.post("/results/plans/experiments/free-shipping/freeze", SHOP_WISH)
    with shop.database.write() as session:
        experiments.change(session, "free-shipping", status="running", by="a@x", now=seed.NOW)
        members = list(session.scalars(sa.select(Member.id).order_by(Member.id)))
        arms = ("control", "control", "one", "one", "two")
        rows = [(one, arms[at % 5], seed.NOW - timedelta(days=20)) for at, one in enumerate(members)]
        assignment.store_assignments(session, number, rows)
    assert client.post(f"/results/experiments/{number}/measure").status_code == 303
    (row,) = plan_rows(shop)
    page = client.get(f"/results/plans/{row.id}").text
    held = page.split("Held against the newest read-out")[1]
    assert "Another split" in held
    assert "Read early" not in held
    assert "Orders" in held, "the planned guardrail"


def test_visitors_and_bandits_have_nothing_to_plan(shop: Shop) -> None:
    number = an_experiment(shop, unit="visitor")
    assert "/results/plans/ask?experiment" not in shop.client().get(f"/results/experiments/{number}").text
    assert shop.client().get("/results/plans/ask?experiment=free-shipping").status_code == 409


def test_a_draft_is_changed_until_it_starts(shop: Shop) -> None:
    number, client = an_experiment(shop, about="Before"), shop.client()
    address = f"/results/experiments/{number}/edit"
    client.post("/results/plans/experiments/free-shipping/freeze", {**SHOP_WISH, "apply": ""})
    form = client.get(address).text
    assert re.search(r'name="arm-1-weight"[^>]* value="25"', form)
    sent = {
        "name": "ignored", "unit": "member", "about": "After", "allocation": "fixed", "hash_version": "2",
        "arm-0-name": "control", "arm-0-weight": "20", "arm-1-name": "new", "arm-1-weight": "80",
        "coverage": "30", "layer": "checkout", "layer_low": "0", "layer_high": "50",
        "ends_at": "2036-01-01T00:00",
    }  # fmt: skip
    assert client.post(address, {**sent, "arm-1-weight": "70"}).status_code == 422
    assert client.post(address, sent).status_code == 303
    with shop.database.read() as session:
        row = experiments.by_name(session, "free-shipping")
        assert (row.arms, row.coverage, row.about, row.layer, row.version) == (
            [{"name": "control", "weight": 0.2}, {"name": "new", "weight": 0.8}], 0.3, "After", "checkout", 2,
        )  # fmt: skip
        salt = row.salt
    page = client.get(f"/results/experiments/{number}").text
    assert "not those that were planned; plan it anew" in page
    assert client.post(address, sent).status_code == 303
    with shop.database.write() as session:
        row = experiments.change(session, "free-shipping", status="running", by="a@x", now=seed.NOW)
        assert (row.version, row.salt) == (3, salt), "the same again changed nothing"
    refused = client.post(address, {**sent, "coverage": "90"})
    assert refused.status_code == 422
    assert "has started, so its arms stay" in refused.text
    assert client.get(address).status_code == 303
