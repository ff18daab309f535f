"""Messages to the shop's own address, on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web

from channels import consent
from channels.callbacks.webhook import sign, signed, webhook_callback
from channels.delivery import run_delivery
from channels.models import Suppression
from channels.sandbox import inbox
from channels.transports.base import Outcome, Outgoing, Reaction, WebhookPayload
from channels.transports.http import retry_after
from channels.transports.webhook import PublicResolver, WebhookTransport, checked_url
from core.db import Database
from core.errors import InvalidInput
from core.models import Member
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, message, row, sandbox, states

Request = tuple[Mapping[str, str], bytes]


def codes(outcomes: Sequence[Outcome]) -> list[tuple[str, Reaction, float | None] | None]:
    return [None if o.error is None else (o.error.code, o.error.reaction, o.error.after_s) for o in outcomes]


def pushed(number: int) -> Outgoing:
    payload = WebhookPayload(f"m{number}", "标题", "正文", "", {"screen": "home"})
    return Outgoing(number, f"c{number}", f"m{number}", payload)


def against(*answers: web.Response) -> tuple[list[Outcome], list[Request]]:
    """The outcomes of one message for each answer, and the requests that were made."""
    seen: list[Request] = []

    async def main() -> list[Outcome]:
        waiting = iter(answers)

        async def handle(request: web.Request) -> web.Response:
            seen.append((request.headers.copy(), await request.read()))
            return next(waiting)

        app = web.Application()
        app.router.add_post("/in", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        url = f"http://127.0.0.1:{port}/in"
        transport = WebhookTransport(url, "s3cret", allow_private=True, connections=1)
        async with transport:
            found = await transport.send_many([pushed(n) for n in range(1, len(answers) + 1)], 10)
        await runner.cleanup()
        return found

    return asyncio.run(main()), seen


def test_every_answer_has_its_reaction_and_a_wait_is_kept() -> None:
    dates = {"Date": "Mon, 02 Mar 2026 04:00:00 GMT", "Retry-After": "Mon, 02 Mar 2026 04:01:30 GMT"}
    later = web.Response(status=503, headers=dates)
    found, seen = against(
        web.Response(status=204),
        web.Response(status=410),
        web.Response(status=429, headers={"Retry-After": "30"}),
        later,
        web.Response(status=500),
        web.Response(status=422),
        web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}),
    )
    assert codes(found) == [
        None,
        ("410", Reaction.SUPPRESS, None),
        ("429", Reaction.RETRY, 30.0),
        ("503", Reaction.RETRY, 90.0),
        ("500", Reaction.RETRY, None),
        ("422", Reaction.FAIL, None),
        ("302", Reaction.FAIL, None),
    ]
    headers, body = seen[0]
    assert json.loads(body) == {
        "message_id": 1,
        "member_id": "m1",
        "title": "标题",
        "body": "正文",
        "url": "",
        "data": {"screen": "home"},
    }
    assert headers["Idempotency-Key"] == "c1"
    assert signed("s3cret", headers["X-Huiliu-Signature"], body, datetime.now(UTC).timestamp())
    assert not signed("other", headers["X-Huiliu-Signature"], body, datetime.now(UTC).timestamp())


def test_a_signature_ends_after_ten_minutes_and_covers_time_and_body() -> None:
    header = sign("s", b"{}", 1000)
    assert header == "t=1000,v1=1266ced5789d16ad976ad7b98cd2aa00ac3ba17106a40ee2a50f1df5cf9b85fc"
    assert signed("s", header, b"{}", 1600)
    assert not signed("s", header, b"{}", 1601)
    assert not signed("s", header, b"{ }", 1000)
    assert not signed("s", header.replace("t=1000", "t=1001"), b"{}", 1000)
    for wrong in ("", "t=1000", "v1=00", "t=x,v1=" + "0" * 64):
        assert not signed("s", wrong, b"{}", 1000)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://10.0.0.8/", "http://169.254.169.254/latest", "http://[::1]/",
        "http://[::ffff:10.0.0.1]/", "http://192.168.1.1/", "http://0.0.0.0/", "http://100.64.0.1/",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_unless_meant(url: str) -> None:
    with pytest.raises(InvalidInput, match="HUILIU_WEBHOOK_ALLOW_PRIVATE"):
        checked_url(url, allow_private=False)
    assert checked_url(url, allow_private=True).scheme == "http"


@pytest.mark.parametrize("url", ["", "ftp://x/", "https://u:p@x/", "/path", "https:///x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="HUILIU_WEBHOOK_URL"):
        checked_url(url, allow_private=True)


def test_a_name_that_means_a_private_address_reaches_nobody() -> None:
    async def main() -> list[Outcome]:
        asked = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(1)
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with WebhookTransport(f"http://localhost:{port}/", "s") as transport:
            found = await transport.send_many([pushed(1)], 10)
        server.close()
        assert asked == []
        return found

    found = asyncio.run(main())
    assert codes(found) == [("connect", Reaction.UNREACHABLE, None)]
    assert "HUILIU_WEBHOOK_ALLOW_PRIVATE" in str(found[0].error)

    async def resolved() -> None:
        resolver = PublicResolver()
        with pytest.raises(OSError, match="private"):
            await resolver.resolve("localhost", 80)
        await resolver.close()

    asyncio.run(resolved())


def test_waits_are_bounded() -> None:
    assert retry_after({"Retry-After": "5"}) == 5.0
    assert retry_after({"Retry-After": "999999999"}) == 86400.0
    date = "Mon, 02 Mar 2026 03:00:00 GMT"
    assert retry_after({"Retry-After": "Mon, 02 Mar 2026 03:01:30 GMT", "Date": date}) == 90.0
    assert retry_after({"Retry-After": date}) == 0.0
    assert retry_after({"Retry-After": "soon"}) is retry_after({}) is None


def rename(database: Database, number: int, external_id: str) -> None:
    with database.write() as session:
        session.execute(sa.update(Member).where(Member.id == number).values(external_id=external_id))


def test_a_member_who_is_gone_is_written_to_no_more(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2, 3])
    rename(db, 2, "gone-2")
    rename(db, 3, "refused-" + "x" * 100)
    template = add_template(db, settings, "webhook")
    enqueue(db, *[row(n, "webhook", template) for n in (1, 2, 3)])
    with sandbox(db, settings) as (there, _):
        run_delivery(db, there, channels=["webhook"], now=lambda: NOW)
        enqueue(db, row(2, "webhook", template, key="again"))
        run_delivery(db, there, channels=["webhook"], now=lambda: NOW)
        assert inbox.count(there, "webhook") == 1
    assert states(db) == {"sent": 1, "failed": 2, "skipped": 1}
    assert message(db, "again").reason == "suppressed"
    assert message(db, "run:1:3:webhook").reason == "127.0.0.1 answered 422."
    with db.read() as session:
        found = session.execute(sa.select(Suppression.address_index, Suppression.reason)).all()
        assert [tuple(one) for one in found] == [("2", "invalid")]
        assert consent.refusals(session, [1, 2], "webhook", "marketing") == {2: "suppressed"}


def test_a_busy_shop_is_asked_again_when_it_says(sqlite_db: Database, settings: Settings) -> None:
    add_members(sqlite_db, [1])
    rename(sqlite_db, 1, "busy-1")
    enqueue(sqlite_db, row(1, "webhook", add_template(sqlite_db, settings, "webhook")))
    with sandbox(sqlite_db, settings) as (there, _):
        run_delivery(sqlite_db, there, channels=["webhook"], now=lambda: NOW)
    found = message(sqlite_db, "run:1:1:webhook")
    assert (found.state, found.attempts) == ("queued", 1)
    assert timedelta(seconds=7) <= found.not_before - NOW <= timedelta(seconds=8.4)


def test_receipts_are_read() -> None:
    entry: dict[str, Any] = {"message_id": 7, "kind": "opened", "at": "2026-03-02T11:00:00+08:00"}
    (found,) = webhook_callback(entry, NOW)
    assert (found.kind, found.message_id, found.actor, found.dedupe_key) == (
        "opened", 7, "human", "webhook:7:opened",
    )  # fmt: skip
    assert found.at == datetime(2026, 3, 2, 3, tzinfo=UTC)
    assert [r.kind for r in webhook_callback([entry, {"message_id": 8, "kind": "gone"}], NOW)] == [
        "opened",
        "hard_bounce",
    ]
    for wrong in (
        1, {}, {"message_id": "7", "kind": "opened"}, {"message_id": True, "kind": "opened"},
        {"message_id": 7, "kind": "eaten"}, {**entry, "at": "yesterday"}, [entry] * 1001,
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            webhook_callback(wrong, NOW)
