"""E-mail by SMTP: a pool of kept connections, one message in flight on each.

What a server's reply means is decided by :func:`reaction_of` alone. Silence after the message
went out is UNKNOWN; silence before it is not.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

import aiosmtplib
from aiosmtplib import SMTP, SMTPConnectError, SMTPException, SMTPServerDisconnected

from channels.transports.base import EmailPayload, Outcome, Outgoing, Reaction, TransportError, Work
from core.errors import InvalidInput

CONNECTIONS = 10
PER_CONNECTION = 100
"""Messages before a connection is closed: large receivers count them."""
TIMEOUT_S = 20.0
_ENHANCED = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b")
_HARD = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10", "5.7.17", "5.7.18"})
_BAD_SENDER = frozenset({"5.1.7", "5.1.8"})
_MESSAGE_REFUSED = frozenset({"5.3.4"})


@dataclass(frozen=True)
class Server:
    """An SMTP address, as ``HUILIU_SMTP_URL`` names it."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    tls: str = "none"


def parse_url(url: str) -> Server:
    """``smtp://[user:password@]host:port[?tls=none|starttls|ssl]``. Raises InvalidInput."""
    parts = urlsplit(url)
    tls = parse_qs(parts.query).get("tls", ["starttls" if parts.username else "none"])[0]
    if parts.scheme != "smtp" or not parts.hostname or tls not in ("none", "starttls", "ssl"):
        raise InvalidInput(
            "HUILIU_SMTP_URL must look like smtp://user:password@host:587?tls=starttls "
            "(tls: none, starttls or ssl)."
        )
    port = parts.port or {"none": 25, "starttls": 587, "ssl": 465}[tls]
    user, password = parts.username, parts.password
    return Server(
        parts.hostname, port, unquote(user) if user else None, unquote(password) if password else None, tls
    )


def reaction_of(code: int, text: str, stage: str) -> TransportError:
    """What an SMTP refusal means, by its enhanced code (RFC 3463) where there is one, else by its reply code.

    ``stage`` is the command that was refused: ``mail`` (our sender), ``rcpt`` (the address) or ``data``.
    """
    found = _ENHANCED.search(text)
    status = found[0] if found else ""
    message, name = f"{code} {text}"[:200].replace("\n", " "), status or str(code)
    if code == 421:
        return TransportError(message, Reaction.RETRY, code=name, after_s=600)
    if 400 <= code < 500:
        return TransportError(message, Reaction.RETRY, code=name)
    if status in _HARD or (not status and stage == "rcpt" and code in (550, 551, 553)):
        return TransportError(message, Reaction.SUPPRESS, code=name, suppression="hard_bounce")
    if (
        code in (530, 534, 535, 538)
        or status in _BAD_SENDER
        or (status.startswith("5.7.") and stage == "mail")
    ):
        return TransportError(message, Reaction.PAUSE, code=name)
    return TransportError(message, Reaction.FAIL, code=name)


class EmailTransport:
    """Sends through one SMTP server."""

    name = "smtp"
    idempotent_s = 0

    def __init__(self, server: Server, sender: str, *, connections: int | None = None) -> None:
        self._server = server
        self._sender = sender
        self._idle: list[_Connection] = []
        self._size = connections or CONNECTIONS

    @property
    def idempotent(self) -> bool:
        return self.idempotent_s > 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*[connection.close() for connection in self._idle])
        self._idle.clear()

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        work = Work(messages, asyncio.get_running_loop().time() + deadline_s)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._size, len(messages))):
                group.create_task(self._worker(work))
        return work.outcomes()

    async def _worker(self, work: Work[Outgoing]) -> None:
        connection = self._idle.pop() if self._idle else _Connection(self._server, self._sender)
        try:
            for index, message in work:
                try:
                    await connection.send(message)
                    work.settle(index, Outcome())
                except TransportError as error:
                    work.settle(index, Outcome(error=error))
        finally:
            self._idle.append(connection)


