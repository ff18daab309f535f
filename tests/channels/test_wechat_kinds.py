"""Template, subscription and customer-service messages against a stand-in that keeps WeChat's rules."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from aiohttp import web

from channels import outbox, templates
from channels.delivery import run_delivery
from channels.models import Message, Suppression, WechatGrant, WechatSpent, WechatWindow
from channels.sandbox import inbox
from channels.transports.base import Outcome, Outgoing, Reaction, WechatPayload
from channels.transports.wechat import WechatTransport, error_of, until_reset_s
from channels.wechat import windows
from channels.wechat.followers import openid_index
from channels.wechat.limits import fitted
from channels.wechat.windows import Granted, Opened
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from tests.channels.seed import (
    NOW,
    add_members,
    add_template,
    enqueue,
    message,
    openid_of,
    row,
    sandbox,
    states,
)

REAL = datetime.now(UTC)


def subscription(openid: str, client_id: str = "c1", **data: str) -> Outgoing:
    payload = WechatPayload("t1", "https://x/", data or {"thing1": "好"}, "subscription")
    return Outgoing(1, client_id, openid, payload)


def service(openid: str, client_id: str = "c1") -> Outgoing:
    return Outgoing(1, client_id, openid, WechatPayload("", "", {}, "service", "您好"))


def codes(outcomes: Sequence[Outcome]) -> list[tuple[str, Reaction] | None]:
    return [None if o.error is None else (o.error.code, o.error.reaction) for o in outcomes]


def send(database: Database, settings: Settings, *messages: Outgoing, **options: Any) -> list[Outcome]:
    async def main() -> list[Outcome]:
        transport = WechatTransport(
            database, settings.wechat, settings.wechat_appid, settings.wechat_secret, **options
        )
        async with transport:
            return await transport.send_many(messages, 30)

    return asyncio.run(main())


def grant(database: Database, openid: str, number: int = 1) -> None:
    with database.write() as session:
        windows.change_grants(session, [Granted(openid_index(openid), "t1", number)])


def left(database: Database) -> list[int]:
    with database.read() as session:
        return list(session.scalars(sa.select(WechatGrant.left).order_by(WechatGrant.openid_index)))


def act(settings: Settings, openid: str, does: str, **more: str) -> None:
    answer = httpx.post(f"{settings.wechat}/sandbox/act", json={"openid": openid, "does": does, **more})
    assert answer.status_code == 200


def test_one_consent_is_one_subscription_message(db: Database, settings: Settings) -> None:
    with sandbox(db, settings) as (there, _):
        act(there, "openid-1", "agree", template_id="t1")
        assert codes(send(db, there, subscription("openid-1"))) == [("43101", Reaction.FAIL)], (
            "nobody told us"
        )
        grant(db, "openid-1", 2)
        found = send(db, there, subscription("openid-1", "c1"), subscription("openid-1", "c2"))
        assert sorted(map(str, codes(found))) == sorted(map(str, [None, ("43101", Reaction.FAIL)])), (
            "WeChat knows of one"
        )
        assert left(db) == [0], "and so do we from then on"
        assert found[codes(found).index(None)].provider_id is not None
        shown = inbox.list_messages(there)[0].fields
        assert shown == {"template_id": "t1", "url": "https://x/", "data": {"thing1": "好"}}


def test_a_customer_service_message_needs_an_open_window(db: Database, settings: Settings) -> None:
    with sandbox(db, settings) as (there, _):
        assert codes(send(db, there, service("openid-1"))) == [("45015", Reaction.FAIL)]
        act(there, "openid-1", "follow")
        with db.write() as session:
            windows.open_windows(session, [Opened(openid_index("openid-1"), "message", REAL)])
        found = send(db, there, *[service("openid-1", f"c{n}") for n in range(6)])
        assert sorted(map(str, codes(found))) == sorted(
            map(str, [None] * 3 + [("45047", Reaction.FAIL)] * 2 + [("45015", Reaction.FAIL)])
        ), "a follow allows three, whatever we believe"
        with db.read() as session:
            assert session.scalars(sa.select(WechatWindow.left)).all() == [0]
        assert [m.title for m in inbox.list_messages(there)] == ["您好"] * 3


def test_a_refused_attempt_gives_its_grant_back_and_an_unanswered_one_does_not(
    sqlite_db: Database, settings: Settings
) -> None:
    async def main() -> tuple[list[Outcome], list[Outcome], list[Outcome]]:
        answers = iter([{"errcode": -1, "errmsg": "busy"}, None])

        async def token(_: web.Request) -> web.Response:
            return web.json_response({"access_token": "t", "expires_in": 7200})

        async def sends(request: web.Request) -> web.Response:
            answer = next(answers)
            if answer is None:
                assert request.transport is not None
                request.transport.close()
            return web.json_response(answer)

        app = web.Application()
        app.router.add_post("/cgi-bin/stable_token", token)
        app.router.add_post("/cgi-bin/message/subscribe/bizsend", sends)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        found = []
        async with WechatTransport(sqlite_db, f"http://127.0.0.1:{port}", "a", "s") as transport:
            for _ in range(3):
                found.append(await transport.send_many([subscription("openid-1")], 10))
                seen.append(await asyncio.to_thread(left, sqlite_db))
        await runner.cleanup()
        return found[0], found[1], found[2]

    grant(sqlite_db, "openid-1", 2)
    seen: list[list[int]] = []
    busy, lost, again = asyncio.run(main())
    assert codes(busy) == [("-1", Reaction.RETRY)]
    assert codes(lost) == codes(again) == [("silence", Reaction.UNKNOWN)], "the third was not even tried"
    assert [o.error.repeatable for o in (*lost, *again) if o.error] == [False, False]
    assert seen == [[2], [1], [1]]
    with sqlite_db.read() as session:
        assert session.scalars(sa.select(WechatSpent.client_id)).all() == ["c1"]


def test_quotas_begin_anew_at_chinas_midnight_and_are_not_asked_for_again(
    sqlite_db: Database, settings: Settings
) -> None:
    assert until_reset_s(datetime(2026, 3, 2, 15, 59, 30, tzinfo=UTC)) == 30
    assert until_reset_s(datetime(2026, 3, 2, 16, tzinfo=UTC)) == 86400
    found = error_of(45009, "reach max api daily quota limit", NOW)
    assert (found.reaction, found.after_s) == (Reaction.HOLD, 12 * 3600.0)
    assert error_of(61451, "something new", NOW).code == "61451"
    asked = []

    async def main() -> list[Outcome]:
        async def token(_: web.Request) -> web.Response:
            return web.json_response({"access_token": "t", "expires_in": 7200})

        async def sends(request: web.Request) -> web.Response:
            asked.append(await request.json())
            return web.json_response({"errcode": 45009, "errmsg": "quota"})

        app = web.Application()
        app.router.add_post("/cgi-bin/stable_token", token)
        app.router.add_post("/cgi-bin/message/template/send", sends)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        cards = [Outgoing(n, f"c{n}", "openid-1", WechatPayload("t", "", {})) for n in range(30)]
        transport = WechatTransport(sqlite_db, f"http://127.0.0.1:{port}", "a", "s", connections=1)
        async with transport:
            outcomes = await transport.send_many(cards, 10)
        await runner.cleanup()
        return outcomes

    assert codes(asyncio.run(main())) == [("45009", Reaction.HOLD)] * 30
    assert len(asked) == 1
    assert "client_msg_id" in asked[0]


def test_a_message_that_may_not_be_sent_falls_back(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2])
    card = add_template(db, settings, "wechat", kind="subscription", provider_template="t1")
    mail = add_template(db, settings, "email")
    fallback = [{"channel": "email", "template_id": mail[0], "template_version": mail[1]}]
    enqueue(
        db,
        *[
            row(n, "wechat", card, key=f"k{n}", fallback=fallback, not_before=REAL, created_at=REAL)
            for n in (1, 2)
        ],
    )
    grant(db, openid_of(1))
    with sandbox(db, settings) as (there, _):
        act(there, openid_of(1), "agree", template_id="t1")
        run_delivery(db, there, channels=["wechat"])
        run_delivery(db, there, channels=["email"])
    assert states(db) == {"sent": 2, "failed": 1}
    assert message(db, "k2").reason == "43101 the member has no consent left for this template."
    with db.read() as session:
        assert session.scalars(
            sa.select(Message.channel).where(Message.state == "sent").order_by(Message.channel)
        ).all() == ["email", "wechat"]


def test_who_does_not_follow_is_not_written_to_again(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    card = add_template(db, settings, "wechat")
    with sandbox(db, settings) as (there, _):
        act(there, openid_of(1), "unfollow")
        enqueue(db, row(1, "wechat", card, not_before=REAL, created_at=REAL))
        run_delivery(db, there)
        enqueue(db, row(1, "wechat", card, key="again", not_before=REAL, created_at=REAL))
        run_delivery(db, there)
    assert states(db) == {"failed": 1, "skipped": 1}
    with db.read() as session:
        assert session.scalars(sa.select(Suppression.reason)).all() == ["unfollowed"]


def save(database: Database, settings: Settings, **fields: Any) -> None:
    with database.write() as session:
        templates.save(
            session,
            settings,
            name="t",
            channel="wechat",
            purpose="transactional",
            contents={"zh_CN": fields},
            by="x",
            now=NOW,
        )


def test_a_template_is_checked_by_its_kind(sqlite_db: Database, settings: Settings) -> None:
    save(sqlite_db, settings, kind="service", text="{{ member.name }}，您好")
    save(sqlite_db, settings, provider_template="t", data={"thing1": "一" * 20, "first": "长" * 50})
    program = {"appid": "wx1", "pagepath": "pages/{{ coupon.code }}"}
    save(
        sqlite_db,
        settings,
        kind="subscription",
        provider_template="t",
        data={"thing1": "x"},
        miniprogram=program,
    )
    for fields, path in (
        ({"kind": "subscription", "provider_template": "t", "data": {"thing1": "一" * 21}}, "zh_CN.data.thing1"),
        ({"kind": "service", "provider_template": "t"}, "zh_CN.text"),
        ({"kind": "service", "text": "长" * 700}, "zh_CN.text"),
        ({"kind": "other", "provider_template": "t", "data": {"a": "b"}}, "zh_CN.kind"),
        ({"kind": "subscription", "data": {"thing1": "x"}}, "zh_CN.provider_template"),
        ({"provider_template": "t", "data": {"a": "b"}, "miniprogram": {"pagepath": "p"}}, "zh_CN.miniprogram"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput) as refused:
            save(sqlite_db, settings, **fields)
        assert refused.value.field == path


def test_a_members_longer_value_is_cut() -> None:
    assert fitted({"thing1": "一" * 25, "thing": "一" * 25, "phrase2": "ab"}) == {
        "thing1": "一" * 19 + "…",
        "thing": "一" * 25,
        "phrase2": "ab",
    }


def test_an_account_that_repeats_unknown_messages_tries_a_spent_one_again(
    sqlite_db: Database, settings: Settings
) -> None:
    grant(sqlite_db, "openid-1", 1)
    wish = windows.Wish("c1", openid_index("openid-1"), "t1")
    with sqlite_db.write() as session:
        assert windows.take(session, [wish], REAL) == [windows.TAKEN]
        assert windows.take(session, [wish], REAL) == [windows.PERHAPS_SENT]
        outbox.set_on_unknown(session, "wechat", "resend")
        assert windows.take(session, [wish], REAL) == [windows.TAKEN]
        assert session.scalar(sa.select(WechatGrant.left)) == 0
        late = REAL + timedelta(days=4)
        assert windows.take(session, [wish], late) == [windows.NONE], "it is forgotten by then"
