"""Public links and callbacks, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from channels import consent, tracking
from channels.callbacks.wechat import wechat_signature
from channels.consent import MARKETING
from channels.facts import FACTS
from channels.models import Consent, Message, MessageEvent
from channels.transports.sms_aliyun import provider_id
from core.db import Database
from core.settings import Settings
from core.warehouse.replica import read
from tests.channels.seed import NOW, add_members, add_template, enqueue, phone_of, row
from tests.conftest import count
from web.public.views import create_blueprint

BROWSER = {"User-Agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)"}


class Clock:
    def __init__(self) -> None:
        self.now = NOW + timedelta(minutes=5)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(db: Database, settings: Settings, clock: Clock) -> FlaskClient:
    add_members(db, [1, 2])
    email, sms = add_template(db, settings, "email"), add_template(db, settings, "sms")
    enqueue(db, row(1, "email", email), row(2, "sms", sms))
    with db.write() as session:
        session.execute(sa.update(Message).values(state="sent", sent_at=NOW))
    app = Flask("test")
    app.register_blueprint(create_blueprint(db, settings, clock))
    return app.test_client()


def path(url: str) -> str:
    return "/" + url.split("/", 3)[3]


def events(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        return [
            tuple(r)
            for r in session.execute(
                sa.select(MessageEvent.kind, MessageEvent.actor).order_by(MessageEvent.id)
            )
        ]  # type: ignore[misc]


def granted(database: Database, member: int, channel: str) -> bool | None:
    with database.read() as session:
        return session.scalar(
            sa.select(Consent.granted).where(Consent.member_id == member, Consent.channel == channel)
        )


def test_opens_and_clicks_are_recorded_once_a_minute_and_redirect(
    db: Database, client: FlaskClient, clock: Clock
) -> None:
    pixel = path(tracking.open_url("http://h", 1))
    for _ in range(3):
        answer = client.get(pixel, headers=BROWSER)
        assert (answer.status_code, answer.mimetype, answer.data[:6]) == (200, "image/gif", b"GIF89a")
        assert answer.headers["Cache-Control"] == "no-store"
    click = path(tracking.click_url("http://h", 1, "https://shop.example/p?a=1&b=好"))
    answer = client.get(click, headers=BROWSER)
    assert answer.status_code == 302
    assert answer.headers["Location"] == "https://shop.example/p?a=1&b=%E5%A5%BD"
    assert "Set-Cookie" not in answer.headers
    assert events(db) == [("opened", "human"), ("clicked", "human")]
    clock.now += timedelta(minutes=2)
    client.get(click, headers=BROWSER)
    assert len(events(db)) == 3


@pytest.mark.parametrize(
    ("agent", "method", "seconds", "actor"),
    [
        ("Mozilla/5.0 (Windows NT 10.0) Firefox/150", "get", 60, "human"),
        ("Mozilla/5.0 (Windows NT 5.1) Firefox/11.0 (via ggpht.com GoogleImageProxy)", "get", 60, "proxy"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1)", "get", 60, "scanner"),
        ("Mozilla/5.0 (Windows NT 10.0) Firefox/150", "head", 60, "scanner"),
        ("Mozilla/5.0 (Windows NT 10.0) Firefox/150", "get", 1, "scanner"),
        ("", "get", 60, "scanner"),
    ],
)
def test_who_opened(
    db: Database, client: FlaskClient, clock: Clock, agent: str, method: str, seconds: int, actor: str
) -> None:
    clock.now = NOW + timedelta(seconds=seconds)
    getattr(client, method)(path(tracking.open_url("http://h", 1)), headers={"User-Agent": agent})
    assert events(db) == [("opened", actor)]


def test_a_forged_link_leads_nowhere(db: Database, client: FlaskClient) -> None:
    token = tracking.click_url("http://h", 1, "https://shop.example/").rsplit("/", 1)[1]
    for wrong in (f"/t/c/{token}x", "/t/c/aHR0cHM6Ly9ldmlsLmV4YW1wbGU.x", f"/u/{token}", f"/p/{token}"):
        answer = client.get(wrong)
        assert answer.status_code == 404
        assert "Location" not in answer.headers
    assert client.post(f"/u/{token}").status_code == 404
    assert client.get("/t/o/rubbish.gif").status_code == 200
    assert events(db) == []


def test_looking_at_the_unsubscribe_page_changes_nothing(db: Database, client: FlaskClient) -> None:
    url = path(tracking.unsubscribe_url("http://h", 1))
    for method in (client.get, client.head):
        answer = method(url)
        assert answer.status_code == 200
    page = client.get(url).text
    assert "确认退订" in page
    assert "Unsubscribe" in page
    assert "<script" not in page
    assert "m1@example.com" not in page
    assert granted(db, 1, "email") is True
    assert client.get("/u/style.css").mimetype == "text/css"


def test_one_click_unsubscribes_at_once_and_may_be_repeated(
    db: Database, client: FlaskClient, clock: Clock
) -> None:
    url = path(tracking.unsubscribe_url("http://h", 1))
    for _ in range(3):
        answer = client.post(url, data={"List-Unsubscribe": "One-Click"})
        assert (answer.status_code, "Set-Cookie" in answer.headers) == (200, False)
        clock.now += timedelta(minutes=1)
    assert granted(db, 1, "email") is False
    assert granted(db, 1, "sms") is True
    assert events(db) == [("unsubscribed", "")]
    assert count(db, "consent_events") == 11
    # Whoever came back and leaves again by the same old link has left.
    with db.write() as session:
        consent.grant(session, 1, "email", MARKETING, "form", clock.now)
    clock.now += timedelta(minutes=1)
    assert client.post(url).status_code == 200
    assert granted(db, 1, "email") is False


def test_preferences_are_shown_and_saved(db: Database, client: FlaskClient) -> None:
    url = path(tracking.preferences_url("http://h", 1))
    assert client.get(url).text.count("checked") == 5
    assert client.post(url, data={"channel": ["sms", "fax"]}).status_code == 200
    assert [granted(db, 1, channel) for channel in ("email", "sms", "wechat")] == [False, True, False]
    assert client.get(url).text.count("checked") == 1
    assert count(db, "consent_events") == 14, "only what changed is recorded"


def test_aliyun_calls_back_at_an_address_nobody_guesses(
    db: Database, client: FlaskClient, settings: Settings
) -> None:
    url = path(tracking.aliyun_callback_url(settings))
    with db.write() as session:
        session.execute(
            sa.update(Message).where(Message.id == 2).values(provider_id=provider_id("b1", phone_of(2)))
        )
    report = [{"phone_number": phone_of(2)[3:], "success": True, "err_code": "DELIVERED", "biz_id": "b1"}]
    assert client.post("/callbacks/aliyun/guess", json=report).status_code == 404
    assert client.post(url, data="{").status_code == 400
    assert client.post(url, json={}).status_code == 400
    for _ in range(2):
        assert client.post(url, json=report).json == {"code": 0, "msg": "接收成功"}
    assert events(db) == [("delivered", "")]
    reply = [
        {
            "phone_number": phone_of(2)[3:],
            "content": " td ",
            "send_time": "2026-03-02 12:03:00",
            "sequence_id": "1",
        }
    ]
    assert client.post(url, json=reply).status_code == 200
    assert granted(db, 2, "sms") is False
    assert granted(db, 1, "sms") is True
    assert client.post(url, data=b"[" + b" " * (1024 * 1024) + b"]").status_code == 413


def test_wechat_must_sign(db: Database, client: FlaskClient, settings: Settings) -> None:
    at = str(int(NOW.timestamp()))
    signature = wechat_signature(settings.wechat_token, at, "2")
    good: dict[str, Any] = {"timestamp": at, "nonce": "2", "signature": signature}
    answer = client.get("/callbacks/wechat", query_string={**good, "echostr": "<b>hello</b>"})
    assert (answer.status_code, answer.text, answer.mimetype) == (200, "<b>hello</b>", "text/plain")
    bad = {**good, "signature": "0" * 40}
    assert client.get("/callbacks/wechat", query_string=bad).status_code == 403
    body = "<xml><Event>TEMPLATESENDJOBFINISH</Event><MsgID>9</MsgID><Status>success</Status></xml>"
    with db.write() as session:
        session.execute(sa.update(Message).where(Message.id == 1).values(provider_id="9"))
    assert client.post("/callbacks/wechat", query_string=bad, data=body).status_code == 403
    assert events(db) == []
    assert client.post("/callbacks/wechat", query_string=good, data=body).text == "success"
    assert events(db) == [("delivered", "")]
    assert client.post("/callbacks/wechat", query_string=good, data=json.dumps({})).status_code == 400


def test_the_warehouse_sees_the_first_human_touch(
    db: Database, client: FlaskClient, clock: Clock, settings: Settings
) -> None:
    pixel, click = (
        path(tracking.open_url("http://h", 1)),
        path(tracking.click_url("http://h", 1, "https://s.example/")),
    )
    client.head(pixel, headers=BROWSER)
    first = clock.now = clock.now + timedelta(minutes=1)
    client.get(pixel, headers=BROWSER)
    clock.now += timedelta(minutes=1)
    client.get(pixel, headers=BROWSER)
    client.get(click, headers=BROWSER)
    client.post(path(tracking.unsubscribe_url("http://h", 1)))
    touches = next(fact for fact in FACTS if fact.name == "touches")
    table = read(db, touches, "2026-03").sort_by("message_id").to_pylist()
    assert [(r["message_id"], r["state"], r["sent_at"]) for r in table] == [
        (1, "sent", NOW),
        (2, "sent", NOW),
    ]
    assert [table[0][name] for name in ("opened_at", "clicked_at", "unsubscribed_at")] == [
        first,
        clock.now,
        clock.now,
    ]
    assert [table[1][name] for name in ("opened_at", "clicked_at", "delivered_at")] == [None, None, None]
    assert read(db, touches, "2026-02").num_rows == 0


def test_an_unrecordable_click_still_leads_to_the_shop(
    sqlite_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def broken(*_: object, **__: object) -> Callable[[], None]:
        raise OperationalError("locked", {}, Exception())

    app = Flask("test")
    app.register_blueprint(create_blueprint(sqlite_db, settings))
    monkeypatch.setattr("channels.events.apply", broken)
    answer = app.test_client().get(path(tracking.click_url("http://h", 1, "https://shop.example/")))
    assert (answer.status_code, answer.headers["Location"]) == (302, "https://shop.example/")
