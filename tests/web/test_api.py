"""The HTTP API on a bare APIFlask application, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from apiflask import APIFlask
from flask.testing import FlaskClient

from core.db import Database
from core.errors import InvalidInput, NotFound
from core.models import AuditEntry, Member, Order, Todo
from core.settings import Settings
from loyalty import codes, points
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members
from web.api import keys
from web.api.views import MAX_BODY_BYTES, create_blueprint
from web.models import ApiKey

AT = "2026-03-01T08:00:00Z"
Post = Callable[..., tuple[int, dict[str, Any]]]


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(db: Database, settings: Settings, clock: Clock) -> FlaskClient:
    app = APIFlask("test", title="Huiliu", spec_path="/api/openapi.json", docs_path=None)
    app.register_blueprint(create_blueprint(db, settings, clock=clock))
    return app.test_client()


def make_key(database: Database, *scopes: str) -> str:
    with database.write() as session:
        return keys.create(session, "shop", scopes or keys.SCOPES, "ann", NOW)[1]


@pytest.fixture
def post(db: Database, client: FlaskClient) -> Post:
    """POST with a key of every scope: status and JSON."""
    token = make_key(db)

    def send(path: str, body: Any, key: str | None = None) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}", **({"Idempotency-Key": key} if key else {})}
        answer = client.post(f"/api/v1/{path}", json=body, headers=headers)
        return answer.status_code, answer.get_json()

    return send


@pytest.fixture
def get(db: Database, client: FlaskClient) -> Post:
    token = make_key(db, "read")

    def fetch(path: str) -> tuple[int, dict[str, Any]]:
        answer = client.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {token}"})
        return answer.status_code, answer.get_json()

    return fetch


def test_rows_of_every_kind_are_loaded_once(db: Database, post: Post) -> None:
    bodies: dict[str, list[dict[str, Any]]] = {
        "members": [
            {"member_id": "a", "email": "a@example.com", "email_consent": True, "attributes": {"vip": 1}},
            {"member_id": "b", "tags": ["x", "y"]},
        ],
        "products": [{"sku": "mug", "price": 12.5, "margin": 0.4}],
        "orders": [
            {"order_id": "o1", "member_id": "a", "ordered_at": AT, "amount": "12.50", "sku": "mug"},
            {"order_id": "o2", "member_id": "new", "ordered_at": "2026-03-01T09:00:00+08:00", "amount": 3},
            {"order_id": "o1", "member_id": "a", "ordered_at": AT, "amount": "1.00"},
        ],
        "events": [{"event_id": "e", "member_id": "a", "kind": "visit", "occurred_at": "2026-03-01T08:00:00Z",
                    "properties": {"page": "/"}}],
    }  # fmt: skip
    for kind, rows in bodies.items():
        status, answer = post(kind, {"rows": rows})
        assert (status, answer["rejected"], answer["rows"]) == (200, [], len(rows))
        status, again = post(kind, {"rows": rows})
        assert (status, again["inserted"], again["updated"]) == (200, 0, 0)
    with db.read() as session:
        assert sorted(session.scalars(sa.select(Member.external_id))) == ["a", "b", "new"]
        totals = session.execute(sa.select(Order.external_id, Order.total_minor)).all()
        assert dict(tuple(row) for row in totals) == {"o1": 1350, "o2": 300}
        assert session.scalar(sa.select(sa.func.count()).where(Todo.queue == "loyalty.orders")) == 2
        assert session.execute(sa.text("SELECT count(*) FROM consents")).scalar_one() == 1


def test_a_wrong_row_is_answered_with_its_place_and_the_others_load(db: Database, post: Post) -> None:
    rows = [
        {"member_id": "a"},
        {"name": "no id"},
        {"member_id": "c", "email": "not an address"},
        {"member_id": "d"},
    ]
    status, answer = post("members", {"rows": rows})
    assert (status, answer["inserted"]) == (200, 2)
    assert [found["index"] for found in answer["rejected"]] == [1, 2]
    assert "member_id is missing" in answer["rejected"][0]["reason"]
    assert "not an e-mail address" in answer["rejected"][1]["reason"]
    assert count(db, "members") == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "rows"),
        ({"rows": []}, "rows"),
        ({"rows": [{"member_id": "a"}] * 1001}, "rows"),
        ({"rows": ["x"]}, "rows.0"),
        ({"rows": [{"member_id": "a"}], "extra": 1}, "extra"),
        ({"rows": [{"member_id": "a", "attributes": [1]}]}, "rows"),
        ({"rows": [{"member_id": "a", "name": "\x00"}]}, None),
        ({"rows": [{"member_id": "a", "name": "\ud800"}]}, None),
        ({"rows": [{"member_id": "a", "attributes": {"x": float("nan")}}]}, None),
        ([1], None),
    ],
)
def test_what_cannot_be_loaded_is_refused_whole(
    db: Database, post: Post, body: Any, field: str | None
) -> None:
    status, answer = post("members", body)
    assert (status, answer["error"]["code"], answer["error"]["field"]) == (422, "invalid_input", field)
    assert count(db, "members") == 0


def test_every_endpoint_needs_a_key_with_its_scope(db: Database, client: FlaskClient) -> None:
    needed = {
        ("post", "members"): "ingest",
        ("post", "members/a/consents"): "ingest",
        ("post", "products"): "ingest",
        ("post", "orders"): "ingest",
        ("post", "events"): "ingest",
        ("post", "coupons/issue"): "loyalty",
        ("post", "coupons/redeem"): "loyalty",
        ("post", "coupons/rollback"): "loyalty",
        ("post", "coupons/hold"): "loyalty",
        ("post", "coupons/release"): "loyalty",
        ("post", "coupons/claim"): "loyalty",
        ("post", "coupons/transfer"): "loyalty",
        ("get", "members/a/coupons"): "read",
        ("get", "coupons/X"): "read",
        ("post", "points/earn"): "loyalty",
        ("post", "points/hold"): "loyalty",
        ("post", "points/burn"): "loyalty",
        ("post", "points/release"): "loyalty",
        ("post", "points/adjust"): "loyalty",
        ("post", "points/transfer"): "loyalty",
        ("post", "points/quote"): "read",
        ("post", "points/refund"): "loyalty",
        ("get", "members/a/points"): "read",
        ("get", "members/a/tier"): "read",
        ("get", "members/a/referral-link"): "read",
        ("get", "members/a/wallet-link"): "loyalty",
        ("post", "referrals"): "loyalty",
        ("post", "groups"): "loyalty",
        ("post", "groups/join"): "loyalty",
        ("get", "groups/X"): "read",
        ("post", "promotions/evaluate"): "read",
        ("post", "promotions/take"): "loyalty",
        ("post", "promotions/confirm"): "loyalty",
        ("post", "promotions/release"): "loyalty",
        ("post", "segments/count"): "read",
        ("post", "experiments"): "experiments",
        ("post", "experiments/x"): "experiments",
        ("get", "experiments/x"): "read",
        ("get", "experiments/x/results"): "read",
        ("post", "experiments/x/assign"): "experiments",
    }
    rules = [rule for rule in client.application.url_map.iter_rules() if str(rule).startswith("/api/v1/")]
    assert len(rules) == len(needed)
    tokens = {scope: make_key(db, scope) for scope in keys.SCOPES}
    for number, ((method, path), scope) in enumerate(needed.items()):
        # Wrong keys have a limit an address: one each.
        caller = {"REMOTE_ADDR": f"127.0.1.{number}"}
        for token in (None, "hl_wrong", "other"):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = client.open(
                f"/api/v1/{path}", method=method.upper(), json={}, headers=headers, environ_base=caller
            )
            assert answer.status_code == 401
            assert answer.get_json()["error"]["code"] == "unauthorized"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for held, token in tokens.items():
            headers = {"Authorization": f"Bearer {token}"}
            answer = client.open(f"/api/v1/{path}", method=method.upper(), json={}, headers=headers)
            allowed = held == scope or scope in keys.IMPLIED.get(held, ())
            assert (answer.status_code == 403) == (not allowed)
            if not allowed:
                assert f"the scope “{scope}”" in answer.get_json()["error"]["message"]


def test_a_key_is_kept_as_a_digest_and_can_be_revoked(
    db: Database, client: FlaskClient, clock: Clock
) -> None:
    with db.write() as session:
        row, secret = keys.create(session, " till ", ["read", "ingest", "read"], "ann", NOW)
        assert (row.name, row.scopes, secret[:10]) == ("till", ["ingest", "read"], row.prefix)
        assert secret not in json.dumps([row.digest, row.prefix])
        for name, scopes in (("", ["read"]), ("x", []), ("x", ["all"])):
            with pytest.raises(InvalidInput):
                keys.create(session, name, scopes, "ann", NOW)
    headers = {"Authorization": f"Bearer {secret}"}
    used = []
    for minutes in (0, 4, 6):
        clock.now = NOW + timedelta(minutes=minutes)
        assert client.get("/api/v1/members/a/points", headers=headers).status_code == 404
        with db.read() as session:
            used.append(session.get_one(ApiKey, row.id).last_used_at)
    assert used == [NOW, NOW, NOW + timedelta(minutes=6)]
    with db.write() as session:
        keys.revoke(session, row.id, "ann", NOW)
        keys.revoke(session, row.id, "ann", NOW)
        with pytest.raises(NotFound):
            keys.revoke(session, 999, "ann", NOW)
    assert client.get("/api/v1/members/a/points", headers=headers).status_code == 401
    with db.read() as session:
        assert session.scalars(sa.select(AuditEntry.action)).all() == ["create", "revoke"]


def test_a_code_is_issued_redeemed_shown_and_rolled_back(db: Database, post: Post, get: Post) -> None:
    add_members(db, 2)
    add_batch(db, per_member_limit=1)
    body = {"batch": "spring", "member_ids": ["m1", "m2", "m1"]}
    status, issued = post("coupons/issue", body, "i1")
    assert status == 200
    assert [row["member_id"] for row in issued["coupons"]] == ["m1", "m2", "m1"]
    assert [row["reason"] for row in issued["coupons"]] == [None, None, "per_member_limit"]
    assert post("coupons/issue", body, "i1") == (200, issued)
    assert post("coupons/issue", {**body, "member_ids": ["m2"]}, "i1")[0] == 409
    code = issued["coupons"][0]["code"]
    order = {"code": code.lower(), "order_id": "o1", "basket_minor": 5000, "member_id": "m1"}
    status, redeemed = post("coupons/redeem", order, "r1")
    assert (status, redeemed["discount_minor"], redeemed["currency"], redeemed["code"]) == (
        200,
        1000,
        "CNY",
        code,
    )
    assert post("coupons/redeem", order, "r1") == (200, redeemed)
    status, refused = post("coupons/redeem", {**order, "order_id": "o2"}, "r2")
    assert (status, refused["error"]["code"]) == (409, "already_redeemed")
    assert get(f"coupons/{code}")[1]["state"] == "redeemed"
    status, back = post("coupons/rollback", {"code": code, "order_id": "o1"}, "b1")
    assert (status, back["rolled_back_at"]) == (200, "2026-03-01T12:00:00Z")
    shown = get(f"coupons/{code}")[1]
    assert (shown["state"], shown["member_id"], shown["benefit"]["amount"]) == ("issued", "m1", 1000)


def test_mistyped_unknown_and_foreign_codes_are_told_apart(db: Database, post: Post, get: Post) -> None:
    add_members(db, 2)
    add_batch(db)
    code = post("coupons/issue", {"batch": "spring", "member_ids": ["m1"]}, "i")[1]["coupons"][0]["code"]
    order = {"code": code, "order_id": "o1", "basket_minor": 5000}
    wrong = code[:-1] + next(s for s in codes.ALPHABET if s != code[-1])
    unknown = codes.generate("", 12, 1)[0]
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"code": wrong}, 422, "invalid_input"),
        ({"code": unknown}, 404, "not_found"),
        ({"member_id": "m2"}, 409, "other_member"),
        ({"currency": "USD"}, 409, "wrong_currency"),
        ({"basket_minor": -1}, 422, "invalid_input"),
        ({"basket_minor": "5"}, 422, "invalid_input"),
    ]
    for changes, expected, reason in cases:
        status, answer = post("coupons/redeem", {**order, **changes}, "k")
        assert (status, answer["error"]["code"]) == (expected, reason)
    assert get(f"coupons/{wrong}")[0] == 422
    assert get(f"coupons/{unknown}")[0] == 404
    assert count(db, "redemptions") == 0


def test_codes_for_anybody_are_issued_by_number(db: Database, post: Post) -> None:
    add_batch(db, total_limit=3)
    status, issued = post("coupons/issue", {"batch": "spring", "count": 5}, "i")
    assert status == 200
    assert [row["reason"] for row in issued["coupons"]] == [None] * 3 + ["total_limit"] * 2
    for body in ({"batch": "spring"}, {"batch": "spring", "count": 1, "member_ids": ["m1"]}):
        assert post("coupons/issue", body, "j")[0] == 422
    assert post("coupons/issue", {"batch": "none", "count": 1}, "j")[0] == 404
    status, answer = post("coupons/issue", {"batch": "spring", "member_ids": ["m1", "m9"]}, "j")
    assert (status, "m1, m9" in answer["error"]["message"]) == (404, True)


def test_points_are_earned_burnt_and_given_back(db: Database, post: Post, get: Post) -> None:
    add_members(db, 1)
    earned = post("points/earn", {"member_id": "m1", "points": 100}, "e1")
    assert earned == (200, {"member_id": "m1", "points": 100, "available": 100})
    spent = post("points/burn", {"member_id": "m1", "points": 60, "order_id": "o1"}, "s1")
    assert spent == (200, {"member_id": "m1", "points": 60, "available": 40})
    assert post("points/earn", {"member_id": "m1", "points": 100}, "e1") == earned
    assert post("points/burn", {"member_id": "m1", "points": 60, "order_id": "o1"}, "s1") == spent
    assert post("points/earn", {"member_id": "m1", "points": 101}, "e1")[0] == 409
    status, short = post("points/burn", {"member_id": "m1", "points": 41, "order_id": "o2"}, "s2")
    assert (status, short["error"]["code"]) == (409, "insufficient_points")
    back = post("points/refund", {"member_id": "m1", "order_id": "o1", "points": 10}, "f1")
    assert back == (200, {"member_id": "m1", "points": 10, "available": 50})
    assert post("points/refund", {"member_id": "m1", "order_id": "o1"}, "f2")[1]["available"] == 100
    status, shown = get("members/m1/points")
    assert (status, shown["available"], shown["pending"], shown["debt"]) == (200, 100, 0, 0)
    assert shown["held"] == 0
    assert shown["next_expiry"] == "2027-03-01T12:00:00Z"
    assert get("members/m1/points?source=other")[0] == 404
    for body in ({"member_id": "m1", "points": 0}, {"member_id": "m1", "points": 1.5}, {"points": 1}):
        assert post("points/earn", body, "e9")[0] == 422
    with db.read() as session:
        assert points.check(session) == []


def test_a_member_id_may_hold_a_slash_but_not_be_erased(db: Database, get: Post) -> None:
    add_members(db, 1)
    with db.write() as session:
        session.execute(sa.update(Member).values(external_id="a/b c"))
    assert get("members/a/b%20c/points")[0] == 200
    with db.write() as session:
        session.execute(sa.update(Member).values(erased_at=NOW))
    assert get("members/a/b%20c/points")[0] == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("coupons/issue", {"batch": "spring", "count": 1}),
        ("coupons/redeem", {"code": "X", "order_id": "o", "basket_minor": 1}),
        ("coupons/rollback", {"code": "X", "order_id": "o"}),
        ("points/earn", {"member_id": "m1", "points": 1}),
        ("points/burn", {"member_id": "m1", "points": 1, "order_id": "o"}),
        ("points/refund", {"member_id": "m1", "order_id": "o"}),
    ],
)
def test_a_write_without_an_idempotency_key_is_refused(post: Post, path: str, body: dict[str, Any]) -> None:
    status, answer = post(path, body)
    assert (status, answer["error"]["field"]) == (422, "Idempotency-Key")
    status, answer = post(path, body, "k" * 129)
    assert status in (404, 422)


def test_bodies_that_are_too_large_or_no_json_are_refused(db: Database, client: FlaskClient) -> None:
    headers = {"Authorization": f"Bearer {make_key(db)}"}
    large = json.dumps({"rows": [{"member_id": "a", "name": "x" * MAX_BODY_BYTES}]})
    for data, status, code in (
        (large, 413, "too_large"),
        ("{", 400, "bad_request"),
        ("", 400, "bad_request"),
    ):
        answer = client.post("/api/v1/members", data=data, headers=headers, content_type="application/json")
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (status, code)
    deep = '{"rows": [{"member_id": "a", "attributes": {"x": ' + "[" * 100_000 + "]" * 100_000 + "}}]}"
    answer = client.post("/api/v1/members", data=deep, headers=headers, content_type="application/json")
    assert answer.status_code in (400, 422)
    assert count(db, "members") == 0


def test_the_openapi_document_names_every_endpoint_and_the_key(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    assert {"/api/v1/orders", "/api/v1/coupons/redeem", "/api/v1/members/{external_id}/points"} <= set(
        document["paths"]
    )
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    redeem = document["paths"]["/api/v1/coupons/redeem"]["post"]
    assert redeem["security"] == [{"ApiKey": ["loyalty"]}]
    assert "requestBody" in redeem
    assert [(one["name"], one["in"], one["required"]) for one in redeem["parameters"]] == [
        ("Idempotency-Key", "header", True)
    ]
    orders = document["paths"]["/api/v1/orders"]["post"]
    assert not orders.get("parameters"), "orders have ids of their own"
    assert redeem["responses"]["200"]["content"]


def test_a_key_that_sends_too_much_waits_and_the_others_do_not(db: Database, settings: Settings) -> None:
    app = APIFlask("test")
    app.register_blueprint(create_blueprint(db, settings.model_copy(update={"api_rate": "3/hour"})))
    busy, calm = make_key(db), make_key(db)
    client = app.test_client()

    def ask(token: str) -> Any:
        return client.get("/api/v1/coupons/x", headers={"Authorization": f"Bearer {token}"})

    assert [ask(busy).status_code for _ in range(3)] == [422, 422, 422]
    refused = ask(busy)
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (429, "too_many_requests")
    assert int(refused.headers["Retry-After"]) > 0
    assert ask(calm).status_code == 422


def test_an_address_that_tries_unknown_keys_is_stopped(db: Database, client: FlaskClient) -> None:
    def ask(token: str) -> int:
        return client.get("/api/v1/coupons/x", headers={"Authorization": f"Bearer {token}"}).status_code

    assert [ask(f"hl_{number}") for number in range(60)] == [401] * 60
    assert ask("hl_again") == 429
    assert ask(make_key(db)) == 429, "the address waits, whatever it sends next"


def test_times_come_from_the_clock(db: Database, client: FlaskClient, clock: Clock) -> None:
    add_members(db, 1)
    clock.now = datetime(2026, 5, 1, tzinfo=UTC)
    headers = {"Authorization": f"Bearer {make_key(db)}", "Idempotency-Key": "k"}
    client.post("/api/v1/points/earn", json={"member_id": "m1", "points": 5}, headers=headers)
    with db.read() as session:
        assert session.execute(sa.text("SELECT month FROM warehouse_marks")).scalars().all() == ["2026-05"]
