"""A provider that refuses a template for good stops the campaign that sends it."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
import sqlalchemy as sa

from campaigns import campaigns, flows
from campaigns.run import run
from channels.models import Message
from core.models import AuditEntry, Todo
from tests.campaigns.conftest import NOW, Shop
from tests.conftest import count

REASON = "stopped: isv.SMS_TEMPLATE_ILLEGAL The template does not exist."


def refuse(shop: Shop, run_id: int, reason: str | None = REASON) -> None:
    """What delivery leaves when a provider refuses a run's template."""
    with shop.database.write() as session:
        session.add_all([Todo(queue="campaigns.stop", subject_id=run_id) for _ in range(2)])
        mine = sa.select(Message.id).where(Message.source_id == run_id).order_by(Message.id)
        ids = session.scalars(mine.limit(3)).all()
        if ids and reason:
            session.execute(sa.update(Message).where(Message.id == ids[0]).values(state="failed", reason="x"))
            session.execute(
                sa.update(Message).where(Message.id.in_(ids[1:])).values(state="skipped", reason=reason)
            )


def stop(shop: Shop) -> list[str]:
    with shop.database.write() as session:
        return campaigns.stop_refused(session, NOW)


def pauses(shop: Shop) -> list[AuditEntry]:
    with shop.database.read() as session:
        return list(session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "pause")))


def run_until_half(shop: Shop, name: str = "back") -> int:
    """Run until the first batch is written, then leave the run as a crash would; its id."""

    def crash(done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(shop.database, shop.engine, shop.settings, name, NOW, progress=crash)
    [(run_id,)] = shop.rows(
        f"SELECT r.id FROM campaign_runs r JOIN campaigns c ON c.id = r.campaign_id WHERE c.name = '{name}'"
    )
    return int(run_id)


def test_a_running_campaign_is_paused_with_the_providers_words(shop: Shop) -> None:
    shop.members(700)
    shop.campaign()
    run_id = run_until_half(shop)
    assert shop.state() == "running"
    refuse(shop, run_id)
    assert stop(shop) == ["back"]
    assert shop.state() == "paused"
    (entry,) = pauses(shop)
    assert (entry.actor, entry.object_type, entry.object_id) == ("provider", "campaign", "back")
    assert entry.detail == {"why": REASON.removeprefix("stopped: "), "run": run_id}
    assert count(shop.database, "todos") == 0
    assert stop(shop) == []
    assert len(pauses(shop)) == 1


def test_a_run_under_way_ends_behind_the_batch_and_goes_on_when_resumed(shop: Shop) -> None:
    shop.members(700)
    shop.campaign()

    def refused_meanwhile(_done: int, _total: int) -> None:
        [(run_id,)] = shop.rows("SELECT id FROM campaign_runs")
        refuse(shop, run_id)
        assert stop(shop) == ["back"]

    done = run(shop.database, shop.engine, shop.settings, "back", NOW, progress=refused_meanwhile)
    assert done.candidates == 300, "one batch, not three"
    assert shop.state() == "paused"
    with shop.database.write() as session:
        assert campaigns.due(session, NOW) == [], "a paused campaign is not taken up again"
        campaigns.resume(session, campaigns.by_name(session, "back"), "boss", NOW)
    done = run(shop.database, shop.engine, shop.settings, "back", NOW)
    assert done.candidates == 700
    assert shop.rows("SELECT count(*), count(DISTINCT member_id) FROM decisions") == [(700, 700)]
    assert shop.state() == "finished"


def test_an_approved_campaign_is_paused_too_and_others_are_left_alone(shop: Shop) -> None:
    shop.members(700)
    for name in ("one", "two"):
        shop.campaign(name)
    first, second = (run_until_half(shop, name) for name in ("one", "two"))
    with shop.database.write() as session:
        for name in ("one", "two"):
            campaigns.pause(session, campaigns.by_name(session, name), "ann", NOW)
            campaigns.resume(session, campaigns.by_name(session, name), "ann", NOW)
    assert first != second
    refuse(shop, first)
    assert stop(shop) == ["one"]
    assert (shop.state("one"), shop.state("two")) == ("paused", "approved")


def test_what_is_finished_or_unknown_leaves_only_its_to_do_rows(shop: Shop) -> None:
    shop.members(30)
    shop.campaign()
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    [(run_id,)] = shop.rows("SELECT id FROM campaign_runs")
    refuse(shop, run_id)
    refuse(shop, 987_654)
    assert stop(shop) == []
    assert shop.state() == "finished"
    assert count(shop.database, "todos") == 0
    assert pauses(shop) == []


def test_a_refusal_whose_words_were_lost_still_pauses(shop: Shop) -> None:
    shop.members(700)
    shop.campaign()
    refuse(shop, run_until_half(shop), reason=None)
    assert stop(shop) == ["back"]
    assert pauses(shop)[0].detail["why"] == "a provider refused its template"


def test_to_do_rows_of_other_queues_stay(shop: Shop) -> None:
    with shop.database.write() as session:
        session.add(Todo(queue="loyalty.orders", subject_id=1))
    assert stop(shop) == []
    assert count(shop.database, "todos") == 1


def test_the_flow_of_due_campaigns_stops_them_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.members(700)
    shop.campaign()
    refuse(shop, run_until_half(shop))
    monkeypatch.setattr(flows.core_settings, "load", lambda: shop.settings)
    monkeypatch.setattr(flows, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(flows, "clock", lambda _settings: NOW)
    assert flows.due_campaigns.fn() == {}
    assert shop.state() == "paused"
    assert shop.rows("SELECT candidates FROM campaign_runs") == [(300,)]


def test_what_is_a_day_late_waits_for_somebody_to_decide(shop: Shop) -> None:
    shop.members(20)
    shop.campaign()
    with shop.database.write() as session:
        campaigns.by_name(session, "back").scheduled_at = NOW + timedelta(hours=1)
    with shop.database.write() as session:
        assert campaigns.pause_missed(session, NOW + timedelta(hours=24)) == []
        assert campaigns.due(session, NOW + timedelta(hours=24)) == ["back"], (
            "an hour's downtime is no matter"
        )
    late = NOW + timedelta(hours=26)
    with shop.database.write() as session:
        assert campaigns.pause_missed(session, late) == ["back"]
        assert campaigns.due(session, late) == []
    (entry,) = pauses(shop)
    assert "should have begun at" in entry.detail["why"]
    with shop.database.write() as session:
        campaigns.resume(session, campaigns.by_name(session, "back"), "boss", late)
    with shop.database.write() as session:
        assert campaigns.pause_missed(session, late + timedelta(hours=1)) == [], "somebody has decided"
        assert campaigns.due(session, late) == ["back"]


def test_what_has_begun_is_never_too_late(shop: Shop) -> None:
    shop.members(700)
    shop.campaign()
    run_until_half(shop)
    with shop.database.write() as session:
        one = campaigns.by_name(session, "back")
        one.state, one.scheduled_at = "approved", NOW - timedelta(days=9)
        one.updated_at = NOW - timedelta(days=9)
    with shop.database.write() as session:
        assert campaigns.pause_missed(session, NOW) == []
