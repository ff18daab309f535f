"""SMTP with PIPELINING (RFC 2920): one round trip a message.

Takes over the transport of a connection that aiosmtplib made (TLS, EHLO and AUTH are behind it). The
final dot of one message and the envelope of the next one leave in one write; replies are read as they
come and belong to commands by their order. A body is sent only after every reply of its envelope.

Guarantees: every message that was taken gets exactly one outcome; UNKNOWN if and only if its body
began to leave and no reply came; a message whose envelope alone was on the way is to be tried again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from channels.transports.base import EmailPayload, Outcome, Outgoing, Reaction, TransportError
from channels.transports.smtp_replies import SILENCE, UNSENT, reaction_of

MAX_REPLY = 64 * 1024
"""Bytes of replies that a server may leave unfinished."""
_CHECKS = 4
"""How often within a time-out the silence is looked at."""

_ACCEPTED = Outcome()

Take = Callable[[], tuple[int, Outgoing] | None]
"""The next message to send on this connection, or None when it should end."""
Settle = Callable[[int, Outcome], None]


class Command(IntEnum):
    """What a reply answers."""

    RESET = 0
    MAIL = 1
    RCPT = 2
    DATA = 3
    DOT = 4


_STAGE = {Command.MAIL: "mail", Command.RCPT: "rcpt", Command.DATA: "data", Command.DOT: "data"}


class Envelopes(Protocol):
    """Where the addresses of envelopes come from."""

    def sender(self, message: Outgoing) -> bytes: ...

    def recipient(self, message: Outgoing, smtputf8: bool) -> tuple[bytes, bool]: ...


def stuffed(content: bytes) -> bytes:
    """A message as DATA wants it: dots at lines' starts doubled, ended by a dot."""
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n..")
    if content[:1] == b".":
        content = b"." + content
    return content + (b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n")


@dataclass(slots=True)
class _Current:
    """A message on this connection, from its envelope to its outcome."""

    index: int
    message: Outgoing
    error: TransportError | None = None
    body_sent: bool = False
    settled: bool = False


class Pipeline(asyncio.Protocol):
    """A protocol for an open SMTP connection; :meth:`run` sends until ``take`` has no more."""

    def __init__(
        self, transport: asyncio.Transport, envelopes: Envelopes, smtputf8: bool, timeout_s: float
    ) -> None:
        self._transport, self._envelopes = transport, envelopes
        self._smtputf8, self._timeout_s = smtputf8, timeout_s
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._replies: list[bytes] = []
        self._expected: deque[tuple[Command, _Current | None]] = deque()
        self._needs_reset = False
        self._done: asyncio.Future[None] | None = None
        self._closed = False
        self._heard = 0.0
        transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Whether another :meth:`run` may follow."""
        return not self._closed and not self._transport.is_closing()

    async def run(self, take: Take, settle: Settle) -> None:
        """Send message after message; returns when ``take`` answered None or the connection is gone."""
        self._take, self._settle = take, settle
        done = self._done = self._loop.create_future()
        self._heard = self._loop.time()
        timer = self._loop.call_later(self._timeout_s / _CHECKS, self._check)
        self._timer = timer
        try:
            self._begin_next(b"")
            await done
        finally:
            self._timer.cancel()
            self._done = None

    # --- writing -----------------------------------------------------------------------------

    def _begin_next(self, before: bytes) -> None:
        """Write ``before`` (the end of a body) and the next envelope, if there is a next message."""
        envelope = b""
        while not envelope:
            taken = self._take() if self.usable else None
            if taken is None:
                break
            current = _Current(*taken)
            try:
                envelope = self._envelope(current)
            except TransportError as error:
                self._outcome(current, Outcome(error=error))
        if before or envelope:
            self._transport.write(before + envelope)
        elif not self._expected:
            self._finish()

    def _envelope(self, current: _Current) -> bytes:
        message, expect = current.message, self._expected.append
        address, needs_utf8 = self._envelopes.recipient(message, self._smtputf8)
        reset = b""
        if self._needs_reset:
            self._needs_reset = False
            reset = b"RSET\r\n"
            expect((Command.RESET, None))
        expect((Command.MAIL, current))
        expect((Command.RCPT, current))
        expect((Command.DATA, current))
        return b"%bMAIL FROM:<%b>%b\r\nRCPT TO:<%b>\r\nDATA\r\n" % (
            reset,
            self._envelopes.sender(message),
            b" SMTPUTF8 BODY=8BITMIME" if needs_utf8 else b"",
            address,
        )

    def _send_body(self, current: _Current) -> None:
        current.body_sent = True
        if current.error is not None:
            # The server asks for a body although it refused the recipient: give it an empty one.
            body = b".\r\n"
        else:
            payload = current.message.payload
            assert isinstance(payload, EmailPayload)
            body = stuffed(payload.whole)
        self._expected.append((Command.DOT, current))
        self._begin_next(body)

    # --- reading -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._buffer:
            data = self._buffer + data
        lines = data.split(b"\n")
        self._buffer = lines.pop()
        for line in lines:
            if line[3:4] == b"-":
                self._replies.append(line)
                continue
            if self._replies:
                line = b"\n".join([*self._replies, line])
                self._replies.clear()
            if not self._reply(line):
                return
        if len(self._buffer) + sum(map(len, self._replies)) > MAX_REPLY:
            self._lose("The server's reply has no end.")

    def _reply(self, line: bytes) -> bool:
        """Handle one reply; False when the connection is given up."""
        try:
            code = int(line[:3])
        except ValueError:
            code = 0
        if not 200 <= code < 600:
            self._lose(f"The server answered “{line[:80].decode('utf-8', 'replace')}”.")
            return False
        if not self._expected:
            # 421 out of turn: the server closes (RFC 5321, 3.8).
            self._lose(line.decode("utf-8", "replace"))
            return False
        command, current = self._expected.popleft()
        if current is not None:
            self._answered(command, current, code, line)
        if code == 421:
            self._lose(line.decode("utf-8", "replace"))
            return False
        return True

    def _answered(self, command: Command, current: _Current, code: int, line: bytes) -> None:
        if command is Command.DOT:
            if current.error is None and 200 <= code < 300:
                self._outcome(current, _ACCEPTED)
            elif current.error is None:
                self._outcome(current, Outcome(error=_error(code, line, "data")))
            if not self._expected and code != 421:
                self._begin_next(b"")
        elif command is Command.DATA:
            if code == 354:
                if current.error is not None:
                    self._outcome(current, Outcome(error=current.error))
                self._send_body(current)
                return
            self._needs_reset = True
            self._outcome(current, Outcome(error=current.error or _error(code, line, "data")))
            if code != 421:
                self._begin_next(b"")
        elif current.error is None and not 200 <= code < 300:
            # The first refusal counts: what follows it is its consequence.
            current.error = _error(code, line, _STAGE[command])
            self._needs_reset = True

    def _outcome(self, current: _Current, outcome: Outcome) -> None:
        if not current.settled:
            current.settled = True
            self._settle(current.index, outcome)

    # --- ending ------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "The server closed the connection.")

    def eof_received(self) -> bool:
        return False

    def _check(self) -> None:
        if self._expected and self._loop.time() - self._heard > self._timeout_s:
            self._lose(f"No answer within {self._timeout_s:g} s.")
            return
        self._timer = self._loop.call_later(self._timeout_s / _CHECKS, self._check)

    def _lose(self, why: str) -> None:
        """Give the connection up and settle what was on it."""
        if self._closed:
            return
        self._closed = True
        waiting, self._expected = self._expected, deque()
        for _, current in waiting:
            if current is None or current.settled:
                continue
            if current.error is not None:
                self._outcome(current, Outcome(error=current.error))
                continue
            reaction, code = (Reaction.UNKNOWN, SILENCE) if current.body_sent else (Reaction.RETRY, UNSENT)
            error = TransportError(f"No answer: {why}"[:200], reaction, code=code)
            self._outcome(current, Outcome(error=error))
        self._transport.abort()
        self._finish()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def quit(self) -> None:
        """Say goodbye without waiting for the answer."""
        if self.usable:
            self._closed = True
            self._transport.write(b"QUIT\r\n")
            self._transport.close()
        self._closed = True


def _error(code: int, line: bytes, stage: str) -> TransportError:
    return reaction_of(code, line[4:].decode("utf-8", "replace").strip(), stage)
