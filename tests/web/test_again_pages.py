"""Campaigns → Run again: numbers first, asked for by one, approved by another, run once."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from campaigns.models import Campaign, CampaignRun
from core import settings as core_settings
from experiments import planning as plans
from experiments.models import Readout
from experiments.planning import Plan
from experiments.readout_form import Guarded
from experiments.readout_guardrails import NOBODY
from tests.web import seed
from tests.web.conftest import Shop
from web.cli import main

NAME = "spring-win-back"
PAGE = f"/campaigns/{NAME}"


def stored(shop: Shop) -> dict[str, Any]:
    with shop.database.read() as session:
        row = session.scalars(sa.select(Campaign).where(Campaign.name == NAME)).one()
        keys = session.scalars(
            sa.select(CampaignRun.run_key).where(CampaignRun.campaign_id == row.id).order_by(CampaignRun.id)
        )
        return {"state": row.state, "by": row.again_by, "rest": row.spec.get("rest_days"), "runs": list(keys)}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_finished_campaign_offers_to_run_again_with_numbers_of_before_and_now(
    any_shop: Shop, language: str
) -> None:
    client = any_shop.client("marketer@example.com", language=language)
    assert f"{PAGE}/again" in client.get(PAGE).text
    page = client.get(f"{PAGE}/again")
    assert page.status_code == 200
    assert ">v1</a>" in page.text
    assert 'id="rest_days"' in page.text
    simulated = client.get(f"{PAGE}/simulation?rest_days=30", headers={"HX-Request": "true"}).text
    assert ("resting" if language == "en" else "间隔期") in simulated
    everybody = client.get(f"{PAGE}/simulation", headers={"HX-Request": "true"}).text
    assert ("resting" if language == "en" else "间隔期") not in everybody


def test_one_asks_another_approves_and_it_runs_once(shop: Shop) -> None:
    asker = shop.client("marketer@example.com")
    assert (
        asker.post(f"{PAGE}/again", {"rest_days": "", "budget": "50000", "scheduled_at": ""}).status_code
        == 303
    )
    assert stored(shop) == {"state": "pending", "by": "marketer@example.com", "rest": None, "runs": ["v1"]}
    twice = asker.post(f"{PAGE}/again", {"rest_days": "30"})
    assert twice.status_code == 422
    assert "can be run again" in twice.text
    assert stored(shop)["rest"] is None
    page = asker.get(PAGE).text
    assert f"{PAGE}/edit" not in page
    assert "You asked for it to run again" in page
    admin = shop.client()
    assert "marketer@example.com asked for it to run again" in admin.get(PAGE).text
    admin.post(f"{PAGE}/approve", {"confirm": NAME})
    assert stored(shop)["state"] == "approved"
    for _ in range(2):
        asker.post(f"{PAGE}/run", {"confirm": NAME})
    for _ in range(100):
        if stored(shop)["state"] == "finished":
            break
        time.sleep(0.1)
    found = stored(shop)
    assert found["state"] == "finished"
    assert found["runs"] == ["v1", found["runs"][1]]
    assert found["runs"][1].endswith("-v2")
    page = asker.get(PAGE).text
    assert found["runs"][1] in page
    assert "Every run" in page


def test_who_asked_cannot_approve_and_sent_back_it_stays_finished(shop: Shop) -> None:
    admin = shop.client()
    admin.post(f"{PAGE}/again", {"rest_days": "7"})
    assert stored(shop) == {"state": "pending", "by": "admin@example.com", "rest": 7, "runs": ["v1"]}
    assert "whoever it reached in the last 7 days" in admin.get(PAGE).text
    admin.post(f"{PAGE}/approve", {"confirm": NAME})
    assert stored(shop)["state"] == "pending"
    page = admin.post(f"{PAGE}/reject", {"why": "too early"}, follow_redirects=True)
    assert "It does not run again" in page.text
    assert (stored(shop)["state"], stored(shop)["by"]) == ("finished", None)


def test_only_what_is_finished_runs_again_and_a_mistake_keeps_what_was_typed(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    assert client.get("/campaigns/tea-week/again").status_code == 303
    refused = client.post(f"{PAGE}/again", {"rest_days": "400", "budget": "123.45"})
    assert refused.status_code == 422
    assert 'value="400"' in refused.text
    assert 'value="123.45"' in refused.text
    assert stored(shop)["state"] == "finished"
    assert shop.client("analyst@example.com").get(f"{PAGE}/again").status_code == 403


def test_the_command_line_asks_and_does_not_run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUILIU_HOME", str(shop.settings.home))
    monkeypatch.setenv("HUILIU_DATABASE_URL", shop.database.url)
    core_settings.load.cache_clear()
    try:
        wrong = CliRunner().invoke(main, ["campaigns", "run", NAME, "--rest-days", "3"])
        assert wrong.exit_code == 2
        done = CliRunner().invoke(main, ["campaigns", "run", NAME, "--again", "--rest-days", "3", "--json"])
        assert done.exit_code == 0, done.output
        assert '"state": "pending"' in done.stdout
        assert stored(shop) == {"state": "pending", "by": "command line", "rest": 3, "runs": ["v1"]}
        refused = CliRunner().invoke(main, ["campaigns", "run", NAME])
        assert refused.exit_code == 1
        assert "only an approved campaign" in refused.stderr
    finally:
        core_settings.load.cache_clear()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_guardrails_are_shown_by_the_read_out_its_file_its_campaign_and_its_plan(
    any_shop: Shop, language: str
) -> None:
    guards = [
        Guarded("revenue", 0, "A", 0.05, "broken", True, -0.31, -0.4, -0.22, 0.05),
        Guarded("unsubscribes", 0, "A", 0.2, "unsure", False, refused=NOBODY),
    ]
    with any_shop.database.write() as session:
        campaign = session.scalars(sa.select(Campaign).where(Campaign.name == NAME)).one()
        row = session.scalars(
            sa.select(Readout)
            .where(Readout.experiment_id == campaign.experiment_id, Readout.kind == "real")
            .order_by(Readout.id.desc())
        ).first()
        assert row is not None
        row.result = {**row.result, "guardrails": [asdict(one) for one in guards]}
        plan = plans.save(
            session,
            f"campaign:{NAME}",
            Plan(
                "revenue",
                0,
                100.0,
                0.1,
                "money",
                0.05,
                0.8,
                "holdout",
                {"holdout": 0.2, "A": 0.8},
                200,
                14,
                "ship",
            ),
            started=False,
            by="ann",
            now=seed.NOW,
        )
        session.flush()
        readout_id, plan_id = row.id, plan.id
    client = any_shop.client(language=language)
    for address in (f"/results/{readout_id}", PAGE, f"/results/plans/{plan_id}"):
        page = client.get(address)
        assert page.status_code == 200, address
        assert re.search("[-−]31", page.text), address
        assert re.search("[-−]40", page.text), address
        if language == "en":
            assert "broken: " in page.text, address
            assert "Guardrail Unsubscribes, A" in page.text, address
            assert NOBODY in page.text, address
    assert "guardrails,revenue,A,,state,broken," in client.get(f"/results/{readout_id}/numbers.csv").text
    assert client.get(f"/results/{readout_id}/report.pdf").status_code == 200
