"""The watch: once a day, lights by thresholds, alerts that are not doubled, stops by rule, winners by approval."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from campaigns import alerts, campaigns, flows, lights, rollout, watching
from campaigns.alerts import GOOD, RED, YELLOW, Light
from campaigns.lights import Sending, Thresholds
from campaigns.models import Alert, Campaign, CampaignRun, Rollout, WatchDay
from campaigns.run import run
from channels.models import Message
from core import settings as core_settings
from core.errors import Conflict, InvalidInput, NotFound
from core.imports import load_rows, numbered
from core.models import AuditEntry
from experiments import metrics
from experiments.models import Assignment, Readout
from experiments.moments import ArmMoments, Moments
from experiments.stats.estimate import Estimate
from tests.campaigns.conftest import NOW, Shop
from tests.conftest import count

LATER = NOW + timedelta(days=3)


def ran(shop: Shop, members: int = 1200, **changes: Any) -> None:
    """A campaign that was sent to everybody, and messages that left."""
    shop.members(members)
    shop.control(0)
    shop.campaign(**changes)
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    with shop.database.write() as session:
        session.execute(sa.update(Message).values(state="sent", sent_at=NOW + timedelta(hours=1)))


def buys(shop: Shop, amounts: dict[str, float]) -> None:
    """One order a member after the campaign: around an amount by arm."""
    luck = np.random.default_rng(4)
    rows = [
        {"order_id": f"o{member}", "member_id": f"m{member}", "ordered_at": (NOW + timedelta(days=1)).isoformat(),
         "sku": "s", "amount": f"{amounts[arm] * luck.uniform(0.8, 1.2):.2f}"}
        for member, arm in shop.rows("SELECT member_id, arm FROM assignments ORDER BY member_id")
    ]  # fmt: skip
    report = load_rows(
        shop.database,
        "orders",
        numbered(rows),
        settings=shop.settings,
        source="shop",
        now=LATER,
        consents=lambda _s, _c: None,
    )
    assert not report.rejected


def watch(shop: Shop, now: datetime = LATER) -> watching.Watched:
    return watching.watch(shop.database, shop.engine, shop.settings, now)


def by_check(shop: Shop) -> dict[str, dict[str, Any]]:
    with shop.database.read() as session:
        row = session.scalars(sa.select(WatchDay).order_by(WatchDay.day.desc())).first()
        assert row is not None
        return {light["check"]: light for light in row.lights}


def test_a_campaign_is_read_out_once_a_day_of_the_shop(shop: Shop) -> None:
    ran(shop)
    buys(shop, {"A": 100, "B": 100, "holdout": 100})
    first = watch(shop)
    assert first.campaigns == {"back": GOOD}
    assert (first.failed, first.stopped, first.proposed) == ({}, [], [])
    assert watch(shop).campaigns == {"back": "known"}
    assert count(shop.database, "readouts") == count(shop.database, "watch_days") == 1
    midnight = datetime(2026, 3, 5, 16, tzinfo=UTC)  # in Shanghai
    assert watch(shop, midnight - timedelta(seconds=1)).campaigns == {"back": "known"}
    assert watch(shop, midnight).campaigns == {"back": GOOD}
    assert count(shop.database, "readouts") == 2
    with shop.database.read() as session:
        assert {row.kind for row in session.scalars(sa.select(Readout))} == {"real"}
        linked = session.scalars(sa.select(WatchDay.readout_id).order_by(WatchDay.day)).all()
        assert sorted(linked) == sorted(session.scalars(sa.select(Readout.id)))


def test_it_is_watched_until_some_days_after_its_windows_have_closed(shop: Shop) -> None:
    ran(shop, 300)
    days = 14 + Thresholds().days_after
    assert watch(shop, NOW + timedelta(days=days, seconds=-1)).campaigns == {"back": GOOD}
    assert watch(shop, NOW + timedelta(days=days)).campaigns == {}
    with shop.database.write() as session:
        campaigns.archive(session, campaigns.by_name(session, "back"), "boss", LATER)
    assert watch(shop).campaigns == {}


def test_a_split_that_is_off_is_red_and_pauses_what_its_rule_names(shop: Shop) -> None:
    ran(shop)
    with shop.database.write() as session:
        session.execute(sa.delete(Assignment).where(Assignment.arm == "A", Assignment.member_id % 2 == 0))
        campaign = campaigns.by_name(session, "back")
        campaign.state = campaigns.RUNNING
        watching.save_rule(session, campaign, ["srm"], "boss", NOW)
    done = watch(shop)
    assert (done.campaigns, done.stopped) == ({"back": RED}, ["back"])
    assert shop.state() == "paused"
    light = by_check(shop)["srm"]
    assert light["tone"] == RED
    assert light["value"] < 0.001 == light["limit"]
    with shop.database.read() as session:
        entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "stop")).one()
        assert (entry.actor, entry.detail["why"][0]["check"]) == ("watch", "srm")
    assert count(shop.database, "rollouts") == 0


def test_without_a_rule_a_red_light_stops_nothing(shop: Shop) -> None:
    ran(shop)
    with shop.database.write() as session:
        session.execute(sa.delete(Assignment).where(Assignment.arm == "A"))
        campaigns.by_name(session, "back").state = campaigns.RUNNING
    done = watch(shop)
    assert (done.campaigns["back"], done.stopped, shop.state()) == (RED, [], "running")
    with pytest.raises(InvalidInput, match="srm, guardrail, budget"), shop.database.write() as session:
        watching.save_rule(session, campaigns.by_name(session, "back"), ["weather"], "boss", NOW)


def test_harm_is_red_when_the_whole_sequence_lies_beyond_the_margin(shop: Shop) -> None:
    ran(shop, 1300)
    buys(shop, {"A": 60, "B": 100, "holdout": 100})
    assert watch(shop).campaigns == {"back": RED}
    found = by_check(shop)
    assert found["guardrail:revenue:A"]["tone"] == RED
    assert found["guardrail:revenue:A"]["detail"]["high"] < -0.05
    assert found["guardrail:revenue:B"]["tone"] == GOOD


def estimate(value: float, n: int = 400, sd: float = 1.0) -> Estimate:
    return Estimate(n, value, sd**2 / n, n - 1)


def test_harm_is_yellow_by_the_estimate_and_green_where_nothing_can_be_said() -> None:
    def tone(treated: Estimate, control: Estimate, **options: Any) -> str:
        return lights.harms("m", {"A": treated, "c": control}, "c", 0.05, 0.05, **options)[0].tone

    assert tone(estimate(0.9), estimate(1.0)) == YELLOW
    assert tone(estimate(0.96), estimate(1.0)) == GOOD
    assert tone(estimate(0.5, 4000, 0.5), estimate(1.0, 4000, 0.5)) == RED
    assert tone(estimate(1.5, 4000, 0.5), estimate(1.0, 4000, 0.5)) == GOOD
    assert tone(estimate(1.5, 4000, 0.5), estimate(1.0, 4000, 0.5), higher_is_better=False) == RED
    assert tone(estimate(1.1), estimate(1.0), higher_is_better=False) == YELLOW
    assert tone(estimate(0.1, 99), estimate(1.0)) == GOOD
    assert tone(estimate(0.5), estimate(0.0)) == GOOD


def test_looking_every_day_at_no_harm_is_red_no_more_often_than_alpha() -> None:
    luck, red = np.random.default_rng(3), 0
    for _ in range(200):
        treated, control = luck.normal(0.95, 1, 4000), luck.normal(1.0, 1, 4000)
        for n in range(200, 4001, 200):
            pair = {
                name: Estimate.of_mean(Moments.of(data[:n]))
                for name, data in (("A", treated), ("c", control))
            }
            if lights.harms("m", pair, "c", 0.05, 0.05)[0].tone == RED:
                red += 1
                break
    assert red / 200 <= 0.05


@pytest.mark.parametrize(
    ("spent", "budget", "tone"),
    [(79.9, 100, GOOD), (80, 100, YELLOW), (99.9, 100, YELLOW), (100, 100, RED), (500, None, GOOD)],
)
def test_a_budget_is_yellow_at_80_per_cent_and_red_when_it_is_used_up(
    spent: float, budget: int | None, tone: str
) -> None:
    assert lights.budget(spent, budget, Thresholds()).tone == tone


def test_rates_have_thresholds_and_few_messages_no_rate() -> None:
    runs = [CampaignRun(started_at=NOW, counts={"sent": {"email": 1000}})]

    def tones(found: Sending, now: datetime = LATER) -> list[str]:
        return [light.tone for light in lights.delivery(found, runs, Thresholds(), now)]

    assert tones(Sending(1000, 0, 19, 0, 9)) == [GOOD] * 4
    assert tones(Sending(1000, 0, 20, 1, 10)) == [YELLOW, YELLOW, YELLOW, GOOD]
    assert tones(Sending(950, 50, 0, 3, 29)) == [RED, RED, RED, GOOD]
    assert tones(Sending(99, 0, 99, 99, 99)) == [GOOD] * 4
    assert tones(Sending(0, 0, 0, 0, 0)) == [GOOD, GOOD, GOOD, RED]
    assert tones(Sending(0, 0, 0, 0, 0), NOW + timedelta(hours=23)) == [GOOD] * 4
    runs[0].counts = {"sent": {}}
    assert tones(Sending(0, 0, 0, 0, 0))[-1] == YELLOW


def test_a_run_whose_messages_never_left_is_red(shop: Shop) -> None:
    ran(shop, 300)
    with shop.database.write() as session:
        session.execute(sa.update(Message).values(state="queued", sent_at=None))
    assert watch(shop).campaigns == {"back": RED}
    assert by_check(shop)["nothing_sent"]["detail"]["chosen"] > 200


def test_messages_that_came_back_are_counted(shop: Shop) -> None:
    ran(shop, 400)
    with shop.database.write() as session:
        session.execute(sa.update(Message).where(Message.id % 10 == 0).values(state="failed", sent_at=None))
    watch(shop)
    light = by_check(shop)["bounce"]
    assert (light["tone"], light["detail"]["number"]) == (
        RED,
        shop.rows("SELECT count(*) FROM messages WHERE state = 'failed'")[0][0],
    )


def test_one_alert_a_light_however_often_it_is_on(shop: Shop) -> None:
    def keep(tone: str, days: int) -> int:
        with shop.database.write() as session:
            light = Light("budget", tone, 0.9, 0.8)
            return len(
                alerts.keep(session, "campaign:x", [light, Light("srm", GOOD)], NOW + timedelta(days=days))
            )

    def listed() -> list[tuple[str, bool, bool]]:
        with shop.database.read() as session:
            rows = session.scalars(sa.select(Alert).order_by(Alert.id))
            return [(row.tone, row.seen_at is not None, row.resolved_at is not None) for row in rows]

    assert (keep(YELLOW, 0), keep(YELLOW, 1)) == (1, 0)
    with shop.database.write() as session:
        number = session.scalars(sa.select(Alert.id)).one()
        alerts.mark_seen(session, number, "ann", NOW)
        alerts.mark_seen(session, number, "bob", NOW)
        assert session.get_one(Alert, number).seen_by == "ann"
    assert (keep(YELLOW, 2), listed()) == (0, [(YELLOW, True, False)])
    assert (keep(RED, 3), listed()) == (1, [(RED, False, False)]), "worse is news"
    assert (keep(YELLOW, 4), listed()) == (0, [(YELLOW, False, False)])
    assert (keep(GOOD, 5), listed()) == (0, [(YELLOW, False, True)])
    assert (keep(RED, 6), listed()) == (1, [(YELLOW, False, True), (RED, False, False)])
    with shop.database.write() as session:
        (still,) = alerts.unresolved(session)
        alerts.resolve(session, still.id, "ann", NOW)
    with pytest.raises(Conflict), shop.database.write() as session:
        alerts.mark_seen(session, still.id, "bob", NOW)
    with pytest.raises(NotFound), shop.database.write() as session:
        alerts.resolve(session, 999, "bob", NOW)


def moments(means: dict[str, float], n: int = 2000, var: float = 1.0) -> dict[str, ArmMoments]:
    return {name: ArmMoments(n, {"revenue": Moments(n, mean, var)}, {}) for name, mean in means.items()}


def test_a_winner_beats_every_other_arm_and_the_holdout() -> None:
    found = rollout.winner(moments({"holdout": 1.0, "A": 1.1, "B": 1.5}), "revenue")
    assert found is not None
    assert (found.arm, set(found.beats), found.alpha) == ("B", {"holdout", "A"}, pytest.approx(0.05 / 3))
    assert min(found.beats.values()) > 0
    for means, n in (
        ({"holdout": 1.0, "A": 1.49, "B": 1.5}, 2000),
        ({"holdout": 1.5, "A": 1.0, "B": 1.5}, 2000),
        ({"holdout": 1.0, "B": 9.0}, 2000),
        ({"holdout": 1.0, "A": 1.1, "B": 9.0}, 99),
    ):
        assert rollout.winner(moments(means, n), "revenue") is None, means


def proposed(shop: Shop) -> int:
    ran(shop, 1300)
    buys(shop, {"A": 100, "B": 200, "holdout": 100})
    assert watch(shop).proposed == ["back"]
    assert watch(shop, LATER + timedelta(days=1)).proposed == []
    with shop.database.read() as session:
        row = session.scalars(sa.select(Rollout)).one()
        assert (row.arm, row.state) == ("B", "proposed")
        return row.id


def test_an_approved_winner_gets_coming_runs_and_nobody_assigned_is_moved(shop: Shop) -> None:
    number = proposed(shop)
    before = shop.rows("SELECT experiment_id, member_id, arm FROM assignments ORDER BY 1, 2")
    held = {member for _, member, arm in before if arm == "holdout"}
    with pytest.raises(Conflict, match="somebody else"), shop.database.write() as session:
        rollout.approve(session, number, "author", LATER)
    with shop.database.write() as session:
        campaign = rollout.approve(session, number, "boss", LATER)
        assert campaign.state == campaigns.FINISHED
        spec = campaigns.spec_of(campaign)
        assert [(variant.name, variant.weight) for variant in spec.variants] == [("B", 1.0)]
        assert spec.holdout == 0.2
        campaign.state = campaigns.APPROVED
    assert shop.rows("SELECT experiment_id, member_id, arm FROM assignments ORDER BY 1, 2") == before
    run(shop.database, shop.engine, shop.settings, "back", LATER, run_key="again")
    rows = shop.rows("SELECT experiment_id, member_id, arm FROM assignments ORDER BY 1, 2")
    assert [row for row in rows if row[0] == before[0][0]] == before
    coming = {member: arm for experiment, member, arm in rows if experiment != before[0][0]}
    assert set(coming.values()) == {"B", "holdout"}
    assert {member for member, arm in coming.items() if arm == "holdout"} == held & set(coming)
    with pytest.raises(Conflict, match="approved already"), shop.database.write() as session:
        rollout.approve(session, number, "boss", LATER)


def test_a_roll_out_waits_for_the_end_of_a_run_and_a_rejected_one_does_not_come_back(shop: Shop) -> None:
    number = proposed(shop)
    with shop.database.write() as session:
        session.execute(sa.update(CampaignRun).values(state=campaigns.RUNNING))
    with pytest.raises(Conflict, match="not finished"), shop.database.write() as session:
        rollout.approve(session, number, "boss", LATER)
    with shop.database.write() as session:
        rollout.reject(session, number, "boss", LATER, "the margin is too thin")
        assert len(campaigns.spec_of(session.scalars(sa.select(Campaign)).one()).variants) == 2
    assert watch(shop, LATER + timedelta(days=2)).proposed == []
    with shop.database.read() as session:
        assert rollout.waiting(session) == []


def test_alerts_are_told_by_e_mail_once_a_day(shop: Shop) -> None:
    ran(shop, 300)
    with shop.database.write() as session:
        session.execute(sa.update(Message).values(state="queued", sent_at=None))
        watching.save(session, Thresholds(emails=("Ann@example.com", "bob@example.com")), "boss", NOW)
        if shop.database.dialect == "postgresql":  # the members were made with ids of their own
            session.execute(sa.text("SELECT setval('members_id_seq', 10000)"))
    messages = count(shop.database, "messages")
    assert watch(shop).emails == 2
    assert count(shop.database, "messages") == messages + 2
    assert watch(shop, LATER + timedelta(days=1)).emails == 0, "no news, no e-mail"
    with shop.database.read() as session:
        mail = session.scalars(sa.select(Message).where(Message.source_kind == "alerts")).first()
        assert mail is not None
        assert (mail.purpose, mail.channel) == ("transactional", "email")
        assert mail.context["data"]["alerts"] == [
            {"tone": "RED", "subject": "campaign:back", "light": "nothing_sent"}
        ]


def test_thresholds_are_checked_and_kept(shop: Shop) -> None:
    with shop.database.write() as session:
        assert watching.load(session) == Thresholds()
        watching.save(session, Thresholds(budget_yellow=0.5, days_after=3), "boss", NOW)
        assert watching.load(session) == Thresholds(budget_yellow=0.5, days_after=3)
    for wrong, field in (
        (Thresholds(bounce_yellow=0.06), "bounce_yellow"),
        (Thresholds(srm_p=0.0), "srm_p"),
        (Thresholds(days_after=0), "days_after"),
        (Thresholds(emails=("nobody",)), "emails"),
    ):
        with pytest.raises(InvalidInput) as refused, shop.database.write() as session:
            watching.save(session, wrong, "boss", NOW)
        assert refused.value.field == field


def test_one_that_cannot_be_watched_keeps_no_other_from_it(shop: Shop) -> None:
    ran(shop, 300)
    shop.campaign("other")
    run(shop.database, shop.engine, shop.settings, "other", NOW)
    with shop.database.write() as session:
        session.execute(sa.update(Assignment).where(Assignment.experiment_id == 1).values(arm="stranger"))
    done = watch(shop)
    assert set(done.campaigns) | set(done.failed) == {"back", "other"}
    assert "other" in done.campaigns


def test_a_stored_metric_with_a_margin_is_a_guardrail(shop: Shop) -> None:
    ran(shop, 1300)
    buys(shop, {"A": 60, "B": 100, "holdout": 100})
    facts = shop.engine.replica.facts
    with shop.database.write() as session:
        spec = metrics.MetricSpec("spend", metrics.MEAN, "orders", value="total_minor", margin=0.1)
        metrics.save(session, spec, facts, NOW)
        metrics.save(session, metrics.MetricSpec("loose", metrics.COUNT, "orders"), facts, NOW)
    watch(shop)
    found = by_check(shop)
    assert (found["guardrail:spend:A"]["tone"], found["guardrail:spend:A"]["limit"]) == (RED, -0.1)
    assert found["guardrail:spend:B"]["tone"] == GOOD
    assert not [check for check in found if "loose" in check]


def test_a_week_of_the_tree_that_is_out_of_line_is_an_alert_until_the_next_week(shop: Shop) -> None:
    shop.members(400)
    luck = np.random.default_rng(9)
    last = datetime(2026, 2, 23, 4, tzinfo=UTC)
    rows = [
        {"order_id": f"o{back}-{member}", "member_id": f"m{member}", "sku": "s", "amount": f"{luck.uniform(90, 110):.2f}",
         "ordered_at": (last - timedelta(weeks=back) + timedelta(days=int(luck.integers(0, 6)))).isoformat()}
        for back in range(14)
        for member in range(1, 401)
        if luck.random() < (0.1 if back == 0 else 0.6)
    ]  # fmt: skip
    load_rows(
        shop.database,
        "orders",
        numbered(rows),
        settings=shop.settings,
        source="shop",
        now=LATER,
        consents=lambda _s, _c: None,
    )
    assert watch(shop, datetime(2026, 3, 1, 4, tzinfo=UTC)).alerts == 0, "the week is not over"
    assert watch(shop).alerts > 0
    with shop.database.read() as session:
        found = {alert.light: alert for alert in alerts.of_subject(session, "tree")}
    assert found["gmv:2026-02-23"].tone == RED
    assert found["gmv:2026-02-23"].detail["after"] < found["gmv:2026-02-23"].detail["low"]
    assert watch(shop).alerts == 0, "no news"
    watch(shop, LATER + timedelta(days=7))
    with shop.database.read() as session:
        assert not [alert for alert in alerts.of_subject(session, "tree") if "2026-02-23" in alert.light]


def test_the_flow_watches_by_the_settings_of_the_process(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(shop, 300)
    monkeypatch.setattr(core_settings, "load", lambda: shop.settings)
    monkeypatch.setattr(flows, "get_run_logger", lambda: logging.getLogger("test"))
    assert flows.watch_campaigns.fn(LATER)["campaigns"] == {"back": GOOD}
    assert flows.watch_campaigns.fn(LATER)["campaigns"] == {"back": "known"}
