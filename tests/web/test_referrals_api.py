"""Referrals by the HTTP API and on the page behind a link, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from apiflask import APIFlask
from flask.testing import FlaskClient

from core.db import Database
from core.models import Member
from core.settings import Settings
from loyalty.referrals import links, programs
from loyalty.referrals.programs import NewProgram
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members, scalar
from web.api import keys
from web.api.views import create_blueprint as create_api
from web.public.views import create_blueprint as create_public

Post = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def client(db: Database, settings: Settings) -> FlaskClient:
    add_members(db, 5)
    shop = settings.model_copy(update={"shop_url": "https://shop.example/"})
    app = APIFlask("test")
    app.register_blueprint(create_api(db, shop, clock=lambda: NOW))
    app.register_blueprint(create_public(db, shop, lambda: NOW))
    return app.test_client()


@pytest.fixture
def headers(db: Database) -> dict[str, str]:
    with db.write() as session:
        secret = keys.create(session, "shop", keys.SCOPES, "ann", NOW)[1]
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def post(client: FlaskClient, headers: dict[str, str]) -> Post:
    def send(friend: str, token: str, key: str | None = "k", **body: Any) -> tuple[int, dict[str, Any]]:
        more = {"Idempotency-Key": key} if key else {}
        sent = {"token": token, "member_id": friend, **body}
        answer = client.post("/api/v1/referrals", json=sent, headers={**headers, **more})
        return answer.status_code, answer.get_json()

    return send


def given_program(database: Database, **changes: Any) -> None:
    new = {"referrer_points": 200, "friend_points": 100, "min_order_minor": 5000, **changes}
    with database.write() as session:
        programs.create(session, NewProgram("friends", "Friends", "CNY", **new), "ann", NOW)


def test_a_members_link_leads_to_their_page(
    client: FlaskClient, headers: dict[str, str], db: Database
) -> None:
    given_program(db)
    found = client.get("/api/v1/members/m1/referral-link", headers=headers).get_json()
    assert found["url"] == f"http://127.0.0.1:8080/r/{found['token']}"
    assert found["qr_svg"].startswith("<svg")
    page = client.get(f"/r/{found['token']}")
    assert page.status_code == 200
    for part in (
        "100 积分",
        "100 points",
        "首单满 ¥50，14 天退货期后发放。",
        "your first order of CN¥50 or more and 14 days for returns.",
        f"https://shop.example/?ref={found['token']}",
        "<svg",
    ):
        assert part in page.text
    assert client.get("/api/v1/members/nobody/referral-link", headers=headers).status_code == 404


def test_openings_are_counted_but_not_what_a_browser_fetches_ahead(client: FlaskClient, db: Database) -> None:
    given_program(db)
    address = f"/r/{links.token_of(1)}"
    client.get(address)
    client.get(address, headers={"Sec-Purpose": "prefetch;prerender"})
    client.head(address)
    assert scalar(db, "SELECT sum(opens) FROM referral_opens") == 1


def test_the_page_shows_an_initial_and_no_more(client: FlaskClient, db: Database) -> None:
    given_program(db)
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 1).values(name="<b>王小明"))
    page = client.get(f"/r/{links.token_of(1)}").text
    assert "&lt;**" in page
    assert "小明" not in page


def test_the_page_says_what_a_coupon_gives(client: FlaskClient, db: Database) -> None:
    batch = add_batch(db, benefit={"type": "percent", "percent": 15}, min_spend_minor=10000)
    given_program(db, friend_points=None, friend_batch_id=batch.id)
    page = client.get(f"/r/{links.token_of(1)}").text
    assert "15% off from CN¥100" in page
    assert "优惠 15%（满 ¥100 可用）" in page


def test_without_a_programme_or_a_member_the_page_says_so(client: FlaskClient, db: Database) -> None:
    assert "No invitations at the moment" in client.get(f"/r/{links.token_of(1)}").text
    assert client.get("/r/made-up.token").status_code == 404
    assert client.get(f"/r/{links.token_of(99)}").status_code == 404
    assert count(db, "referral_opens") == 0


def test_a_friend_joins_and_a_repetition_answers_the_same(post: Post, db: Database) -> None:
    given_program(db)
    token = links.token_of(1)
    status, first = post("m2", token, client={"device_id": "d", "ip": "203.0.113.9"})
    assert (status, first["state"], first["reason"], first["words"]) == (200, "joined", None, None)
    assert post("m2", token, client={"device_id": "d", "ip": "203.0.113.9"}) == (200, first)
    assert (count(db, "referrals"), count(db, "abuse_signals")) == (1, 3)


def test_a_rejection_has_its_reason_in_both_languages(post: Post, db: Database) -> None:
    given_program(db)
    _, found = post("m1", links.token_of(1))
    assert (found["state"], found["reason"]) == ("rejected", "oneself")
    assert found["words"] == {"en": "Nobody can invite themselves.", "zh": "不能邀请自己。"}


def test_a_friend_on_the_referrers_device_is_rejected(post: Post, db: Database) -> None:
    given_program(db)
    post("m1", links.token_of(3), key="a", client={"device_id": "shared"})
    assert (
        post("m2", links.token_of(1), key="b", client={"device_id": "shared"})[1]["reason"] == "same_device"
    )


@pytest.mark.parametrize(
    ("friend", "token", "more", "status"),
    [
        ("nobody", None, {}, 404),
        ("m2", "made.up", {}, 404),
        ("m2", None, {"key": None}, 422),
        ("m2", None, {"client": {"ip": "x"}}, 422),
        ("m2", None, {"surprise": 1}, 422),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_joined(
    post: Post, db: Database, friend: str, token: str | None, more: dict[str, Any], status: int
) -> None:
    given_program(db)
    assert post(friend, token or links.token_of(1), **more)[0] == status
    assert count(db, "referrals") == 0


def test_without_a_programme_joining_is_a_conflict(post: Post, db: Database) -> None:
    assert post("m2", links.token_of(1))[0] == 409
