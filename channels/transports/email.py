"""E-mail by SMTP: servers with weights, kept connections, limits a receiver, a breaker a server.

A batch is shared out to the servers that may send; what a server that went away left over goes to the
others. What a reply means is decided by :mod:`channels.transports.smtp_replies` alone. Silence after a
message went out is UNKNOWN; silence before it is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Self

from channels.bounces.classify import enhanced
from channels.transports.base import NOT_ASKED, NOT_TRIED, Outcome, Outgoing, Reaction, TransportError
from channels.transports.breaker import SILENT, Breaker
from channels.transports.mail_state import Known, MailState
from channels.transports.servers import Server, parse_url, share
from channels.transports.smtp_connection import Connection, Envelopes, Send
from channels.transports.smtp_replies import SILENCE, reaction_of
from channels.transports.throttle import Limit, Queue, Resolve, domain_of, group_of, held

__all__ = ["EmailTransport", "Server", "parse_url", "reaction_of"]

log = logging.getLogger(__name__)

ROOM_S = 0.05
"""How often a connection without a message that may leave looks again."""
FEWER_S = 300.0
"""How long a server that took fewer connections than it was offered is not offered more."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class _Line:
    """A server with its breaker and its kept connections."""

    def __init__(self, server: Server, envelopes: Envelopes, connections: int | None) -> None:
        self.server, self.breaker = server, Breaker()
        self._envelopes = envelopes
        self._most = connections or server.connections
        self._taken, self._taken_until = self._most, 0.0
        self._idle: list[Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._ready: set[int] = set()
        self._refused: TransportError | None = None

    async def send(self, queue: Queue) -> None:
        """Send what is in the queue, until it is empty, the time is up, or the server is gone."""
        loop = asyncio.get_running_loop()
        self._ready, self._refused = set(), None
        if self.breaker.probing:
            await self._probe(queue)
        size = self._most if loop.time() >= self._taken_until else self._taken
        await self._all(
            [loop.create_task(self._worker(queue)) for _ in range(min(size, len(queue.items)))], queue
        )
        if self._refused is not None and queue.stopped is None:
            self._weigh(self._refused, queue)
        if queue.stopped is not None and queue.stopped.reaction is Reaction.UNREACHABLE:
            seconds = self.breaker.failed(loop.time())
            log.warning("Mail server %s left alone for %d s: %s", self.server.name, seconds, queue.stopped)
        elif queue.streak == 0:
            self.breaker.succeeded()

    def _weigh(self, refused: TransportError, queue: Queue) -> None:
        """Connections were refused: is the server gone, or does it only take no more of them?

        Relays limit the connections of a client; some refuse what is too much, some let it wait.
        """
        if not queue.ended or not self._ready:
            queue.stopped = refused
        else:
            number = len(self._ready)
            self._taken, self._taken_until = number, asyncio.get_running_loop().time() + FEWER_S
            log.warning(
                "Mail server %s takes no more than %d connections: %s", self.server.name, number, refused
            )

    async def _all(self, workers: Sequence[asyncio.Task[None]], queue: Queue) -> None:
        """Wait for the workers; who still waits for a connection when nothing is left to send, gives up."""
        left: set[asyncio.Task[None]] = set(workers)
        try:
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for worker in done:
                    if not worker.cancelled():
                        worker.result()
                if queue.ended:
                    for worker in self._connecting & left:
                        worker.cancel()
        finally:
            for worker in left:
                worker.cancel()

    async def _probe(self, queue: Queue) -> None:
        """One message, to see whether the server is back."""
        first = True

        def one(lane: int) -> tuple[int, Outgoing] | None:
            nonlocal first
            found = queue.take(lane) if first else None
            first = False
            return found

        await self._serve(queue, one, once=True)
        if self._refused is not None:
            queue.stopped = queue.stopped or self._refused
        elif queue.streak:
            queue.stopped = queue.stopped or _silent(self.server)

    async def _worker(self, queue: Queue) -> None:
        while not queue.ended and await self._serve(queue, queue.take, once=False):
            if not queue.ended:
                await asyncio.sleep(ROOM_S)

    async def _serve(
        self, queue: Queue, take: Callable[[int], tuple[int, Outgoing] | None], *, once: bool
    ) -> bool:
        """Send what ``take`` gives on one connection; whether its worker may go on with another."""
        connection = self._idle.pop() if self._idle else Connection(self.server, self._envelopes)

        def settle(index: int, outcome: Outcome) -> None:
            queue.settle(index, outcome)
            if queue.streak >= SILENT and queue.stopped is None:
                queue.stopped = _silent(self.server)

        try:
            while True:
                connected = await self._connect(connection)
                worked = await connected(partial(take, id(connection)), settle)
                if once or not worked or queue.ended:
                    break
        except TransportError as error:
            if error.reaction is Reaction.UNREACHABLE:
                self._refused = error
                return False
            queue.stopped = queue.stopped or error
        self._idle.append(connection)
        return True

    async def _connect(self, connection: Connection) -> Send:
        worker = asyncio.current_task()
        assert worker is not None
        self._connecting.add(worker)
        try:
            send = await connection.ready()
        finally:
            self._connecting.discard(worker)
        self._ready.add(id(connection))
        return send

    async def close(self) -> None:
        await asyncio.gather(*[connection.close() for connection in self._idle])
        self._idle.clear()


def _silent(server: Server) -> TransportError:
    return TransportError(
        f"The mail server {server.name} takes messages and does not answer.",
        Reaction.UNREACHABLE,
        code=SILENCE,
    )


class EmailTransport:
    """Sends through the SMTP servers of the settings.

    ``state``: what workers share; None: nothing is shared (tests, a single message). ``envelope_sender``:
    the MAIL FROM of a message (VERP), else ``sender``. ``connections``: at a server, instead of its own.
    """

    name = "smtp"
    idempotent_s = 0

    def __init__(
        self,
        servers: Server | Sequence[Server],
        sender: str,
        *,
        connections: int | None = None,
        state: MailState | None = None,
        envelope_sender: Callable[[int], str] | None = None,
        resolve: Resolve | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        listed = [servers] if isinstance(servers, Server) else list(servers)
        envelopes = Envelopes(sender, envelope_sender)
        self._lines = {server.name: _Line(server, envelopes, connections) for server in listed}
        self._state, self._resolve, self._now = state, resolve, now
        self._groups: dict[str, str] = {}

    @property
    def idempotent(self) -> bool:
        return self.idempotent_s > 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*[line.close() for line in self._lines.values()])

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        deadline = asyncio.get_running_loop().time() + deadline_s
        outcomes: dict[int, Outcome] = {}
        known = await asyncio.to_thread(self._read)
        await self._resolve_groups(messages)
        waiting = self._hold(messages, known.limits, outcomes)
        limits: dict[str, tuple[float, float, str]] = {}
        # A round more than servers: each can go away once, and the last one still be tried.
        for _ in range(len(self._lines) + 1):
            if not waiting:
                break
            result = await self._round(waiting, outcomes, limits, deadline, known)
            waiting = [item for item in waiting if item[0] not in outcomes]
            if isinstance(result, TransportError):
                outcomes |= {index: Outcome(error=result) for index, _, _ in waiting}
                break
            known = result
        if self._state is not None and limits:
            await asyncio.to_thread(self._state.write_limits, limits, self._now())
        return [outcomes.get(index, NOT_TRIED) for index in range(len(messages))]

    def _read(self) -> Known:
        now = self._now()
        return Known(now) if self._state is None else self._state.read(now)

    # --- receivers ---------------------------------------------------------------------------

    async def _resolve_groups(self, messages: Sequence[Outgoing]) -> None:
        domains = {domain_of(message.address) for message in messages} - self._groups.keys()
        if self._resolve is not None and domains:
            listed = sorted(domains)
            hosts = await asyncio.gather(*[asyncio.to_thread(self._resolve, domain) for domain in listed])
            self._groups |= {d: group_of(d, host) for d, host in zip(listed, hosts, strict=True)}
        else:
            self._groups |= {domain: group_of(domain) for domain in domains}

    def _hold(
        self, messages: Sequence[Outgoing], limits: Mapping[str, Limit], outcomes: dict[int, Outcome]
    ) -> list[tuple[int, Outgoing, str]]:
        """Messages that may go out now, with their groups; the others' outcomes are written."""
        going: list[tuple[int, Outgoing, str]] = []
        seen: Counter[str] = Counter()
        for index, message in enumerate(messages):
            group = self._groups[domain_of(message.address)]
            limit = limits.get(group)
            found = None if limit is None else held(group, limit, seen[group], self._now())
            if limit is not None:
                seen[group] += 1
            if found is None:
                going.append((index, message, group))
            else:
                outcomes[index] = found
        return going

    # --- servers -----------------------------------------------------------------------------

    async def _round(
        self,
        waiting: Sequence[tuple[int, Outgoing, str]],
        outcomes: dict[int, Outcome],
        limits: dict[str, tuple[float, float, str]],
        deadline: float,
        known: Known,
    ) -> TransportError | Known:
        """Share ``waiting`` out and send: what is known then, or why no server may send."""
        loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            return TransportError("Not sent in this batch.", Reaction.RETURN)
        here = {name: line for name, line in self._lines.items() if name not in known.paused}
        if not here:
            # The channel's pause takes over: who resumes that wants every server tried again.
            if self._state is not None and len(self._lines) > 1:
                await asyncio.to_thread(self._state.resume_all)
            reason = next(iter(known.paused.values()))
            return TransportError(reason[:200], Reaction.PAUSE, code=enhanced(reason) or reason[:3])
        up = {name: line for name, line in here.items() if line.breaker.allows(loop.time())}
        if not up:
            return TransportError(
                f"No mail server can be reached: {', '.join(here)}", Reaction.UNREACHABLE, code=NOT_ASKED
            )
        weights = {name: line.server.weight for name, line in up.items()}
        room = {name: await self._reserve(line.server, len(waiting)) for name, line in up.items()}
        shares = share(len(waiting), weights, room)
        if not any(shares.values()):
            return TransportError(
                "The warm-up takes no more messages today.", Reaction.HOLD, code="warm-up",
                after_s=_until_tomorrow(self._now()),
            )  # fmt: skip
        queues: dict[str, Queue] = {}
        start = 0
        for name, number in shares.items():
            items = waiting[start : start + number]
            start += number
            queues[name] = Queue(items, deadline, loop.time, outcomes)
        await asyncio.gather(*[up[name].send(queue) for name, queue in queues.items() if queue.items])
        return await self._after(up, queues, room, outcomes, limits, known)

    async def _reserve(self, server: Server, wanted: int) -> int:
        if self._state is None or server.warm_up is None:
            return wanted
        return await asyncio.to_thread(self._state.reserve, server, wanted, self._now())

    async def _after(
        self,
        up: Mapping[str, _Line],
        queues: Mapping[str, Queue],
        room: Mapping[str, int],
        outcomes: Mapping[int, Outcome],
        limits: dict[str, tuple[float, float, str]],
        known: Known,
    ) -> Known:
        """What the queues learnt: receivers' requests, refused log-ins, unused warm-up."""
        paused = dict(known.paused)
        for name, queue in queues.items():
            limits.update(queue.limits)
            stop = queue.stopped
            if stop is not None and stop.reaction is Reaction.PAUSE:
                paused[name] = str(stop)
                if self._state is not None and len(self._lines) > 1:
                    await asyncio.to_thread(self._state.pause, name, str(stop), self._now())
            if self._state is not None and up[name].server.warm_up is not None:
                sent = sum(
                    1 for index, _, _ in queue.items if index in outcomes and outcomes[index].error is None
                )
                await asyncio.to_thread(
                    self._state.give_back, up[name].server, room[name] - sent, self._now()
                )
        return replace(known, paused=paused)


def _until_tomorrow(now: datetime) -> float:
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (tomorrow - now).total_seconds()
