"""The pipelining protocol, reply by reply, against servers that answer as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from channels.transports import smtp_connection
from channels.transports.base import EmailPayload, Outcome, Outgoing, Reaction
from channels.transports.breaker import SILENT
from channels.transports.email import EmailTransport
from channels.transports.servers import Server
from tests.channels.smtp import Line, Script, Scripted


def message(number: int, address: str = "", body: bytes = b"Subject: x\r\n\r\nhello\r\n") -> Outgoing:
    return Outgoing(number, str(number), address or f"m{number}@example.com", EmailPayload(body))


def play(
    scripts: Sequence[Script], messages: Sequence[Outgoing], connections: int = 1, per_connection: int = 1000
) -> tuple[list[Outcome], Scripted]:
    async def main() -> tuple[list[Outcome], Scripted]:
        async with Scripted(scripts) as server:
            found = Server("127.0.0.1", server.port, per_connection=per_connection)
            async with EmailTransport(found, "shop@example.com", connections=connections) as transport:
                return await transport.send_many(messages, 20), server

    return asyncio.run(main())


def reactions(found: Sequence[Outcome]) -> list[Reaction | None]:
    return [one.error.reaction if one.error else None for one in found]


def test_the_dot_and_the_next_envelope_come_in_one_write() -> None:
    seen: list[bytes] = []

    async def script(line: Line) -> None:
        await line.greet("PIPELINING")
        seen.append(await line._reader.read(65536))
        await line.say("250 ok", "250 ok", "354 go")
        seen.append(await line._reader.read(65536))
        await line.say("250 taken", "250 ok", "250 ok", "354 go")
        seen.append(await line._reader.read(65536))
        await line.say("250 taken")
        await line.hear()

    found, server = play([script], [message(1), message(2, body=b".a\r\n..b\r\nno end")])
    assert reactions(found) == [None, None]
    assert server.connections == 1
    assert seen == [
        b"MAIL FROM:<shop@example.com>\r\nRCPT TO:<m1@example.com>\r\nDATA\r\n",
        b"Subject: x\r\n\r\nhello\r\n.\r\nMAIL FROM:<shop@example.com>\r\nRCPT TO:<m2@example.com>\r\nDATA\r\n",
        b"..a\r\n...b\r\nno end\r\n.\r\n",
    ]


def test_a_refused_recipient_gets_no_body_even_where_the_server_asks_for_one() -> None:
    async def script(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("250 ok", "550 5.1.1 nobody", "354 go on")
        assert await line.body() == b""
        assert (await line.hear()) == b"RSET"
        await line.envelope()
        await line.say("554 no valid recipients", "250 reset", "250 ok", "250 ok", "354 go")
        assert await line.body() == b"Subject: x\r\n\r\nhello\r\n"
        await line.say("250 taken")
        await line.hear()

    found, _ = play([script], [message(1), message(2)])
    assert reactions(found) == [Reaction.SUPPRESS, None]


def test_a_refused_envelope_is_reset_and_the_next_message_goes_on() -> None:
    async def script(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("250 ok", "451-4.7.1 come", "451 4.7.1 again", "503 no recipients")
        assert (await line.hear()) == b"RSET"
        await line.envelope()
        await line.say("250 reset", "250 ok", "250 ok", "354 go")
        await line.body()
        await line.say("552 5.3.4 too big")
        await line.hear()

    found, _ = play([script], [message(1), message(2)])
    assert reactions(found) == [Reaction.RETRY, Reaction.FAIL]
    assert found[0].error is not None
    assert found[0].error.code == "4.7.1"


def test_silence_is_unknown_only_after_the_body_and_the_next_envelope_goes_elsewhere() -> None:
    async def cut_after_body(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("250 ok", "250 ok", "354 go")
        await line.body()
        await line.envelope()
        line.cut()

    async def fine(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("250 ok", "250 ok", "354 go")
        await line.body()
        await line.say("250 taken")
        await line.hear()

    found, server = play([cut_after_body, fine], [message(1), message(2)])
    assert reactions(found) == [Reaction.UNKNOWN, None]
    assert server.connections == 2


def test_a_line_that_breaks_before_the_body_is_tried_again_once_then_later() -> None:
    async def cut(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        line.cut()

    found, server = play([cut], [message(1)])
    assert reactions(found) == [Reaction.RETRY]
    assert server.connections == 2


def test_421_closes_the_line_and_its_message_waits() -> None:
    async def closing(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("421 4.3.2 closing")

    async def fine(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("250 ok", "250 ok", "354 go")
        await line.body()
        await line.say("250 taken")
        await line.hear()

    found, _ = play([closing, fine], [message(1, "a@one.example"), message(2, "b@two.example")])
    assert reactions(found) == [Reaction.RETRY, None]
    assert found[0].error is not None
    assert found[0].error.after_s == 600


@pytest.mark.parametrize("rubbish", ["hello there", "99 too small", "250"])
def test_rubbish_for_a_reply_ends_the_line(rubbish: str) -> None:
    async def script(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say(rubbish, "250 ok", "354 go") if rubbish == "250" else await line.say(rubbish)
        await line.body() if rubbish == "250" else None
        await line.say("250 ok") if rubbish == "250" else None

    found, _ = play([script], [message(1)])
    assert reactions(found) == [None if rubbish == "250" else Reaction.RETRY]


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_connection, "REPLY_S", 0.2)

    async def script(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("250 ok", "250 ok", "354 go")
        await line.body()
        await asyncio.sleep(2)

    found, _ = play([script], [message(1)])
    assert reactions(found) == [Reaction.UNKNOWN]


def test_a_connection_is_replaced_after_its_messages() -> None:
    async def script(line: Line) -> None:
        await line.greet("PIPELINING")
        for turn in range(3):
            first = await line.hear()
            if first == b"QUIT" or not first:
                return
            assert turn < 2, "a third message on this connection"
            await line.hear(), await line.hear()
            await line.say("250 ok", "250 ok", "354 go")
            await line.body()
            await line.say("250 taken")

    found, server = play([script], [message(n) for n in range(5)], per_connection=2)
    assert reactions(found) == [None] * 5
    assert server.connections == 3


def test_without_pipelining_commands_wait_for_their_answers() -> None:
    async def script(line: Line) -> None:
        await line.greet("SIZE 1000000")
        for expected in (b"MAIL", b"RCPT", b"DATA"):
            assert (await line.hear()).startswith(expected)
            await asyncio.sleep(0.02)
            assert not line._reader._buffer, "something came before it was asked for"  # type: ignore[attr-defined]
            await line.say("354 go" if expected == b"DATA" else "250 ok")
        assert await line.body() == b"Subject: x\r\n\r\nhello\r\n"
        await line.say("250 taken")
        assert await line.hear() == b"QUIT"
        await line.say("221 bye")

    found, _ = play([script], [message(1)])
    assert reactions(found) == [None]


def test_smtputf8_and_idna() -> None:
    asked: list[list[bytes]] = []

    async def script(line: Line) -> None:
        await line.greet("PIPELINING", "SMTPUTF8", "8BITMIME")
        await line.envelope()
        asked.append(line.heard[-3:])
        await line.say("250 ok", "250 ok", "354 go")
        await line.body()
        await line.envelope()
        asked.append(line.heard[-3:])
        await line.say("250 ok", "250 ok", "250 ok", "354 go")
        await line.body()
        await line.say("250 taken")
        await line.hear()

    found, _ = play([script], [message(1, "a@例子.测试"), message(2, "用户@例子.测试")])
    assert reactions(found) == [None, None]
    domain = "例子.测试".encode("idna")
    assert asked[0][:2] == [b"MAIL FROM:<shop@example.com>", b"RCPT TO:<a@" + domain + b">"]
    assert asked[1][:2] == [
        b"MAIL FROM:<shop@example.com> SMTPUTF8 BODY=8BITMIME",
        "RCPT TO:<用户@".encode() + domain + b">",
    ]


def test_an_address_that_the_server_cannot_take_fails_alone() -> None:
    async def script(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("250 ok", "250 ok", "354 go")
        await line.body()
        await line.say("250 taken")
        await line.hear()

    found, _ = play(
        [script], [message(1, "用户@example.com"), message(2, "x@" + "例" * 70 + ".com"), message(3)]
    )
    assert reactions(found) == [Reaction.FAIL, Reaction.FAIL, None]
    assert [one.error.code for one in found if one.error] == ["smtputf8", "idna"]


def test_ten_messages_without_an_answer_stop_the_batch() -> None:
    async def script(line: Line) -> None:
        await line.greet("PIPELINING")
        await line.envelope()
        await line.say("250 ok", "250 ok", "354 go")
        await line.body()
        line.cut()

    found, _ = play([script], [message(n) for n in range(50)])
    counted = [reactions(found).count(kind) for kind in (Reaction.UNKNOWN, Reaction.UNREACHABLE)]
    assert counted[0] == SILENT == 10
    assert counted[0] + counted[1] == 50, "the rest was not handed over"
