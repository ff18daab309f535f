"""The pages of points and tiers: forms that save, two persons for an adjustment, a simulation, the export."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import sqlalchemy as sa

from core.models import Member
from loyalty import (
    adjustments,
    earn_events,
    multipliers,
    point_transfers,
    point_value,
    points,
    segment_members,
)
from loyalty.earn_rules import load_rule
from loyalty.models import PointsAdjustment
from loyalty.promotions import store as promotions
from loyalty.promotions.models import PromotionRow
from loyalty.tiers import review, store
from tests.conftest import count
from tests.web import seed
from tests.web.conftest import Browser, Shop
from web.queries import segments as segment_queries

RULE = {"points_per_unit": "2", "pending_days": "3", "expires": "year_end", "expiry_years": "1"}
LADDER = {
    "basis": "spend",
    "window": "rolling",
    "months": "24",
    "grace_days": "5",
    "tier-0-name": "silver",
    "tier-0-title": "银卡",
    "tier-0-threshold": "100",
    "tier-1-name": "gold",
    "tier-1-title": "金卡",
    "tier-1-threshold": "1000.50",
    "tier-1-multiplier": "1.5",
    "tier-1-free_shipping": "1",
}


def test_the_rule_of_orders_is_saved_whole_and_mistakes_stay_in_the_form(shop: Shop) -> None:
    client = shop.client()
    form = {**RULE, "category_times": "tea = 2\ncups=0.5", "excluded_skus": "S1\nS2\n"}
    assert client.post("/loyalty/points", form).status_code == 303
    with shop.database.read() as session:
        rule = load_rule(session)
    assert (rule.expires, rule.expiry_years, rule.expiry_months) == ("year_end", 1, None)
    assert dict(rule.category_times) == {"tea": "2", "cups": "0.5"}
    assert rule.excluded_skus == ("S1", "S2")
    for wrong in ("tea = x", "= 2"):
        answer = client.post("/loyalty/points", {**RULE, "category_times": wrong})
        assert answer.status_code == 422
        assert "category_times-error" in answer.text
    assert "cups = 0.5" in client.get("/loyalty/points").text


def test_worth_and_transfers_are_saved(shop: Shop) -> None:
    client = shop.client()
    assert 'value="0.01"' in client.get("/loyalty/points").text
    form = {"point_value": "0.005", "limit": "10", "per_day": "200", "transfers": "1"}
    assert client.post("/loyalty/points/money", form).status_code == 303
    with shop.database.read() as session:
        assert point_value.load_text(session) == "0.5"
        assert adjustments.limit(session) == 10
        assert point_transfers.load(session) == point_transfers.TransferRule(True, 200)
    assert 'value="0.005"' in client.get("/loyalty/points").text
    for wrong in ("0", "-1", "x", "1e2", "nan", "20000", "0.0000000000000000000001"):
        answer = client.post("/loyalty/points/money", {**form, "point_value": wrong})
        assert answer.status_code == 422
        assert "point_value-error" in answer.text
        assert f'value="{wrong}"' in answer.text
    with shop.database.read() as session:
        assert point_value.load_text(session) == "0.5"


def test_the_liability_is_drawn_and_exported(shop: Shop) -> None:
    client = shop.client("analyst@example.com")
    page = client.get("/loyalty/points").text
    assert 'data-chart="liability-data"' in page
    answer = client.get("/loyalty/points/liability.csv")
    lines = answer.text.split()
    assert (answer.mimetype, lines[0]) == ("text/csv", "month,points,worth_CNY")
    assert all(re.fullmatch(r"(\d{4}-\d\d|never),\d+,\d+\.\d\d", line) for line in lines[1:])
    assert len(lines) > 1


def ask(client: Browser, number: str, member: str = "M0001", key: str = "k1") -> int:
    form = {"member": member, "points": number, "reason": "late parcel", "key": key}
    return int(client.post("/loyalty/points/adjustments", form).status_code)


def test_a_large_adjustment_needs_a_second_person(shop: Shop) -> None:
    marketer, admin = shop.client("marketer@example.com"), shop.client()
    assert ask(marketer, "5000") == 303
    page = marketer.get("/loyalty/points/adjustments").text
    assert "A second person decides." in page
    with shop.database.read() as session:
        row = session.scalars(sa.select(PointsAdjustment)).one()
        member = session.scalars(sa.select(Member.id).where(Member.external_id == "M0001")).one()
        before = points.balance(session, member, seed.NOW).available
    marketer.post(f"/loyalty/points/adjustments/{row.id}", {"decision": "approve"})
    with shop.database.read() as session:
        assert session.get_one(PointsAdjustment, row.id).state == "pending"
    admin.post(f"/loyalty/points/adjustments/{row.id}", {"decision": "approve"})
    with shop.database.read() as session:
        assert session.get_one(PointsAdjustment, row.id).state == "done"
        assert points.balance(session, member, seed.NOW).available == before + 5000
        assert points.check(session) == []
    for number, member_id in (("0", "M0001"), ("x", "M0001"), ("5", "nobody"), ("1.5", "M0001")):
        assert ask(admin, number, member_id, f"{number}{member_id}") == 422
    assert ask(admin, "-99999999", key="large") == 303
    assert count(shop.database, "points_adjustments") == 2  # the last one waits


def test_multipliers_and_event_rules_are_made_and_archived(shop: Shop) -> None:
    client = shop.client()
    form = {"name": "double", "times": "2", "starts_at": "2026-03-01T00:00", "ends_at": "2026-03-03T00:00"}
    assert client.post("/loyalty/points/multipliers", form).status_code == 303
    assert client.post("/loyalty/points/multipliers", form).status_code == 422  # the name is taken
    assert client.post("/loyalty/points/multipliers", {**form, "name": "b", "ends_at": ""}).status_code == 422
    event = {"event_name": "reviews", "kind": "review", "event_points": "20", "per_day": "1"}
    assert client.post("/loyalty/points/events", event).status_code == 303
    assert client.post("/loyalty/points/events", {**event, "event_points": "0"}).status_code == 422
    dated = {**event, "event_name": "spring", "event_starts_at": "2026-03-05T00:00"}
    wrong = client.post("/loyalty/points/events", {**dated, "event_ends_at": "2026-03-04T00:00"})
    assert wrong.status_code == 422
    assert "event_ends_at-error" in wrong.text
    assert (
        client.post("/loyalty/points/events", {**dated, "event_ends_at": "2026-03-06T12:00"}).status_code
        == 303
    )
    with shop.database.read() as session:
        spring = next(one for one in earn_events.listed(session) if one.name == "spring")
    assert spring.starts_at == datetime(2026, 3, 4, 16, tzinfo=UTC)
    assert spring.ends_at == datetime(2026, 3, 6, 4, tzinfo=UTC)
    page = client.get("/loyalty/points/sources").text
    assert "× 2" in page
    assert "reviews" in page
    for what, name in (("multiplier", "double"), ("event", "reviews"), ("event", "spring")):
        client.post("/loyalty/points/sources/archive", {"what": what, "name": name})
    with shop.database.read() as session:
        assert list(multipliers.listed(session)) == list(earn_events.listed(session)) == []


def test_segments_multiply_and_their_members_are_brought_when_the_form_is_saved(shop: Shop) -> None:
    client = shop.client()
    with shop.database.read() as session:
        name, members = next((one.name, one.count) for one in segment_queries.rows(session) if one.count)
    for wrong in (f"{name} = x", "nobody = 2", "= 2"):
        answer = client.post("/loyalty/points", {**RULE, "segment_times": wrong})
        assert answer.status_code == 422
        assert "segment_times-error" in answer.text
    assert client.post("/loyalty/points", {**RULE, "segment_times": f"{name} = 2"}).status_code == 303
    with shop.database.read() as session:
        assert dict(load_rule(session).segment_times) == {name: "2"}
        assert segment_members.counts(session) == {name: members}
    page = client.get("/loyalty/points").text
    assert f"{name} = 2" in page
    assert f"{name}: {members} members" in page
    assert client.post("/loyalty/points", RULE).status_code == 303
    assert count(shop.database, "points_segment_members") == 0
    form = {"name": "vip", "times": "3", "starts_at": "2026-03-01T00:00", "ends_at": "2026-03-03T00:00"}
    assert client.post("/loyalty/points/multipliers", {**form, "segments": "nobody"}).status_code == 422
    assert client.post("/loyalty/points/multipliers", {**form, "segments": name}).status_code == 303
    with shop.database.read() as session:
        assert [one.segments for one in multipliers.listed(session)] == [[name]]
        assert segment_members.counts(session) == {name: members}


def test_a_segment_names_what_uses_it(shop: Shop) -> None:
    client = shop.client()
    rule = '{"field": "rfm.r", "op": ">=", "value": 5}'
    client.post("/segments/new", {"name": "fresh", "title": "Fresh", "rule": rule})
    assert "Nothing uses it yet." in client.get("/segments/fresh").text
    form = {"name": "double", "times": "3", "starts_at": "2026-03-01T00:00", "ends_at": "2026-03-03T00:00"}
    assert client.post("/loyalty/points/multipliers", {**form, "segments": "fresh"}).status_code == 303
    assert client.post("/loyalty/points", {**RULE, "segment_times": "fresh = 2"}).status_code == 303
    inside = [{"type": "not", "condition": {"type": "segment", "in": ["x", "fresh"]}}]
    benefit = {"type": "percent", "percent": "10"}
    with shop.database.write() as session:
        for name, conditions in (("others", inside), ("tiers", [{"type": "tier", "in": ["fresh"]}])):
            definition = {"conditions": conditions, "benefit": benefit}
            promotions.save(
                session, name=name, title=f"To {name}", definition=definition, by="t", now=seed.NOW
            )
    with shop.database.read() as session:
        users = segment_queries.used_by(session, "fresh")
    assert (users.multipliers, users.earn_rule) == (["double"], True)
    assert [title for _, title in users.promotions] == ["To others"]
    page = client.get("/segments/fresh").text
    ((number, _),) = users.promotions
    for link in (
        f'href="/loyalty/promotions/{number}">To others<',
        'href="/loyalty/points/sources">double<',
        'href="/loyalty/points">How orders earn<',
    ):
        assert link in page
    assert "Nothing uses it yet." not in page
    assert client.post("/loyalty/points", RULE).status_code == 303
    client.post("/loyalty/points/sources/archive", {"what": "multiplier", "name": "double"})
    with shop.database.write() as session:
        session.get_one(PromotionRow, number).archived_at = seed.NOW
    assert "Nothing uses it yet." in client.get("/segments/fresh").text


def test_a_ladder_is_simulated_before_it_is_saved(shop: Shop) -> None:
    client = shop.client()
    answer = client.post("/loyalty/tiers", {**LADDER, "do": "simulate"})
    assert answer.status_code == 200
    assert "0 members would go down" in answer.text
    assert count(shop.database, "tiers") == count(shop.database, "member_tiers") == 0
    assert client.post("/loyalty/tiers", {**LADDER, "do": "save"}).status_code == 303
    with shop.database.write() as session:
        program = store.load_program(session)
        assert [(tier.name, tier.threshold) for tier in program.tiers] == [
            ("silver", 10_000),
            ("gold", 100_050),
        ]
        assert program.tiers[1].benefits == {"multiplier": "1.5", "free_shipping": True}
        assert review.review(session, program, seed.NOW).up > 10
    page = client.get("/loyalty/tiers").text
    assert 'value="1000.50"' in page
    strict = {**LADDER, "tier-0-threshold": "1000", "tier-1-threshold": "90000", "do": "simulate"}
    assert "Some who would go down" in client.post("/loyalty/tiers", strict).text
    for wrong in (
        {"tier-1-threshold": "5"},
        {"tier-1-threshold": ""},
        {"tier-1-multiplier": "x"},
        {"months": "0"},
    ):
        answer = client.post("/loyalty/tiers", {**LADDER, **wrong, "do": "save"})
        assert answer.status_code == 422
        assert "银卡" in answer.text
