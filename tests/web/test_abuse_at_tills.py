"""Wrong codes, storms and blocks at the endpoints that take codes, and on the page behind a claim link."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from apiflask import APIFlask
from flask import Flask
from flask.testing import FlaskClient

from core.db import Database
from core.settings import Settings
from loyalty import claims, codes, coupons
from loyalty.abuse import guesses, rules
from loyalty.abuse.models import AbuseGuess
from loyalty.abuse.rules import BLOCK, HOLD, Guessing, Rules, Velocity
from loyalty.abuse.subjects import subjects_of
from loyalty.models import ClaimLink
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members, scalar, together
from tests.web.test_api import Clock, Post, client, clock, get, make_key, post  # noqa: F401
from web.api.views import create_blueprint as create_api
from web.public.views import create_blueprint as create_public

ORDER = {"basket_minor": 5000, "currency": "CNY"}
DEVICE = {"client": {"device_id": "d-1"}}
TYPO = "AAAAAAAAAAAAA"


def given_rules(database: Database, *velocity: Velocity, guessing: Guessing = Guessing()) -> None:  # noqa: B008
    with database.write() as session:
        rules.save_rules(session, Rules(velocity, (), guessing), "ann", NOW)


def some_codes(database: Database, number: int) -> list[str]:
    batch = add_batch(database)
    with database.write() as session:
        found = coupons.issue(session, batch, [(None, f"i{n}") for n in range(number)], NOW)
    return list(found.values())


def a_link(database: Database, **link: Any) -> ClaimLink:
    made = add_batch(database, name="claimed")
    with database.write() as session:
        return claims.create_link(session, made, claims.NewLink("Welcome", **link), "ann", NOW)


def said(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    return answer[0], answer[1].get("error", {}).get("code", "done")


def failures(database: Database) -> int:
    return int(scalar(database, "SELECT coalesce(max(failures), 0) FROM abuse_guesses"))


def test_wrong_codes_count_wherever_they_are_tried_and_lock_out_everywhere(
    db: Database, post: Post, get: Post, clock: Clock  # noqa: F811
) -> None:  # fmt: skip
    add_members(db, 1)
    (code,) = some_codes(db, 1)
    link = a_link(db)
    (unknown,) = codes.generate("", 12, 1)
    tries = [
        lambda: post("coupons/redeem", {**ORDER, **DEVICE, "order_id": "o", "code": TYPO}, "a"),
        lambda: post("coupons/hold", {**ORDER, **DEVICE, "order_id": "o", "code": unknown}, "b"),
        lambda: get(f"coupons/{unknown}?device_id=d-1"),
        lambda: get(f"coupons/{TYPO}?device_id=d-1&ip=203.0.113.7"),
        lambda: post("coupons/claim", {**DEVICE, "link": "none", "member_id": "m1"}, "c"),
    ]
    assert [ask()[0] for ask in tries] == [422, 404, 404, 422, 404]
    right = {**ORDER, **DEVICE, "order_id": "o", "code": code}
    locked = post("coupons/redeem", right, "d")
    assert said(locked) == (429, "too_many_requests")
    assert "12:15 UTC" in locked[1]["error"]["message"]
    assert said(get(f"coupons/{code}?device_id=d-1"))[0] == 429
    assert said(post("coupons/claim", {**DEVICE, "link": link.token, "member_id": "m1"}, "e"))[0] == 429
    assert said(get(f"coupons/{code}")) == (200, "done"), "who names nobody is not locked out"
    assert count(db, "redemptions") == 0
    clock.now = NOW + timedelta(minutes=15)
    assert said(post("coupons/redeem", right, "d")) == (200, "done")
    with db.read() as session:
        assert not guesses.any_of(session, subjects_of({"device": "d-1"})), "the right one forgets"


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [
        ({"device_id": "d-1"}, 5),
        ({"ip": "203.0.113.7"}, 5 * guesses.CROWD),
        ({"phone": "13800138000"}, 5),
        ({"address": "上海市静安区南京西路 1 号"}, 5),
    ],
)
def test_each_thing_by_which_a_buyer_is_known_is_locked_out(
    db: Database, post: Post, subject: dict[str, str], allowed: int  # noqa: F811
) -> None:  # fmt: skip
    body = {**ORDER, "order_id": "o", "code": TYPO}
    for number in range(allowed):
        assert post("coupons/redeem", {**body, "client": subject}, f"k{number}")[0] == 422
    other = {**subject, "device_id": "another"} if "device_id" not in subject else {**subject, "ip": "::1"}
    assert said(post("coupons/redeem", {**body, "client": other}, "x")) == (429, "too_many_requests")


def test_how_long_to_wait_is_in_the_header(db: Database, client: FlaskClient) -> None:  # noqa: F811
    headers = {"Authorization": f"Bearer {make_key(db)}"}
    asked = [client.get(f"/api/v1/coupons/{TYPO}?device_id=d", headers=headers) for _ in range(6)]
    assert [answer.status_code for answer in asked] == [422] * 5 + [429]
    assert asked[-1].headers["Retry-After"] == "901"


def test_a_typing_error_elsewhere_is_no_guess(db: Database, post: Post) -> None:  # noqa: F811
    (code,) = some_codes(db, 1)
    wrong = [
        {**ORDER, "order_id": "o", "code": code, "basket_minor": -1},
        {**ORDER, "order_id": "o", "code": code, "currency": "EUR"},
        {**ORDER, "order_id": "", "code": code},
    ]
    for number, body in enumerate(wrong):
        assert post("coupons/redeem", {**body, **DEVICE}, f"k{number}")[0] in (409, 422)
    assert failures(db) == 0


def test_an_old_success_repeated_forgets_no_wrong_codes(db: Database, post: Post) -> None:  # noqa: F811
    (code,) = some_codes(db, 1)
    right = {**ORDER, **DEVICE, "order_id": "o", "code": code}
    first = post("coupons/redeem", right, "right")
    for number in range(4):
        post("coupons/redeem", {**right, "code": TYPO}, f"w{number}")
        assert post("coupons/redeem", right, "right") == first
    assert failures(db) == 4


def test_a_block_refuses_and_a_hold_passes_but_waits_for_review(
    db: Database, post: Post  # noqa: F811
) -> None:  # fmt: skip
    given_rules(db, Velocity("a", "redeem", "device", 1, 3600, HOLD),
                Velocity("b", "redeem", "device", 2, 3600, BLOCK))  # fmt: skip
    found = [
        post("coupons/redeem", {**ORDER, **DEVICE, "order_id": f"o{n}", "code": code}, f"k{n}")
        for n, code in enumerate(some_codes(db, 3))
    ]
    assert [said(answer) for answer in found] == [(200, "done"), (200, "done"), (409, "abuse")]
    assert count(db, "redemptions") == 2
    rows = "SELECT count(*) FROM abuse_hits WHERE state = 'open' AND rule = "
    assert (scalar(db, rows + "'a'"), scalar(db, rows + "'b'")) == (1, 1)


def test_who_was_let_through_gets_the_same_answer_again_after_a_block(
    db: Database, post: Post  # noqa: F811
) -> None:  # fmt: skip
    given_rules(db, Velocity("b", "redeem", "device", 1, 3600, BLOCK))
    bodies = [
        {**ORDER, **DEVICE, "order_id": f"o{n}", "code": code} for n, code in enumerate(some_codes(db, 2))
    ]
    first = post("coupons/redeem", bodies[0], "k0")
    assert said(post("coupons/redeem", bodies[1], "k1")) == (409, "abuse")
    assert post("coupons/redeem", bodies[0], "k0") == first
    assert said(post("coupons/redeem", bodies[1], "k1")) == (409, "abuse"), "and who was not, is not"
    assert count(db, "redemptions") == 1


def test_a_storm_of_claims_is_blocked(db: Database, post: Post) -> None:  # noqa: F811
    add_members(db, 3)
    token = a_link(db).token
    given_rules(db, Velocity("c", "claim", "device", 2, 3600, BLOCK))
    found = [
        post("coupons/claim", {**DEVICE, "link": token, "member_id": f"m{n}"}, f"k{n}") for n in (1, 2, 3)
    ]
    assert [said(answer) for answer in found] == [(200, "done"), (200, "done"), (409, "abuse")]
    assert count(db, "coupons") == 2


def at_once(database: Database, settings: Settings, requests: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What each of the requests was told, sent at one moment by a client each."""
    app = APIFlask("test")
    app.register_blueprint(create_api(database, settings, clock=lambda: NOW))
    headers = {"Authorization": f"Bearer {make_key(database)}"}
    answers: list[str] = []

    def job(number: int, path: str, body: dict[str, Any]) -> Callable[[], None]:
        def run() -> None:
            key = {"Idempotency-Key": f"k{number}"}
            answer = app.test_client().post(f"/api/v1/{path}", json=body, headers={**headers, **key})
            answers.append(answer.get_json().get("error", {}).get("code", "done"))

        return run

    jobs = [job(number, *request) for number, request in enumerate(requests)]
    assert together(jobs) == {"done": len(requests)}
    return answers


