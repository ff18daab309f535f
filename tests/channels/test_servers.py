"""Several servers, receivers' limits, warm-up and the breaker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from channels import outbox, verp
from channels.delivery import run_delivery
from channels.models import Account, DomainLimit, MailServer, Message
from channels.transports import breaker, throttle
from channels.transports.base import EmailPayload, Outcome, Outgoing, Reaction, TransportError
from channels.transports.breaker import SILENT, Breaker
from channels.transports.email import EmailTransport
from channels.transports.mail_state import MailState, lift_limit, resume_server
from channels.transports.servers import Server, WarmUp, parse_url, parse_urls, share
from channels.transports.smtp_replies import reaction_of
from channels.transports.throttle import Limit, Queue, connections_to, group_of, held
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, message, row, states
from tests.channels.smtp import Line, Scripted, sink
from tests.channels.test_smtp_faults import counts, fill, pointed
from tests.postgres import free_port


def test_servers_are_read_from_one_setting() -> None:
    found = parse_urls(
        "smtp://u:p@a.example?tls=ssl&weight=3&connections=20&messages=50 smtp://b.example:2525?"
        "warmup=2026-03-01/50/2"
    )
    assert found == (
        Server("a.example", 465, "u", "p", "ssl", 3, 20, 50),
        Server("b.example", 2525, warm_up=WarmUp(date(2026, 3, 1), 50, 2.0)),
    )
    assert [server.name for server in found] == ["u@a.example:465", "b.example:2525"]


@pytest.mark.parametrize(
    "url",
    [
        "http://a", "smtp://", "smtp://a?tls=maybe", "smtp://a?weight=0", "smtp://a?weight=x", "smtp://a?wait=1",
        "smtp://a?warmup=yesterday/5", "smtp://a?warmup=2026-01-01/0", "smtp://a?connections=9999",
    ],
)  # fmt: skip
def test_a_wrong_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="HUILIU_SMTP_URL"):
        parse_url(url)


def test_two_servers_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInput, match="different"):
        parse_urls("smtp://a:25 smtp://a:25?weight=2")


def test_messages_are_shared_out_by_weight() -> None:
    assert share(10, {"a": 3, "b": 1}, {}) == {"a": 8, "b": 2}
    assert share(100, {"a": 3, "b": 1}, {}) == {"a": 75, "b": 25}
    assert share(10, {"a": 3, "b": 1}, {"a": 2, "b": 100}) == {"a": 2, "b": 8}
    assert share(10, {"a": 1, "b": 1}, {"a": 2, "b": 3}) == {"a": 2, "b": 3}
    assert share(0, {"a": 1}, {}) == {"a": 0}


@given(
    st.integers(0, 5000),
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.integers(1, 20), st.integers(0, 3000)), min_size=1
    ),
)
def test_shares_never_exceed_the_room_and_use_all_of_it(
    number: int, servers: dict[str, tuple[int, int]]
) -> None:
    room = {name: limit for name, (_, limit) in servers.items()}
    found = share(number, {name: weight for name, (weight, _) in servers.items()}, room)
    assert all(0 <= found[name] <= room[name] for name in servers)
    assert sum(found.values()) == min(number, sum(room.values()))


@pytest.mark.parametrize(
    ("domain", "mx", "group"),
    [
        ("gmail.com", None, "google"),
        ("shop.example", "aspmx.l.google.com", "google"),
        ("shop.example", "shop-example.mail.protection.outlook.com.", "outlook"),
        ("yahoo.com", "mta5.am0.yahoodns.net", "yahoo"),
        ("me.com", None, "apple"),
        ("qq.com", None, "tencent"),
        ("shop.example", "mx1.mailhost.co.uk", "mailhost.co.uk"),
        ("shop.example", "mx.evilgoogle.com", "evilgoogle.com"),
        ("shop.example", None, "shop.example"),
    ],
)
def test_receivers_are_grouped_by_who_takes_their_mail(domain: str, mx: str | None, group: str) -> None:
    assert group_of(domain, mx) == group


def test_the_connections_that_receivers_take() -> None:
    assert [connections_to(group) for group in ("google", "outlook", "yahoo", "apple", "x")] == [
        5,
        5,
        10,
        10,
        10,
    ]


def _outgoing(number: int, address: str) -> Outgoing:
    return Outgoing(number, str(number), address, EmailPayload(b"Subject: x\r\n\r\nx\r\n"))


def _queue(addresses: Sequence[str]) -> Queue:
    items = [(n, _outgoing(n, a), group_of(a.partition("@")[2])) for n, a in enumerate(addresses)]
    return Queue(items, 1e9, lambda: 0.0, {})


def test_no_receiver_gets_more_connections_than_its_pace() -> None:
    queue = _queue([*["a@gmail.com"] * 20, *["b@x.example"] * 3])
    taken = [queue.take(lane) for lane in range(10)]
    groups = [one[1].address for one in taken if one is not None]
    assert groups.count("a@gmail.com") == 5
    assert groups.count("b@x.example") == 3
    lane = next(n for n, one in enumerate(taken) if one is not None and one[1].address == "a@gmail.com")
    assert queue.take(lane) is not None, "a connection that is busy with a receiver may go on with it"
    index = taken[lane][0] if taken[lane] is not None else -1  # type: ignore[index]
    queue.settle(index, Outcome())
    assert queue.take(99) is None, "its second message is still under way"


@pytest.mark.parametrize(
    ("reply", "held_s"),
    [
        ((421, "4.7.0 [TSS04] Messages from 1.2.3.4 temporarily deferred"), [7200.0] * 3),
        ((421, "4.7.0 Messages temporarily deferred due to unusual rate"), [60.0, 120.0, 180.0]),
        ((421, "4.7.28 closing"), [60.0, 120.0, 180.0]),
    ],
)
def test_what_a_receiver_asks_for_holds_the_rest_of_its_messages(
    reply: tuple[int, str], held_s: list[float]
) -> None:
    queue = _queue(["a@x.example"] * 4 + ["b@y.example"])
    first = queue.take(1)
    assert first is not None
    queue.settle(first[0], Outcome(error=reaction_of(*reply, "rcpt")))
    found = [queue.outcomes[n].error for n in (1, 2, 3)]
    assert [error.reaction for error in found if error] == [Reaction.HOLD] * 3
    assert [error.after_s for error in found if error] == held_s
    other = queue.take(1)
    assert other is not None
    assert other[1].address == "b@y.example"


def test_one_refusal_by_policy_is_about_a_message_three_are_about_us() -> None:
    queue = _queue(["a@x.example"] * 10)
    for _ in range(3):
        taken = queue.take(1)
        assert taken is not None
        assert queue.limits == {}
        queue.settle(taken[0], Outcome(error=reaction_of(550, "5.7.1 rejected by policy", "data")))
    assert queue.limits["x.example"][0] == throttle.POLICY_S
    assert queue.take(1) is None


def test_a_slow_receiver_gets_one_message_a_minute_and_a_stopped_one_none() -> None:
    slow = Limit(slow_until=NOW + timedelta(minutes=2), reason="slow")
    assert held("x", slow, 0, NOW) is None
    waits = [held("x", slow, nth, NOW) for nth in (1, 2, 50)]
    assert [one.error.after_s for one in waits if one and one.error] == [60.0, 120.0, 120.0]
    stopped = held("x", Limit(stopped_until=NOW + timedelta(hours=2), reason="TS04"), 0, NOW)
    assert stopped is not None
    assert stopped.error is not None
    assert stopped.error.after_s == 7200
    assert held("x", Limit(stopped_until=NOW, slow_until=NOW), 5, NOW) is None


def test_the_workers_share_what_a_receiver_asked_for(db: Database, settings: Settings) -> None:
    fill(db, settings, 5)
    with db.write() as session:
        session.add(
            DomainLimit(group="example.com", stopped_until=NOW + timedelta(hours=2), reason="TS04", at=NOW)
        )
    with sink(keep=True) as server:
        there = pointed(db, settings, server.url)
        assert counts(run_delivery(db, there, now=lambda: NOW)) == {"deferred": 5}
        waiting = message(db, "run:1:1:email")
        assert waiting.attempts == 0
        assert waiting.not_before >= NOW + timedelta(hours=2)
        assert "TS04" in (waiting.reason or "")
        later = NOW + timedelta(hours=2, minutes=5)
        assert counts(run_delivery(db, there, now=lambda: later)) == {"sent": 5}


def test_a_shorter_request_does_not_undo_a_longer_one(db: Database) -> None:
    state = MailState(db, [])
    state.write_limits({"x": (7200.0, 0.0, "stop")}, NOW)
    state.write_limits({"x": (60.0, 30.0, "again")}, NOW)
    found = state.read(NOW).limits["x"]
    assert found.stopped_until == NOW + timedelta(hours=2)
    assert found.slow_until == NOW + timedelta(seconds=30)
    with db.write() as session:
        lift_limit(session, "x")
    assert MailState(db, []).read(NOW).limits == {}


def test_a_warm_up_grows_day_by_day() -> None:
    plan = WarmUp(date(2026, 3, 1), 50, 2.0)
    days = [date(2026, 2, 28), date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 5)]
    assert [plan.allowed(day) for day in days] == [0, 50, 100, 800]
    assert plan.allowed(date(2046, 3, 1)) == 2**40


def test_a_server_in_warm_up_sends_its_number_and_the_rest_waits_for_tomorrow(
    db: Database, settings: Settings
) -> None:
    fill(db, settings, 130)
    with sink(keep=True) as server:
        there = pointed(db, settings, f"{server.url}?warmup=2026-03-01/50/2")
        assert counts(run_delivery(db, there, now=lambda: NOW, batch=40)) == {"sent": 100, "deferred": 30}
        waiting = {"state": "queued", "not_before": NOW.replace(day=3, hour=0)}
        with db.read() as session:
            times = session.scalars(sa.select(Message.not_before).where(Message.state == "queued")).all()
        assert min(times) >= waiting["not_before"]  # type: ignore[operator]
        assert max(times) <= NOW.replace(day=3, hour=1)
        tomorrow = NOW + timedelta(days=1)
        assert counts(run_delivery(db, there, now=lambda: tomorrow)) == {"sent": 30}


def test_what_a_warming_server_cannot_take_goes_to_the_others(db: Database, settings: Settings) -> None:
    fill(db, settings, 130)
    with sink(keep=True) as old, sink(keep=True) as new:
        there = pointed(db, settings, f"{old.url} {new.url}?warmup=2026-03-02/20&weight=5")
        assert counts(run_delivery(db, there, now=lambda: NOW)) == {"sent": 130}
        assert (len(old.received()), len(new.received())) == (110, 20)


def test_weights_hold_and_a_dead_server_is_replaced(db: Database, settings: Settings) -> None:
    fill(db, settings, 200)
    with sink(keep=True) as a, sink(keep=True) as b:
        there = pointed(db, settings, f"{a.url}?weight=3 {b.url} smtp://127.0.0.1:{free_port()}?weight=4")
        assert counts(run_delivery(db, there, now=lambda: NOW)) == {"sent": 200}
        shares = len(a.received()), len(b.received())
    assert sum(shares) == 200
    assert 130 <= shares[0] <= 170, "three quarters"


def test_a_refused_log_in_pauses_that_server_alone_and_all_of_them_the_channel(
    db: Database, settings: Settings
) -> None:
    fill(db, settings, 20)

    async def refuse(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("530 5.7.0 log in first", "503 no", "503 no")
        await line.hear()

    async def main(urls: str) -> dict[str, int]:
        async with Scripted([refuse]) as bad:
            there = pointed(db, settings, urls.format(bad.port))
            return counts(await asyncio.to_thread(run_delivery, db, there, now=lambda: NOW))

    with sink() as good:
        assert asyncio.run(main(f"smtp://127.0.0.1:{{}} {good.url}")) == {"sent": 20}
    with db.read() as session:
        paused = session.scalars(sa.select(MailServer).where(MailServer.paused_at.is_not(None))).all()
        assert len(paused) == 1
        assert "530" in (paused[0].paused_reason or "")
        assert session.get(Account, "email") is None
    with db.write() as session:
        resume_server(session, paused[0].name)
        assert session.scalar(sa.select(MailServer.paused_at)) is None
    add_members(db, [99])
    enqueue(db, row(99, "email", add_template(db, settings, "email", text="x")))
    assert asyncio.run(main("smtp://127.0.0.1:{}")) in ({}, {"deferred": 1})
    with db.write() as session:
        account = session.get_one(Account, "email")
        assert "530" in (account.paused_reason or "")
        outbox.resume(session, "email")
    assert states(db) == {"sent": 20, "queued": 1}


def test_a_breaker_waits_longer_each_time_and_probes() -> None:
    found = Breaker()
    assert found.allows(0.0)
    assert [found.failed(100.0) for _ in range(7)] == [15, 30, 60, 120, 240, 480, 600]
    assert not found.allows(100.0 + 599)
    assert found.allows(700.0)
    assert found.probing
    found.succeeded()
    assert found.allows(0.0)
    assert not found.probing


def test_an_open_breaker_asks_nobody_and_a_probe_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_S", 0.2)
    messages = [_outgoing(n, "a@x.example") for n in range(20)]

    async def cut(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("250 ok", "250 ok", "354 go")
        await line.body()
        line.cut()

    async def fine(line: Line) -> None:
        await line.greet("PIPELINING")
        while True:
            if await line.hear() == b"QUIT":
                return
            await line.hear(), await line.hear()
            await line.say("250 ok", "250 ok", "354 go")
            await line.body()
            await line.say("250 taken")

    async def main() -> None:
        async with (
            Scripted([cut] * SILENT + [fine]) as server,
            EmailTransport(Server("127.0.0.1", server.port), "s@x.example", connections=1) as transport,
        ):
            first = await transport.send_many(messages, 20)
            assert Counter(o.error.reaction for o in first if o.error) == {
                Reaction.UNKNOWN: SILENT,
                Reaction.UNREACHABLE: 20 - SILENT,
            }
            before = server.connections
            second = await transport.send_many(messages, 20)
            assert {o.error.reaction for o in second if o.error} == {Reaction.UNREACHABLE}
            assert server.connections == before, "nobody was asked"
            await asyncio.sleep(0.25)
            third = await transport.send_many(messages, 20)
            assert [o.error for o in third] == [None] * 20

    asyncio.run(main())


def test_a_server_that_takes_few_connections_gets_everything_on_these(
    caplog: pytest.LogCaptureFixture,
) -> None:
    messages = [_outgoing(n, f"a@x{n % 10}.example") for n in range(200)]

    async def fine(line: Line) -> None:
        await line.greet("PIPELINING")
        while (heard := await line.hear()) and heard != b"QUIT":
            await line.hear(), await line.hear()
            await line.say("250 ok", "250 ok", "354 go")
            await line.body()
            await asyncio.sleep(0.01)
            await line.say("250 taken")

    async def crowded(line: Line) -> None:
        await line.say("421 4.7.0 too many connections from your address")

    async def main() -> None:
        async with (
            Scripted([fine] * 3 + [crowded]) as server,
            EmailTransport(Server("127.0.0.1", server.port), "s@x.example", connections=20) as transport,
        ):
            for connections in (20, 20):
                found = await transport.send_many(messages, 20)
                assert [outcome.error for outcome in found] == [None] * 200
                assert server.connections == connections, "refused once each, and not asked again"

    asyncio.run(main())
    assert "takes no more than 3 connections" in caplog.text
    assert "left alone" not in caplog.text


def test_held_messages_cost_no_attempt_and_no_event() -> None:
    from channels.settle import decide
    from tests.channels.test_outbox import claimed

    hold = Outcome(error=TransportError("x: slow", Reaction.HOLD, code="pace", after_s=600))
    found = decide(claimed(attempts=2), hold, "email", "keep", False, NOW, 0.0)
    assert (found.state, found.attempted, found.not_before) == ("queued", False, NOW + timedelta(seconds=600))


def test_an_envelope_sender_names_its_message() -> None:
    address = verp.address(123456, "bounces.example.com")
    assert address.endswith("@bounces.example.com")
    assert len(address.partition("@")[0]) <= 64
    assert verp.read(f"Delivered-To: {address.upper()}") == 123456
    local, _, domain = address.partition("@")
    assert verp.read(f"{local[:-1]}{'0' if local[-1] != '0' else '1'}@{domain}") is None
    assert verp.read(f"b+123457{local[8:]}@{domain}") is None
    assert verp.read("b+1.0123@x") is None


def test_the_settings_turn_verp_on(sqlite_db: Database, settings: Settings) -> None:
    fill(sqlite_db, settings, 3)
    with sink(keep=True) as server:
        there = Settings(
            home=settings.home, secret=settings.secret, database_url=sqlite_db.url, smtp_url=server.url,
            bounce_domain="bounces.example.com", _env_file=None,
        )  # fmt: skip
        assert counts(run_delivery(sqlite_db, there, now=lambda: NOW)) == {"sent": 3}
        mails = [path.read_bytes() for path in server.folder.iterdir()]
    assert len(mails) == 3
    for mail in mails:
        assert b"X-Mail-Args: <b+" in mail, mail[:300]
        assert b"?subject=unsubscribe>\r\n" in mail or b"?subject=unsubscribe>\n" in mail
