"""Points over HTTP: holds, burns, adjustments, transfers, quotes; bad input writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from apiflask import APIFlask

from core.db import Database
from core.settings import Settings
from loyalty import point_transfers, point_value, points, points_check
from loyalty.earn_rules import EarnRule
from loyalty.earning import accrue_orders
from loyalty.tiers import store
from loyalty.tiers.model import Program, Tier
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, put_order
from web.api import keys
from web.api.views import create_blueprint

Call = Callable[..., tuple[int, dict[str, Any]]]


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def call(db: Database, settings: Settings, clock: Clock) -> Call:
    """(path, body or None for GET, idempotency key) → status and JSON."""
    add_members(db, 2)
    app = APIFlask("test", title="Huiliu", spec_path="/api/openapi.json", docs_path=None)
    app.register_blueprint(create_blueprint(db, settings, clock=clock))
    client = app.test_client()
    with db.write() as session:
        token = keys.create(session, "shop", keys.SCOPES, "ann", NOW)[1]

    def send(path: str, body: Any = None, key: str | None = None) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}", **({"Idempotency-Key": key} if key else {})}
        method = "GET" if body is None else "POST"
        answer = client.open(f"/api/v1/{path}", method=method, json=body, headers=headers)
        return answer.status_code, answer.get_json()

    return send


def checked(database: Database, now: datetime = NOW) -> points_check.Totals:
    with database.read() as session:
        assert points.check(session) == []
        found = points_check.totals(session, now)
        assert found.conserved, found
        return found


def test_points_are_held_burnt_in_part_and_the_rest_released(db: Database, call: Call, clock: Clock) -> None:
    call("points/earn", {"member_id": "m1", "points": 100}, "e")
    body = {"member_id": "m1", "points": 80, "order_id": "o1", "minutes": 10}
    status, held = call("points/hold", body, "h")
    assert (status, held["points"], held["available"]) == (200, 80, 20)
    assert held["expires_at"] == "2026-03-01T12:10:00Z"
    assert call("points/hold", body, "h") == (status, held)
    assert call("points/hold", {**body, "points": 81}, "h")[0] == 409
    shown = call("members/m1/points")[1]
    assert (shown["available"], shown["held"]) == (20, 80)
    burn = {"member_id": "m1", "hold_id": held["hold_id"], "points": 50}
    assert call("points/burn", burn, "b") == (200, {"member_id": "m1", "points": 50, "available": 50})
    assert call("points/burn", burn, "b")[0] == 200
    status, over = call("points/release", {"member_id": "m1", "hold_id": held["hold_id"]}, "r")
    assert (status, over["error"]["code"]) == (409, "hold_over")
    second = call("points/hold", {**body, "points": 30, "order_id": "o2"}, "h2")[1]
    assert call("points/release", {"member_id": "m1", "hold_id": second["hold_id"]}, "r2") == (
        200,
        {"member_id": "m1", "points": 30, "available": 50},
    )
    third = call("points/hold", {**body, "points": 30, "order_id": "o3"}, "h3")[1]
    clock.now = NOW + timedelta(minutes=11)
    status, over = call("points/burn", {"member_id": "m1", "hold_id": third["hold_id"]}, "b3")
    assert (status, over["error"]["code"]) == (409, "hold_over")
    assert call("points/burn", {"member_id": "m1", "points": 50, "order_id": "o4"}, "b4")[0] == 200
    assert checked(db, clock.now).spent == 100


@pytest.mark.parametrize(
    "path", ["points/hold", "points/burn", "points/earn", "points/transfer", "points/quote"]
)
@pytest.mark.parametrize("wrong", [-1, 0, 1.5, 10**15, "5", None, True])
def test_bad_numbers_are_refused_and_write_nothing(db: Database, call: Call, path: str, wrong: Any) -> None:
    more: dict[str, Any] = {
        "points/hold": {"order_id": "o"},
        "points/burn": {"order_id": "o"},
        "points/transfer": {"to_member_id": "m2"},
        "points/quote": {"lines": [{"id": "a", "amount": 5}]},
    }.get(path, {})
    status, answer = call(path, {"member_id": "m1", "points": wrong, **more}, "k")
    assert (status, answer["error"]["code"]) == (422, "invalid_input")
    assert count(db, "points_entries") == count(db, "loyalty_requests") == 0


def test_an_adjustment_is_made_at_once_or_waits_for_the_console(db: Database, call: Call) -> None:
    body = {"member_id": "m1", "points": 500, "reason": "a parcel came late"}
    status, made = call("points/adjust", body, "a")
    assert (status, made["state"], made["available"]) == (200, "done", 500)
    assert call("points/adjust", body, "a") == (200, made)
    assert call("points/adjust", {**body, "points": 501}, "a")[0] == 409
    assert call("points/adjust", {**body, "points": 5000}, "b")[1]["state"] == "pending"
    assert call("points/adjust", {**body, "points": -200}, "c")[1]["available"] == 300
    status, short = call("points/adjust", {**body, "points": -301}, "d")
    assert (status, short["error"]["code"]) == (409, "insufficient_points")
    owed = call("points/adjust", {**body, "points": -301, "allow_debt": True}, "e")[1]
    assert (owed["state"], owed["available"]) == ("done", 0)
    assert call("members/m1/points")[1]["debt"] == 1
    for wrong in ({"points": 0}, {"points": 10**15}, {"points": 1.5}, {"reason": ""}):
        assert call("points/adjust", {**body, **wrong}, "f")[0] == 422
    assert count(db, "points_adjustments") == 4
    checked(db)


def test_members_give_points_where_the_shop_allows_it(db: Database, call: Call) -> None:
    call("points/earn", {"member_id": "m1", "points": 100}, "e")
    body = {"member_id": "m1", "to_member_id": "m2", "points": 60}
    status, refused = call("points/transfer", body, "t")
    assert (status, refused["error"]["code"]) == (409, "transfer_refused")
    with db.write() as session:
        point_transfers.save(session, point_transfers.TransferRule(True, 100), "ann", NOW)
    assert call("points/transfer", body, "t") == (200, {**body, "available": 40})
    assert call("points/transfer", body, "t")[0] == 200
    assert call("points/transfer", {**body, "points": 41}, "t2")[1]["error"]["code"] == "transfer_refused"
    assert call("points/transfer", {**body, "to_member_id": "m1"}, "t3")[0] == 422
    assert call("points/transfer", {**body, "to_member_id": "m9"}, "t4")[0] == 404
    assert call("members/m2/points")[1]["available"] == 60
    assert checked(db).issued == 100


def test_points_pay_for_lines_by_the_promotions_allocation(db: Database, call: Call) -> None:
    """Worked case 11."""
    lines = [{"id": "a", "amount": 20_000}, {"id": "b", "amount": 15_000}]
    status, quoted = call("points/quote", {"points": 100, "lines": lines})
    assert (status, [line["discount"] for line in quoted["lines"]]) == (200, [57, 43])
    assert (quoted["points"], quoted["discount"], quoted["total"], quoted["enough"]) == (
        100,
        100,
        34_900,
        None,
    )
    call("points/earn", {"member_id": "m1", "points": 99}, "e")
    asked = {"points": 100, "lines": lines, "member_id": "m1"}
    assert call("points/quote", asked)[1]["enough"] is False
    with db.write() as session:
        point_value.save(session, "1000", "ann", NOW)
    assert call("points/quote", asked)[1]["points"] == 35
    assert call("points/quote", asked)[1]["enough"] is True
    for wrong in ([], [{"id": "a", "amount": -1}], [{"id": "a"}]):
        assert call("points/quote", {"points": 1, "lines": wrong})[0] == 422


def test_the_worked_cases_of_lots_over_http(db: Database, call: Call, clock: Clock) -> None:
    """Cases 14 and 16: by nearest expiry; after expiry nothing can be burnt."""
    with db.write() as session:
        soon, late = EarnRule("1", 0, 1, "UTC"), EarnRule("1", 0, 2, "UTC")
        points.grant_many(session, [(1, 575, "A")], NOW, rule=soon)
    assert call("points/burn", {"member_id": "m1", "points": 500, "order_id": "1"}, "1")[1]["available"] == 75
    with db.write() as session:
        points.grant_many(session, [(1, 805, "B")], NOW, rule=late)
    assert (
        call("points/burn", {"member_id": "m1", "points": 500, "order_id": "2"}, "2")[1]["available"] == 380
    )
    clock.now = NOW + timedelta(days=70)
    assert call("members/m1/points")[1]["available"] == 0
    assert call("points/burn", {"member_id": "m1", "points": 1, "order_id": "3"}, "3")[0] == 409
    with db.write() as session:
        points.grant_many(session, [(2, 300, "C"), (2, 200, "D")], NOW, rule=soon)
    clock.now = NOW
    assert call("points/burn", {"member_id": "m2", "points": 200, "order_id": "4"}, "4")[0] == 200
    clock.now = NOW + timedelta(days=70)
    status, refused = call("points/burn", {"member_id": "m2", "points": 1, "order_id": "5"}, "5")
    assert (status, refused["error"]["code"]) == (409, "insufficient_points")
    assert checked(db, clock.now).available == 0


def test_refunds_of_orders_are_seen_over_http(db: Database, call: Call) -> None:
    """Cases 15 and 18: 40 earned 70, 20 returned → −35; earned at 1×, the rule is 2× today → 50."""
    for member, total, rate, back, left in ((1, 4000, "1.75", 2000, 35), (2, 5000, "1", 5000, 0)):
        with db.write() as session:
            put_order(session, member, member, total)
            accrue_orders(session, EarnRule(rate, 0), NOW, 10)
            put_order(session, member, member, total, refunded=back, status="refunded")
            accrue_orders(session, EarnRule("2", 0), NOW, 10)
        assert call(f"members/m{member}/points")[1]["available"] == left
    checked(db)


def test_a_members_tier_is_told_with_what_is_missing(db: Database, call: Call) -> None:
    assert call("members/m1/tier")[1]["tier"] is None
    ladder = (Tier("silver", "银卡", 1000, "Silver", {"multiplier": "2"}), Tier("gold", "金卡", 5000))
    with db.write() as session:
        store.save_program(session, Program(ladder, timezone="UTC"), "ann", NOW)
        put_order(session, 1, 1, 2000)
        accrue_orders(session, EarnRule("1", 0), NOW, 10)
    status, found = call("members/m1/tier")
    assert status == 200
    assert found == {
        "member_id": "m1",
        "tier": "silver",
        "title": "银卡",
        "since": "2026-03-01T12:00:00Z",
        "until": "2027-03-01T12:00:00Z",
        "value": 2000,
        "next_tier": "gold",
        "to_next": 3000,
        "benefits": {"multiplier": "2"},
    }
    assert call("members/nobody/tier")[0] == 404
