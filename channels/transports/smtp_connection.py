"""One SMTP connection: aiosmtplib connects, says EHLO, starts TLS and logs in; then messages are sent.

Where the server offers PIPELINING the transport is handed to :class:`smtp_pipeline.Pipeline`; elsewhere
aiosmtplib's own commands are used one after the other. Not its ``sendmail``: that raises the same error
for silence before and after the message, and only the second may mean that it was sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import aiosmtplib
from aiosmtplib import SMTP, SMTPException, SMTPServerDisconnected

from channels.transports.base import EmailPayload, Outcome, Outgoing, Reaction, TransportError
from channels.transports.servers import Server, ascii_domain
from channels.transports.smtp_pipeline import Pipeline, Settle, Take, stuffed
from channels.transports.smtp_replies import SILENCE, UNSENT, reaction_of

CONNECT_S = 20.0
REPLY_S = 60.0

Send = Callable[[Take, Settle], Awaitable[bool]]
"""Send what ``take`` gives; whether any message was begun."""


def wire_address(address: str) -> tuple[bytes, bool]:
    """(an address for an envelope, whether it needs SMTPUTF8): domains by IDNA, local parts as they are."""
    if address.isascii():
        return address.encode(), False
    local, _, domain = address.rpartition("@")
    return f"{local}@{ascii_domain(domain)}".encode(), not local.isascii()


class Envelopes:
    """The two lines of a message's envelope."""

    def __init__(self, sender: str, per_message: Callable[[int], str] | None = None) -> None:
        self._sender, self._per_message = wire_address(sender)[0], per_message

    def sender(self, message: Outgoing) -> bytes:
        """MAIL FROM's address."""
        return self._sender if self._per_message is None else self._per_message(message.message_id).encode()

    def recipient(self, message: Outgoing, smtputf8: bool) -> tuple[bytes, bool]:
        """RCPT TO's address, and whether SMTPUTF8 must be asked for. Raises TransportError."""
        try:
            address, needs = wire_address(message.address)
        except UnicodeError as error:
            raise TransportError(
                f"The address has an impossible domain: {error}"[:200], Reaction.FAIL, code="idna"
            ) from None
        if needs and not smtputf8:
            raise TransportError(
                "The address needs SMTPUTF8, which the mail server does not offer.",
                Reaction.FAIL,
                code="smtputf8",
            )
        return address, needs


class Connection:
    """Made when first needed, and again when it broke or is used up."""

    def __init__(self, server: Server, envelopes: Envelopes) -> None:
        self._server, self._envelopes = server, envelopes
        self._client: SMTP | None = None
        self._pipeline: Pipeline | None = None
        self._utf8 = False
        self._sent = 0

    @property
    def usable(self) -> bool:
        """Whether the next message may go out without connecting again."""
        if self._sent >= self._server.per_connection:
            return False
        if self._pipeline is not None:
            return self._pipeline.usable
        return self._client is not None and self._client.is_connected

    async def ready(self) -> Send:
        """A connection to send on. Raises TransportError UNREACHABLE or PAUSE."""
        if self.usable:
            return self._stepwise if self._pipeline is None else self._pipelined
        await self.close()
        client = await self._connect()
        self._sent = 0
        self._utf8 = client.supports_extension("smtputf8")
        if client.supports_extension("pipelining") and isinstance(client.transport, asyncio.Transport):
            self._pipeline = Pipeline(client.transport, self._envelopes, self._utf8, REPLY_S)
            return self._pipelined
        self._client = client
        return self._stepwise

    async def _connect(self) -> SMTP:
        server = self._server
        client = SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_tls=server.tls == "ssl",
            start_tls=server.tls == "starttls",
            timeout=CONNECT_S,
            tls_context=ssl.create_default_context() if server.tls != "none" else None,
        )
        try:
            await client.connect()
            await client.ehlo()
        except asyncio.CancelledError:
            client.close()
            raise
        except aiosmtplib.SMTPAuthenticationError as error:
            client.close()
            if error.code < 500:
                raise _unreachable(server, error) from None
            raise TransportError(
                f"The mail server refused our password: {error.message}"[:200],
                Reaction.PAUSE,
                code=str(error.code),
            ) from None
        except (SMTPException, OSError, TimeoutError) as error:
            client.close()
            raise _unreachable(server, error) from None
        return client

    async def _pipelined(self, take: Take, settle: Settle) -> bool:
        assert self._pipeline is not None
        most, pipeline = self._server.per_connection, self._pipeline
        begun = 0

        def next_one() -> tuple[int, Outgoing] | None:
            nonlocal begun
            if self._sent >= most:
                return None
            found = take()
            if found is not None:
                begun += 1
                self._sent += 1
            return found

        await pipeline.run(next_one, settle)
        return begun > 0

    async def _stepwise(self, take: Take, settle: Settle) -> bool:
        taken = take()
        if taken is None:
            return False
        index, message = taken
        try:
            await self._send(message)
            settle(index, Outcome())
        except TransportError as error:
            settle(index, Outcome(error=error))
        self._sent += 1
        return True

    async def _send(self, message: Outgoing) -> None:
        """Hand over one message, command by command. Raises TransportError."""
        assert isinstance(message.payload, EmailPayload)
        assert self._client is not None
        client = self._client
        address, needs_utf8 = self._envelopes.recipient(message, self._utf8)
        options = b" SMTPUTF8 BODY=8BITMIME" if needs_utf8 else b""
        stage = "mail"
        try:
            sender = self._envelopes.sender(message)
            await self._command(client, stage, b"MAIL FROM:<%b>%b" % (sender, options))
            stage = "rcpt"
            await self._command(client, stage, b"RCPT TO:<%b>" % address)
            stage = "data"
            await self._command(client, stage, b"DATA", expected=354)
            stage = "body"
            await self._content(client, message.payload.whole)
        except (SMTPException, OSError, TimeoutError) as error:
            self._drop()
            reaction, code = (Reaction.UNKNOWN, SILENCE) if stage == "body" else (Reaction.RETRY, UNSENT)
            raise TransportError(
                f"No answer to {stage.upper()}: {error}"[:200], reaction, code=code
            ) from None

    async def _command(self, client: SMTP, stage: str, line: bytes, expected: int = 250) -> None:
        response = await client.execute_command(line, timeout=REPLY_S)
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
        client.protocol.write(stuffed(content))
        response = await client.protocol.read_response(timeout=REPLY_S)
        if not 200 <= response.code < 300:
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
        """Say goodbye."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.quit()
        client, self._client = self._client, None
        if client is None or not client.is_connected:
            return
        try:
            await client.quit()
        except (SMTPException, OSError, TimeoutError):
            client.close()


def _unreachable(server: Server, error: Exception) -> TransportError:
    return TransportError(
        f"The mail server {server.host}:{server.port} cannot be reached: {error}"[:200],
        Reaction.UNREACHABLE,
        code="connect",
    )