def test_wrong_codes_that_come_at_once_are_all_counted(pg_db: Database, settings: Settings) -> None:
    given_rules(pg_db, guessing=Guessing(limit=1000))
    body = {**ORDER, **DEVICE, "code": TYPO}
    requests = [("coupons/redeem", {**body, "order_id": f"o{n}"}) for n in range(24)]
    assert at_once(pg_db, settings, requests) == ["invalid_input"] * 24
    assert failures(pg_db) == 24


def test_of_many_redemptions_at_once_as_many_pass_as_the_rule_allows(
    pg_db: Database, settings: Settings
) -> None:
    given_rules(pg_db, Velocity("b", "redeem", "device", 5, 3600, BLOCK))
    requests = [
        ("coupons/redeem", {**ORDER, **DEVICE, "order_id": f"o{n}", "code": code})
        for n, code in enumerate(some_codes(pg_db, 20))
    ]
    answers = at_once(pg_db, settings, requests)
    assert (answers.count("done"), answers.count("abuse")) == (5, 15)
    assert count(pg_db, "redemptions") == 5
    assert scalar(pg_db, "SELECT times FROM abuse_hits") == 15


@pytest.fixture
def visitor(db: Database, settings: Settings, clock: Clock) -> FlaskClient:  # noqa: F811
    app = Flask("test")
    app.register_blueprint(create_public(db, settings, now=clock))
    add_members(db, 3)
    return app.test_client()


