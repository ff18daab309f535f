"""The official account's and the webhook's callbacks, and the binding of members, over HTTP."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from defusedxml import ElementTree
from flask import Flask
from flask.testing import FlaskClient

from channels.callbacks.webhook import sign
from channels.consent import set_imported
from channels.models import Message, MessageEvent, Suppression, WechatGrant, WechatWindow
from channels.sandbox import wechat_events
from channels.wechat import binding, crypto
from core.contacts import blind_index
from core.db import Database
from core.imports import Numbered, load_rows
from core.models import AuditEntry, Member
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, openid_of, row, sandbox
from web.public.views import create_blueprint

KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"


def client_of(db: Database, settings: Settings) -> FlaskClient:
    app = Flask("test")
    app.register_blueprint(create_blueprint(db, settings, lambda: NOW))
    return app.test_client()


def post(client: FlaskClient, settings: Settings, document: bytes, **changes: Any) -> int:
    """Post as WeChat does; ``changes`` of the query's parts."""
    timestamp, nonce = str(changes.pop("timestamp", int(NOW.timestamp()))), "n"
    query = {"timestamp": timestamp, "nonce": nonce}
    query["signature"] = crypto.signature(settings.wechat_token, timestamp, nonce)
    if changes.pop("aes", False):
        sealed = crypto.encrypt(
            changes.pop("key", KEY), changes.pop("appid", settings.wechat_appid), document
        )
        query["encrypt_type"] = "aes"
        query["msg_signature"] = crypto.signature(settings.wechat_token, timestamp, nonce, sealed)
        document = f"<xml><Encrypt>{sealed}</Encrypt></xml>".encode()
    return client.post("/callbacks/wechat", query_string={**query, **changes}, data=document).status_code


def windows(db: Database) -> int:
    with db.read() as session:
        return len(session.scalars(sa.select(WechatWindow)).all())


def test_old_and_forged_callbacks_are_refused(sqlite_db: Database, settings: Settings) -> None:
    client, text = client_of(sqlite_db, settings), wechat_events.text_message(settings, "o-1", "hi")
    at = int(NOW.timestamp())
    for wrong in ({"timestamp": at - 601}, {"timestamp": at + 601}, {"timestamp": "x"}, {"signature": "0"}):
        assert post(client, settings, text, **wrong) == 403
    assert windows(sqlite_db) == 0
    assert post(client, settings, text, timestamp=at - 599) == 200
    assert windows(sqlite_db) == 1


def test_an_account_in_safe_mode_takes_encrypted_callbacks_only(
    sqlite_db: Database, settings: Settings
) -> None:
    safe = settings.model_copy(update={"wechat_aes_key": KEY})
    client, text = client_of(sqlite_db, safe), wechat_events.text_message(settings, "o-1", "hi")
    assert post(client, safe, text) == 403, "plain"
    assert post(client, safe, text, aes=True, msg_signature="0" * 40) == 403
    assert post(client, safe, text, aes=True, appid="wx-other") == 400
    assert post(client, safe, text, aes=True, key="B" * 43) == 400
    assert windows(sqlite_db) == 0
    assert post(client, safe, text, aes=True) == 200
    assert windows(sqlite_db) == 1
    assert post(client_of(sqlite_db, settings), settings, text, aes=True) == 400, "no key to open it with"


def test_what_the_sandbox_posts_is_taken(sqlite_db: Database, settings: Settings) -> None:
    safe = settings.model_copy(update={"wechat_aes_key": KEY})
    for one, expected in ((settings, 1), (safe, 2)):
        app = Flask("real-time")
        app.register_blueprint(create_blueprint(sqlite_db, one))
        event = wechat_events.grant_event(one, "o-1", "t1", agrees=True)
        url, body = wechat_events.signed(one, event)
        assert app.test_client().post(url.removeprefix(one.base_url), data=body).text == "success"
        with sqlite_db.read() as session:
            assert session.scalar(sa.select(WechatGrant.left)) == expected


@pytest.fixture
def sent(db: Database, settings: Settings) -> FlaskClient:
    """A client; message 1 went out by webhook, message 2 by SMS."""
    add_members(db, [1, 2])
    enqueue(
        db,
        row(1, "webhook", add_template(db, settings, "webhook")),
        row(2, "sms", add_template(db, settings, "sms")),
    )
    with db.write() as session:
        session.execute(sa.update(Message).values(state="sent", sent_at=NOW - timedelta(minutes=5)))
    return client_of(db, settings)


def receipt(client: FlaskClient, secret: str, body: Any, at: int | None = None) -> tuple[int, Any]:
    raw = json.dumps(body).encode()
    header = sign(secret, raw, at if at is not None else int(NOW.timestamp()))
    answer = client.post("/callbacks/webhook", data=raw, headers={"X-Huiliu-Signature": header})
    return answer.status_code, answer.json


def test_the_shop_reports_what_became_of_its_messages(
    db: Database, sent: FlaskClient, settings: Settings
) -> None:
    secret, body = settings.webhook_secret, {"message_id": 1, "kind": "delivered"}
    assert receipt(sent, "wrong", body)[0] == 403
    assert receipt(sent, secret, body, int(NOW.timestamp()) - 601)[0] == 403
    assert receipt(sent, secret, {"message_id": 1, "kind": "x"})[0] == 400
    assert receipt(sent, secret, [body, {"message_id": 1, "kind": "opened"}]) == (200, {"new": 2, "known": 0})
    assert receipt(sent, secret, body) == (200, {"new": 0, "known": 1})
    assert receipt(sent, secret, {"message_id": 2, "kind": "gone"}) == (200, {"new": 0, "known": 0})
    with db.read() as session:
        assert session.execute(sa.select(Message.id, Message.state).order_by(Message.id)).all() == [
            (1, "delivered"),
            (2, "sent"),
        ], "the secret speaks for no other channel"
        kinds = session.execute(sa.select(MessageEvent.kind, MessageEvent.actor).order_by(MessageEvent.id))
        assert [tuple(kind) for kind in kinds] == [("delivered", ""), ("opened", "human")]
        assert session.scalars(sa.select(Suppression)).all() == []