class _Connection:
    """One SMTP connection, made when first needed and again when it broke or is used up."""

    def __init__(self, server: Server, sender: str) -> None:
        self._server = server
        self._sender = sender
        self._client: SMTP | None = None
        self._sent = 0

    async def send(self, message: Outgoing) -> None:
        """Hand over one message, whose content has CRLF at its lines' ends. Raises TransportError."""
        assert isinstance(message.payload, EmailPayload)
        client = await self._ready()
        ascii_only = message.address.isascii()
        if not ascii_only and not client.supports_extension("smtputf8"):
            raise TransportError(
                "The address needs SMTPUTF8, which the mail server does not offer.",
                Reaction.FAIL,
                code="smtputf8",
            )
        stage = "mail"
        options = b"" if ascii_only else b" SMTPUTF8 BODY=8BITMIME"
        try:
            await self._command(client, stage, b"MAIL FROM:<%b>%b" % (self._sender.encode(), options))
            stage = "rcpt"
            await self._command(client, stage, b"RCPT TO:<%b>" % message.address.encode())
            stage = "data"
            await self._command(client, stage, b"DATA", expected=354)
            await self._content(client, message.payload.content)
        except (SMTPException, OSError, TimeoutError) as error:
            self._drop()
            reaction = Reaction.UNKNOWN if stage == "data" else Reaction.RETRY
            raise TransportError(f"No answer to {stage.upper()}: {error}", reaction, code="silence") from None
        self._sent += 1

    async def _ready(self) -> SMTP:
        client = self._client
        if client is not None and client.is_connected and self._sent < PER_CONNECTION:
            return client
        await self.close()
        server = self._server
        client = SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_tls=server.tls == "ssl",
            start_tls=server.tls == "starttls",
            timeout=TIMEOUT_S,
            tls_context=ssl.create_default_context() if server.tls != "none" else None,
        )
        try:
            await client.connect()
            await client.ehlo()
        except aiosmtplib.SMTPAuthenticationError as error:
            raise TransportError(
                f"The mail server refused our password: {error.message}", Reaction.PAUSE, code=str(error.code)
            ) from None
        except (SMTPConnectError, SMTPServerDisconnected, SMTPException, OSError, TimeoutError) as error:
            client.close()
            raise TransportError(
                f"The mail server {server.host}:{server.port} cannot be reached: {error}",
                Reaction.UNREACHABLE,
                code="connect",
            ) from None
        self._client, self._sent = client, 0
        return client

    async def _command(self, client: SMTP, stage: str, line: bytes, expected: int = 250) -> None:
        response = await client.execute_command(line)
        # 251 and 252: accepted as well, for somebody else to deliver.
        if response.code != expected and not (expected == 250 and response.code in (251, 252)):
            await self._after_refusal(client, response.code)
            raise reaction_of(response.code, response.message, stage)

    async def _content(self, client: SMTP, content: bytes) -> None:
        """The message after 354. Our content has CRLF throughout already: the library's own way of
        making it so costs more than the rest of a message.
        """
        if client.protocol is None:
            raise SMTPServerDisconnected("Connection lost")
        stuffed = content.replace(b"\r\n.", b"\r\n..")
        client.protocol.write(stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n"))
        response = await client.protocol.read_response(timeout=TIMEOUT_S)
        if response.code != 250:
            await self._after_refusal(client, response.code)
            raise reaction_of(response.code, response.message, "data")

    async def _after_refusal(self, client: SMTP, code: int) -> None:
        """Make the connection fit for the next message, or give it up."""
        if code == 421:
            self._drop()
            return
        try:
            await client.rset()
        except (SMTPException, OSError, TimeoutError):
            self._drop()

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is None or not client.is_connected:
            return
        try:
            await client.quit()
        except (SMTPException, OSError, TimeoutError):
            client.close()