def from_address(address: str) -> dict[str, Any]:
    return {"environ_base": {"REMOTE_ADDR": address}}


def test_a_visitor_who_tries_links_is_locked_out_and_others_are_not(
    db: Database, visitor: FlaskClient, clock: Clock, settings: Settings  # noqa: F811
) -> None:  # fmt: skip
    link = a_link(db)
    page, mine = f"/claim/{link.token}", from_address("203.0.113.7")
    most = 5 * guesses.CROWD
    tried = [visitor.get(f"/claim/none{n}", **mine).status_code for n in range(most - 2)]
    tried += [visitor.post(f"/claim/none{n}", **mine).status_code for n in range(2)]
    assert tried == [404] * most
    assert visitor.get(page, **mine).status_code == 429
    assert visitor.post(page, **mine).status_code == 429
    assert visitor.get(page, **from_address("203.0.113.8")).status_code == 200
    clock.now = NOW + timedelta(minutes=15)
    assert visitor.get(page, **mine).status_code == 200
    assert count(db, "abuse_guesses") == 1
    signed = claims.member_url(settings.base_url, link, 1).removeprefix(settings.base_url)
    assert visitor.post(signed, **mine).status_code == 200
    assert (count(db, "abuse_guesses"), count(db, "coupons")) == (0, 1)


def test_claims_from_one_address_are_noted_and_blocked_where_the_rules_say_so(
    db: Database, visitor: FlaskClient, settings: Settings
) -> None:
    given_rules(db, Velocity("c", "claim", "ip", 2, 3600, BLOCK))
    link = a_link(db)
    pages = [claims.member_url(settings.base_url, link, n).removeprefix(settings.base_url) for n in (1, 2, 3)]
    assert [visitor.post(page).status_code for page in pages] == [200, 200, 409]
    assert visitor.post(pages[0]).status_code == 200, "who has a code is shown it again"
    assert count(db, "coupons") == 2
    assert scalar(db, "SELECT count(*) FROM abuse_signals WHERE kind = 'ip'") == 3


def test_a_typed_address_is_answered_alike_when_it_is_blocked(db: Database, visitor: FlaskClient) -> None:
    given_rules(db, Velocity("c", "claim", "ip", 1, 3600, BLOCK))
    page = f"/claim/{a_link(db).token}"
    first, second = (visitor.post(page, data={"contact": "13800138000"}) for _ in range(2))
    assert (first.status_code, first.text) == (200, second.text)
    assert count(db, "abuse_hits") == 1


def test_wrong_codes_that_no_lock_out_grows_from_are_forgotten(db: Database) -> None:
    with db.write() as session:
        for subject, hours in (("old", 25), ("recent", 23)):
            guesses.failed(session, subjects_of({"device": subject}), NOW - timedelta(hours=hours))
    with db.write() as session:
        assert [guesses.forget_old(session, NOW, 10) for _ in range(2)] == [1, 0]
        left = session.scalars(sa.select(AbuseGuess.hash)).all()
    assert left == [subjects_of({"device": "recent"})["device"]]
