"""Double opt-in, from the asking to the click in a real e-mail; and the API that grants and withdraws."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from channels import consent, optin, tracking
from channels.consent import MARKETING
from channels.delivery import run_delivery
from channels.models import Consent, Message, OptIn, Template
from channels.sandbox import inbox
from core.db import Database
from core.imports import ConsentChange, load_rows, numbered
from core.settings import Settings
from segments.erasure import erase
from tests.channels.seed import NOW, add_members, add_template, enqueue, row, sandbox
from tests.conftest import count
from web.api import keys
from web.app import create_app


def asking(settings: Settings, value: str = "true") -> Settings:
    return settings.model_copy(update={"double_opt_in": value})


def grant(
    database: Database, settings: Settings, member: int = 1, channel: str = "email", **more: Any
) -> str:
    wanted = ConsentChange(member, channel, MARKETING, True, "form", more.get("at", NOW))
    with database.write() as session:
        return optin.change(session, settings, wanted)


def allowed(database: Database, *members: int) -> set[int]:
    with database.read() as session:
        return consent.allowed(session, members, "email", MARKETING)


def requests(database: Database) -> list[OptIn]:
    with database.read() as session:
        return list(session.scalars(sa.select(OptIn).order_by(OptIn.id)))


@pytest.mark.parametrize(
    ("value", "channel", "state"),
    [
        ("false", "email", "granted"),
        ("true", "email", "pending"),
        ("all", "email", "pending"),
        ("true", "sms", "granted"),
    ],
)
def test_only_e_mail_waits_and_only_where_the_shop_asks(
    db: Database, settings: Settings, value: str, channel: str, state: str
) -> None:
    add_members(db, [1], consent=False)
    assert grant(db, asking(settings, value), channel=channel) == state
    assert count(db, "messages") == (1 if state == "pending" else 0)
    assert count(db, "consents") == (0 if state == "pending" else 1)


def test_requests_at_once_ask_one_mail(pg_db: Database, settings: Settings) -> None:
    add_members(pg_db, [1], consent=False)
    grant(pg_db, asking(settings), at=NOW - timedelta(days=30))  # the template is there
    with ThreadPoolExecutor(4) as pool:
        with pg_db.write() as session:
            wanted = ConsentChange(1, "email", MARKETING, True, "form", NOW)
            assert optin.change(session, asking(settings), wanted) == "pending"
            others = [
                pool.submit(grant, pg_db, asking(settings), at=NOW + timedelta(seconds=number))
                for number in range(1, 5)
            ]
            assert not wait(others, timeout=0.5).done, "they wait for what the first one asks"
        assert [other.result(timeout=10) for other in others] == ["pending"] * 4
    assert len(requests(pg_db)) == 2
    assert count(pg_db, "messages") == 2


def test_the_setting_reads_as_people_write_it(settings: Settings) -> None:
    for text, expected in (("True", "true"), ("1", "true"), ("0", "false"), ("", "false"), ("ALL", "all")):
        assert Settings(home=settings.home, double_opt_in=text, _env_file=None).double_opt_in == expected  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="double_opt_in"):
        Settings(home=settings.home, double_opt_in="maybe", _env_file=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("locale", ["zh_CN", "en"])
def test_the_link_in_the_mail_leads_to_a_page_whose_button_confirms(
    db: Database, settings: Settings, locale: str
) -> None:
    add_members(db, [1], consent=False)
    with db.write() as session:
        session.execute(sa.text("UPDATE members SET locale = :l").bindparams(l=locale))
    email = add_template(db, settings, "email")
    enqueue(db, row(1, "email", email, key="offer", not_before=NOW + timedelta(minutes=1)))
    with sandbox(db, settings, changes={"double_opt_in": "true"}) as (there, _):
        assert grant(db, there) == "pending"
        assert run_delivery(db, there, now=lambda: NOW, channels=["email"]).sent == 1
        [mail] = inbox.list_messages(there)
        assert ("确认" if locale == "zh_CN" else "confirm") in mail.title
        assert (
            run_delivery(db, there, now=lambda: NOW + timedelta(minutes=1), channels=["email"]).skipped == 1
        )
        html = (inbox.get(there, mail.id) or mail).html or ""
        client = create_app(there, db, clock=lambda: NOW + timedelta(hours=1)).test_client()
        [tracked] = re.findall(r'href="[^"]*(/t/c/[^"]+)"', html)
        link = client.get(tracked, headers={"User-Agent": "Mozilla/5.0 (X11) Firefox/140.0"}).headers[
            "Location"
        ]
        path = link.removeprefix(there.base_url)
        for method in (client.get, client.head):
            assert method(path).status_code == 200
        assert allowed(db, 1) == set(), "looking confirms nothing"
        for _ in range(2):
            assert "Confirmed" in client.post(path).text
    assert allowed(db, 1) == {1}
    with db.read() as session:
        kept = session.scalars(sa.select(Consent)).one()
    assert (kept.source, kept.at) == ("form:confirmed", NOW + timedelta(hours=1))
    assert count(db, "consent_events") == 1


def test_a_link_confirms_once_and_for_a_week(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2], consent=False)
    for member in (1, 2):
        grant(db, asking(settings), member)
    first, second = requests(db)
    with db.write() as session:
        assert optin.confirm(session, second.id, NOW + optin.VALID) == optin.EXPIRED
        assert optin.confirm(session, first.id, NOW + optin.VALID - timedelta(seconds=1)) == optin.CONFIRMED
        assert optin.confirm(session, 99, NOW) is None
    assert allowed(db, 1, 2) == {1}
    later = NOW + timedelta(days=8)
    with db.write() as session:
        consent.withdraw(session, 1, "email", MARKETING, "message:link", later)
        assert optin.confirm(session, first.id, later + timedelta(hours=1)) == optin.CONFIRMED
    assert allowed(db, 1) == set(), "an old link undoes no later withdrawal"


def test_nobody_is_asked_twice_a_day_nor_who_has_agreed(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2], consent=False)
    with db.write() as session:
        consent.grant(session, 2, "email", MARKETING, "shop", NOW)
    for minutes in (0, 1, 60):
        assert grant(db, asking(settings), at=NOW + timedelta(minutes=minutes)) == "pending"
    assert grant(db, asking(settings), 2) == "granted"
    assert count(db, "messages") == count(db, "opt_ins") == 1
    assert grant(db, asking(settings), at=NOW + timedelta(days=1, minutes=1)) == "pending"
    assert count(db, "messages") == 2
    with db.read() as session:
        assert session.scalars(sa.select(Template.name)).all() == [optin.TEMPLATE]
        assert set(session.scalars(sa.select(Message.purpose))) == {"transactional"}


@pytest.mark.parametrize(("value", "expected"), [("true", {1, 2}), ("all", {1})])
def test_imports_are_asked_for_only_where_the_setting_says_all(
    db: Database, settings: Settings, value: str, expected: set[int]
) -> None:
    load_rows(
        db, "members", numbered([{"member_id": "m1", "email": "m1@example.com"}]), settings=settings, source="shop",
        now=NOW, consents=optin.importer(settings),
    )  # fmt: skip
    with db.write() as session:
        consent.grant(session, 1, "email", MARKETING, "shop", NOW - timedelta(days=1))
    rows = [
        {"member_id": f"m{n}", "email": f"m{n}@example.com", "email_consent": "true", "phone": f"+86138000099{n}0", "sms_consent": "true"}
        for n in (1, 2)
    ]  # fmt: skip
    wanted = asking(settings, value)
    for _ in range(2):
        report = load_rows(
            db, "members", numbered(rows), settings=wanted, source="shop", now=NOW, consents=optin.importer(wanted)
        )  # fmt: skip
        assert not report.rejected
    assert allowed(db, 1, 2) == expected
    with db.read() as session:
        assert consent.allowed(session, [1, 2], "sms", MARKETING) == {1, 2}
    assert count(db, "messages") == 2 - len(expected)


def test_an_erased_members_link_is_gone(db: Database, settings: Settings) -> None:
    add_members(db, [1], consent=False)
    grant(db, asking(settings))
    path = optin.confirm_url("", requests(db)[0].id)
    with db.write() as session:
        erase(session, 1, "ann", NOW)
    client = create_app(
        settings.model_copy(update={"database_url": db.url}), db, clock=lambda: NOW
    ).test_client()
    assert client.get(path).status_code == client.post(path).status_code == 404
    assert client.post(f"{path}x").status_code == 404
    assert client.post(path.replace("/c/", "/u/")).status_code == 404
    assert (count(db, "opt_ins"), count(db, "consents")) == (0, 0)


@pytest.mark.parametrize(("channel", "pending"), [("sms", True), ("email", False)])
def test_a_preference_link_from_a_phone_does_not_prove_a_mailbox(
    db: Database, settings: Settings, channel: str, pending: bool
) -> None:
    add_members(db, [1], consent=False)
    enqueue(db, row(1, channel, add_template(db, settings, channel)))
    there = asking(settings).model_copy(update={"database_url": db.url})
    client = create_app(there, db, clock=lambda: NOW).test_client()
    page = client.post(
        f"{tracking.preferences_url('', 1)}?lang=en", data={"channel": ["email", "sms"], "weekly_max": "2"}
    ).text
    assert ("follow its link" in page) is pending
    assert allowed(db, 1) == (set() if pending else {1})
    with db.read() as session:
        assert consent.allowed(session, [1], "sms", MARKETING) == {1}


@pytest.fixture
def api(db: Database, settings: Settings) -> FlaskClient:
    add_members(db, [1], consent=False)
    there = asking(settings).model_copy(update={"database_url": db.url})
    return create_app(there, db, clock=lambda: NOW).test_client()


def send(client: FlaskClient, token: str, key: str, member: str = "m1", **body: Any) -> Any:
    headers = {"Authorization": f"Bearer {token}", **({"Idempotency-Key": key} if key else {})}
    return client.post(f"/api/v1/members/{member}/consents", json=body, headers=headers)


@pytest.fixture
def token(db: Database) -> str:
    with db.write() as session:
        return keys.create(session, "till", [keys.INGEST], "ann", NOW)[1]


def test_the_api_grants_asks_and_withdraws_once_a_key(db: Database, api: FlaskClient, token: str) -> None:
    for _ in range(2):
        answer = send(api, token, "k1", channel="sms", granted=True, origin="checkout")
        assert (answer.status_code, answer.json["state"]) == (200, "granted")
    assert count(db, "consent_events") == 1
    assert send(api, token, "k2", channel="email", granted=True).json["state"] == "pending"
    assert send(api, token, "k3", channel="sms", granted=False).json["state"] == "withdrawn"
    assert send(api, token, "k1", channel="sms", granted=False).status_code == 409, "the key had another body"
    with db.read() as session:
        rows = session.execute(sa.select(Consent.channel, Consent.granted, Consent.source)).all()
    assert [tuple(found) for found in rows] == [("sms", False, "api")]


def test_the_api_refuses_what_it_does_not_know(db: Database, api: FlaskClient, token: str) -> None:
    good = {"channel": "sms", "granted": True}
    assert send(api, token, "", **good).status_code == 422
    assert send(api, token, "k", member="nobody", **good).status_code == 404
    assert send(api, token, "k", **{**good, "channel": "fax"}).status_code == 422
    assert send(api, token, "k", **{**good, "granted": "yes"}).status_code == 422
    assert send(api, "wrong", "k", **good).status_code == 401
    assert count(db, "consent_events") == 0
    document = api.get("/api/openapi.json").json
    operation = document["paths"]["/api/v1/members/{external_id}/consents"]["post"]
    assert "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]]
