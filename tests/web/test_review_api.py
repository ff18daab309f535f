"""The watch over endpoints: noted outside the request's transaction, held, blocked, locked out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from apiflask import APIBlueprint, APIFlask
from flask.testing import FlaskClient

from core.db import Database
from core.errors import Conflict
from core.models import Preference
from core.settings import Settings
from loyalty import coupons
from loyalty.abuse import rules
from loyalty.abuse.rules import Rules, Velocity
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members, scalar
from web.api import errors, schemas
from web.api.abuse import ClientIn, verdict, watched

Post = Callable[..., tuple[int, dict[str, Any]]]


class BodyIn(schemas.Body):
    code: str
    member_id: str | None = None
    fail: bool = False
    client: ClientIn | None = None


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(db: Database, settings: Settings, clock: Clock) -> FlaskClient:
    """An application with one watched view that looks a code up, and writes before it fails."""
    blueprint = APIBlueprint("api", __name__)
    errors.register(blueprint)

    @blueprint.post("/try")
    @blueprint.input(BodyIn, arg_name="body")
    @watched(db, clock, "redeem", code=True)
    def try_code(body: BodyIn) -> dict[str, Any]:
        with db.write() as session:
            session.add(Preference(key=f"written:{verdict().decision}", value=1, updated_at=NOW))
            if body.fail:
                raise Conflict("Something else is wrong.")
            coupons.look_up(session, body.code, clock())
            session.rollback()
        return {"decision": verdict().decision}

    app = APIFlask("test")
    app.register_blueprint(blueprint)
    return app.test_client()


@pytest.fixture
def post(client: FlaskClient) -> Post:
    def send(code: str, key: str | None = None, **body: Any) -> tuple[int, dict[str, Any]]:
        headers = {"Idempotency-Key": key} if key else {}
        answer = client.post("/try", json={"code": code, **body}, headers=headers)
        return answer.status_code, answer.get_json()

    return send


@pytest.fixture
def code(db: Database) -> str:
    batch = add_batch(db)
    with db.write() as session:
        return coupons.issue(session, batch, [(None, "i")], NOW)["i"]


BUYER = {"client": {"device_id": "d-1", "ip": "203.0.113.7"}}
WRONG = "AAAA"


def test_without_client_and_member_nothing_is_watched(db: Database, post: Post, code: str) -> None:
    for _ in range(8):
        assert post(WRONG)[0] == 422
    assert post(code) == (200, {"decision": "allow"})
    assert (count(db, "abuse_signals"), count(db, "abuse_guesses")) == (0, 0)


def test_five_wrong_codes_lock_the_buyer_out_though_each_request_was_rolled_back(
    db: Database, post: Post, code: str, clock: Clock
) -> None:
    assert [post(WRONG, **BUYER)[0] for _ in range(5)] == [422] * 5
    status, body = post(code, **BUYER)
    assert (status, body["error"]["code"]) == (429, "too_many_requests")
    assert body["error"]["message"].endswith("again from 12:15 UTC.")
    assert post(code, client={"device_id": "d-2"})[0] == 200
    clock.now = NOW + timedelta(minutes=15)
    assert post(code, **BUYER)[0] == 200
    assert count(db, "abuse_guesses") == 0


def test_a_code_that_nobody_has_is_wrong_and_another_refusal_is_not(
    db: Database, post: Post, code: str
) -> None:
    from loyalty import codes

    (unknown,) = codes.generate("", 12, 1)
    assert post(unknown, **BUYER)[0] == 404
    assert scalar(db, "SELECT max(failures) FROM abuse_guesses") == 1
    assert post(code, fail=True, **BUYER)[0] == 409
    assert scalar(db, "SELECT max(failures) FROM abuse_guesses") == 1


def test_what_is_too_much_is_held_and_then_blocked(db: Database, post: Post, code: str) -> None:
    with db.write() as session:
        kinds = (
            Velocity("a", "redeem", "device", 1, 3600),
            Velocity("b", "redeem", "device", 2, 3600, "block"),
        )
        rules.save_rules(session, Rules(kinds, ()), "ann", NOW)
    found = [post(code, **BUYER) for _ in range(3)]
    assert [body.get("decision") or body["error"]["code"] for _, body in found] == [
        "allow",
        "hold",
        "abuse",
    ]
    assert found[2][0] == 409
    assert count(db, "abuse_hits") == 2


def test_a_repeated_request_is_noted_once(db: Database, post: Post, code: str) -> None:
    for _ in range(3):
        post(code, key="k", **BUYER)
    assert count(db, "abuse_signals") == 2


def test_a_known_member_is_noted_and_an_unknown_one_is_left_to_the_view(
    db: Database, post: Post, code: str
) -> None:
    add_members(db, 1)
    assert post(code, member_id="nobody")[0] == 200
    assert count(db, "abuse_signals") == 0
    assert post(code, member_id="m1")[0] == 200
    assert scalar(db, "SELECT kind FROM abuse_signals") == "member"


@pytest.mark.parametrize(
    ("sent", "field"),
    [({"ip": "1.2"}, "client.ip"), ({"phone": "x"}, "client.phone"), ({"address": "-"}, "client.address")],
)
def test_a_client_that_cannot_be_read_is_refused_by_field(
    db: Database, post: Post, code: str, sent: dict[str, str], field: str
) -> None:
    status, body = post(code, client=sent)
    assert (status, body["error"]["field"]) == (422, field)
    assert (count(db, "abuse_signals"), count(db, "preferences")) == (0, 0)


def test_a_field_that_no_client_has_is_refused(db: Database, post: Post, code: str) -> None:
    assert post(code, client={"cookie": "x"})[0] == 422
    assert count(db, "abuse_signals") == 0