def test_a_member_who_is_gone_is_suppressed(db: Database, sent: FlaskClient, settings: Settings) -> None:
    assert receipt(sent, settings.webhook_secret, {"message_id": 1, "kind": "gone"})[0] == 200
    with db.read() as session:
        assert session.execute(sa.select(Suppression.channel, Suppression.address_index)).all() == [
            ("webhook", "1")
        ]


def follow(client: FlaskClient, there: Settings, url: str, openid: str) -> tuple[int, str]:
    """Scan ``url``, agree at the sandbox's WeChat as ``openid``, and come back."""
    asked = client.get(url.removeprefix(there.base_url))
    assert asked.status_code == 302
    target = asked.location.removesuffix("#wechat_redirect")
    assert asked.location.endswith("#wechat_redirect")
    agreed = httpx.get(f"{target}&as={openid}")
    assert agreed.status_code == 302, agreed.text
    answer = client.get(agreed.headers["location"].removeprefix(there.base_url))
    return answer.status_code, agreed.headers["location"]


def test_a_scanned_code_binds_the_member(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2])
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 1).values(openid=None, openid_index=None))
    changes = {"wechat_scope": "snsapi_userinfo"}
    with sandbox(db, settings, changes=changes) as (there, _):
        client = client_of(db, there)
        url = binding.bind_url(there, 1, NOW)
        assert (
            "同意" in httpx.get(client.get(url.removeprefix(there.base_url)).location.partition("#")[0]).text
        )
        status, back = follow(client, there, url, "oBound1")
        assert status == 200
        assert client.get(back.removeprefix(there.base_url)).status_code == 404, "a state works once"
        with db.read() as session:
            found = session.get(Member, 1)
            assert found is not None
            assert (found.openid, found.unionid) == ("oBound1", "union-oBound1")
            assert found.openid_index == blind_index("openid", "oBound1")
            assert found.unionid_index == blind_index("unionid", "union-oBound1")
            assert audited(session) == [("bind_wechat", "1", {"replaced": False, "unionid": True})]
        assert follow(client, there, url, "oBound1")[0] == 200
        with db.read() as session:
            assert len(audited(session)) == 1, "bound already"


def audited(session: Any) -> list[tuple[str, str, Any]]:
    rows = session.execute(
        sa.select(AuditEntry.action, AuditEntry.object_id, AuditEntry.detail).order_by(AuditEntry.id)
    )
    return [tuple(row) for row in rows]


def test_somebody_elses_wechat_is_said_and_changes_nothing(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2])
    with sandbox(db, settings) as (there, _):
        client = client_of(db, there)
        assert follow(client, there, binding.bind_url(there, 1, NOW), openid_of(2))[0] == 409
        assert follow(client, there, binding.bind_url(there, 1, NOW), "snapshot-1")[0] == 403
        with db.read() as session:
            found = session.get(Member, 1)
            assert found is not None
            assert (found.openid, found.unionid) == (openid_of(1), None)
            assert audited(session) == [("bind_refused", "1", {"belongs_to": 2})]
        assert follow(client, there, binding.bind_url(there, 1, NOW), "oOther1")[0] == 200
        with db.read() as session:
            assert audited(session)[1] == ("bind_wechat", "1", {"replaced": True, "unionid": False})


def test_links_and_states_end_and_cannot_be_made_up(sqlite_db: Database, settings: Settings) -> None:
    client = client_of(sqlite_db, settings)
    old = binding.bind_url(settings, 1, NOW - timedelta(minutes=30))
    for url in (old.removeprefix(settings.base_url), "/w/bind/x", "/w/bind/MQ.abc"):
        assert client.get(url).status_code == 404
    good = binding.make_state(1, NOW)
    assert good.isalnum()
    assert len(good) <= 128
    for state in ("", "x", good[:-1] + ("0" if good[-1] != "0" else "1"), "2" + good[1:]):
        assert client.get("/w/bound", query_string={"state": state, "code": "c"}).status_code == 404
    ended = binding.make_state(1, NOW - timedelta(minutes=10))
    assert client.get("/w/bound", query_string={"state": ended, "code": "c"}).status_code == 404
    assert client.get("/w/bound", query_string={"state": good}).status_code == 403, "the member refused"
    silent = client.get("/w/bound", query_string={"state": good, "code": "c"})
    assert silent.status_code == 502, "nobody listens there"


def test_the_qr_code_is_an_svg_without_script_or_style(settings: Settings) -> None:
    svg = binding.bind_qr(settings, 1, NOW)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "style" not in svg
    assert "script" not in svg


def test_an_import_without_an_openid_keeps_a_bound_one(sqlite_db: Database, settings: Settings) -> None:
    for name in ("甲", "乙"):
        rows = [Numbered(2, {"member_id": "m1", "name": name, "wechat_openid": ""})]
        load_rows(
            sqlite_db, "members", rows, settings=settings, source="shop", now=NOW, consents=set_imported
        )
        with sqlite_db.write() as session:
            found = session.scalars(sa.select(Member)).one()
            assert found.name == name
            assert (found.openid == "oBound1") is (name == "乙")
            binding.bind(session, found.id, binding.Identity("oBound1"), NOW)
