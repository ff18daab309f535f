"""A finished campaign runs again: approved by somebody else, resting whom it reached, arms kept, doubles never."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from campaigns import campaigns, report, results, rollout, undo
from campaigns.decide import REASONS
from campaigns.models import Campaign, CampaignRun
from campaigns.rollout import Winner
from campaigns.run import run, simulate
from channels import consent
from core import members
from core.errors import Conflict, InvalidInput
from core.imports import load_rows, numbered
from core.warehouse.replica import mark
from tests.campaigns.conftest import NOW, Shop
from tests.conftest import count
from web.queries import campaigns as queries

WEEK = NOW + timedelta(days=7)


def first_run(shop: Shop, number: int = 600, **changes: Any) -> dict[str, Any]:
    shop.members(number)
    shop.control(0)
    shop.campaign(**changes)
    return run(shop.database, shop.engine, shop.settings, "back", NOW).to_json()


def ask(shop: Shop, *, by: str = "author", now: Any = WEEK, **options: Any) -> None:
    with shop.database.write() as session:
        campaigns.run_again(session, campaigns.by_name(session, "back", lock=True), by, now, **options)


def approve(shop: Shop, by: str = "boss", now: Any = WEEK) -> None:
    with shop.database.write() as session:
        campaigns.approve(session, campaigns.by_name(session, "back", lock=True), by, now)


def again(shop: Shop, now: Any = WEEK, **options: Any) -> dict[str, Any]:
    return run(shop.database, shop.engine, shop.settings, "back", now, **options).to_json()


def more_members(shop: Shop, low: int, high: int) -> None:
    rows = [
        {"member_id": f"m{n}", "email": f"m{n}@example.com", "email_consent": "true"}
        for n in range(low, high + 1)
    ]
    if shop.database.dialect == "postgresql":  # the others were stored with ids of their own
        with shop.database.write() as session:
            session.execute(sa.text("SELECT setval(pg_get_serial_sequence('members', 'id'), 100000)"))
    load_rows(
        shop.database, "members", numbered(rows), settings=shop.settings, source="shop", now=NOW + timedelta(days=1),
        consents=consent.set_many,
    )  # fmt: skip


def arms(shop: Shop) -> dict[int, str]:
    return dict(shop.rows("SELECT member_id, arm FROM assignments"))


def test_a_second_run_is_asked_for_approved_by_another_and_has_a_key_of_its_own(shop: Shop) -> None:
    first = first_run(shop)
    ask(shop, by="ann")
    assert shop.state() == "pending"
    with pytest.raises(Conflict, match="only an approved"):
        again(shop)
    with pytest.raises(Conflict, match="somebody else"):
        approve(shop, "ann")
    # Its author wrote what was approved already, and may say yes to the other who asks.
    approve(shop, "author")
    expected = simulate(shop.database, shop.engine, shop.settings, "back", WEEK).counts.to_json()
    done = again(shop)
    assert done == expected == first
    assert shop.rows("SELECT run_key, state FROM campaign_runs ORDER BY id") == [
        ("v1", "finished"),
        ("2026-03-09-v2", "finished"),
    ]
    assert shop.state() == "finished"
    assert count(shop.database, "messages") == 2 * sum(first["sent"].values())
    assert [row[0] for row in shop.rows("SELECT action FROM audit_entries WHERE action = 'run_again'")] == [
        "run_again"
    ]


def test_the_same_run_once_more_does_nothing(shop: Shop) -> None:
    first_run(shop)
    ask(shop)
    approve(shop)
    done = again(shop)
    rows = [count(shop.database, name) for name in ("decisions", "coupons", "messages", "assignments")]
    assert again(shop, WEEK + timedelta(days=1)) == done
    assert [
        count(shop.database, name) for name in ("decisions", "coupons", "messages", "assignments")
    ] == rows
    assert count(shop.database, "campaign_runs") == 2


def test_whom_an_earlier_run_reached_rests_held_out_or_sent_to(shop: Shop) -> None:
    first = first_run(shop, 600)
    more_members(shop, 601, 900)
    expected = simulate(
        shop.database, shop.engine, shop.settings, "back", WEEK, rest_days=14
    ).counts.to_json()
    assert expected["skipped"] == {"resting": 600}
    assert "resting" in REASONS
    ask(shop, rest_days=14)
    approve(shop)
    assert simulate(shop.database, shop.engine, shop.settings, "back", WEEK).counts.to_json() == expected
    done = again(shop)
    assert done == expected
    assert sum(done["sent"].values()) + done["holdout"] == 300
    assert shop.rows("SELECT count(*) FROM messages WHERE member_id <= 600") == [
        (sum(first["sent"].values()),)
    ]
    assert shop.rows(
        "SELECT count(*), min(member_id), max(member_id) FROM decisions WHERE reason = 'resting'"
    ) == [(600, 1, 600)]


def test_nobody_rests_longer_than_was_chosen_or_unless_it_was(shop: Shop) -> None:
    first = first_run(shop, 200)
    late = NOW + timedelta(days=14, seconds=1)
    found = simulate(shop.database, shop.engine, shop.settings, "back", late, rest_days=14).counts.to_json()
    assert found == first
    with pytest.raises(InvalidInput, match="rest_days"):
        ask(shop, rest_days=0)
    assert shop.state() == "finished"


def test_who_has_an_arm_keeps_it_even_under_another_id(shop: Shop) -> None:
    first_run(shop, 300)
    before = arms(shop)
    with shop.database.write() as session:
        session.execute(sa.text("UPDATE members SET external_id = 'renamed-' || external_id"))
        mark(session, "members", [None])
    ask(shop)
    approve(shop)
    again(shop)
    assert arms(shop) == before
    second = shop.rows(
        "SELECT member_id, arm FROM decisions WHERE run_id = (SELECT max(id) FROM campaign_runs)"
    )
    assert dict(second) == before


def test_after_a_roll_out_the_winner_goes_to_everybody_but_the_holdout(shop: Shop) -> None:
    first_run(shop, 600)
    held = {member for member, arm in arms(shop).items() if arm == "holdout"}
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back", lock=True)
        rollout.propose(
            session, campaign, Winner("B", "revenue", 1.0, {"A": 1.0}, {"A": 1, "B": 1}, 0.05), WEEK
        )
    ask(shop)
    with shop.database.write() as session:
        row, _ = rollout.waiting(session)[0]
        rollout.approve(session, row.id, "boss", WEEK)
    with shop.database.read() as session:
        assert campaigns.by_name(session, "back").version == 3, "an approval of what was seen before is stale"
    approve(shop)
    done = again(shop)
    assert done["variants"] == {"B": 600 - len(held)}
    newest = "run_id = (SELECT max(id) FROM campaign_runs)"
    assert {
        row[0] for row in shop.rows(f"SELECT member_id FROM decisions WHERE reason = 'holdout' AND {newest}")
    } == held
    assert (
        shop.rows("SELECT experiment_id, count(*) FROM assignments GROUP BY experiment_id ORDER BY 1")[1][1]
        == 600
    )


def test_a_second_click_is_refused_and_two_runs_at_once_are_one(shop: Shop) -> None:
    first = first_run(shop, 1200)
    ask(shop)
    with pytest.raises(Conflict, match="only finished campaigns can be run again"):
        ask(shop)
    approve(shop)
    with pytest.raises(Conflict, match="approved"):
        approve(shop, "carl")
    results: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: results.append(again(shop))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [first] * 3
    assert count(shop.database, "campaign_runs") == 2
    assert count(shop.database, "decisions") == 2400
    assert count(shop.database, "coupons") == 2 * first["coupons"] == count(shop.database, "messages")


def test_two_who_ask_at_once_ask_once(shop: Shop) -> None:
    first_run(shop, 20)
    refused: list[Exception] = []

    def click() -> None:
        try:
            ask(shop)
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=click) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    with shop.database.read() as session:
        assert campaigns.by_name(session, "back").version == 2


def test_a_crash_in_the_middle_goes_on_and_adds_nothing_twice(shop: Shop) -> None:
    first = first_run(shop, 1000)
    more_members(shop, 1001, 1600)
    ask(shop, rest_days=30)
    approve(shop)
    expected = simulate(shop.database, shop.engine, shop.settings, "back", WEEK).counts.to_json()

    def crash(done: int, _total: int) -> None:
        if done == 1200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(shop, progress=crash)
    assert shop.rows("SELECT count(*) FROM decisions WHERE run_id = (SELECT max(id) FROM campaign_runs)") == [
        (1200,)
    ]
    assert shop.state() == "running"
    with shop.database.read() as session:
        assert campaigns.due(session, WEEK) == ["back"]
    # Those whom the crashed part reached are of this very run: they do not rest from it.
    assert again(shop, WEEK + timedelta(hours=3)) == expected
    assert count(shop.database, "coupons") == first["coupons"] + expected["coupons"]
    assert count(shop.database, "messages") == count(shop.database, "coupons")


def test_what_waits_to_run_again_is_not_edited_and_sent_back_it_is_finished(shop: Shop) -> None:
    first_run(shop, 20)
    ask(shop)
    with shop.database.write() as session, pytest.raises(Conflict, match="as it was"):
        campaign = campaigns.by_name(session, "back", lock=True)
        campaigns.update(
            session, campaign, title="Other", spec=campaigns.spec_of(campaign), by="author", now=WEEK
        )
    with shop.database.write() as session:
        campaigns.reject(session, campaigns.by_name(session, "back", lock=True), "boss", WEEK, "too early")
    with shop.database.read() as session:
        campaign = campaigns.by_name(session, "back")
        assert (campaign.state, campaign.again_by, campaign.again_key) == ("finished", None, None)
    ask(shop, by="boss")
    assert shop.state() == "pending"


def test_undoing_the_second_run_leaves_the_first_as_it_was(shop: Shop) -> None:
    first = first_run(shop, 200)
    before = arms(shop)
    with shop.database.write() as session:
        session.execute(sa.text("UPDATE messages SET state = 'sent'"))
    more_members(shop, 201, 260)
    ask(shop)
    approve(shop)
    again(shop)
    assert len(arms(shop)) == 260
    with shop.database.write() as session:
        undo.undo(session, campaigns.by_name(session, "back"), "author", WEEK)
    assert arms(shop) == before
    assert shop.rows("SELECT count(*) FROM coupons WHERE state = 'issued'") == [(first["coupons"],)]
    assert shop.state() == "finished"
    found = simulate(shop.database, shop.engine, shop.settings, "back", WEEK, rest_days=2).counts.to_json()
    assert "resting" not in found["skipped"], "a run that was undone reached nobody"
    ask(shop)
    approve(shop)
    assert again(shop)["candidates"] == 260
    with shop.database.read() as session:
        assert session.scalars(sa.select(CampaignRun.run_key).order_by(CampaignRun.id)).all() == [
            "v1",
            "2026-03-09-v2",
            "2026-03-09-v4",
        ]


def test_the_budget_is_one_for_all_runs(shop: Shop) -> None:
    first = first_run(shop, 300, holdout=0, budget_minor=400_000)
    spent = sum(first["sent"].values()) * 1000 + first["points"]
    assert 300_000 <= spent < 400_000
    ask(shop, budget_minor=400_000)
    approve(shop)
    expected = simulate(shop.database, shop.engine, shop.settings, "back", WEEK).counts.to_json()
    done = again(shop)
    assert done == expected
    cost = sum(done["sent"].values()) * 1000 + done["points"]
    assert 400_000 - 1100 < spent + cost <= 400_000
    assert done["skipped"]["budget"] == 300 - sum(done["sent"].values())


def test_a_scheduled_second_run_that_nobody_started_for_a_day_is_paused(shop: Shop) -> None:
    first_run(shop, 20)
    ask(shop, scheduled_at=WEEK + timedelta(hours=1))
    approve(shop)
    with shop.database.read() as session:
        assert campaigns.due(session, WEEK) == []
        assert campaigns.due(session, WEEK + timedelta(hours=2)) == ["back"]
    with shop.database.write() as session:
        assert campaigns.pause_missed(session, WEEK + timedelta(hours=2)) == []
        assert campaigns.pause_missed(session, WEEK + timedelta(days=2)) == ["back"]


def test_an_erased_member_is_in_no_second_run(shop: Shop) -> None:
    first_run(shop, 30)
    with shop.database.write() as session:
        members.erase(session, 3, "test", WEEK)
    ask(shop)
    approve(shop)
    assert again(shop)["candidates"] == 29
    with shop.database.read() as session:
        assert session.scalar(sa.select(Campaign.version)) == 2


def test_the_experiment_of_before_a_roll_out_is_still_the_campaigns(shop: Shop) -> None:
    first_run(shop, 400)
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back", lock=True)
        old = campaign.experiment_id
        assert old is not None
        assert report.shared(session, old) == 0
        rollout.propose(session, campaign, Winner("B", "revenue", 1.0, {"A": 1.0}, {}, 0.05), WEEK)
        found = results.result(session, shop.engine, campaign, WEEK, "CNY")
        results.freeze(session, campaign, found, as_of=WEEK, now=WEEK)
    with shop.database.write() as session:
        row, _ = rollout.waiting(session)[0]
        rollout.approve(session, row.id, "boss", WEEK)
    with shop.database.read() as session:
        campaign = campaigns.by_name(session, "back")
        new = campaign.experiment_id
        assert new not in (None, old)
        assert queries.campaign_of(session, old) is campaign
        assert new is not None
        assert queries.campaign_of(session, new) is campaign
        assert queries.campaign_of(session, 999) is None
        assert [(one.campaign, one.title) for one in queries.all_readouts(session, 1).rows] == [
            ("back", "Come back")
        ]
        assert rollout.measured(session, campaign) == old, "nobody is in the new one yet"
        assert report.by_name(session, "campaign:back")[1] is campaign
        assert report.shared(session, old) == 0
    ask(shop)
    approve(shop)
    done = again(shop)
    with shop.database.read() as session:
        campaign = campaigns.by_name(session, "back")
        assert rollout.measured(session, campaign) == new
        assert report.shared(session, new) == 0, "the arms of earlier runs are another experiment's"
        spec = campaigns.spec_of(campaign)
        every = results.costs_by_arm(session, campaign, spec)["B"]
        this = results.costs_by_arm(session, campaign, spec, this_experiment=True)
    assert list(this) == ["B"]
    assert this["B"].points == done["points"]
    assert every.points > this["B"].points


def test_a_proposal_that_waits_or_was_rejected_lists_a_readout_once(shop: Shop) -> None:
    first_run(shop, 200)
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back", lock=True)
        for arm in ("A", "B"):
            rollout.propose(session, campaign, Winner(arm, "revenue", 1.0, {}, {}, 0.05), WEEK)
        found = results.result(session, shop.engine, campaign, WEEK, "CNY")
        results.freeze(session, campaign, found, as_of=WEEK, now=WEEK)
    with shop.database.write() as session:
        rollout.reject(session, rollout.waiting(session)[0][0].id, "boss", WEEK)
    with shop.database.read() as session:
        assert len(queries.all_readouts(session, 1).rows) == 1
