"""A run is undone while no message of it has left: all of it, or nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from campaigns import campaigns
from campaigns.run import run, simulate
from campaigns.undo import can_undo, undo
from channels.claim import Terms, claim
from core.errors import Conflict
from loyalty import coupons, points
from tests.campaigns.conftest import NOW, Shop
from tests.conftest import count

LATER = NOW + timedelta(minutes=5)


def _undo(shop: Shop) -> None:
    with shop.database.write() as session:
        undo(session, campaigns.by_name(session, "back"), "author", LATER)


def _may(shop: Shop) -> bool:
    with shop.database.read() as session:
        return can_undo(session, campaigns.by_name(session, "back"))


def test_an_undone_run_leaves_nobody_with_a_message_a_coupon_or_points(shop: Shop) -> None:
    shop.members(400)
    shop.campaign()
    assert not _may(shop), "nothing has run yet"
    done = run(shop.database, shop.engine, shop.settings, "back", NOW)
    sent = sum(done.sent.values())
    assert sent > 200
    assert _may(shop)
    _undo(shop)
    assert shop.rows("SELECT state, reason, count(*) FROM messages GROUP BY 1, 2") == [
        ("skipped", "undone", sent)
    ]
    assert shop.rows("SELECT state, count(member_id), count(*) FROM coupons GROUP BY 1") == [
        ("revoked", 0, sent)
    ]
    assert shop.rows("SELECT sum(remaining) FROM points_lots") == [(0,)]
    assert count(shop.database, "assignments") == 0
    assert shop.rows("SELECT count(*) FROM decisions WHERE reason = 'undone'") == [(sent,)]
    assert (shop.state(), _may(shop)) == ("draft", False)
    with shop.database.read() as session:
        assert points.check(session) == []


def test_an_undone_campaign_runs_again_as_if_it_had_never_run(shop: Shop) -> None:
    shop.batch("scarce", total_limit=400, per_member_limit=1)
    shop.members(300)
    shop.control(0)
    spec = shop.spec()
    for variant in spec["variants"]:
        variant["coupon_batch"] = "scarce"
    shop.campaign(variants=spec["variants"], cap_messages=1)
    first = run(shop.database, shop.engine, shop.settings, "back", NOW).to_json()
    _undo(shop)
    assert shop.rows("SELECT issued FROM coupon_batches WHERE name = 'scarce'") == [(0,)]
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back")
        campaigns.submit(session, campaign, "author", LATER)
        campaigns.approve(session, campaign, "boss", LATER)
    assert simulate(shop.database, shop.engine, shop.settings, "back", LATER).counts.to_json() == first
    assert run(shop.database, shop.engine, shop.settings, "back", LATER).to_json() == first
    assert shop.rows("SELECT state, count(*) FROM campaign_runs GROUP BY 1 ORDER BY 1") == [
        ("finished", 1),
        ("undone", 1),
    ]


def test_once_a_worker_has_claimed_a_message_the_run_stays(shop: Shop) -> None:
    shop.members(50)
    shop.campaign()
    done = run(shop.database, shop.engine, shop.settings, "back", NOW)
    with shop.database.write() as session:
        assert len(claim(session, Terms("email", 0, shop.settings.zone), "worker", 1, NOW).ready) == 1
    assert not _may(shop)
    with pytest.raises(Conflict, match="first message has left"):
        _undo(shop)
    assert shop.rows("SELECT count(*) FROM messages WHERE state = 'queued'") == [
        (sum(done.sent.values()) - 1,)
    ]
    assert shop.rows("SELECT count(*) FROM coupons WHERE state = 'issued'") == [(done.coupons,)]
    assert shop.state() == "finished"


def test_a_redeemed_coupon_keeps_the_run(shop: Shop) -> None:
    shop.members(50)
    shop.campaign()
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    (code,) = shop.rows("SELECT code FROM coupons ORDER BY id LIMIT 1")[0]
    with shop.database.write() as session:
        session.execute(
            coupons.Coupon.__table__.update().where(coupons.Coupon.code == code).values(state="redeemed")
        )
    with pytest.raises(Conflict, match="used already"):
        _undo(shop)
    assert shop.rows("SELECT count(*) FROM messages WHERE state = 'skipped'") == [(0,)]


def test_a_running_campaign_is_paused_before_its_run_is_undone(shop: Shop) -> None:
    shop.campaign()
    with pytest.raises(Conflict, match="Pause it first"):
        _undo(shop)
