"""WeChat template messages, one request a recipient, against a plain ``httpx.AsyncClient``.

Both send the same messages over as many connections to the same stand-in, a process of its own that keeps
the token and the bodies' fingerprint: what arrived must be the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns
from tests.postgres import free_port

MESSAGES = 5_000
CONNECTIONS = 10
AT_LEAST = 3.0
TOKEN = "t" * 512
PATH = "/cgi-bin/message/template/send"
_SEND = f"POST {PATH}?access_token={TOKEN} ".encode()
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
DATA = {
    "thing1": "秋装上新，满三百减五十",
    "time2": "2026-03-01 至 2026-03-15",
    "character_string3": "ABCD-2345",
}


def _body(number: int) -> dict[str, Any]:
    return {
        "touser": f"oBench{number:022d}",
        "template_id": "T" * 43,
        "client_msg_id": f"{number}.0123456789ab",
        "data": {name: {"value": text} for name, text in DATA.items()},
        "url": f"https://shop.example/t/c/{number}",
    }


class _StandIn(asyncio.Protocol):
    """As much HTTP as both clients speak; bodies are looked at only when somebody asks what came."""

    bodies: ClassVar[list[bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            answer = self._answer(head, body)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(answer), answer)
            )

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(_SEND):
            self.bodies.append(body)
            return b'{"errcode":0,"errmsg":"ok","msgid":%d}' % len(self.bodies)
        if head.startswith(b"POST /cgi-bin/stable_token "):
            return b'{"access_token":"%s","expires_in":7200}' % TOKEN.encode()
        if head.startswith(b"GET /taken "):
            return json.dumps(_taken(self.bodies)).encode()
        return b'{"errcode":40001,"errmsg":"invalid credential"}'


def _taken(bodies: list[bytes]) -> dict[str, int]:
    """How many came, and a fingerprint of them that does not depend on their order; they are forgotten."""
    digest = 0
    for body in bodies:
        text = json.dumps(json.loads(body), sort_keys=True).encode()
        digest ^= int.from_bytes(hashlib.sha256(text).digest()[:6], "big")
    found = {"messages": len(bodies), "digest": digest}
    bodies.clear()
    return found


def serve(port: int) -> None:
    """The stand-in: a token, and template messages."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_StandIn, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def stand_in() -> Iterator[str]:
    """The address of a running stand-in."""
    import httpx

    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.wechat", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                httpx.get(f"{url}/taken", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def timed_ours(url: str, messages: int) -> dict[str, Any]:
    """The subject: the transport that delivery uses."""
    return asyncio.run(_ours(url, messages))


async def _ours(url: str, messages: int) -> dict[str, Any]:
    from channels.models import ProviderToken
    from channels.transports.base import Outgoing, WechatPayload
    from channels.transports.wechat import WechatTransport
    from core.db import Database

    outgoing = [
        Outgoing(n, body["client_msg_id"], body["touser"], WechatPayload("T" * 43, body["url"], DATA))
        for n, body in enumerate(map(_body, range(messages)))
    ]
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'tokens.db'}")
        ProviderToken.__table__.create(database.engine)  # type: ignore[attr-defined]
        async with WechatTransport(database, url, "a", "s", connections=CONNECTIONS) as transport:
            assert (await transport.send_many(outgoing[:1], 60))[0].error is None  # the token, a connection
            await _reset(url)
            start, used = time.perf_counter(), cpu_s()
            found = await transport.send_many(outgoing, 600)
            seconds, spent = time.perf_counter() - start, cpu_s() - used
        database.dispose()
    assert all(one.error is None and one.provider_id for one in found)
    return {"seconds": seconds, "cpu_s": spent, **await _reset(url)}


def timed_httpx(url: str, messages: int) -> dict[str, Any]:
    """The peer: one shared client, as its documentation does it."""
    return asyncio.run(_httpx(url, messages))


async def _httpx(url: str, messages: int) -> dict[str, Any]:
    import httpx

    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(limits=limits, trust_env=False) as client:

        async def send(number: int) -> None:
            answer = await client.post(
                f"{url}{PATH}",
                params={"access_token": TOKEN},
                content=json.dumps(_body(number), ensure_ascii=False).encode(),
                headers={"content-type": "application/json; charset=utf-8"},
            )
            assert answer.json()["errcode"] == 0

        await send(0)
        await _reset(url)
        numbers = iter(range(messages))

        async def worker() -> None:
            for number in numbers:
                await send(number)

        start, used = time.perf_counter(), cpu_s()
        await asyncio.gather(*[worker() for _ in range(CONNECTIONS)])
        seconds, spent = time.perf_counter() - start, cpu_s() - used
    return {"seconds": seconds, "cpu_s": spent, **await _reset(url)}


async def _reset(url: str) -> dict[str, Any]:
    """What the stand-in took since it was asked last."""
    import httpx

    async with httpx.AsyncClient(trust_env=False) as client:
        found: dict[str, Any] = (await client.get(f"{url}/taken")).json()
        return found


def _same(samples: dict[str, list[Sample]], messages: int) -> None:
    taken = {(one.answer["messages"], one.answer["digest"]) for found in samples.values() for one in found}
    assert len(taken) == 1, taken
    assert taken.pop()[0] == messages


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """One comparison: the time of all messages."""
    messages = 300 if quick else MESSAGES
    with stand_in() as url:
        contestants = {
            name: partial(in_child, f"tests.bench.wechat:timed_{name}", url=url, messages=messages)
            for name in ("ours", "httpx")
        }
        samples = take_turns(contestants, repetitions)
    _same(samples, messages)
    yield compare(
        "wechat",
        f"{messages:,} template messages, {CONNECTIONS} connections",
        samples,
        "ours",
        "httpx",
        rows=messages,
        at_least=AT_LEAST,
    )


def test_wechat_both_send_the_same_messages() -> None:
    with stand_in() as url:
        ours, theirs = timed_ours(url, 20), timed_httpx(url, 20)
    assert ours["messages"] == theirs["messages"] == 20
    assert ours["digest"] == theirs["digest"]


if __name__ == "__main__":
    serve(int(sys.argv[1]))
