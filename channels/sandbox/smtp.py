"""The stand-in for a mail server: aiosmtpd with an inbox and magic addresses."""

from __future__ import annotations

import asyncio
import re

from aiosmtpd.smtp import SMTP, Envelope, Session

from channels.sandbox.inbox import Received, Store
from core.contacts import EMAIL

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*<([^>\r\n]*)>", re.IGNORECASE | re.MULTILINE)
_REFUSED_AT_RCPT = {
    "bounce": "550 5.1.1 No such user here",
    "defer": "451 4.3.0 Temporarily deferred, try again later",
}


def magic_word(address: str) -> str:
    """The letters that an address begins with."""
    found = re.match(r"[a-z]*", address.lower())
    return found[0] if found else ""


class Handler:
    """aiosmtpd's hooks."""

    def __init__(self, store: Store, delay_s: float) -> None:
        self._store, self._delay_s = store, delay_s

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        refusal = _REFUSED_AT_RCPT.get(magic_word(address))
        if refusal is not None:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        words = {magic_word(address) for address in envelope.rcpt_tos}
        if "policy" in words:
            return "554 5.7.1 Refused by policy"
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        found = _MESSAGE_ID.search(content)
        name = found[1].decode("ascii", "replace") if found else ""
        await self._store.add(*[Received(EMAIL, address, name, content) for address in envelope.rcpt_tos])
        if "drop" in words and isinstance(server.transport, asyncio.WriteTransport):
            server.transport.abort()
        return "250 2.0.0 OK"
