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
from experiments import outlook
from experiments import planning as plans
from experiments.models import ExperimentPlan
from experiments.planning import Plan
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
