"""WeCom: tasks that an employee confirms, on real sockets; ``created`` until somebody did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from channels import caps, consent, events, outbox
from channels.caps import Cap, Rules
from channels.delivery import Delivered, run_delivery, wecom_transport
from channels.models import Message, MessageEvent, ProviderToken, Suppression
from channels.outbox import CREATED
from channels.polling import poll_receipts
from channels.sandbox import inbox
from channels.transports import wecom as api
from channels.transports.base import Outcome, Outgoing, Reaction, WecomPayload
from channels.wecom import limits
from channels.wecom.poll import PLACE, Told, Waiting, _receipts
from core.contacts import blind_index
from core.db import Database
from core.errors import InvalidInput
from core.imports import load_rows, numbered
from core.members import erase
from core.models import Member, Preference
from core.settings import Settings
from tests.channels.seed import (
    NOW,
    Running,
    add_members,
    add_template,
    enqueue,
    message,
    row,
    sandbox,
    states,
    wecom_of,
)

EQUAL = {"text": "周末上新，欢迎回来看看"}


def deliver(database: Database, settings: Settings, now: datetime = NOW) -> Delivered:
    return run_delivery(database, settings, channels=["wecom"], now=lambda: now)


def poll(database: Database, settings: Settings, now: datetime) -> dict[str, int]:
    return asyncio.run(poll_receipts(database, settings, now))


def confirm(settings: Settings, **body: str) -> httpx.Response:
    return httpx.post(f"{settings.wecom}/sandbox/confirm", json=body, timeout=10)


def tasks(running: Running) -> dict[str, list[str]]:
    """Customers by task."""
    return {msgid: list(task.customers) for msgid, task in running.sandbox.wecom.tasks.items()}


def queue(database: Database, settings: Settings, *addresses: str, **changes: Any) -> None:
    """A message of one text to each; their keys are ``w1``, ``w2`` …"""
    template = add_template(database, settings, "wecom", **EQUAL)
    for number, address in enumerate(addresses, 1):
        add_members(database, [number], wecom=address)
    enqueue(
        database,
        *[row(n, "wecom", template, key=f"w{n}", **changes) for n in range(1, len(addresses) + 1)],
    )


def test_a_message_is_created_and_sent_when_the_employee_confirms(db: Database, settings: Settings) -> None:
    queue(db, settings, wecom_of(1), wecom_of(2))
    with sandbox(db, settings) as (there, running):
        done = deliver(db, there)
        assert (done.created, done.sent, done.failed) == (2, 0, 0)
        found = message(db, "w1")
        assert (found.state, found.sent_at, found.settled_at, found.handed_over_at) == (
            CREATED,
            None,
            None,
            NOW,
        )
        ((msgid, customers),) = tasks(running).items()
        assert customers == [wecom_of(1), wecom_of(2)], "equal texts are one request"
        assert found.provider_id == f"{msgid}:{(blind_index('wecom', wecom_of(1)) or '')[:16]}"
        shown = inbox.list_messages(there, "wecom", wecom_of(1))
        assert [one.fields["data"]["status"] for one in shown] == ["waits for confirmation"]

        hour = NOW + timedelta(hours=1)
        assert poll(db, there, hour) == {"asked": 2, "answered": 0, "applied": 0}
        assert states(db) == {"created": 2}

        assert confirm(there, msgid=msgid).json() == {"confirmed": 1, "sent": 2}
        assert poll(db, there, hour) == {"asked": 2, "answered": 2, "applied": 2}
        assert poll(db, there, hour) == {"asked": 0, "answered": 0, "applied": 0}
        shown = inbox.list_messages(there, "wecom")
        assert [one.fields["data"]["status"] for one in shown] == ["confirmed", "confirmed"]
    found = message(db, "w1")
    assert (found.state, found.reason) == ("sent", None)
    told = running.sandbox.wecom.tasks[msgid].customers[wecom_of(1)][1]
    assert found.sent_at == datetime.fromtimestamp(told, UTC)
    with db.read() as session:
        kinds = session.scalars(sa.select(MessageEvent.kind).order_by(MessageEvent.id)).all()
    assert sorted(kinds) == ["created", "created", "sent", "sent"]


def test_who_is_no_contact_is_suppressed_and_who_had_too_many_gets_another_channel(
    db: Database, settings: Settings
) -> None:
    sms = add_template(db, settings, "sms")
    other = [{"channel": "sms", "template_id": sms[0], "template_version": sms[1]}]
    queue(db, settings, "unfriended-1", "capped-2", wecom_of(3), fallback=other)
    with sandbox(db, settings) as (there, _):
        deliver(db, there)
        confirm(there)
        assert poll(db, there, NOW)["applied"] == 3
    assert [message(db, key).state for key in ("w1", "w2", "w3")] == ["failed", "failed", "sent"]
    assert message(db, "w1").reason == "unfriended: 2 not a contact any more"
    assert message(db, "w2").reason == "undelivered: 3 the customer got another mass message"
    with db.read() as session:
        keys = session.scalars(sa.select(Message.dedupe_key).where(Message.channel == "sms")).all()
        suppressed = session.execute(sa.select(Suppression.channel, Suppression.address_index)).all()
        assert consent.refusals(session, [1, 2, 3], "wecom", "marketing") == {1: "suppressed"}
    assert sorted(keys) == sorted(f"fallback:{message(db, key).id}" for key in ("w1", "w2"))
    assert [tuple(one) for one in suppressed] == [("wecom", blind_index("wecom", "unfriended-1"))]


def test_what_nobody_confirms_within_a_day_falls_back_once(db: Database, settings: Settings) -> None:
    email = add_template(db, settings, "email")
    other = [{"channel": "email", "template_id": email[0], "template_version": email[1]}]
    queue(db, settings, wecom_of(1), fallback=other)
    with sandbox(db, settings) as (there, _):
        deliver(db, there)
        assert poll(db, there, NOW + timedelta(hours=24)) == {"asked": 1, "answered": 0, "applied": 0}
        late = NOW + timedelta(hours=24, seconds=1)
        assert poll(db, there, late) == {"asked": 1, "answered": 0, "applied": 1}
        assert poll(db, there, late) == {"asked": 0, "answered": 0, "applied": 0}
        assert confirm(there).json()["sent"] == 0, "the task was stopped: nothing is sent beside the fallback"
        assert poll(db, there, late)["asked"] == 0, "a failed message is not asked about again"
        run_delivery(db, there, channels=["email"], now=lambda: late)
    found = message(db, "w1")
    assert (found.state, found.reason, found.sent_at) == ("failed", "not_confirmed", None)
    assert message(db, f"fallback:{found.id}").state == "sent"


def test_without_another_channel_a_task_may_take_seven_days(sqlite_db: Database, settings: Settings) -> None:
    queue(sqlite_db, settings, wecom_of(1))
    with sandbox(sqlite_db, settings) as (there, _):
        deliver(sqlite_db, there)
        assert poll(sqlite_db, there, NOW + timedelta(days=7))["applied"] == 0
        assert poll(sqlite_db, there, NOW + timedelta(days=7, seconds=1))["applied"] == 1
    assert message(sqlite_db, "w1").reason == "not_confirmed"


def test_what_was_confirmed_in_time_is_sent_however_late_we_ask(
    sqlite_db: Database, settings: Settings
) -> None:
    queue(sqlite_db, settings, wecom_of(1), wecom_of(2))
    with sandbox(sqlite_db, settings) as (there, running):
        deliver(sqlite_db, there)
        confirm(there)
        assert poll(sqlite_db, there, NOW + timedelta(days=9))["applied"] == 2
        assert states(sqlite_db) == {"sent": 2}, (
            "WeCom refuses to stop what is over, and says what became of it"
        )
        (task,) = running.sandbox.wecom.tasks.values()
        assert not task.cancelled


def test_nothing_is_concluded_while_wecom_does_not_answer(sqlite_db: Database, settings: Settings) -> None:
    queue(sqlite_db, settings, wecom_of(1))
    with sandbox(sqlite_db, settings) as (there, _):
        deliver(sqlite_db, there)
    late = NOW + timedelta(days=9)
    assert poll(sqlite_db, there, late) == {"asked": 1, "answered": 0, "applied": 0}
    assert states(sqlite_db) == {"created": 1}


def test_a_poll_that_died_changes_nothing_when_it_is_repeated(db: Database, settings: Settings) -> None:
    queue(db, settings, wecom_of(1), "unfriended-2")
    with sandbox(db, settings) as (there, _):
        deliver(db, there)
        confirm(there)
        poll(db, there, NOW)
    before = [(message(db, k).state, message(db, k).sent_at, message(db, k).reason) for k in ("w1", "w2")]
    first = message(db, "w1").id
    again = [
        events.Receipt("sent", NOW + timedelta(days=1), f"wecom:{first}:1", first),
        events.Receipt("unfriended", NOW, f"wecom:{first + 1}:2", first + 1),
        # Another answer about a message whose end is known.
        events.Receipt("not_confirmed", NOW, f"wecom:{first}:late", first + 1),
    ]
    with db.write() as session:
        assert events.apply(session, again, NOW) == events.Applied(new=1, repeated=2)
    assert [
        (message(db, k).state, message(db, k).sent_at, message(db, k).reason) for k in ("w1", "w2")
    ] == before


def test_a_killed_poll_leaves_all_or_nothing(
    db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(db, settings, wecom_of(1), wecom_of(2))
    with sandbox(db, settings) as (there, _):
        deliver(db, there)
        confirm(there)

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as broken:
            broken.setattr(events, "mark_touches", dies)
            with pytest.raises(KeyboardInterrupt):
                poll(db, there, NOW)
        assert states(db) == {"created": 2}
        assert poll(db, there, NOW)["applied"] == 2
    assert states(db) == {"sent": 2}


def test_texts_that_differ_are_tasks_of_their_own(sqlite_db: Database, settings: Settings) -> None:
    add_members(sqlite_db, range(1, 8))
    equal = add_template(sqlite_db, settings, "wecom", **EQUAL)
    own = add_template(sqlite_db, settings, "wecom")
    rows = [row(n, "wecom", equal if n < 6 else own) for n in range(1, 8)]
    enqueue(sqlite_db, *rows)
    with sandbox(sqlite_db, settings) as (there, running):
        assert deliver(sqlite_db, there).created == 7
        assert sorted(len(customers) for customers in tasks(running).values()) == [1, 1, 5]
        texts = {one.fields["data"]["text"] for one in inbox.list_messages(there, "wecom")}
    assert texts == {EQUAL["text"], "会员6，你好，券码ABCD-2345", "会员7，你好，券码ABCD-2345"}
    with sqlite_db.read() as session:
        ids = session.scalars(sa.select(Message.provider_id)).all()
    assert len(set(ids)) == 7, "each names one message"


def test_a_link_is_attached_and_tracked(sqlite_db: Database, settings: Settings) -> None:
    add_members(sqlite_db, [1])
    link = {"title": "券" * 60, "url": "https://shop.example/new", "desc": "{{ member.name }}"}
    template = add_template(sqlite_db, settings, "wecom", text="看看", link=link)
    enqueue(sqlite_db, row(1, "wecom", template))
    with sandbox(sqlite_db, settings) as (there, _):
        assert deliver(sqlite_db, there).created == 1
        (shown,) = inbox.list_messages(there, "wecom")
    assert shown.fields["url"].startswith(f"{there.base_url}/t/c/")
    assert shown.fields["data"]["desc"] == "会员1"
    assert shown.fields["data"]["title"] == "券" * 41 + "…"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"text": ""}, "zh_CN.text"),
        ({"text": "长" * 1334}, "zh_CN.text"),
        ({"text": "x", "link": {"title": "t"}}, "zh_CN.link"),
        ({"text": "x", "link": {"title": "t", "url": "https://a.example", "colour": "red"}}, "zh_CN.link"),
        ({"text": "x", "link": {"title": "t", "url": "u", "picurl": "p" * 2049}}, "zh_CN.link.picurl"),
        ({"text": "x", "data": {"a": "b"}}, "zh_CN.data"),
    ],
)
def test_a_template_that_wecom_would_refuse_is_not_saved(
    sqlite_db: Database, settings: Settings, fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        add_template(sqlite_db, settings, "wecom", **fields)
    assert refused.value.field == path


def test_four_thousand_bytes_are_the_most(sqlite_db: Database, settings: Settings) -> None:
    add_template(sqlite_db, settings, "wecom", text="长" * 1333 + "x")
    assert limits.cut("长" * 43, 128) == "长" * 41 + "…"
    assert limits.cut("a" * 128, 128) == "a" * 128


def outgoing(*addresses: str) -> list[Outgoing]:
    return [Outgoing(n, f"c{n}", address, WecomPayload("你好")) for n, address in enumerate(addresses, 1)]


def send(database: Database, settings: Settings, *addresses: str) -> list[Outcome]:
    async def main() -> list[Outcome]:
        async with wecom_transport(database, settings, None, lambda: NOW) as transport:
            return await transport.send_many(outgoing(*addresses), 10)

    return asyncio.run(main())


def told(outcomes: list[Outcome]) -> list[tuple[str, Reaction] | None]:
    return [None if one.error is None else (one.error.code, one.error.reaction) for one in outcomes]


def test_the_token_is_shared_and_renewed_once_when_it_is_refused(db: Database, settings: Settings) -> None:
    with sandbox(db, settings) as (there, running):
        stand_in = running.sandbox.wecom
        assert told(send(db, there, "a")) == told(send(db, there, "b")) == [None]
        assert stand_in.issued == 1
        stand_in.expire_tokens()
        assert told(send(db, there, "c")) == [None]
        assert stand_in.issued == 2
        with db.read() as session:
            (key,) = session.scalars(sa.select(ProviderToken.key)).all()
        assert key.startswith("wecom:ww-sandbox:")
        assert there.wecom_secret not in key
        wrong = there.model_copy(update={"wecom_secret": "another"})
        assert told(send(db, wrong, "d")) == [("40001", Reaction.PAUSE)]
        assert len(stand_in.tasks) == 3


def test_those_in_the_fail_list_fail_and_a_stranger_fails_alone(db: Database, settings: Settings) -> None:
    with sandbox(db, settings) as (there, running):
        found = send(db, there, "a", "refused-b", "stranger-c", "d", "e")
        assert told(found) == [
            None,
            ("fail_list", Reaction.FAIL),
            ("84061", Reaction.SUPPRESS),
            None,
            None,
        ]
        assert found[2].error is not None
        assert found[2].error.suppression == "unfollowed"
        assert sorted(one for customers in tasks(running).values() for one in customers) == ["a", "d", "e"]
        assert all(one.created for one in found if one.error is None)


def test_every_code_has_its_reaction_and_an_unknown_one_is_kept(
    sqlite_db: Database, settings: Settings
) -> None:
    expected: Mapping[int, Reaction] = {
        41048: Reaction.FAIL,
        77777: Reaction.FAIL,
        45009: Reaction.RETRY,
        45033: Reaction.RETRY,
        -1: Reaction.RETRY,
        60020: Reaction.PAUSE,
        40096: Reaction.SUPPRESS,
    }
    with sandbox(sqlite_db, settings) as (there, running):
        for code, reaction in expected.items():
            running.sandbox.wecom.refusing = code
            assert told(send(sqlite_db, there, "a", "b")) == [(str(code), reaction)] * 2
        running.sandbox.wecom.refusing = 41048
        queue(sqlite_db, settings, wecom_of(1))
        deliver(sqlite_db, there)
    found = message(sqlite_db, "w1")
    assert (found.state, found.reason) == ("failed", "41048 refused")
    assert api.error_of(45009, "x").after_s == 60.0


def test_an_answer_that_never_comes_is_unknown(sqlite_db: Database, settings: Settings) -> None:
    async def main() -> list[Outcome]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"gettoken" in head:
                body = json.dumps({"access_token": "t", "expires_in": 7200}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
                await reader.read(1)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        pointed = settings.model_copy(update={"wecom_endpoint": f"http://127.0.0.1:{port}"})
        async with wecom_transport(sqlite_db, pointed, None, lambda: NOW) as transport:
            found = await transport.send_many(outgoing("a", "b"), 10)
        server.close()
        return found

    assert told(asyncio.run(main())) == [("silence", Reaction.UNKNOWN)] * 2


def test_a_created_message_counts_for_caps_however_long_it_waits(db: Database, settings: Settings) -> None:
    queue(db, settings, wecom_of(1))
    with sandbox(db, settings) as (there, _):
        deliver(db, there)
    with db.write() as session:
        rules = Rules(caps={"all": Cap(1, 3)})
        for queued in (True, False):
            usage = caps.count(session, rules, [1], NOW + timedelta(days=6), queued=queued)
            assert usage.refusal(1, "sms", None) == "capped"
        receipt = events.Receipt("not_confirmed", NOW, "x", message_id=message(db, "w1").id)
        events.apply(session, [receipt], NOW)
        usage = caps.count(session, rules, [1], NOW, queued=True)
        assert usage.refusal(1, "sms", None) is None


def test_receipts_are_what_wecom_says_of_each() -> None:
    old, new = NOW - timedelta(days=1), NOW + timedelta(days=6)
    waiting = [
        Waiting(1, "m1:a", new), Waiting(2, "m1:b", old), Waiting(3, "m2:c", old),
        Waiting(4, "m3:d", old), Waiting(5, "m1:e", new),
    ]  # fmt: skip
    sent_at = NOW - timedelta(minutes=5)
    answers = {"m1": {"m1:a": Told(1, sent_at), "m1:b": Told(0, None), "m1:e": Told(9, None)}, "m3": {}}
    found = [(one.message_id, one.kind, one.at) for one in _receipts(waiting, answers, NOW)]
    # The second task gave no answer at all: of its message nothing is known, however old it is.
    assert found == [(1, "sent", sent_at), (2, "not_confirmed", NOW), (4, "not_confirmed", NOW)]


def test_the_next_run_goes_on_where_the_last_one_ended(
    sqlite_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("channels.wecom.poll.LIMIT", 2)
    monkeypatch.setattr("channels.wecom.poll.ROWS", 1)
    queue(sqlite_db, settings, *[wecom_of(n) for n in (1, 2, 3)])
    with sandbox(sqlite_db, settings) as (there, _):
        deliver(sqlite_db, there)
        assert [poll(sqlite_db, there, NOW)["asked"] for _ in range(4)] == [2, 1, 2, 1]
        confirm(there)
        assert [poll(sqlite_db, there, NOW)["applied"] for _ in range(2)] == [2, 1]
    with sqlite_db.read() as session:
        assert session.get_one(Preference, PLACE).value == 0


def test_the_id_comes_by_import_and_goes_by_erasure(db: Database, settings: Settings) -> None:
    given = {"member_id": "x1", "wecom_external_userid": "wmABC", "wecom_consent": "true"}
    report = load_rows(
        db,
        "members",
        numbered([given, {"member_id": "x2"}]),
        settings=settings,
        source="shop",
        now=NOW,
        consents=consent.set_imported,
    )
    assert (report.inserted, report.rejected) == (2, 0)
    with db.write() as session:
        member = session.scalars(sa.select(Member).where(Member.external_id == "x1")).one()
        assert (member.wecom, member.wecom_index) == ("wmABC", blind_index("wecom", "wmABC"))
        assert consent.refusals(session, [member.id], "wecom", "marketing") == {}
        erase(session, member.id, "test", NOW)
        session.flush()
        assert (member.wecom, member.wecom_index) == (None, None)


def test_an_operator_cannot_send_a_created_message_again(db: Database, settings: Settings) -> None:
    queue(db, settings, wecom_of(1))
    with sandbox(db, settings) as (there, _):
        deliver(db, there)
    with db.write() as session, pytest.raises(InvalidInput):
        outbox.retry(session, message(db, "w1").id, NOW)
