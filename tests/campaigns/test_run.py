"""Simulation and run on both databases: equal numbers, one decision each, limits that hold."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from campaigns import campaigns
from campaigns.decide import REASONS
from campaigns.run import run, simulate
from channels import consent, templates
from channels.models import Message
from core import members
from core.bulk import bulk_insert
from core.contacts import blind_index
from core.errors import Conflict
from core.imports import load_rows, numbered
from core.models import Product
from core.warehouse.replica import mark
from loyalty import points
from loyalty.models import PointsLot
from segments import segments
from segments.recommend.model import fit
from tests.campaigns.conftest import NOW, Shop
from tests.conftest import count

OF_CAMPAIGNS = "SELECT count(*) FROM assignments a JOIN experiments e ON e.id = a.experiment_id WHERE e.kind = 'campaign'"


def test_everybody_gets_one_decision_and_the_run_equals_its_simulation(shop: Shop) -> None:
    shop.members(1000, lambda n: ("email sms", "sms", "wechat", "")[n % 4])
    shop.campaign()
    expected = simulate(shop.database, shop.engine, shop.settings, "back", NOW).counts.to_json()
    assert count(shop.database, "decisions") == count(shop.database, "coupons") == 0, (
        "a simulation writes nothing"
    )
    done = run(shop.database, shop.engine, shop.settings, "back", NOW).to_json()
    assert done == expected
    assert done["candidates"] == 1000 == count(shop.database, "decisions")
    assert done["skipped"] == {"no_address": 250}
    sent = sum(done["sent"].values())
    assert sent + done["holdout"] + done["control"] + 250 == 1000
    assert done["coupons"] == sent == count(shop.database, "coupons") == count(shop.database, "messages")
    assert done["variants"]["A"] + done["variants"]["B"] == sent
    assert done["points"] == done["variants"]["B"] * 100
    assert 0.12 < done["holdout"] / (sent + done["holdout"]) < 0.28
    assert shop.state() == "finished"
    assert shop.rows(OF_CAMPAIGNS) == [(sent + done["holdout"],)]
    assert shop.rows("SELECT count(*) FROM messages m JOIN coupons c ON c.member_id = m.member_id "
                     "JOIN decisions d ON d.member_id = m.member_id AND d.coupon_code = c.code") == [(sent,)]  # fmt: skip


def test_points_of_the_variant_are_in_the_ledger(shop: Shop) -> None:
    shop.members(100)
    shop.campaign()
    done = run(shop.database, shop.engine, shop.settings, "back", NOW)
    assert shop.rows("SELECT sum(remaining), count(*) FROM points_lots") == [
        (done.points, done.variants["B"])
    ]
    with shop.database.read() as session:
        assert points.check(session) == []


def test_the_reason_why_not_is_stored(shop: Shop) -> None:
    shop.members(12, lambda n: "" if n == 5 else "email")
    shop.control(0)
    with shop.database.write() as session:
        consent.withdraw(session, 1, "email", "marketing", "test", NOW + timedelta(seconds=1))
        consent.suppress(
            session, "email", str(blind_index("email", "m2@example.com")), "complaint", "test", NOW
        )
        members.erase(session, 3, "test", NOW)
        segments.save(
            session,
            name="four",
            title="4",
            rule={"field": "member_id", "op": "=", "value": "m4"},
            by="t",
            now=NOW,
        )
    shop.campaign(holdout=0, exclude=["four"])
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    reasons = dict(shop.rows("SELECT member_id, reason FROM decisions"))
    assert reasons[1] == "no_consent"
    assert reasons[2] == "suppressed"
    assert 3 not in reasons, "an erased member is in no audience"
    assert reasons[4] == "excluded"
    assert reasons[5] == "no_address"
    assert set(reasons.values()) - {None} <= set(REASONS)
    assert [member for member, reason in reasons.items() if reason is None] == [6, 7, 8, 9, 10, 11, 12]


def test_the_control_group_is_left_alone_by_every_campaign(shop: Shop) -> None:
    shop.members(600)
    shop.control(0.5)
    shop.campaign("one", holdout=0)
    shop.campaign("two", holdout=0)
    first = run(shop.database, shop.engine, shop.settings, "one", NOW)
    run(shop.database, shop.engine, shop.settings, "two", NOW)
    assert 250 < first.control < 350
    assert shop.rows(
        "SELECT count(DISTINCT member_id), count(*) FROM decisions WHERE reason = 'control'"
    ) == [(first.control, 2 * first.control)]


def test_a_frequency_cap_counts_other_campaigns(shop: Shop) -> None:
    shop.members(50)
    shop.control(0)
    shop.campaign("one", holdout=0, cap_messages=1)
    shop.campaign("two", holdout=0, cap_messages=1)
    shop.campaign("three", holdout=0, cap_messages=1)
    assert sum(run(shop.database, shop.engine, shop.settings, "one", NOW).sent.values()) == 50
    assert run(shop.database, shop.engine, shop.settings, "two", NOW + timedelta(days=6)).skipped == {
        "capped": 50
    }
    later = run(shop.database, shop.engine, shop.settings, "three", NOW + timedelta(days=8))
    assert sum(later.sent.values()) == 50


def test_two_campaigns_at_once_keep_the_cap_together(shop: Shop) -> None:
    shop.members(600)
    shop.control(0)
    names = ["one", "two", "three"]
    for name in names:
        shop.campaign(name, holdout=0, cap_messages=1)
    threads = [
        threading.Thread(target=run, args=(shop.database, shop.engine, shop.settings, name, NOW))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shop.rows("SELECT count(*), count(DISTINCT member_id) FROM messages") == [(600, 600)]
    assert count(shop.database, "decisions") == 1800


def test_a_limit_of_codes_ends_the_campaign_for_both_arms(shop: Shop) -> None:
    shop.members(1000)
    shop.batch("few", total_limit=350)
    few = [{**variant, "coupon_batch": "few"} for variant in shop.spec()["variants"]]
    shop.campaign(variants=few)
    expected = simulate(shop.database, shop.engine, shop.settings, "back", NOW).counts
    done = run(shop.database, shop.engine, shop.settings, "back", NOW)
    assert done == expected
    assert done.coupons == 350 == count(shop.database, "coupons")
    last = shop.rows("SELECT max(member_id) FROM decisions WHERE reason IS NULL")[0][0]
    first_out = shop.rows("SELECT min(member_id) FROM decisions WHERE reason = 'coupons_used_up'")[0][0]
    assert last < first_out
    assert shop.rows(f"{OF_CAMPAIGNS} AND a.member_id >= {first_out}") == [(0,)]
    assert 0.1 < done.holdout / (350 + done.holdout) < 0.3


def test_a_budget_is_never_passed(shop: Shop) -> None:
    shop.members(700, lambda _n: "sms")
    shop.campaign(budget_minor=200_000, message_cost_minor={"sms": 5})
    expected = simulate(shop.database, shop.engine, shop.settings, "back", NOW).counts
    done = run(shop.database, shop.engine, shop.settings, "back", NOW)
    assert done == expected
    cost = sum(done.sent.values()) * (1000 + 5) + done.points
    assert 200_000 - 1105 < cost <= 200_000
    assert done.skipped["budget"] > 0


def test_a_coupon_limit_per_member_holds_across_campaigns(shop: Shop) -> None:
    shop.members(30)
    shop.control(0)
    shop.batch("once", per_member_limit=1)
    once = [{**variant, "coupon_batch": "once"} for variant in shop.spec()["variants"]]
    shop.campaign("one", holdout=0, variants=once)
    shop.campaign("two", holdout=0, variants=once)
    run(shop.database, shop.engine, shop.settings, "one", NOW)
    assert run(shop.database, shop.engine, shop.settings, "two", NOW).skipped == {"coupon_limit": 30}


def test_members_fall_back_to_the_next_channel_in_order(shop: Shop) -> None:
    shop.members(60, lambda n: "sms wechat" if n % 2 else "email sms wechat")
    shop.control(0)
    shop.campaign(holdout=0, channels=["email", "wechat", "sms"])
    done = run(shop.database, shop.engine, shop.settings, "back", NOW)
    assert done.sent == {"email": 30, "wechat": 30}
    with shop.database.read() as session:
        from channels.models import Message

        message = session.query(Message).filter_by(member_id=2).one()
    assert [step["channel"] for step in message.fallback] == ["wechat", "sms"]


def test_the_same_run_again_does_nothing_and_another_approval_is_needed(shop: Shop) -> None:
    shop.members(20)
    shop.campaign()
    first = run(shop.database, shop.engine, shop.settings, "back", NOW)
    assert run(shop.database, shop.engine, shop.settings, "back", NOW + timedelta(days=1)) == first
    assert count(shop.database, "decisions") == 20
    with pytest.raises(Conflict, match="finished"):
        run(shop.database, shop.engine, shop.settings, "back", NOW, run_key="again")


def test_only_an_approved_campaign_runs(shop: Shop) -> None:
    shop.members(5)
    shop.campaign(approve=False)
    with pytest.raises(Conflict, match="only an approved"):
        run(shop.database, shop.engine, shop.settings, "back", NOW)
    assert count(shop.database, "decisions") == 0


def test_two_workers_on_one_run_double_nothing(shop: Shop) -> None:
    shop.members(2000)
    shop.campaign()
    expected = simulate(shop.database, shop.engine, shop.settings, "back", NOW).counts
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(run(shop.database, shop.engine, shop.settings, "back", NOW))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 3
    assert count(shop.database, "decisions") == 2000
    assert count(shop.database, "messages") == sum(expected.sent.values())


def test_a_paused_run_stops_and_goes_on_with_the_same_members(shop: Shop) -> None:
    shop.members(1000)
    shop.campaign()
    expected = simulate(shop.database, shop.engine, shop.settings, "back", NOW).counts

    def pause_after_one(done: int, _total: int) -> None:
        if done == 300:
            with shop.database.read() as session:
                assert campaigns.by_name(session, "back").state == "running"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(shop.database, shop.engine, shop.settings, "back", NOW, progress=pause_after_one)
    assert count(shop.database, "decisions") == 300
    with shop.database.write() as session:
        campaigns.pause(session, campaigns.by_name(session, "back"), "boss", NOW)
    with pytest.raises(Conflict, match="paused"):
        run(shop.database, shop.engine, shop.settings, "back", NOW)
    with shop.database.write() as session:
        campaigns.resume(session, campaigns.by_name(session, "back"), "boss", NOW)
    assert run(shop.database, shop.engine, shop.settings, "back", NOW + timedelta(hours=5)) == expected
    assert shop.rows("SELECT count(DISTINCT at) FROM decisions") == [(1,)]


def test_messages_show_what_points_a_member_has_and_when_they_go(shop: Shop) -> None:
    shop.members(4)
    ends = NOW + timedelta(days=3)
    with shop.database.write() as session:
        points.grant_many(session, [(1, 200, "a"), (1, 50, "b"), (1, 30, "c"), (2, 70, "d")], NOW)
        for source, at in (("a", ends), ("b", ends + timedelta(hours=2)), ("c", ends + timedelta(days=9))):
            session.execute(sa.update(PointsLot).where(PointsLot.source_id == source).values(expires_at=at))
        session.execute(sa.update(PointsLot).where(PointsLot.source_id == "d").values(expires_at=None))
        fields = {
            "subject": "{{ points.balance }}",
            "html": "<p>{{ points.expiring }} on {{ points.expires_at|date }}</p>"
            "<a href='{{ unsubscribe_url }}'>x</a>",
        }
        templates.save(
            session, shop.settings, name="held", channel="email", purpose="marketing",
            contents={"en": fields}, by="test", now=NOW,
        )  # fmt: skip
    shop.control(0)
    variant = {"name": "A", "weight": 1.0, "templates": {"email": "held"}}
    shop.campaign(variants=[variant], channels=["email"], holdout=0.0)
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    with shop.database.read() as session:
        rows = session.execute(sa.select(Message.member_id, Message.context))
        found = {member: context["points"] for member, context in rows}
    nothing = {"amount": 0, "balance": 0, "expires_at": None, "expiring": 0}
    assert found == {
        1: {"amount": 0, "balance": 280, "expires_at": ends.isoformat(), "expiring": 250},
        2: {**nothing, "balance": 70},
        3: nothing,
        4: nothing,
    }


def test_messages_carry_the_products_recommended_to_each_member(shop: Shop) -> None:
    shop.members(39)
    with shop.database.write() as session:
        bulk_insert(
            session,
            Product.__table__,
            ("source", "sku", "name", "category", "price_minor", "currency", "fingerprint", "updated_at"),
            [("shop", sku, sku.title(), sku, 1000, "CNY", "x", NOW) for sku in ("tea", "cup")],
        )
        fields = {
            "subject": "For you",
            "html": "{% for one in recommend(2) %}<p>{{ one.name }} {{ one.price|money }}</p>{% endfor %}"
            "<a href='{{ unsubscribe_url }}'>x</a>",
        }
        templates.save(
            session, shop.settings, name="next", channel="email", purpose="marketing", contents={"en": fields},
            by="test", now=NOW,
        )  # fmt: skip
        mark(session, "products", [None])
    rows = [
        {"order_id": f"o{n}", "member_id": f"m{n}", "ordered_at": "2026-01-10T08:00:00Z", "sku": "tea" if n < 30 else "cup",
         "amount": "10"}
        for n in range(1, 40)
    ]  # fmt: skip
    load_rows(
        shop.database, "orders", numbered(rows), settings=shop.settings, source="shop", now=NOW,
        consents=lambda _session, _changes: None,
    )  # fmt: skip
    shop.engine.replica.sync(shop.database)
    fit(shop.engine, NOW.date(), shop.settings.zone)
    shop.control(0)
    shop.campaign(variants=[{"name": "A", "weight": 1.0, "templates": {"email": "next"}}], channels=["email"])
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    with shop.database.read() as session:
        found = session.scalars(sa.select(Message).order_by(Message.id)).all()
    assert len(found) > 20
    # Each the own category first; what goes with it needs more buyers than this shop has.
    for message in found:
        skus = [one["sku"] for one in message.context["recommendations"]]
        assert skus == (["tea", "cup"] if message.member_id < 30 else ["cup", "tea"]), message.member_id
    assert found[0].context["recommendations"][0]["name"] == "Tea"
