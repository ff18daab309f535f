"""An SMTP listener for bounces: the MX of the bounce domain, or the target of a relay's alias.

Takes mail to the bounce domain alone, answers 250 after the commit, and nothing else of SMTP is on
offer: no relaying, no log-in. A database that does not answer means 451, so that the sender tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy.exc import SQLAlchemyError

from channels.bounces.intake import Incoming, take
from core.db import Database
from core.errors import HuiliuError, InvalidInput
from core.settings import Settings

log = logging.getLogger(__name__)

MAX_BYTES = 2 * 1024 * 1024
MAX_RECIPIENTS = 20


class _Handler:
    """aiosmtpd's hooks."""

    def __init__(self, database: Database, domain: str, now: Callable[[], datetime]) -> None:
        self._database, self._domain, self._now = database, domain.lower(), now

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self._domain and address.rpartition("@")[2].lower() != self._domain:
            return "550 5.7.1 Only bounces are taken here"
        if len(envelope.rcpt_tos) >= MAX_RECIPIENTS:
            return "452 4.5.3 Too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        incoming = Incoming(content, " ".join(envelope.rcpt_tos))
        try:
            await asyncio.to_thread(self._take, incoming)
        except (SQLAlchemyError, HuiliuError):
            log.exception("A bounce could not be recorded")
            return "451 4.3.0 Try again later"
        return "250 2.0.0 OK"

    def _take(self, incoming: Incoming) -> None:
        with self._database.write() as session:
            take(session, [incoming], self._now())


class Listener:
    """Listens while the block runs."""

    def __init__(self, database: Database, settings: Settings, now: Callable[[], datetime]) -> None:
        host, _, port = settings.bounce_listen.rpartition(":")
        if not port.isdigit():
            raise InvalidInput("HUILIU_BOUNCE_LISTEN must look like 0.0.0.0:2525.")
        self._host, self._port = host or "127.0.0.1", int(port)
        self._handler = _Handler(database, settings.bounce_domain, now)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: SMTP(
                    self._handler,
                    hostname="bounces",
                    data_size_limit=MAX_BYTES,
                    enable_SMTPUTF8=True,
                    decode_data=False,
                    loop=loop,
                ),
                self._host,
                self._port,
            )
        except OSError as error:
            raise HuiliuError(
                f"Bounces cannot be listened for on {self._host}:{self._port}: {error.strerror}. "
                "Set HUILIU_BOUNCE_LISTEN."
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self._server.wait_closed()


async def listen(
    database: Database, settings: Settings, stop: asyncio.Event, now: Callable[[], datetime]
) -> None:
    """Take bounces until ``stop`` is set."""
    async with Listener(database, settings, now):
        await stop.wait()
