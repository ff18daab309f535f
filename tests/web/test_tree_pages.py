"""Pages of the metrics tree and of the watch: what they say, what they change, who may."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from campaigns import alerts, campaigns, watching
from campaigns.alerts import RED, YELLOW, Light
from campaigns.models import Alert, Campaign, Rollout
from core.models import AuditEntry
from experiments.models import Experiment
from segments import tree, tree_alerts, tree_scan
from segments.facts import open_engine
from segments.tree import GroupPart
from segments.tree_alerts import Anomaly, Cause
from tests.web import seed
from tests.web.conftest import Shop
from web import charts_tree

ZONE = ZoneInfo("Asia/Shanghai")
LAST = tree_scan.last_whole(seed.NOW, ZONE)


def watched(shop: Shop) -> watching.Watched:
    return watching.watch(shop.database, open_engine(shop.settings), shop.settings, seed.NOW)


def test_the_tree_names_the_change_and_its_parts_sum_to_it(shop: Shop) -> None:
    weeks = tree_scan.series(open_engine(shop.settings), LAST, ZONE, seed.NOW)
    change = tree.change_of(weeks[-2], weeks[-1], deep=True)
    assert change.change
    text = shop.client().get("/results/tree").text
    assert ("higher" if change.change > 0 else "lower") + " than in the week before" in text
    assert f"¥{weeks[-1].gmv / 100:,.0f}" in text
    for name in ("Visitors", "Conversion", "Orders a buyer", "Basket", "Units an order", "Price a unit"):
        assert name in text
    assert 'aria-current="page">Metrics tree</a>' in text
    assert text.count('<rect class="is-') == 2 + len(change.factors)


def test_every_figure_and_way_of_dividing_is_answered(shop: Shop) -> None:
    client = shop.client()
    for node in tree.NODES:
        for by in tree_scan.GROUPS:
            page = client.get(f"/results/tree?node={node}&by={by}")
            assert page.status_code == 200, (node, by)
    text = client.get("/results/tree?node=gmv&by=city").text
    assert "The parts of the groups sum to the change." in text


def test_the_page_names_the_other_week_too_where_it_is_known(shop: Shop) -> None:
    weeks = tree_scan.series(open_engine(shop.settings), LAST, ZONE, seed.NOW)
    client = shop.client()
    page, by_year = (client.get(f"/results/tree?against={one}").text for one in ("previous", "year"))
    assert ("Against the same week last year: " in page) == (weeks[-53].gmv > 0)
    assert ("Against the week before: " in by_year) == (weeks[-2].gmv > 0)
    assert weeks[-2].gmv > 0


def test_what_explains_an_anomaly_is_asked_for_after_the_page(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    weeks = tree_scan.series(open_engine(shop.settings), LAST, ZONE, seed.NOW)
    was, now = weeks[-2].gmv, weeks[-1].gmv
    found = Anomaly(tree.GMV, LAST, was, now, 3 * was, 2 * was, 4 * was, 30, tree.MEMBERS)
    divided: list[int] = []
    divide = tree_alerts.divide
    monkeypatch.setattr(tree_alerts, "anomalies", lambda *_: [found])
    monkeypatch.setattr(tree_alerts, "divide", lambda *given: divided.append(1) or divide(*given))
    monkeypatch.setattr(
        tree_alerts, "causes", lambda *_: [Cause("city", GroupPart("Paris", was, now, 0, 0, 0), 0.5, 0.1)]
    )
    client = shop.client()
    text = client.get("/results/tree?against=year").text
    assert "is unusually" in text
    assert 'hx-get="/results/tree/why?week=' in text
    assert not divided, "the page does not wait for it"
    assert "Paris" not in text
    part = client.get(f"/results/tree/why?week={LAST}").text
    assert "Paris" in part
    assert "hx-get" not in part
    assert divided == [1]
    whole = client.get("/results/tree?why=1").text
    assert "Paris" in whole
    assert 'hx-get="/results/tree/why' not in whole


@pytest.mark.parametrize(
    "query", ["week=soon", "week=1999-01-01", "week=9999-12-31", "against=x&by=y&node=z"]
)
def test_an_odd_address_shows_the_nearest_that_there_is(shop: Shop, query: str) -> None:
    assert shop.client().get(f"/results/tree?{query}").status_code == 200


def test_the_overview_asks_for_what_moved(shop: Shop) -> None:
    client = shop.client()
    assert 'hx-get="/results/tree/sentence"' in client.get("/").text
    assert "Revenue was" in client.get("/results/tree/sentence").text


def test_a_waterfall_begins_at_nought_and_ends_where_the_parts_lead() -> None:
    found = charts_tree.waterfall(
        "t", ("was", 100), [("a", "A", -50, 2, 1), ("b", "B", 150, 1, 4)], ("is", 200)
    )
    places = [(bar.kind, bar.left, bar.width) for bar in found.bars]
    assert places == [("whole", 0, 50), ("down", 25, 25), ("up", 25, 75), ("whole", 0, 100)]


def test_lights_of_a_campaign_stand_on_its_page_and_alerts_on_the_overview(shop: Shop) -> None:
    done = watched(shop)
    assert done.failed == {}
    assert set(done.campaigns) == {"spring-win-back"}
    client = shop.client()
    text = client.get("/campaigns/spring-win-back").text
    assert "Bounces and failures" in text
    assert "the read-out of that day" in text
    with shop.database.write() as session:
        alerts.keep(
            session,
            "campaign:spring-win-back",
            [Light("budget", RED, 1.2, 1.0, {"spent": 120, "budget": 100})],
            seed.NOW,
        )
    assert "¥1.20 of ¥1.00 spent (120%)" in client.get("/").text
    assert "¥1.20 of ¥1.00 spent" in client.get("/results/watching").text


def test_an_alert_is_seen_then_resolved_by_name(shop: Shop) -> None:
    with shop.database.write() as session:
        light = Light("bounce", YELLOW, 0.03, 0.02, {"number": 30, "of": 1000})
        alerts.keep(session, "campaign:spring-win-back", [light], seed.NOW)
        number = session.scalars(sa.select(Alert.id)).one()
    client = shop.client("marketer@example.com")
    assert client.post(f"/results/watching/alerts/{number}/seen").status_code == 303
    assert "seen by marketer@example.com" in client.get("/results/watching").text
    assert client.post(f"/results/watching/alerts/{number}/resolve").status_code == 303
    text = client.get("/results/watching").text
    assert "All lights are green." in text
    assert "resolved by marketer@example.com" in text
    with shop.database.read() as session:
        done = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.object_type == "alert")).all()
        assert sorted(done) == ["resolve", "see"]


def test_a_rule_and_thresholds_are_saved_and_a_wrong_one_keeps_what_was_typed(shop: Shop) -> None:
    client = shop.client()
    answer = client.post("/results/watching/campaigns/spring-win-back", {"stop_on": ["srm", "budget"]})
    assert answer.status_code == 303
    with shop.database.read() as session:
        assert watching.rule_of(session, campaigns.by_name(session, "spring-win-back").id) == (
            "srm",
            "budget",
        )
    text = client.get("/results/watching/settings").text
    data: dict[str, Any] = dict(re.findall(r'name="(\w+)" type="text" value="([^"]*)"', text))
    assert data["bounce_red"] == "5"
    wrong = client.post(
        "/results/watching/settings", {**data, "bounce_yellow": "7", "emails": "a@example.com"}
    )
    assert wrong.status_code == 422
    assert 'value="7"' in wrong.text
    right = client.post(
        "/results/watching/settings", {**data, "bounce_yellow": "3", "emails": "a@example.com"}
    )
    assert right.status_code == 303
    with shop.database.read() as session:
        found = watching.load(session)
        assert (found.bounce_yellow, found.bounce_red, found.emails) == (0.03, 0.05, ("a@example.com",))


def propose(shop: Shop) -> int:
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "spring-win-back")
        row = Rollout(
            campaign_id=campaign.id, experiment_id=campaign.experiment_id, arm="B", state="proposed",
            evidence={"metric": "revenue", "members": {"A": 200, "B": 200, "holdout": 100}}, before=[],
            proposed_at=seed.NOW - timedelta(days=1),
        )  # fmt: skip
        session.add(row)
        session.flush()
        return row.id


def test_a_winner_waits_for_somebody_else_than_the_author(shop: Shop) -> None:
    number = propose(shop)
    author = shop.client("marketer@example.com")
    assert "somebody else approves its roll-out" in author.get("/results/watching").text
    author.post(f"/results/watching/rollouts/{number}/approve")
    with shop.database.read() as session:
        assert session.get_one(Rollout, number).state == "proposed"
    boss = shop.client("admin@example.com")
    assert "variant “B” has won" in boss.get("/").text
    assert boss.post(f"/results/watching/rollouts/{number}/approve").status_code == 303
    with shop.database.read() as session:
        campaign = session.scalars(sa.select(Campaign).where(Campaign.name == "spring-win-back")).one()
        assert [one["name"] for one in campaign.spec["variants"]] == ["B"]
        coming = session.get_one(Experiment, campaign.experiment_id)
        assert [(arm["name"], arm["weight"]) for arm in coming.arms] == [("holdout", 0.2), ("B", 0.8)]
    assert boss.get("/campaigns/spring-win-back").status_code == 200
    assert boss.post(f"/results/watching/rollouts/{number}/burn").status_code == 404


def test_the_commands_answer_in_json(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from web.cli import main
    from web.commands import watching as commands

    monkeypatch.setattr(commands, "open_installation", lambda: (shop.settings, shop.database))
    monkeypatch.setattr(commands, "now", lambda _settings: seed.NOW)
    shown = CliRunner().invoke(main, ["tree", "--json"])
    value = json.loads(shown.output)
    assert (value["week"], value["basis"]) == (LAST.isoformat(), "visits")
    assert sum(value["change"]["parts"].values()) == pytest.approx(value["change"]["gmv"])
    assert CliRunner().invoke(main, ["tree", "--week", "2026-02-24"]).exit_code == 1
    table = CliRunner().invoke(main, ["tree", "--week", LAST.isoformat()]).output
    assert "Week from" in table
    assert "money in CNY" in table
    assert "→" in table
    assert "¥" in next(line for line in table.splitlines() if line.startswith("gmv "))
    assert "%" in next(line for line in table.splitlines() if line.startswith("conversion "))
    done = CliRunner().invoke(main, ["campaigns", "watch", "--json"])
    assert set(json.loads(done.output)["campaigns"]) == {"spring-win-back"}
