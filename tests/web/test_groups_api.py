"""Groups by the HTTP API and on their public page, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from core.db import Database
from core.settings import Settings
from loyalty.abuse import rules
from loyalty.abuse.rules import BLOCK, Rules, Velocity
from tests.conftest import count
from tests.loyalty.data import NOW, scalar
from tests.loyalty.test_groups import DEADLINE, given_offer
from web.api import keys
from web.api.views import create_blueprint as create_api
from web.public.views import create_blueprint as create_public

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
    given_offer(db)
    app = APIFlask("test")
    app.register_blueprint(create_api(db, settings, clock=clock))
    app.register_blueprint(create_public(db, settings, clock))
    return app.test_client()


@pytest.fixture
def headers(db: Database) -> dict[str, str]:
    with db.write() as session:
        secret = keys.create(session, "shop", keys.SCOPES, "ann", NOW)[1]
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def post(client: FlaskClient, headers: dict[str, str]) -> Post:
    def send(path: str, key: str | None, **body: Any) -> tuple[int, dict[str, Any]]:
        more = {"Idempotency-Key": key} if key else {}
        answer = client.post(f"/api/v1/{path}", json=body, headers={**headers, **more})
        return answer.status_code, answer.get_json()

    return send


@pytest.fixture
def get(client: FlaskClient, headers: dict[str, str]) -> Callable[[str], Any]:
    return lambda path: client.get(f"/api/v1/{path}", headers=headers)


@pytest.fixture
def token(post: Post) -> str:
    status, found = post("groups", "open", offer="tea", member_id="m1")
    assert (status, found["taken"], found["seats"], found["state"]) == (200, 1, 3, "open")
    return str(found["token"])


def page_of(join_url: str) -> str:
    return join_url.removeprefix("http://127.0.0.1:8080")


def test_a_group_fills_by_the_api_and_the_last_member_gets_a_code(
    post: Post, token: str, db: Database
) -> None:
    post("groups/join", "a", token=token, member_id="m2")
    status, found = post("groups/join", "b", token=token, member_id="m3")
    assert (status, found["state"], found["taken"]) == (200, "unlocked", 3)
    assert found["code"] == scalar(db, "SELECT code FROM coupons WHERE member_id = 3")
    status, refused = post("groups/join", "c", token=token, member_id="m4")
    assert (status, refused["error"]["code"]) == (409, "full")


def test_the_page_shows_how_the_group_stands_and_needs_a_members_link_to_join(
    client: FlaskClient, get: Any, token: str, db: Database
) -> None:
    page = client.get(f"/g/{token}").text
    assert "2 more needed, 24 h 0 min left." in page
    assert "还差 2 人" in page
    assert "<button" not in page
    assert client.post(f"/g/{token}").status_code == 404
    address = page_of(get(f"groups/{token}?member_id=m2").get_json()["join_url"])
    assert "Join this group" in client.get(address).text
    assert count(db, "group_seats") == 1  # looking joins nobody
    for _ in range(2):
        answer = client.post(address)
        assert (answer.status_code, "You are in this group." in answer.text) == (200, True)
    assert count(db, "group_seats") == 2


def test_the_page_says_why_somebody_cannot_join(
    client: FlaskClient, post: Post, get: Any, token: str, clock: Clock, db: Database
) -> None:
    late = page_of(get(f"groups/{token}?member_id=m4").get_json()["join_url"])
    for number in (2, 3):
        post("groups/join", f"j{number}", token=token, member_id=f"m{number}")
    answer = client.post(late)
    assert answer.status_code == 409
    assert "This group is full" in answer.text
    assert "everybody has their coupon" in client.get(f"/g/{token}").text
    clock.now = NOW + timedelta(hours=1)
    other = post("groups", "second", offer="tea", member_id="m4")[1]["token"]
    address = page_of(get(f"groups/{other}?member_id=m5").get_json()["join_url"])
    clock.now = DEADLINE + timedelta(hours=1)
    assert "did not fill in time" in client.get(address).text
    assert client.post(address).status_code == 409


def test_a_link_to_one_group_does_not_open_another(
    client: FlaskClient, post: Post, get: Any, token: str, db: Database
) -> None:
    other = post("groups", "other", offer="tea", member_id="m5")[1]["token"]
    signed = get(f"groups/{token}?member_id=m2").get_json()["join_url"].partition("?m=")[2]
    assert client.post(f"/g/{other}?m={signed}").status_code == 404
    assert count(db, "group_seats") == 2


def test_who_is_blocked_by_the_rules_does_not_join(
    client: FlaskClient, post: Post, get: Any, token: str, db: Database
) -> None:
    address = page_of(get(f"groups/{token}?member_id=m2").get_json()["join_url"])
    with db.write() as session:
        rule = Velocity("storm", "group", "ip", 1, 3600, BLOCK)
        rules.save_rules(session, Rules((rule,), ()), "ann", NOW)
    sent = {"client": {"ip": "127.0.0.1"}}
    assert post("groups/join", "a", token=token, member_id="m3", **sent)[0] == 200
    assert post("groups/join", "b", token=token, member_id="m4", **sent)[1]["error"]["code"] == "abuse"
    assert client.post(address).status_code == 409
    assert count(db, "group_seats") == 2


@pytest.mark.parametrize(
    ("path", "key", "body", "status"),
    [
        ("groups", "k", {"offer": "coffee", "member_id": "m1"}, 404),
        ("groups", "k", {"offer": "tea", "member_id": "nobody"}, 404),
        ("groups", None, {"offer": "tea", "member_id": "m2"}, 422),
        ("groups", "k", {"offer": "tea"}, 422),
        ("groups/join", "k", {"token": "nothing", "member_id": "m1"}, 404),
        ("groups/join", "k", {"token": "x", "member_id": "m1", "client": {"phone": "x"}}, 422),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_written(
    post: Post, db: Database, path: str, key: str | None, body: dict[str, Any], status: int
) -> None:
    assert post(path, key, **body)[0] == status
    assert (count(db, "groups"), count(db, "loyalty_requests")) == (0, 0)


def test_an_unknown_group_is_not_found(client: FlaskClient, get: Any) -> None:
    assert get("groups/nothing").status_code == 404
    assert client.get("/g/nothing").status_code == 404
