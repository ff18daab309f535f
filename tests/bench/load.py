"""A small HTTP load generator: kept connections, prepared requests, every answer's time and status.

Cheap on purpose (raw sockets, one loop), since it shares the machine with what it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Load:
    """What came back: seconds of every request in order of their answers, statuses, the time of it all."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Seconds that ``share`` of the requests did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def post(path: str, host: str, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """The bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def closed(port: int, requests: Sequence[bytes], connections: int) -> Load:
    """Each of ``connections`` sends its next request as soon as its last was answered."""
    return asyncio.run(_run(port, requests, connections, None))


def open_loop(port: int, requests: Sequence[bytes], connections: int, rate: float) -> Load:
    """``rate`` requests a second, whether answers come or not; waiting for a free connection counts."""
    return asyncio.run(_run(port, requests, connections, rate))


async def _run(port: int, requests: Sequence[bytes], connections: int, rate: float | None) -> Load:
    load = Load()
    todo = iter(enumerate(requests))
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    start = time.perf_counter()
    await asyncio.gather(*[_worker(load, todo, *pair, start, rate) for pair in pairs])
    load.seconds = time.perf_counter() - start
    for _, writer in pairs:
        writer.close()
    return load


async def _worker(
    load: Load,
    todo: Iterator[tuple[int, bytes]],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    start: float,
    rate: float | None,
) -> None:
    for number, request in todo:
        due = time.perf_counter() if rate is None else start + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        load.latencies.append(time.perf_counter() - due)
        load.statuses[int(head[9:12])] += 1
